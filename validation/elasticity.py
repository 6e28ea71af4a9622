"""Elastic constants from stress over strain, and what follows from them.

Strains and differences are matscipy's. Units: GPa for results, Voigt order xx, yy, zz, yz, xz, xy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.optimize import BFGS
from numpy.typing import NDArray

Array = NDArray[np.float64]

_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
#: Independent constants by crystal system in the standard orientation (J. F. Nye, *Physical Properties of Crystals*).
_INDEPENDENT = {
    "cubic": ("C11", "C12", "C44"),
    "hexagonal": ("C11", "C12", "C13", "C33", "C44"),
    "trigonal": ("C11", "C12", "C13", "C14", "C33", "C44"),
    "tetragonal": ("C11", "C12", "C13", "C33", "C44", "C66"),
    "orthorhombic": ("C11", "C12", "C13", "C22", "C23", "C33", "C44", "C55", "C66"),
}


def elastic_constants(atoms: Atoms, calculator: Any, *, strain: float, relax: bool, fmax: float = 1e-4) -> Array:
    """C ``(6, 6)`` in GPa by central differences of the stress; not symmetrized.

    Parameters
    ----------
    atoms
        Without stress, periodic in three directions.
    strain
        Distance of the two strains of a difference.
    relax
        Whether atoms relax in the strained cells (to `fmax`, eV/Å) or are clamped.
    """
    from matscipy.elasticity import measure_triclinic_elastic_constants

    work = atoms.copy()
    work.calc = calculator
    if relax:
        options: dict[str, Any] = {"fmax": fmax, "steps": 200}
        tensor = measure_triclinic_elastic_constants(work, delta=strain, optimizer=BFGS, **options)
    else:
        tensor = measure_triclinic_elastic_constants(work, delta=strain)
    return np.array([[tensor[i, j, k, l] for k, l in _VOIGT] for i, j in _VOIGT]) / units.GPa


def bulk_modulus_of_energies(atoms: Atoms, calculator: Any, *, strain: float) -> float:
    """B (GPa) from energies of the uniformly strained crystal, atoms clamped, by the five-point second derivative.

    With E(ε) at cell vectors (1 + ε) h, d²E/dε² = 9 V B at zero stress.
    """
    energies = []
    for factor in (-2, -1, 0, 1, 2):
        work = atoms.copy()
        work.set_cell(atoms.cell.array * (1 + factor * strain), scale_atoms=True)
        work.calc = calculator
        energies.append(work.get_potential_energy())
    stencil = np.array([-1.0, 16.0, -30.0, 16.0, -1.0]) / 12.0
    curvature = float(stencil @ (np.array(energies) - energies[2])) / strain**2
    return curvature / (9.0 * float(atoms.get_volume())) / float(units.GPa)


def symmetric(constants: Array) -> Array:
    """The symmetric part of C."""
    return np.asarray(0.5 * (constants + constants.T))


@dataclass(frozen=True)
class Moduli:
    """Bulk and shear modulus of a polycrystal, GPa: Voigt (uniform strain), Reuss (uniform stress), Hill (their mean).

    R. Hill, *Proc. Phys. Soc. A* 65, 349 (1952).
    """

    bulk_voigt: float
    bulk_reuss: float
    shear_voigt: float
    shear_reuss: float

    @property
    def bulk(self) -> float:
        """Hill's mean."""
        return 0.5 * (self.bulk_voigt + self.bulk_reuss)

    @property
    def shear(self) -> float:
        """Hill's mean."""
        return 0.5 * (self.shear_voigt + self.shear_reuss)


def moduli(constants: Array) -> Moduli:
    """Averages of C ``(6, 6)``; Reuss' are not finite for a singular C."""
    c = symmetric(constants)
    try:
        s = np.linalg.inv(c)
    except np.linalg.LinAlgError:
        s = np.full((6, 6), np.nan)
    diagonal, off, shear = _sums(c)
    s_diagonal, s_off, s_shear = _sums(np.asarray(s, dtype=np.float64))
    return Moduli(
        bulk_voigt=(diagonal + 2 * off) / 9,
        bulk_reuss=1 / (s_diagonal + 2 * s_off),
        shear_voigt=(diagonal - off + 3 * shear) / 15,
        shear_reuss=15 / (4 * (s_diagonal - s_off) + 3 * s_shear),
    )


def _sums(c: Array) -> tuple[float, float, float]:
    return float(np.trace(c[:3, :3])), float(c[0, 1] + c[0, 2] + c[1, 2]), float(np.trace(c[3:, 3:]))


def named(constants: Array, name: str) -> float:
    """A constant by its name, e.g. ``C44``.

    Raises
    ------
    KeyError
        Not two digits from 1 to 6 after a C.
    """
    digits = name[1:]
    if not name.startswith("C") or len(digits) != 2 or not set(digits) <= set("123456"):
        raise KeyError(name)
    return float(symmetric(constants)[int(digits[0]) - 1, int(digits[1]) - 1])


def independent(space_group: int) -> tuple[str, ...]:
    """Names of the independent constants of a crystal with that number of its space group, all 21 below orthorhombic."""
    for lowest, system in (
        (195, "cubic"),
        (168, "hexagonal"),
        (143, "trigonal"),
        (75, "tetragonal"),
        (16, "orthorhombic"),
    ):
        if space_group >= lowest:
            return _INDEPENDENT[system]
    return tuple(f"C{i}{j}" for i in range(1, 7) for j in range(i, 7))
