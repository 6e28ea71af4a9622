"""Minimum-energy paths, and saddles on them with the modes that prove that they are saddles."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.mep import NEB
from ase.optimize import FIRE
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Å; step of the Hessian's differences.
_STEP = 0.01
#: Å; longest move of an atom in one step of the refinement.
_LONGEST = 0.1
#: eV/Å² below which a mode of the refinement is treated as this stiff.
_SOFTEST = 0.2


@dataclass(frozen=True)
class Saddle:
    """A stationary point of a path.

    Attributes
    ----------
    atoms
        With the calculator of the path.
    energy, force
        eV; largest force on an atom, eV/Å.
    curvatures
        Lowest eigenvalues of the Hessian of the mobile atoms, ascending, eV/Å²; translations are projected out.
    """

    atoms: Atoms
    energy: float
    force: float
    curvatures: Array


def nudged_elastic_band(
    initial: Atoms, final: Atoms, calculator: object, *, images: int, fmax: float, max_steps: int, seed: int
) -> tuple[list[Atoms], bool]:
    """A band of `images` between two minima, the highest of which climbs.

    Improved tangents (G. Henkelman, H. Jónsson, *J. Chem. Phys.* 113, 9978 (2000)) and climbing image (G. Henkelman,
    B. P. Uberuaga, H. Jónsson, *J. Chem. Phys.* 113, 9901 (2000)), both as in ASE.

    Parameters
    ----------
    initial, final
        Same order of atoms, positions not wrapped; constraints are kept.
    calculator
        Shared by all images.
    images
        Between the ends.
    fmax
        eV/Å, of the band's forces; ten times that before the climb begins.
    max_steps
        Of the optimizer, in each of both stages.
    seed
        Of displacements of 0.02 Å that break the symmetry of a straight line: on it, a saddle of higher order would attract.

    Returns
    -------
    The images with both ends, and whether the band converged.
    """
    rng = np.random.default_rng(seed)
    band = [initial.copy(), *(initial.copy() for _ in range(images)), final.copy()]
    for k, image in enumerate(band):
        share = k / (images + 1)
        image.positions[:] = (1 - share) * initial.positions + share * final.positions
        if 0 < k <= images:
            image.set_positions(image.positions + 0.02 * rng.normal(size=image.positions.shape))
        image.calc = calculator
    converged = False
    for climb, stage_fmax in ((False, 10 * fmax), (True, fmax)):
        neb = NEB(band, climb=climb, method="improvedtangent", allow_shared_calculator=True, k=0.5)
        with FIRE(neb, logfile=None, dt=0.15, maxstep=0.1) as optimizer:
            converged = bool(optimizer.run(fmax=stage_fmax, steps=max_steps))
    return band, converged


def energies(band: Sequence[Atoms]) -> Array:
    """Energy of every image, eV."""
    return np.array([image.get_potential_energy() for image in band], dtype=float)


def mobile(atoms: Atoms) -> NDArray[np.int64]:
    """Indices of the atoms that nothing fixes."""
    fixed = [c.get_indices() for c in atoms.constraints if isinstance(c, FixAtoms)]
    held = np.concatenate(fixed) if fixed else np.zeros(0, dtype=int)
    return np.setdiff1d(np.arange(len(atoms)), held)


def hessian(atoms: Atoms) -> Array:
    """Second derivatives of the energy by the mobile atoms ``(3M, 3M)``, eV/Å², by central differences of forces."""
    moving = mobile(atoms)
    matrix = np.zeros((3 * len(moving), 3 * len(moving)))
    copy = atoms.copy()
    copy.calc = atoms.calc
    origin = atoms.positions.copy()
    for row, (atom, axis) in enumerate((a, x) for a in moving for x in range(3)):
        for sign in (1.0, -1.0):
            copy.positions[:] = origin
            copy.positions[atom, axis] += sign * _STEP
            matrix[row] -= sign * copy.get_forces()[moving].ravel() / (2 * _STEP)
    return np.asarray(0.5 * (matrix + matrix.T))


def modes(atoms: Atoms, matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues (ascending) and eigenvectors of a Hessian, without the three translations where nothing is fixed."""
    count = len(matrix) // 3
    if count < len(atoms):
        values, vectors = np.linalg.eigh(matrix)
        return values, vectors
    uniform = np.tile(np.eye(3), (count, 1)) / np.sqrt(count)
    inside = np.linalg.qr(np.hstack([uniform, np.eye(3 * count)[:, :-3]]))[0][:, 3:]
    values, vectors = np.linalg.eigh(inside.T @ matrix @ inside)
    return values, inside @ vectors


def refine_saddle(atoms: Atoms, *, fmax: float, rounds: int = 3, steps: int = 12) -> Saddle:
    """Follow the softest mode uphill and all others downhill, from an image near a saddle.

    Eigenvector following with a Hessian that is kept for up to `steps` steps and made anew at most `rounds` times (C. J.
    Cerjan, W. H. Miller, *J. Chem. Phys.* 75, 2800 (1981)).
    """
    current = atoms.copy()
    current.calc = atoms.calc
    moving = mobile(current)
    values = np.zeros(0)
    for _ in range(rounds):
        values, vectors = modes(current, hessian(current))
        stiffness = np.maximum(np.abs(values), _SOFTEST)
        stiffness[0] *= -1.0
        travelled = 0.0
        for _ in range(steps):
            forces = current.get_forces()[moving]
            if np.linalg.norm(forces, axis=1).max() <= fmax:
                break
            move = (vectors @ ((vectors.T @ forces.ravel()) / stiffness)).reshape(-1, 3)
            length = np.linalg.norm(move, axis=1).max()
            move *= min(1.0, _LONGEST / length)
            travelled += min(length, _LONGEST)
            current.positions[moving] += move
        force = np.linalg.norm(current.get_forces()[moving], axis=1).max()
        if force <= fmax and travelled < 0.05:  # curvatures of some 0.05 Å beside are those of the saddle
            break
    else:
        values, _ = modes(current, hessian(current))
    force = float(np.linalg.norm(current.get_forces()[moving], axis=1).max())
    return Saddle(current, float(current.get_potential_energy()), force, values[:6])


def work(points: Sequence[Atoms], calculator: object, *, nodes: int = 4) -> Array:
    """Minus the line integral of the forces over each straight segment between `points`, eV; Gauss–Legendre."""
    at, weights = np.polynomial.legendre.leggauss(nodes)
    found = []
    for first, last in pairwise(points):
        step = last.positions - first.positions
        copy = first.copy()
        copy.set_constraint()
        copy.calc = calculator
        total = 0.0
        for x, weight in zip(at, weights, strict=True):
            copy.positions[:] = first.positions + 0.5 * (1 + x) * step
            total -= 0.5 * weight * float(np.sum(copy.get_forces() * step))
        found.append(total)
    return np.array(found)
