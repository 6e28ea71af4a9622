"""A neighbor list that is kept while atoms move: Verlet's skin, exact for any motion and any change of the
cell.

Pairs are searched once within *cutoff + skin*; every step keeps those that are within the *cutoff* now. The
result is the same graph, edge for edge and in the same order, as a fresh search would give, so energies do
not depend on when the list was last renewed and a trajectory continued from a file repeats the uninterrupted
one bit by bit.

When a list is still complete
-----------------------------
Let x⁰, A⁰ be positions and periodic lattice vectors (rows) at the search and x, A those of now. Choose the
strain

    F = 1 + (A⁰)⁺ (A − A⁰),     so that A⁰ F = A,

and split the motion into the strain and the rest, u_i = x_i − n_i A − x⁰_i F, where the whole numbers n_i
undo wrapping by the engine. An edge now is r = r⁰F + u_j − u_i, hence |r⁰| ≤ (|r| + |u_i| + |u_j|) /
σ_min(F). Every pair with |r| < cutoff was therefore found if

    (cutoff + u₁ + u₂) / σ_min(F) ≤ cutoff + skin,

u₁, u₂ being the two largest |u_i| (after their mean, a common translation, is taken off). With a fixed cell
this is the usual "no atom moved more than half the skin"; the strain of a breathing cell costs only what it
shortens.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydrapot.potential.graph import Graph, build_graph_from_arrays
from hydrapot.potential.neighbors import MINIMUM_DISTANCE

#: Å; margin for rounding in the criterion, far above it and far below anything that costs time.
_ROUNDING = 1e-9


def _dual(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pseudo-inverse ``(3, k)`` of k independent lattice vectors ``(k, 3)``."""
    return np.asarray(np.linalg.pinv(vectors), np.float64) if len(vectors) else np.zeros((3, 0))


@dataclass(frozen=True)
class Candidates:
    """What one search found, ``E`` directed pairs sorted by (receiver, sender, shift), and where the atoms
    were.
    """

    graph: Graph  # numbers, charge, spin, kinds; its edges are not used
    receivers: Tensor  # (E,) int64
    senders: Tensor  # (E,) int64
    shifts: Tensor  # (E, 3) float64, whole numbers
    reverse: Tensor  # (E,) int64, the same pair seen from the other side
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    charge: int
    spin: int | None
    dual: NDArray[np.float64]  # (3, k) pseudo-inverse of the k periodic lattice vectors
    offsets: NDArray[np.int64]  # (N + 1,) first pair of each receiver

    periodic: bool  # in all three directions

    def shifts_now(self, wraps: NDArray[np.float64] | None) -> Tensor:
        """Lattice vectors ``(E, 3)`` between the images that atoms are in now, see :class:`Pairs`."""
        if wraps is None:
            return self.shifts
        n = torch.from_numpy(wraps).to(self.shifts.device)
        return self.shifts + n[self.receivers] - n[self.senders]


@dataclass(frozen=True)
class Pairs:
    """Every pair within the cutoff of a structure, and some beyond it.

    Attributes
    ----------
    candidates
        The search that found them.
    positions, cell
        ``(N, 3)`` and ``(3, 3)`` Å, now.
    wraps
        ``(N, 3)`` lattice vectors that each atom was wrapped by since the search; None if none was.
    """

    candidates: Candidates
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    wraps: NDArray[np.float64] | None


class VerletList:
    """Graphs of a structure in motion.

    Parameters
    ----------
    cutoff
        Å, of the potential.
    skin
        Å; 0 searches at every change.
    device
        Where the graphs are wanted.

    Attributes
    ----------
    searches
        Number of searches so far.
    """

    def __init__(self, *, cutoff: float, skin: float, device: torch.device | str = "cpu") -> None:
        if not (np.isfinite(skin) and skin >= 0):
            raise ValueError(f"skin must be zero or positive, not {skin}")
        self.cutoff = cutoff
        self.skin = skin
        self.device = torch.device(device)
        self.searches = 0
        self._candidates: Candidates | None = None

    def graph(
        self,
        numbers: NDArray[np.int64],
        positions: NDArray[np.float64],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        *,
        charge: int = 0,
        spin: int | None = None,
    ) -> tuple[Graph, bool]:
        """The graph of a structure, and whether a search was made for it.

        Parameters
        ----------
        numbers, positions, cell, pbc
            ``(N,)``, ``(N, 3)`` Å, ``(3, 3)`` Å in rows, ``(3,)``.
        charge, spin
            e and 2S+1, see :func:`~hydrapot.potential.graph.build_graph_from_arrays`.

        Raises
        ------
        InvalidStructureError, UnknownElementError, UnsupportedChargeError
        """
        pairs, searched = self.pairs(numbers, positions, cell, pbc, charge=charge, spin=spin)
        return self.compress(pairs), searched

    def pairs(
        self,
        numbers: NDArray[np.int64],
        positions: NDArray[np.float64],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        *,
        charge: int = 0,
        spin: int | None = None,
    ) -> tuple[Pairs, bool]:
        """The pairs of a structure with those of the skin, and whether a search was made; as :meth:`graph`."""
        old = self._candidates
        if old is not None and self._same_system(old, numbers, pbc, charge, spin):
            if self._has_hardly_moved(old, positions, cell):
                return Pairs(old, positions, cell, None), False
            wraps = self._wraps_if_complete(old, positions, cell)
            if wraps is not None:
                return Pairs(old, positions, cell, wraps if wraps.any() else None), False
        self._candidates = None  # a failed search must not leave the old list in place
        self._candidates = self._search(numbers, positions, cell, pbc, charge, spin)
        return Pairs(self._candidates, positions, cell, None), True

    @staticmethod
    def _same_system(
        old: Candidates, numbers: NDArray[np.int64], pbc: NDArray[np.bool_], charge: int, spin: int | None
    ) -> bool:
        return (
            len(numbers) == len(old.numbers)
            and bool((numbers == old.numbers).all())
            and bool((pbc == old.pbc).all())
            and (charge, spin) == (old.charge, old.spin)
        )

    def _search(
        self,
        numbers: NDArray[np.int64],
        positions: NDArray[np.float64],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        charge: int,
        spin: int | None,
    ) -> Candidates:
        self.searches += 1
        return find_candidates(
            numbers,
            positions,
            cell,
            pbc,
            cutoff=self.cutoff + self.skin,
            charge=charge,
            spin=spin,
            device=self.device,
        )

    def _has_hardly_moved(self, old: Candidates, positions: NDArray[np.float64], cell: NDArray[np.float64]) -> bool:
        """No atom moved by half the skin in an unchanged cell: what most steps of dynamics need, in microseconds."""
        if len(positions) == 0 or (cell != old.cell).any():
            return False
        displacement = positions - old.positions
        farthest = np.einsum("ij,ij->i", displacement, displacement).max()
        return bool(4.0 * farthest <= (self.skin - _ROUNDING) ** 2)  # never true of NaN

    def _wraps_if_complete(
        self, old: Candidates, positions: NDArray[np.float64], cell: NDArray[np.float64]
    ) -> NDArray[np.float64] | None:
        """Lattice vectors ``(N, 3)`` that each atom was wrapped by since the search; None when the list may
        miss a pair.
        """
        if not (np.isfinite(positions).all() and np.isfinite(cell).all()):
            return None
        wraps = np.zeros_like(positions)
        if len(positions) == 0:
            return wraps
        reference, shrink = old.positions, 1.0
        dual = old.dual
        if not np.array_equal(cell[old.pbc], old.cell[old.pbc]):
            strain = np.eye(3) + old.dual @ (cell[old.pbc] - old.cell[old.pbc])
            shrink = float(np.linalg.svd(strain, compute_uv=False)[-1])
            if shrink < 0.1:  # a collapsing cell: its pseudo-inverse would be noise
                return None
            reference = reference @ strain
            dual = _dual(cell[old.pbc])
        displacement = positions - reference
        if old.pbc.any():
            wraps[:, old.pbc] = np.rint(displacement @ dual)
            displacement -= wraps[:, old.pbc] @ cell[old.pbc]
        displacement -= displacement.mean(axis=0)
        moved = np.sqrt(np.einsum("ij,ij->i", displacement, displacement))
        farthest = moved.sum() if len(moved) < 2 else float(np.partition(moved, -2)[-2:].sum())
        if farthest == 0.0 and shrink == 1.0:
            return wraps
        complete = self.cutoff + farthest <= (self.cutoff + self.skin) * shrink - _ROUNDING
        return wraps if complete else None

    def compress(self, pairs: Pairs) -> Graph:
        """The pairs within the cutoff as a graph with rows as short as they can be.

        Raises
        ------
        InvalidStructureError
            Two atoms coincide.
        """
        old, positions, cell = pairs.candidates, pairs.positions, pairs.cell
        n_atoms = len(positions)
        x = torch.from_numpy(positions.copy()).to(self.device)
        h = torch.from_numpy(cell.copy()).to(self.device)
        shifts = old.shifts_now(pairs.wraps)
        # Term by term, not as a matrix product, whose rounding may depend on the row: r_ij must be exactly
        # −r_ji.
        vectors = x[old.senders] - x[old.receivers]
        vectors = vectors + shifts[:, 0:1] * h[0] + shifts[:, 1:2] * h[1] + shifts[:, 2:3] * h[2]
        squares = vectors[:, 0] ** 2 + vectors[:, 1] ** 2 + vectors[:, 2] ** 2
        if len(squares) and float(squares.min()) < MINIMUM_DISTANCE**2:
            self._candidates = None
            self._search(old.numbers, positions, cell, old.pbc, old.charge, old.spin)  # names the atoms
        rows = rows_within(
            self.cutoff, vectors, squares, old.receivers, old.senders, shifts, old.reverse, n_atoms=n_atoms
        )
        return replace(old.graph, cell=h[None], **rows)


def find_candidates(
    numbers: NDArray[np.int64],
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    *,
    cutoff: float,
    charge: int = 0,
    spin: int | None = None,
    device: torch.device | str = "cpu",
) -> Candidates:
    """Search the pairs of a structure within `cutoff` (Å, skin included).

    Raises
    ------
    InvalidStructureError, UnknownElementError, UnsupportedChargeError
    """
    wide = build_graph_from_arrays(numbers, positions, cell, pbc, cutoff=cutoff, charge=charge, spin=spin)
    mask = wide.edge_mask.numpy()
    receivers, senders = wide.edge_index.numpy()[:, mask]
    shifts = wide.edge_shifts.numpy()[mask]
    s = shifts.T
    # One order for all searches: sums over neighbors then have the same rounding whenever the list was made.
    order = np.lexsort((s[2], s[1], s[0], senders, receivers))
    receivers, senders, shifts = receivers[order], senders[order], shifts[order]
    s = shifts.T
    # Sorting the reversed pairs (j, i, −S) the same way lines both sides of every pair up.
    reverse = np.lexsort((-s[2], -s[1], -s[0], receivers, senders))
    return Candidates(
        graph=wide.to(device),
        receivers=torch.from_numpy(receivers.copy()).to(device),
        senders=torch.from_numpy(senders.copy()).to(device),
        shifts=torch.from_numpy(shifts.copy()).to(device),
        reverse=torch.from_numpy(reverse).to(device),
        numbers=numbers.copy(),
        positions=positions.copy(),
        cell=cell.copy(),
        pbc=pbc.copy(),
        charge=charge,
        spin=spin,
        dual=_dual(cell[pbc]),
        offsets=np.searchsorted(receivers, np.arange(len(positions) + 1)),
        periodic=bool(pbc.all()),
    )


def rows_within(
    cutoff: float,
    vectors: Tensor,
    squares: Tensor,
    receivers: Tensor,
    senders: Tensor,
    shifts: Tensor,
    reverse: Tensor,
    *,
    n_atoms: int,
) -> dict[str, Any]:
    """The edges of a :class:`~hydrapot.potential.graph.Graph`, by the names of its fields: the pairs of a search that are
    within the cutoff now, in rows as short as they can be. Differentiable with respect to `vectors`.

    Parameters
    ----------
    cutoff
        Å.
    vectors, squares
        ``(E, 3)`` Å, from receivers to senders, and ``(E,)`` Å², the squares of their lengths.
    receivers, senders, shifts, reverse
        As in :class:`Candidates`.
    n_atoms
        Number of atoms.
    """
    device = receivers.device
    kept = torch.nonzero(squares < cutoff**2).reshape(-1)
    own = receivers[kept]
    counts = torch.bincount(own, minlength=n_atoms)
    degree = max(int(counts.max()), 1) if n_atoms else 1
    slot = own * degree + torch.arange(len(kept), device=device) - (counts.cumsum(0) - counts)[own]

    total = n_atoms * degree
    padded_receivers = torch.arange(n_atoms, device=device).repeat_interleave(degree)
    edge_vectors = vectors.new_zeros(total, 3)
    edge_vectors[:, 0] = cutoff
    edge_vectors[slot] = vectors[kept]
    edge_shifts = shifts.new_zeros(total, 3)
    edge_shifts[slot] = shifts[kept]
    mask = torch.zeros(total, dtype=torch.bool, device=device)
    mask[slot] = True
    slot_of = torch.zeros_like(receivers).index_put((kept,), slot)
    reversed_slots = torch.arange(total, device=device)
    reversed_slots[slot] = slot_of[reverse[kept]]
    return {
        "edge_index": torch.stack([padded_receivers, padded_receivers.index_put((slot,), senders[kept])]),
        "edge_vectors": edge_vectors,
        "edge_shifts": edge_shifts,
        "edge_mask": mask,
        "reverse": reversed_slots,
        "degree": degree,
    }
