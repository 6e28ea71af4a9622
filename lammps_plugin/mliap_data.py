"""LAMMPS' data object of a step of ML-IAP: its arrays as tensors, and its exchange as a halo."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Columns that Kokkos exchanges at a time on a CPU: its buffers are made for as many as positions have, and are overrun
#: by wider rows.
HOST_COLUMNS = 3


class NoGhosts:
    """:class:`~hydrapot.potential.decomposed.Halo` where every atom has neighbors, so that nothing travels."""

    def to_ghosts(self, rows: Tensor) -> Tensor:
        """The same."""
        return rows

    def to_owners(self, rows: Tensor) -> Tensor:
        """The same."""
        return rows


class EngineHalo:
    """:class:`~hydrapot.potential.decomposed.Halo` by the communication of LAMMPS with Kokkos.

    Parameters
    ----------
    data
        LAMMPS' data object of this step.
    on_device
        Whether its arrays are on a GPU.
    """

    def __init__(self, data: Any, *, on_device: bool) -> None:
        self.data = data
        self.n_local, self.n_total = int(data.nlocal), int(data.ntotal)
        self.on_device = on_device

    def to_ghosts(self, rows: Tensor) -> Tensor:
        """As in :class:`~hydrapot.potential.decomposed.Halo`."""
        full = torch.cat([rows, rows.new_zeros(self.n_total - self.n_local, rows.shape[1])])
        return self._exchange(self.data.forward_exchange, full)

    def to_owners(self, rows: Tensor) -> Tensor:
        """As in :class:`~hydrapot.potential.decomposed.Halo`."""
        return self._exchange(self.data.reverse_exchange, rows)[: self.n_local]

    def _exchange(self, exchange: Any, rows: Tensor) -> Tensor:
        if self.on_device:
            source, target = rows.contiguous(), torch.empty_like(rows, memory_format=torch.contiguous_format)
            torch.cuda.synchronize(rows.device)  # Kokkos has a stream of its own
            exchange(source, target, rows.shape[1])
            torch.cuda.synchronize(rows.device)
            return target
        parts = []
        for part in rows.split(HOST_COLUMNS, dim=1):
            source, target = part.contiguous(), torch.empty_like(part, memory_format=torch.contiguous_format)
            exchange(source, target, part.shape[1])
            parts.append(target)
        return torch.cat(parts, dim=1)


class Arrays:
    """LAMMPS' arrays as tensors; those without elements cannot be asked for."""

    def __init__(self, data: Any) -> None:
        self.n_local, self.n_total = int(data.nlocal), int(data.ntotal)
        n_pairs, n_listed = int(data.npairs), int(data.nlistatoms)
        elements = data.elems if self.n_total else np.zeros(0, dtype=np.int32)
        self.device = torch.device("cuda" if hasattr(elements, "__cuda_array_interface__") else "cpu")
        if self.device.type != "cpu":
            torch.cuda.synchronize()
        self.elements = self.view(elements).long()
        self.listed = self.view(data.iatoms if n_listed else np.zeros(0, dtype=np.int32))[:n_listed].long()
        self.pair_i = self.view(data.pair_i if n_pairs else np.zeros(0, dtype=np.int32)).long()
        self.pair_j = self.view(data.pair_j if n_pairs else np.zeros(0, dtype=np.int32)).long()
        self.r_ij = self.view(data.rij if n_pairs else np.zeros((0, 3))).double()

    def view(self, array: Any) -> Tensor:
        """A tensor on the memory of an array of numpy or cupy."""
        return torch.as_tensor(array, device=self.device)


def set_atom_energies(data: Any, values: NDArray[np.float64]) -> None:
    """Plain: a property that can only be set; Kokkos: an array that can only be filled."""
    if hasattr(data, "forward_exchange"):
        data.eatoms[:] = values
    else:
        data.eatoms = values
