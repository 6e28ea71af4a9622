"""Properties that amplify the rounding of energies and forces, each by the same small code for every precision.

None of them is meant to be accurate (clamped ions, one supercell, a straight path): what counts is the difference
between two precisions of one potential on one structure.
"""

import math

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Å; displacement of an atom in the force constants, the one that phonon codes use.
DISPLACEMENT = 0.01
#: Strain in the elastic constants.
STRAIN = 0.005
#: THz; slower modes (translations, rotations, what is nearly free) are left out: √ of rounding is not small.
SLOWEST = 0.5
_THZ = units._hplanck / units._e * 1e12  # noqa: SLF001 - eV in a THz, of the constants that ASE's units are made of
_PATH = (0.25, 0.5, 0.75, 1.0)


def frequencies(atoms: Atoms, calculator: Calculator, *, displacement: float = DISPLACEMENT) -> Array:
    """Normal modes of the structure as a whole, ``(3N,)`` THz, imaginary ones negative; central differences of forces.

    6N evaluations; `displacement` in Å.
    """
    n = len(atoms)
    moved = atoms.copy()
    moved.calc = calculator
    force_constants = np.empty((3 * n, 3 * n))
    for k in range(3 * n):
        forces = []
        for sign in (1.0, -1.0):
            moved.positions[:] = atoms.positions
            moved.positions[k // 3, k % 3] += sign * displacement
            forces.append(np.array(moved.get_forces(), dtype=np.float64).ravel())
        force_constants[k] = (forces[1] - forces[0]) / (2.0 * displacement)
    mass = np.repeat(atoms.get_masses(), 3) ** -0.5
    dynamical = mass[:, None] * 0.5 * (force_constants + force_constants.T) * mass
    squares = np.linalg.eigvalsh(dynamical)
    energy = units._hbar * 1e10 / math.sqrt(units._e * units._amu)  # noqa: SLF001 - eV of √(eV/Å²/amu)
    return np.asarray(np.sign(squares) * np.sqrt(np.abs(squares)) * energy / _THZ)


def elastic_constants(atoms: Atoms, calculator: Calculator, *, strain: float = STRAIN) -> Array:
    """Clamped-ion constants ``(6, 6)`` in GPa, from the stress under ± each of six strains (xx, yy, zz, yz, xz, xy)."""
    constants = np.empty((6, 6))
    strained = atoms.copy()
    strained.calc = calculator
    for k in range(6):
        voigt = np.zeros(6)
        voigt[k] = strain if k < 3 else strain / 2.0  # the engineering shear strain is twice the tensor's
        stresses = []
        for sign in (1.0, -1.0):
            deformation = np.eye(3) + sign * voigt_6_to_full_3x3_stress(voigt)
            strained.set_cell(atoms.cell.array @ deformation, scale_atoms=False)
            strained.positions[:] = atoms.positions @ deformation
            stresses.append(np.array(strained.get_stress(), dtype=np.float64))
        constants[k] = (stresses[0] - stresses[1]) / (2.0 * strain) / units.GPa
    return constants


def fixed_path(atoms: Atoms) -> list[Atoms]:
    """The structure and images of a straight path away from it, of energies like those of a barrier.

    In a crystal of 8 atoms or more a neighbor of a vacancy moves half way to it; elsewhere the lightest atom is pulled away
    from the center of mass by 0.3 Å.
    """
    start = atoms.copy()
    if atoms.pbc.all() and len(atoms) >= 8:
        vacancy = start.positions[0].copy()
        del start[0]
        # Among its own kind, so that the atom could take the place.
        same = np.flatnonzero(start.numbers == atoms.numbers[0])
        candidates = same if len(same) else np.arange(len(start))
        probe = start + Atoms([atoms.numbers[0]], positions=[vacancy])
        towards = -probe.get_distances(len(probe) - 1, candidates, mic=True, vector=True)
        chosen = int(np.linalg.norm(towards, axis=1).argmin())
        moving, displacement = int(candidates[chosen]), 0.5 * towards[chosen]
    else:
        moving = int(atoms.get_masses().argmin())
        outward = atoms.positions[moving] - atoms.get_center_of_mass()
        length = float(np.linalg.norm(outward))
        direction = outward / length if length > 1e-6 else np.array([1.0, 0.0, 0.0])
        displacement = 0.3 * direction
    images = [start]
    for fraction in _PATH:
        image = start.copy()
        image.positions[moving] += fraction * displacement
        images.append(image)
    return images


def path_energies(images: list[Atoms], calculator: Calculator) -> Array:
    """Energies (eV) of the images relative to the first, ``(images − 1,)``."""
    energies = []
    for image in images:
        atoms = image.copy()
        atoms.calc = calculator
        energies.append(float(atoms.get_potential_energy()))
    return np.array(energies[1:]) - energies[0]
