"""What LAMMPS hands to a unified ML-IAP model, as seen in mliap_unified_couple.pyx and its Kokkos twin (4Jul2026).

Arrays are views of LAMMPS' memory: None before the first pair, and later those without elements cannot be made, which is an
error of Cython. Energies of atoms
can only be set as a whole (plain) or filled in place (Kokkos). Forces are taken through the address of the first element
of a C-contiguous float64 array, and added as f_i += f_ij, f_j -= f_ij, with the virial -r_ij f_ij. Energies of pairs are
halved. Where a LAMMPS with PYTHON is installed, test_mliap_real.py asks both the same questions (mliap_probe.py).
"""

import numpy as np
import torch

from tests.decomposition_helpers import Part, ThreadHalo


class PlainData:
    """The data object of the plain pair style."""

    def __init__(self, part: Part, elements: np.ndarray, *, cutoff: float) -> None:
        distances = np.linalg.norm(part.r_ij.numpy(), axis=1)
        inside = distances < cutoff  # LAMMPS leaves the skin out
        self._pair_i = part.pair_i.numpy()[inside].astype(np.int32)
        self._pair_j = part.pair_j.numpy()[inside].astype(np.int32)
        self._rij = np.ascontiguousarray(part.r_ij.numpy()[inside])
        self._elems = elements.astype(np.int32)
        self.nlocal = self.nlistatoms = self.natomneigh = part.n_local
        self.ntotal = part.n_local + len(part.ghosts)
        self.npairs = len(self._pair_i)
        self._f = np.zeros((self.ntotal, 3))
        self._virial = np.zeros((3, 3))
        self._energy: float | None = None
        self._eatoms = np.full(self.nlistatoms, np.nan)
        self.had_pairs = self.npairs > 0  # some time before

    @staticmethod
    def _view(array: np.ndarray) -> np.ndarray:
        if 0 in array.shape:
            raise ValueError("Invalid shape in axis 0: 0.")
        return array

    def _view_of_pairs(self, array: np.ndarray) -> np.ndarray | None:
        return self._view(array) if self.had_pairs else None

    elems = property(lambda self: self._view(self._elems))
    iatoms = property(lambda self: self._view(np.arange(self.natomneigh, dtype=np.int32)))
    pair_i = property(lambda self: self._view_of_pairs(self._pair_i))
    pair_j = property(lambda self: self._view_of_pairs(self._pair_j))
    rij = property(lambda self: self._view_of_pairs(self._rij))

    def _set_energy(self, value) -> None:
        self._energy = float(value)

    def _set_eatoms(self, values) -> None:
        self._view(self._eatoms)[:] = self._doubles(values, 1)

    energy = property(fset=_set_energy)
    eatoms = property(fset=_set_eatoms)

    def _doubles(self, values, dimensions: int, *, contiguous: bool = False) -> np.ndarray:
        """Values as a typed memory view of Cython takes them."""
        view = memoryview(values)
        if view.format != "d":
            raise ValueError("Buffer dtype mismatch, expected 'double'")
        if view.ndim != dimensions:
            raise ValueError("Buffer has wrong number of dimensions")
        if contiguous and not view.c_contiguous:
            raise ValueError("ndarray is not C-contiguous")
        return np.asarray(values)

    def _first(self, array: np.ndarray) -> np.ndarray:
        """The array through the address of its first element."""
        if not len(array):
            raise IndexError("Out of bounds on buffer access (axis 0)")
        assert len(array) == self.npairs
        return array

    def update_pair_energy(self, eij) -> None:
        halves = 0.5 * self._first(self._doubles(eij, 1))
        self._eatoms[:] = np.bincount(self._pair_i, weights=halves, minlength=self.nlocal)
        self._energy = float(halves.sum())

    def update_pair_forces(self, fij) -> None:
        forces = self._first(self._doubles(fij, 2, contiguous=True))
        np.add.at(self._f, self._pair_i, forces)
        np.subtract.at(self._f, self._pair_j, forces)
        self._virial -= self._rij.T @ forces


class KokkosData(PlainData):
    """That of the Kokkos pair style on a CPU: knows the exchange, overruns its buffers for wide rows."""

    def __init__(self, part: Part, elements: np.ndarray, halo: ThreadHalo, *, cutoff: float) -> None:
        super().__init__(part, elements, cutoff=cutoff)
        self._halo = halo
        self.broken = ""

    eatoms = property(lambda self: self._view(self._eatoms))

    def _doubles(self, values, dimensions: int, *, contiguous: bool = False) -> np.ndarray:
        try:
            return super()._doubles(values, dimensions, contiguous=contiguous)
        except (TypeError, ValueError):  # takes it for a tensor, of any type and order
            values = values.detach().numpy().astype(np.double)
            return super()._doubles(values, dimensions, contiguous=contiguous)

    def _check(self, source: torch.Tensor, target: torch.Tensor, width: int) -> None:
        if source.dtype != target.dtype:
            raise TypeError("types mismatch")
        if source.dtype not in {torch.float32, torch.float64}:
            raise AttributeError("no attribute 'ptr'")  # takes it for an array of cupy
        # What the engine does not notice.
        assert source.shape == target.shape == (self.ntotal, width)
        assert source.is_contiguous()
        assert target.is_contiguous()
        assert width <= 3, "Kokkos on a CPU crashes"

    def forward_exchange(self, source: torch.Tensor, target: torch.Tensor, width: int) -> None:
        self._check(source, target, width)
        target.copy_(self._halo.to_ghosts(source[: self.nlocal]))
        ghosts = target[self.nlocal :]
        if self.broken == "nothing arrives":
            ghosts.copy_(source[self.nlocal :])
        elif self.broken == "rows are shifted":
            ghosts.copy_(ghosts.roll(1, dims=0))
        elif self.broken == "columns are mixed up":
            ghosts.copy_(ghosts.roll(1, dims=1))
        elif self.broken == "the first column everywhere":
            ghosts.copy_(ghosts[:, :1].expand_as(ghosts).clone())
        elif self.broken == "rows counted by numbers":
            ghosts.copy_(self._flat(ghosts))
        elif self.broken == "another atom of the same element, both ways":
            target[self.nlocal :] = target[: self.nlocal][self._others()]

    def reverse_exchange(self, source: torch.Tensor, target: torch.Tensor, width: int) -> None:
        self._check(source, target, width)
        ghosts = source[self.nlocal :]
        sent = source.clone()
        if self.broken == "the first column everywhere":
            sent[self.nlocal :] = 0.0
            sent[self.nlocal :, 0] = ghosts.sum(dim=1)
        elif self.broken == "rows counted by numbers":
            sent[self.nlocal :] = self._flat(ghosts)
        target.zero_()
        target[: self.nlocal] = self._halo.to_owners(sent)
        if self.broken == "nothing comes back":
            target[: self.nlocal] = source[: self.nlocal]
        elif self.broken == "another atom of the same element, both ways":
            target[: self.nlocal] = source[: self.nlocal].index_add(0, self._others(), ghosts)

    @staticmethod
    def _flat(rows: torch.Tensor) -> torch.Tensor:
        """Number n of a buffer taken from row n instead of row n // width: a loop over both, unrolled wrongly."""
        numbers = torch.arange(rows.numel())
        row = numbers.clamp(max=len(rows) - 1)
        return rows[row, numbers % rows.shape[1]].view_as(rows)

    def _others(self) -> torch.Tensor:
        """For each ghost the next own atom of its element, as if lists of what is sent were off by one (one process)."""
        names = self._halo.to_ghosts(torch.arange(self.nlocal, dtype=torch.float64)[:, None])
        owners = names[self.nlocal :, 0].long().numpy()
        following = {}
        for element in np.unique(self._elems):
            (same,) = np.nonzero(self._elems[: self.nlocal] == element)
            following |= dict(zip(same, np.roll(same, 1), strict=True))
        return torch.tensor([following[owner] for owner in owners], dtype=torch.long)
