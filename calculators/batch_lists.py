"""Neighbor lists of many systems in motion, kept while their atoms move and while systems come and go.

An engine for batches hands over tensors without names: systems that have converged leave, others take their places.
Nothing here depends on knowing which is which. A list is used for a system if the criterion of
:mod:`hydrapot.calculators.verlet` says that it holds every pair within the cutoff, whoever it was made for; it is
evaluated for all systems at once, on their device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydrapot.calculators.verlet import Candidates, find_candidates
from hydrapot.potential.errors import HydrapotError

#: Å; margin for rounding in the criterion, as in :mod:`hydrapot.calculators.verlet`.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Kind:
    """What a system is, beside its geometry.

    Attributes
    ----------
    numbers
        int64 ``(N,)``.
    pbc
        ``(3,)`` periodic directions.
    charge, spin
        e; 2S+1, or None when not stated.
    """

    numbers: NDArray[np.int64]
    pbc: NDArray[np.bool_]
    charge: int
    spin: int | None
    #: Equal for equal kinds.
    key: tuple[bytes, bytes, int, int | None] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.numbers.tobytes(), self.pbc.tobytes(), self.charge, self.spin))


class BatchLists:
    """Lists of pairs of ``G`` systems with ``N`` atoms in all.

    Parameters
    ----------
    cutoff
        Å, of the potential.
    skin
        Å; 0 searches at every change.
    device
        Where the systems are.

    Attributes
    ----------
    lists
        What was found for each system.
    offsets
        ``(G + 1,)``: first atom of each system.
    wraps
        ``(N, 3)`` float64: lattice vectors that each atom was wrapped by since the search.
    searches
        Systems searched so far.
    """

    def __init__(self, *, cutoff: float, skin: float, device: torch.device | str = "cpu") -> None:
        if not (np.isfinite(skin) and skin >= 0):
            raise ValueError(f"skin must be zero or positive, not {skin}")
        self.cutoff = cutoff
        self.skin = skin
        self.device = torch.device(device)
        self.searches = 0
        self.lists: list[Candidates] = []
        self.wraps = torch.zeros(0, 3, dtype=torch.float64, device=self.device)
        self.offsets = np.zeros(1, dtype=np.int64)
        self._kinds: list[Kind] = []
        self._latest = self.wraps

    def update(self, kinds: Sequence[Kind], positions: Tensor, cells: Tensor, *, changed: bool) -> bool:
        """Make the lists complete for what the systems are and where their atoms are now.

        Parameters
        ----------
        kinds
            ``G``.
        positions, cells
            ``(N, 3)`` and ``(G, 3, 3)`` Å (rows), float64, on the device.
        changed
            Whether `kinds` may differ from those of the call before.

        Returns
        -------
        bool
            Whether any of `lists` is a new one.

        Raises
        ------
        InvalidStructureError, UnknownElementError, UnsupportedChargeError
            The message begins with the number of the system.
        """
        latest, self._latest = self._latest, positions.detach().clone()
        known, self.lists = self.lists, []  # a failed search must not leave lists of other systems in place
        anew = changed or not known
        if anew:
            known = self._taken_over(known, latest, kinds, positions, cells)
            self._kinds = list(kinds)
            self._index(known)
        complete, wraps = self._complete(positions, cells)
        renewed = np.flatnonzero(~complete.cpu().numpy()).tolist()
        if renewed:
            known = list(known)
            x, h = positions.detach().cpu().numpy(), cells.detach().cpu().numpy()
            for k in renewed:
                known[k] = self._search(k, kinds[k], x[self._slice(k)], h[k])
                wraps[self._slice(k)] = 0.0
            self._index(known)
        self.lists, self.wraps = known, wraps
        return anew or bool(renewed)

    def _taken_over(
        self, old: Sequence[Candidates], latest: Tensor, kinds: Sequence[Kind], positions: Tensor, cells: Tensor
    ) -> list[Candidates]:
        """For each system the list of the first one, in the order of the call before, most of whose atoms were where its
        own are now; a new list where there is none. The criterion decides later whether it will do.
        """
        x, h = positions.detach().cpu().numpy(), cells.detach().cpu().numpy()
        bounds = np.cumsum([0, *[len(kind.numbers) for kind in kinds]])
        keys = [kind.key for kind in self._kinds] if old else []
        before = np.split(latest.cpu().numpy(), self.offsets[1:-1]) if old else []
        taken: list[Candidates] = []
        first = 0
        for k, kind in enumerate(kinds):
            own = x[bounds[k] : bounds[k + 1]]
            for p in range(first, len(keys)):
                if keys[p] != kind.key:
                    continue
                near = np.abs(own - before[p]).max(axis=1, initial=0.0) < max(self.skin, _ROUNDING)
                if 2 * np.count_nonzero(near) >= len(own):
                    taken.append(old[p])
                    first = p + 1
                    break
            else:
                taken.append(self._search(k, kind, own, h[k]))
        return taken

    def _search(self, system: int, kind: Kind, positions: NDArray[np.float64], cell: NDArray[np.float64]) -> Candidates:
        self.searches += 1
        try:
            return find_candidates(
                kind.numbers,
                positions,
                cell,
                kind.pbc,
                cutoff=self.cutoff + self.skin,
                charge=kind.charge,
                spin=kind.spin,
            )
        except HydrapotError as error:
            raise type(error)(f"system {system}: {error}") from None

    def _index(self, lists: Sequence[Candidates]) -> None:
        """Lay out what the criterion compares with."""
        sizes = np.array([len(found.numbers) for found in lists], dtype=np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(sizes)])
        duals = np.zeros((len(lists), 3, 3))
        for dual, found in zip(duals, lists, strict=True):
            dual[:, found.pbc] = found.dual  # columns of directions that are not periodic stay zero

        def tensor(array: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

        self.system = torch.from_numpy(np.repeat(np.arange(len(lists)), sizes)).to(self.device)
        self._sizes = torch.from_numpy(sizes).to(self.device)
        self._positions = tensor(np.concatenate([found.positions for found in lists]) if lists else np.zeros((0, 3)))
        self._cells = tensor(np.stack([found.cell for found in lists]) if lists else np.zeros((0, 3, 3)))
        self._duals = tensor(duals)
        self._periodic = torch.from_numpy(np.array([found.pbc for found in lists]).reshape(-1, 3)).to(self.device)

    def _slice(self, system: int) -> slice:
        return slice(int(self.offsets[system]), int(self.offsets[system + 1]))

    def _complete(self, positions: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each list still holds every pair ``(G,)``, and the wraps ``(N, 3)``: the criterion and the names of
        :mod:`hydrapot.calculators.verlet`, for all systems at once.
        """
        positions, cells = positions.detach(), cells.detach()
        n_systems = len(cells)
        same_cell = ((cells == self._cells) | ~self._periodic[:, :, None]).all(dim=2).all(dim=1)
        reference, duals, shrink = self._positions, self._duals, cells.new_ones(n_systems)
        if not bool(same_cell.all()):
            finite = torch.isfinite(cells).all(dim=2).all(dim=1)
            usable = (finite & ~same_cell)[:, None, None]
            unity = torch.eye(3, dtype=cells.dtype, device=cells.device)
            strain = unity + torch.where(usable, self._duals @ (cells - self._cells), torch.zeros_like(cells))
            shrink = torch.where(same_cell, shrink, torch.linalg.svdvals(strain)[:, -1])
            # A collapsing cell, whose inverse would be noise, or one with NaN in it: searched again, which names the fault.
            shrink = torch.where(finite & (shrink >= 0.1), shrink, torch.nan)
            reference = torch.bmm(reference[:, None], strain[self.system])[:, 0]
            duals = torch.linalg.solve_ex(strain, self._duals)[0]
        displacement = positions - reference
        wraps = torch.zeros_like(positions)
        if bool(self._periodic.any()):
            # Zero columns of `duals` leave the directions without periodicity alone.
            wraps = torch.round(torch.bmm(displacement[:, None], duals[self.system])[:, 0])
            displacement = displacement - torch.bmm(wraps[:, None], cells[self.system])[:, 0]
        sums = displacement.new_zeros(n_systems, 3).index_add_(0, self.system, displacement)
        displacement = displacement - (sums / self._sizes.clamp(min=1)[:, None])[self.system]
        farthest = self._two_largest(displacement.norm(dim=1))
        complete = self.cutoff + farthest <= (self.cutoff + self.skin) * shrink - _ROUNDING
        return complete | ((farthest == 0) & (shrink == 1)), wraps

    def _two_largest(self, moved: Tensor) -> Tensor:
        """Sum of the two largest values of each system, ``(G,)``; NaN if one is."""
        zeros = moved.new_zeros(len(self._sizes))
        largest = zeros.scatter_reduce(0, self.system, moved, "amax")
        is_largest = moved == largest[self.system]
        count = zeros.index_add(0, self.system, is_largest.to(moved.dtype))
        second = zeros.scatter_reduce(0, self.system, moved.masked_fill(is_largest, 0.0), "amax")
        return largest + torch.where(count > 1, largest, second)
