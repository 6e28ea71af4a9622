"""Small test structures of given elements: crystals, molecules, slabs, wires, awkward cells.

Bond lengths follow the covalent radii (Cordero et al. 2008, as in ASE), so that a trained head sees distances
of a usual size, whatever the elements; nothing else about them is meant to be physical.
"""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from numpy.typing import NDArray

#: Å, where nothing is tabulated (beyond Cm).
_UNKNOWN_RADIUS = 1.7


def radius(number: int) -> float:
    """Covalent radius of an atomic number, Å."""
    return float(covalent_radii[number]) if number <= 96 else _UNKNOWN_RADIUS


def bond(a: int, b: int, *, cutoff: float) -> float:
    """Usual distance of two atoms, Å; of large ones at most 0.7 cutoffs, so that they do interact."""
    return min(radius(a) + radius(b), 0.7 * cutoff)


def spacing(elements: Sequence[int], *, cutoff: float) -> float:
    """Nearest distance in a dense crystal of the elements, Å.

    1.1 bond lengths of the largest, at least 0.52 cutoffs: every atom has twelve neighbors there, and of a light
    element with as many at the length of its bonds nobody knows anything. (At 0.5 a shell of fcc would lie exactly at the
    cutoff, where potentials are allowed a discontinuity of the third derivative, which five-point stencils would see.)
    """
    longest = max(bond(a, b, cutoff=cutoff) for a in elements for b in elements)
    return max(1.1 * longest, 0.52 * cutoff)


def representative(elements: Sequence[int], *, count: int = 3) -> list[int]:
    """Up to `count` of the elements, spread evenly over their list from the lightest to the heaviest."""
    chosen = np.unique(np.linspace(0, len(elements) - 1, count).round().astype(int))
    return [elements[k] for k in chosen]


def cluster(elements: Sequence[int], *, cutoff: float, size: int, seed: int) -> Atoms:
    """A molecule without symmetry: atoms 1.1 usual bond lengths from one earlier atom, 1.6 from the others."""
    rng = np.random.default_rng(seed)
    numbers = [elements[k % len(elements)] for k in range(size)]
    positions = [np.zeros(3)]
    while len(positions) < size:
        z = numbers[len(positions)]
        partner = int(rng.integers(len(positions)))
        direction = rng.normal(size=3)
        length = 1.1 * bond(z, numbers[partner], cutoff=cutoff)
        trial = positions[partner] + length * direction / np.linalg.norm(direction)
        distances = np.linalg.norm(np.array(positions) - trial, axis=1)
        usual = np.array([bond(z, other, cutoff=cutoff) for other in numbers[: len(positions)]])
        near = 1.6 * usual
        near[partner] = 0.0
        if np.all(distances >= near):
            positions.append(trial)
    return Atoms(numbers, positions=np.array(positions))


def perfect_crystal(elements: Sequence[int], *, cutoff: float) -> Atoms:
    """A crystal with every atom on a center of inversion: rock salt of two elements, else fcc, cubic cell."""
    distance = spacing(elements, cutoff=cutoff)
    if len(elements) > 1:
        crystal = bulk("NaCl", "rocksalt", a=2.0 * distance, cubic=True)
        return _relabel(crystal, [elements[0], elements[-1]])
    return _relabel(bulk("Cu", a=np.sqrt(2) * distance, cubic=True), elements)


def primitive_fcc(number: int, *, cutoff: float) -> Atoms:
    """One atom in the primitive fcc cell, smaller than any cutoff."""
    return _relabel(bulk("Cu", a=np.sqrt(2) * spacing([number], cutoff=cutoff)), [number])


def standard_structures(elements: Sequence[int], *, cutoff: float, seed: int = 0) -> dict[str, Atoms]:
    """The structures of the contract, made of up to three of the `elements`.

    `cutoff` (Å) sets the scale of distances; see :func:`spacing`.

    Returns
    -------
    ``molecule`` (no cell), ``crystal`` (rattled, cubic), ``skewed`` (two atoms, strongly skewed cell that is
    smaller than the cutoff), ``primitive`` (one atom), ``slab`` (third lattice vector zero), ``wire`` (two of
    them zero).
    """
    chosen = representative(elements)
    rng = np.random.default_rng(seed)
    a = spacing(chosen, cutoff=cutoff)

    crystal = bulk("Cu", a=np.sqrt(2) * a, cubic=True)
    crystal.numbers[:] = [chosen[k % len(chosen)] for k in range(4)]
    _rattle(crystal, a, rng)

    skewed = bulk("CsCl", "cesiumchloride", a=2.0 / np.sqrt(3) * a)
    skewed.numbers[:] = [chosen[0], chosen[-1]]
    _rattle(skewed, a, rng)
    skewed.set_cell(np.array([[1, 0, 0], [2, 1, 0], [-1, 3, 1]]) @ skewed.cell.array, scale_atoms=False)

    slab = Atoms(
        [chosen[k % len(chosen)] for k in range(4)],
        positions=[
            [0, 0, 0],
            [a / 2, a / 2, a / np.sqrt(2)],
            [0, 0, a * np.sqrt(2)],
            [a / 2, a / 2, -a * 0.8],
        ],
        cell=[[a, 0, 0], [0.3 * a, a, 0], [0, 0, 0]],
        pbc=[True, True, False],
    )
    _rattle(slab, a, rng)
    wire = Atoms(
        [chosen[k % len(chosen)] for k in range(2)],
        positions=[[0, 0, 0], [0.8 * a, 0, 0.8 * a]],
        cell=[[0, 0, 0], [0, 0, 0], [0, 0.2 * a, 1.6 * a]],
        pbc=[False, False, True],
    )
    _rattle(wire, a, rng)
    return {
        "molecule": cluster(chosen, cutoff=cutoff, size=6, seed=seed),
        "crystal": crystal,
        "skewed": skewed,
        "primitive": primitive_fcc(chosen[-1], cutoff=cutoff),
        "slab": slab,
        "wire": wire,
    }


def rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random proper rotation ``(3, 3)``, uniformly distributed."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return np.asarray(q * np.sign(np.linalg.det(q)))


def _relabel(atoms: Atoms, numbers: Sequence[int]) -> Atoms:
    atoms.numbers[:] = [numbers[k % len(numbers)] for k in range(len(atoms))]
    return atoms


def _rattle(atoms: Atoms, length: float, rng: np.random.Generator) -> None:
    atoms.positions += 0.03 * length * rng.normal(size=(len(atoms), 3))
