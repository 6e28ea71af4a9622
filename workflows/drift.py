"""How well an energy is conserved: shadow energy of velocity Verlet, and the slope of a time series with its
uncertainty.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student


class Drift(NamedTuple):
    """Slope of a time series with its 95 % confidence interval, in units of the series per time."""

    slope: float
    uncertainty: float  # half width

    @property
    def bound(self) -> float:
        """The largest |slope| that the series does not exclude at 95 %."""
        return abs(self.slope) + self.uncertainty


def linear_drift(times: NDArray[np.float64], values: NDArray[np.float64], *, blocks: int = 20) -> Drift | None:
    """Least-squares slope from block averages, which are independent where neighboring samples are not.

    Parameters
    ----------
    times, values
        ``(n,)``; values that are not finite are left out.
    blocks
        Number of equal parts that the series is averaged over.

    Returns
    -------
    None for fewer than three blocks of at least one sample.
    """
    kept = np.isfinite(values)
    times, values = times[kept], values[kept]
    blocks = min(blocks, len(values))
    if blocks < 3:
        return None
    size = len(values) // blocks
    x = times[: size * blocks].reshape(blocks, size).mean(axis=1)
    y = values[: size * blocks].reshape(blocks, size).mean(axis=1)
    centered = x - x.mean()
    spread = float(centered @ centered)
    if spread == 0:
        return None
    slope = float(centered @ (y - y.mean())) / spread
    residual = y - y.mean() - slope * centered
    error = np.sqrt(float(residual @ residual) / (blocks - 2) / spread)
    return Drift(slope, float(student.ppf(0.975, blocks - 2) * error))


def shadow_correction(
    *,
    velocities: NDArray[np.float64],
    masses: NDArray[np.float64],
    forces_before: NDArray[np.float64],
    forces: NDArray[np.float64],
    forces_after: NDArray[np.float64],
    timestep: float,
) -> float:
    """What velocity Verlet's shadow energy has beyond the energy, in eV, for a time step h:

        H̃ − H = −(h²/12) v·dF/dt − (h²/24) Σ F²/m  + O(h⁴)

    H̃ is conserved to fourth order, so that its drift can be seen where the h² fluctuation of H would hide
    it.

    Parameters
    ----------
    velocities
        ``(N, 3)``, at the step in ASE's units.
    masses
        ``(N,)`` amu.
    forces_before, forces, forces_after
        ``(N, 3)`` eV/Å at the step before, at the step and at the step after; dF/dt is their central
        difference.
    timestep
        h in ASE's units.

    Notes
    -----
    Modified equation of the Störmer–Verlet method: Hairer, Lubich & Wanner, Acta Numerica 12, 399 (2003).
    """
    rate = (forces_after - forces_before) / (2 * timestep)
    power = float(np.einsum("ij,ij->", velocities, rate))
    square = float(np.einsum("ij,ij,i->", forces, forces, 1.0 / masses))
    return -(timestep**2) * (power / 12 + square / 24)
