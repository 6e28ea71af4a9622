"""Radial basis: spherical Bessel functions times a C² envelope.

Gasteiger, Groß & Günnemann, *Directional Message Passing for Molecular Graphs*, ICLR 2020 (arXiv:2003.03123): the basis
is their eq. 7, sin(nπr/r_c)/r; the envelope is the quintic (1−x)³(1+3x+6x²), x = r/r_c: value 1 and two vanishing
derivatives at 0, value and two derivatives 0 at the cutoff. Written with the triple root outside, it stays exact to the
last digit near the cutoff, where the expanded polynomial cancels.
"""

import math

import torch
from torch import Tensor, nn


def envelope(distances: Tensor, *, cutoff: float) -> Tensor:
    """C² cutoff function, 1 at r = 0 and exactly 0 from `cutoff` on; any shape, distances in Å."""
    x = distances / cutoff
    rest = torch.relu(1.0 - x)
    return rest * rest * rest * (1.0 + x * (3.0 + 6.0 * x))


class BesselBasis(nn.Module):
    """``√(2/r_c) · sin(nπr/r_c)/r · envelope(r)`` for n = 1 … `n_radial`.

    Parameters
    ----------
    n_radial
        Number of functions.
    cutoff
        r_c in Å.
    """

    def __init__(self, *, n_radial: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.n_radial = n_radial
        self.prefactor = math.sqrt(2.0 / cutoff)

    def forward(self, distances: Tensor) -> Tensor:
        """``(E,)`` Å, positive → ``(E, n_radial)``, Å^(−3/2)."""
        scale = self.prefactor * envelope(distances, cutoff=self.cutoff) / distances
        # Not a buffer: casting the model to float32 and back would leave float32 digits in it.
        orders = torch.arange(1, self.n_radial + 1, dtype=torch.float64, device=distances.device)
        frequencies = (orders * (math.pi / self.cutoff)).to(distances.dtype)
        return torch.sin(distances[:, None] * frequencies) * scale[:, None]
