"""Harmonic phonons of a crystal by finite displacements: phonopy's symmetry and dynamical matrices, our forces.

Frequencies are in THz, imaginary ones negative; wave vectors in the basis of the reciprocal primitive cell. Thermal
properties and densities of states are sums over a shifted mesh without symmetry: a few thousand small matrices.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.cell import Cell
from numpy.typing import ArrayLike, NDArray
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from hydrapot.validation.crystals import conventional_cell

Array = NDArray[np.float64]
#: A `phonopy.Phonopy`, whose own annotations differ between its versions.
Phonons = Any

#: Å⁻¹; spacing of the mesh for densities of states and thermal properties, and how many points it has at most.
_SPACING, _MOST_POINTS = 0.035, 4096
#: J/(K mol) and kJ/mol for one formula unit of what the sums are over.
_MOL = units.mol / units.J


def to_phonopy(atoms: Atoms) -> PhonopyAtoms:
    """Structure in phonopy's terms, with ASE's masses."""
    return PhonopyAtoms(
        symbols=atoms.get_chemical_symbols(),
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(wrap=False),
        masses=atoms.get_masses(),
    )


def to_ase(cell: Any) -> Atoms:
    """Structure in ASE's terms."""
    return Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)


def supercell_matrix(primitive: Atoms, *, max_atoms: int) -> NDArray[np.int64]:
    """Supercell in phonopy's convention (columns), of the primitive cell or of the conventional one.

    The one whose periodic images are farthest apart, since force constants reach that far; even repetitions, for which
    frequencies half-way to reciprocal lattice vectors (X and L of fcc) are exact, win unless that costs 15 % of the distance.
    """
    candidates = [(_image_distance(primitive.cell.array), primitive.cell.array)]
    for cell in (primitive, conventional_cell(primitive)):
        for step in (1, 2):
            for repeats in _repetitions(cell, step=step, max_atoms=max_atoms):
                lattice = np.diag(repeats) @ cell.cell.array
                candidates.append((_image_distance(lattice) * (1.0 if step == 2 else 0.85), lattice))
    _, best = max(candidates, key=lambda candidate: round(candidate[0], 6))  # the first, smaller one of equals
    matrix = np.rint(best @ np.linalg.inv(primitive.cell.array)).astype(np.int64)
    return np.asarray(matrix.T)


def _repetitions(cell: Atoms, *, step: int, max_atoms: int) -> list[NDArray[np.int64]]:
    """Repetitions that approach a cube; axes of equal length keep equal ones, as the symmetry of the crystal wants it."""
    found: list[NDArray[np.int64]] = []
    repeats = np.full(3, step)
    while len(cell) * int(repeats.prod()) <= max_atoms:
        found.append(repeats.copy())
        lengths = cell.cell.lengths() * repeats
        repeats[lengths < 1.001 * lengths.min()] += step
    return found


def _image_distance(lattice: Array) -> float:
    """Length of the shortest lattice vector, Å."""
    steps = np.array(np.meshgrid(*[range(-2, 3)] * 3)).reshape(3, -1).T
    lengths = np.linalg.norm(steps @ lattice, axis=1)
    return float(np.min(lengths[lengths > 1e-6]))


def phonons_of(unit_cell: Atoms, matrix: ArrayLike, *, primitive_matrix: Any = "P") -> Phonons:
    """Phonopy object without displacements; the primitive cell is the unit cell unless said otherwise."""
    with warnings.catch_warnings():
        # A supercell of less symmetry than the crystal is said to be one; it is what fits.
        warnings.simplefilter("ignore", UserWarning)
        return Phonopy(to_phonopy(unit_cell), np.asarray(matrix).tolist(), primitive_matrix=primitive_matrix)


def displaced_forces(phonons: Phonons, calculator: Any, *, rest: Array | None = None) -> Array:
    """Forces ``(D, N, 3)`` (eV/Å) on the displaced supercells, less those on the perfect one (`rest`, where known).

    What the relaxation has left would otherwise be taken for a response to the displacement.
    """
    rest = forces_on(phonons.supercell, calculator) if rest is None else rest
    return np.array([forces_on(cell, calculator) for cell in phonons.supercells_with_displacements]) - rest


def forces_on(cell: Any, calculator: Any) -> Array:
    """Forces ``(N, 3)`` on a structure of phonopy's."""
    atoms = to_ase(cell)
    atoms.calc = calculator
    return np.array(atoms.get_forces(), dtype=np.float64)


def acoustic_sum_residual(phonons: Phonons) -> float:
    """Largest sum of force constants over a row or a column of atoms, relative to the largest force constant.

    Before symmetrization; zero where energy does not change under translation and forces are its exact gradient, but
    for the anharmonic part of the displacement.
    """
    fc = np.asarray(phonons.force_constants)
    if fc.shape[0] != fc.shape[1]:
        raise ValueError("the full force constants are needed")
    return float(max(np.abs(fc.sum(axis=0)).max(), np.abs(fc.sum(axis=1)).max()) / np.abs(fc).max())


def frequencies(phonons: Phonons, wave_vectors: Array) -> Array:
    """``(Q, 3n)`` in THz, ascending at each wave vector."""
    phonons.run_qpoints(wave_vectors)
    return np.sort(np.asarray(phonons.qpoints.frequencies, dtype=np.float64), axis=1)


def mesh(phonons: Phonons) -> Array:
    """Wave vectors ``(Q, 3)`` of a uniform mesh shifted off Γ, one of each pair ±q."""
    reciprocal = np.linalg.inv(phonons.primitive.cell).T
    counts = np.maximum(2, 2 * np.rint(np.linalg.norm(reciprocal, axis=1) / _SPACING / 2)).astype(int)
    while counts.prod() / 2 > max(_MOST_POINTS / len(phonons.primitive), 32):
        counts = np.maximum(2, counts - 2)
        if (counts == 2).all():
            break
    axes = [(np.arange(n) + 0.5) / n - 0.5 for n in counts]
    points = np.array(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).T
    return np.asarray(points[points[:, 0] > 0])  # the mesh is symmetric about zero


def commensurate_points(matrix: NDArray[np.int64]) -> Array:
    """Wave vectors whose waves fit into a supercell (phonopy's convention): where frequencies are exact for its size."""
    generators = np.linalg.inv(matrix.T).T
    volume = abs(round(float(np.linalg.det(matrix))))
    found: set[tuple[int, ...]] = {(0, 0, 0)}
    for generator in generators:
        step = np.rint(generator * volume).astype(int)
        multiples = [step * k for k in range(volume)]
        found = {tuple(int(x) for x in (np.array(q) + m) % volume) for q in found for m in multiples}
    return np.array(sorted(found), dtype=np.float64) / volume


@dataclass(frozen=True)
class Path:
    """A path through the Brillouin zone: wave vectors ``(Q, 3)``, distance along it (Å⁻¹), and its special points."""

    points: Array
    distance: Array
    ticks: tuple[tuple[float, str], ...]


def band_path(phonons: Phonons, *, points: int = 150) -> Path | None:
    """Path of W. Setyawan & S. Curtarolo, *Comput. Mater. Sci.* 49, 299 (2010); None for a cell that ASE cannot classify."""
    try:
        path = Cell(phonons.primitive.cell).bandpath(npoints=points, eps=1e-3)
        distance, places, labels = path.get_linear_kpoint_axis()
    except (RuntimeError, ValueError, AssertionError):
        return None
    merged: dict[float, str] = {}
    for place, label in zip(places, labels, strict=True):
        word = "Γ" if label == "G" else str(label)
        at = round(float(place), 9)
        merged[at] = f"{merged[at]}|{word}" if at in merged and merged[at] != word else word
    return Path(np.array(path.kpts), np.array(distance), tuple(merged.items()))


def density_of_states(values: Array, grid: Array, *, width: float) -> Array:
    """Density of states on `grid` (THz), Gaussian of `width`; its integral is the number of branches."""
    density = np.zeros_like(grid)
    for column in values.T:
        density += np.exp(-0.5 * ((grid[:, None] - column[None, :]) / width) ** 2).mean(axis=1)
    return np.asarray(density / (width * np.sqrt(2 * np.pi)))


@dataclass(frozen=True)
class Thermal:
    """Harmonic heat capacity at constant volume and entropy, J/(K mol), and free energy, kJ/mol, per mole of atoms."""

    heat_capacity: float
    entropy: float
    free_energy: float


def thermal_properties(values: Array, *, temperature: float) -> Thermal:
    """Sums over the modes of a mesh; imaginary ones and those below 1e-3 THz are left out.

    A. A. Maradudin et al., *Theory of Lattice Dynamics in the Harmonic Approximation* (1971), §4.3.
    """
    n_atoms = values.shape[1] / 3
    kT = units.kB * temperature
    energies = units._hplanck * units.J * 1e12 * values[values > 1e-3]  # noqa: SLF001 - ASE keeps h there
    x = energies / kT
    weight = 1.0 / (values.shape[0] * n_atoms)
    heat = units.kB * np.sum((x / 2 / np.sinh(x / 2)) ** 2)
    free = np.sum(energies / 2 + kT * np.log1p(-np.exp(-x)))
    entropy = np.sum(energies / (2 * np.tanh(x / 2))) / temperature - free / temperature
    return Thermal(
        heat_capacity=float(weight * heat * _MOL),
        entropy=float(weight * entropy * _MOL),
        free_energy=float(weight * free * _MOL / 1e3),
    )
