"""What LAMMPS hands to a unified ML-IAP model, as seen in mliap_unified_couple.pyx and its Kokkos twin (4Jul2026).

Arrays are views of LAMMPS' memory: those without elements cannot be made, which is an error of Cython. Energies of atoms
can only be set as a whole (plain) or filled in place (Kokkos). Forces are taken through the address of the first element
of a C-contiguous float64 array, and added as f_i += f_ij, f_j -= f_ij, with the virial -r_ij f_ij.
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

    @staticmethod
    def _view(array: np.ndarray) -> np.ndarray:
        if 0 in array.shape:
            raise ValueError("Invalid shape in axis 0: 0.")
        return array

    elems = property(lambda self: self._view(self._elems))
    iatoms = property(lambda self: self._view(np.arange(self.nlistatoms, dtype=np.int32)))
    pair_i = property(lambda self: self._view(self._pair_i))
    pair_j = property(lambda self: self._view(self._pair_j))
    rij = property(lambda self: self._view(self._rij))

    def _set_energy(self, value) -> None:
        self._energy = float(value)

    def _set_eatoms(self, values) -> None:
        self._view(self._eatoms)[:] = memoryview(values)

    energy = property(fset=_set_energy)
    eatoms = property(fset=_set_eatoms)

    def update_pair_forces(self, fij: np.ndarray) -> None:
        view = memoryview(fij)
        if view.format != "d" or not view.c_contiguous:
            raise ValueError("Buffer dtype mismatch, or not C-contiguous")
        if not view:
            raise IndexError("Out of bounds on buffer access (axis 0)")
        assert view.shape == (self.npairs, 3)
        np.add.at(self._f, self._pair_i, fij)
        np.subtract.at(self._f, self._pair_j, fij)
        self._virial -= self._rij.T @ fij


class KokkosData(PlainData):
    """That of the Kokkos pair style on a CPU: knows the exchange, overruns its buffers for wide rows."""

    def __init__(self, part: Part, elements: np.ndarray, halo: ThreadHalo, *, cutoff: float) -> None:
        super().__init__(part, elements, cutoff=cutoff)
        self._halo = halo
        self.broken = ""

    eatoms = property(lambda self: self._view(self._eatoms))

    def _check(self, source: torch.Tensor, target: torch.Tensor, width: int) -> None:
        assert source.dtype == target.dtype in (torch.float32, torch.float64)
        assert source.shape == target.shape == (self.ntotal, width)
        assert source.is_contiguous()
        assert target.is_contiguous()
        assert width <= 3, "Kokkos on a CPU crashes"

    def forward_exchange(self, source: torch.Tensor, target: torch.Tensor, width: int) -> None:
        self._check(source, target, width)
        target.copy_(self._halo.to_ghosts(source[: self.nlocal]))
        if self.broken == "nothing arrives":
            target[self.nlocal :] = source[self.nlocal :]
        elif self.broken == "rows are shifted":
            target[self.nlocal :] = target[self.nlocal :].roll(1, dims=0)
        elif self.broken == "columns are mixed up":
            target[self.nlocal :] = target[self.nlocal :].roll(1, dims=1)

    def reverse_exchange(self, source: torch.Tensor, target: torch.Tensor, width: int) -> None:
        self._check(source, target, width)
        target.zero_()
        target[: self.nlocal] = self._halo.to_owners(source)
        if self.broken == "nothing comes back":
            target[: self.nlocal] = source[: self.nlocal]
