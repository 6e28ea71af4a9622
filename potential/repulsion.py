"""Screened nuclear repulsion at short range, the wall that no training set samples.

Ziegler, Biersack & Littmark, *The Stopping and Range of Ions in Solids* (1985), universal potential:
V(r) = k Z_i Z_j / r · φ(r/a), a = 0.46850 Å / (Z_i^0.23 + Z_j^0.23), φ a sum of four exponentials. It is multiplied by
the C² envelope with its cutoff at 0.85 times the sum of the covalent radii (Cordero et al., Dalton Trans. 2832 (2008),
as in ASE), so that bonds at their usual length feel nothing of it (single ones) or a tenth of an eV (N≡N, C≡O), and the
energy stays smooth.
"""

import numpy as np
import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from hydrapot.potential.constants import COULOMB
from hydrapot.potential.edges import sum_edges
from hydrapot.potential.graph import MAX_ATOMIC_NUMBER, Graph

_AMPLITUDES = (0.18175, 0.50986, 0.28022, 0.02817)
_DECAYS = (3.19980, 0.94229, 0.40290, 0.20162)
_SCREENING_LENGTH = 0.46850
#: Range of a pair over the sum of its covalent radii.
RANGE_FACTOR = 0.85
#: Radius for elements that have none tabulated (beyond Cm).
_FALLBACK_RADIUS = 1.7


def _radii() -> np.ndarray:
    radii = np.full(MAX_ATOMIC_NUMBER + 1, _FALLBACK_RADIUS)
    known = min(len(covalent_radii), 97)
    radii[:known] = covalent_radii[:known]
    return radii


class ZBLRepulsion(nn.Module):
    """Smoothly truncated universal ZBL pair repulsion; no trainable parameter, always float64.

    Parameters
    ----------
    cutoff
        Å; the range of a pair never exceeds it.
    """

    def __init__(self, *, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self._radii = torch.from_numpy(_radii())
        # Looked up rather than raised to for every atom: a vectorized power differs in its last bit from a scalar one, and
        # which one an atom gets depends on its place in the batch.
        self._powers = torch.arange(MAX_ATOMIC_NUMBER + 1, dtype=torch.float64) ** 0.23

    def forward(self, graph: Graph) -> Tensor:
        """Half of every pair's energy on each of its two atoms: ``(N,)`` eV, float64."""
        distances = torch.linalg.vector_norm(graph.edge_vectors.double(), dim=1)
        return sum_edges(self.pair_energies(graph.numbers, graph.edge_index, distances), graph)

    def ranges(self, numbers: Tensor, edge_index: Tensor) -> Tensor:
        """Distance from which on each pair feels nothing: ``(E,)`` Å."""
        radii = self._radii.to(numbers.device)[numbers]
        receivers, senders = edge_index
        return torch.clamp(RANGE_FACTOR * (radii[receivers] + radii[senders]), max=self.cutoff)

    def pair_energies(self, numbers: Tensor, edge_index: Tensor, distances: Tensor) -> Tensor:
        """Half of the energy of each directed pair: ``(E,)`` eV, float64.

        The result for a pair does not depend on the others, not even in its last bit.

        Parameters
        ----------
        numbers
            ``(N,)`` atomic numbers.
        edge_index
            ``(2, E)``: receivers and senders.
        distances
            ``(E,)`` Å, float64.
        """
        receivers, senders = edge_index
        z = numbers.double()
        powers = self._powers.to(numbers.device)[numbers]
        range_ = self.ranges(numbers, edge_index)
        rest = torch.relu(1.0 - distances / range_)
        x = distances / range_
        switch = rest * rest * rest * (1.0 + x * (3.0 + 6.0 * x))
        reduced = distances * (powers[receivers] + powers[senders]) / _SCREENING_LENGTH
        screening = sum(
            (a * torch.exp(-d * reduced) for a, d in zip(_AMPLITUDES, _DECAYS, strict=True)), torch.zeros_like(reduced)
        )
        pair = COULOMB * z[receivers] * z[senders] / distances * screening * switch
        return 0.5 * pair


class NoRepulsion(nn.Module):
    """What a model without short-range repulsion uses."""

    def forward(self, graph: Graph) -> Tensor:
        """Zeros ``(N,)``, float64."""
        return graph.edge_vectors.new_zeros(graph.n_atoms, dtype=torch.float64)

    def ranges(self, numbers: Tensor, edge_index: Tensor) -> Tensor:
        """Zeros ``(E,)``: no pair feels anything."""
        return numbers.new_zeros(edge_index.shape[1], dtype=torch.float64)

    def pair_energies(self, numbers: Tensor, edge_index: Tensor, distances: Tensor) -> Tensor:  # noqa: ARG002
        """Zeros ``(E,)``, float64."""
        return torch.zeros_like(distances)
