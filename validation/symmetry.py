"""What must not change the energy: rotation, inversion, order and place of atoms, choice of cell."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from numpy.typing import NDArray

from hydrapot.validation.evaluators import Evaluation, Evaluator
from hydrapot.validation.results import CheckResult, at_most
from hydrapot.validation.structures import rotation

#: eV/atom for energies and strain derivatives, eV/Å for forces.
INVARIANCE_LIMIT = 1e-9

Array = NDArray[np.float64]


class Transformed(NamedTuple):
    """A structure made from another one, and what its results must be.

    ``copies`` of the original with atoms in the order ``order`` (indices into the original), vectors turned
    by ``matrix``.
    """

    atoms: Atoms
    order: NDArray[np.int64]
    matrix: Array
    copies: int = 1


def check_invariance(
    evaluator: Evaluator, atoms: Atoms, *, subject: str, seed: int = 0, only: Collection[str] | None = None
) -> list[CheckResult]:
    """One result for each transformation that applies to the structure, or of those named in `only`."""
    rng = np.random.default_rng(seed)
    before = evaluator(atoms)
    results = []
    for name, transform in _TRANSFORMATIONS.items():
        if only is not None and name not in only:
            continue
        variants = transform(atoms, rng, evaluator.cutoff)
        if not variants:
            continue
        worst, detail = 0.0, ""
        for variant in variants:
            error, what = _difference(before, evaluator(variant.atoms), variant)
            if not error <= worst:
                worst, detail = error, f"largest for {what}"
        results.append(at_most(name, subject, worst, INVARIANCE_LIMIT, "eV/atom, eV/Å", detail))
    return results


def _difference(before: Evaluation, after: Evaluation, variant: Transformed) -> tuple[float, str]:
    """Largest deviation of energy per atom, forces, or strain derivative per atom, and of which of them."""
    n = len(variant.atoms)
    errors = {
        "energy": abs(after.energy - variant.copies * before.energy) / max(n, 1),
        "forces": float(np.abs(after.forces - before.forces[variant.order] @ variant.matrix.T).max(initial=0.0)),
    }
    if before.strain_gradient is not None and after.strain_gradient is not None:
        turned = variant.copies * variant.matrix @ before.strain_gradient @ variant.matrix.T
        errors["stress"] = float(np.abs(after.strain_gradient - turned).max()) / max(n, 1)
    if any(np.isnan(e) for e in errors.values()):
        return np.nan, "NaN"
    worst = max(errors, key=errors.__getitem__)
    return errors[worst], worst


def _same(atoms: Atoms) -> NDArray[np.int64]:
    return np.arange(len(atoms))


def _turned(atoms: Atoms, matrix: Array) -> Transformed:
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ matrix.T, scale_atoms=False)
    turned.positions = atoms.positions @ matrix.T
    return Transformed(turned, _same(atoms), matrix)


def _rotations(atoms: Atoms, rng: np.random.Generator, cutoff: float) -> list[Transformed]:
    del cutoff
    return [_turned(atoms, rotation(rng)) for _ in range(2)]


def _inversion(atoms: Atoms, rng: np.random.Generator, cutoff: float) -> list[Transformed]:
    """Inversion through the origin, and a mirror: both change the handedness of the cell."""
    del rng, cutoff
    return [_turned(atoms, -np.eye(3)), _turned(atoms, np.diag([1.0, 1.0, -1.0]))]


def _permutation(atoms: Atoms, rng: np.random.Generator, cutoff: float) -> list[Transformed]:
    del cutoff
    order = rng.permutation(len(atoms))
    return [Transformed(atoms[order], order, np.eye(3))] if len(atoms) > 1 else []


def _translation(atoms: Atoms, rng: np.random.Generator, cutoff: float) -> list[Transformed]:
    del cutoff
    moved = atoms.copy()
    moved.positions += rng.uniform(-20.0, 20.0, size=3)
    return [Transformed(moved, _same(atoms), np.eye(3))]


def _wrapping(atoms: Atoms, rng: np.random.Generator, cutoff: float) -> list[Transformed]:
    """Every atom in another cell: its neighbors, some cells away, and thousands of cells away."""
    del cutoff
    if not atoms.pbc.any():
        return []
    variants = []
    for far in (1, 5, 5000):
        moved = atoms.copy()
        cells = rng.integers(-far, far + 1, size=(len(atoms), 3)) * atoms.pbc
        moved.positions += cells @ atoms.cell.array
        variants.append(Transformed(moved, _same(atoms), np.eye(3)))
    wrapped = atoms.copy()
    wrapped.wrap(eps=0.0)
    return [*variants, Transformed(wrapped, _same(atoms), np.eye(3))]


def _supercell(atoms: Atoms, rng: np.random.Generator, cutoff: float) -> list[Transformed]:
    del rng, cutoff
    repeats = {tuple(np.where(atoms.pbc, r, 1).tolist()) for r in ((2, 1, 1), (1, 1, 3), (2, 2, 2))} - {(1, 1, 1)}
    variants = []
    for repeat in sorted(repeats):
        copies = int(np.prod(repeat))
        variants.append(Transformed(atoms.repeat(repeat), np.tile(_same(atoms), copies), np.eye(3), copies))
    if atoms.pbc.all():
        # What leads from the primitive to the conventional fcc cell: not a multiple of the lattice vectors.
        conventional = make_supercell(atoms, [[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
        variants.append(Transformed(conventional, np.tile(_same(atoms), 4), np.eye(3), 4))
    return variants


def _cell_choice(atoms: Atoms, rng: np.random.Generator, cutoff: float) -> list[Transformed]:
    """Other vectors of the same lattice: products of shears by whole numbers, and one vector reversed."""
    del cutoff
    periodic = np.flatnonzero(atoms.pbc)
    if len(periodic) < 1:
        return []
    variants = []
    for _ in range(3):
        matrix = np.eye(3, dtype=np.int64)
        for _ in range(3 if len(periodic) > 1 else 0):
            a, b = rng.choice(periodic, size=2, replace=False)
            matrix[a] += int(rng.integers(-2, 3)) * matrix[b]
        matrix[periodic[0]] *= -1
        other = atoms.copy()
        other.set_cell(matrix @ atoms.cell.array, scale_atoms=False)
        variants.append(Transformed(other, _same(atoms), np.eye(3)))
    return variants


def _vacuum(atoms: Atoms, rng: np.random.Generator, cutoff: float) -> list[Transformed]:
    """Non-periodic lattice vectors carry no physics: zero, arbitrary, or periodic with enough vacuum."""
    if atoms.pbc.all():
        return []
    free = ~atoms.pbc
    complement = np.linalg.svd(np.vstack([atoms.cell.array[atoms.pbc], np.zeros((1, 3))]))[2][atoms.pbc.sum() :]
    extent = float(np.ptp(atoms.positions @ complement.T, axis=0).max(initial=0.0)) if len(atoms) else 0.0
    variants = []
    for vectors, pbc in (
        (np.zeros_like(complement), atoms.pbc),
        (rng.normal(size=complement.shape), atoms.pbc),
        (complement * (extent + cutoff + 0.5), np.ones(3, dtype=bool)),
    ):
        if pbc.all() and atoms.info.get("charge", 0):
            continue  # a charged periodic cell has no energy
        other = atoms.copy()
        cell = atoms.cell.array.copy()
        cell[free] = vectors
        other.set_cell(cell, scale_atoms=False)
        other.pbc = pbc
        variants.append(Transformed(other, _same(atoms), np.eye(3)))
    return variants


_TRANSFORMATIONS: dict[str, Callable[[Atoms, np.random.Generator, float], list[Transformed]]] = {
    "rotation": _rotations,
    "inversion": _inversion,
    "permutation": _permutation,
    "translation": _translation,
    "wrapping": _wrapping,
    "supercell": _supercell,
    "cell choice": _cell_choice,
    "vacuum": _vacuum,
}
