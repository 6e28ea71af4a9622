"""Harmonic vibrations of a molecule from central differences of its forces."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: THz for the square root of 1 eV/Å²/amu.
TO_THZ = float(np.sqrt(units._e * 1e20 / units._amu) / (2 * np.pi) / 1e12)  # noqa: SLF001 - ASE keeps them there


@dataclass(frozen=True)
class Vibrations:
    """Frequencies in THz, imaginary ones negative.

    Attributes
    ----------
    internal
        ``(3N - 6,)`` (3N - 5 of a linear molecule), translations and rotations projected out.
    rigid
        ``(6,)`` or ``(5,)``: of the motions that cost no energy, each by itself.
    asymmetry
        Largest |H − Hᵀ| over the largest |H|.
    """

    internal: Array
    rigid: Array
    asymmetry: float


def hessian(atoms: Atoms, calculator: Any, *, distance: float) -> Array:
    """H ``(3N, 3N)`` in eV/Å² by central differences of the forces; not symmetrized."""
    rows = []
    for atom in range(len(atoms)):
        for axis in range(3):
            forces = []
            for sign in (1.0, -1.0):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * distance
                moved.calc = calculator
                forces.append(np.array(moved.get_forces(), dtype=np.float64).ravel())
            rows.append((forces[1] - forces[0]) / (2.0 * distance))
    return np.array(rows)


def vibrations(atoms: Atoms, matrix: Array) -> Vibrations:
    """Normal modes of a structure with Hessian `matrix`."""
    root = np.sqrt(np.repeat(atoms.get_masses(), 3))
    weighted = 0.5 * (matrix + matrix.T) / np.outer(root, root)
    basis = _rigid_motions(atoms, root)
    rigid = np.einsum("ik,ij,jk->k", basis, weighted, basis)
    projector = np.eye(len(root)) - basis @ basis.T
    values = np.linalg.eigvalsh(projector @ weighted @ projector)
    # The projected motions have eigenvalue zero; the internal ones are what is left without as many nearest to zero.
    internal = np.delete(values, np.argsort(np.abs(values))[: basis.shape[1]])
    return Vibrations(_thz(internal), _thz(rigid), float(np.abs(matrix - matrix.T).max() / np.abs(matrix).max()))


def _rigid_motions(atoms: Atoms, root: Array) -> Array:
    """Orthonormal mass-weighted translations and rotations ``(3N, 6)``, five columns for a linear molecule."""
    arm = atoms.positions - atoms.get_center_of_mass()
    motions = [np.tile(np.eye(3)[k], len(atoms)) for k in range(3)]
    motions += [np.cross(np.eye(3)[k], arm).ravel() for k in range(3)]
    left, singular, _ = np.linalg.svd((np.array(motions) * root).T, full_matrices=False)
    return np.asarray(left[:, singular > 1e-3 * singular.max()])


def _thz(values: Array) -> Array:
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values)) * TO_THZ)
