"""Supercells with a vacancy: as compact as possible, so that the vacancy's images are far from each other."""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from hydrapot.validation.crystals import conventional_cell, primitive_cell

#: Fewest sites of a cell with a vacancy.
_FEWEST = 8


@dataclass(frozen=True)
class Hop:
    """A neighbor moves into a vacancy.

    Attributes
    ----------
    initial, final
        Structures with the same order of atoms, not relaxed.
    atom
        Index of the atom that moves.
    length
        Å.
    """

    initial: Atoms
    final: Atoms
    atom: int
    length: float


def image_distance(atoms: Atoms) -> float:
    """Distance of an atom to its nearest periodic image, Å."""
    reduced, _ = minkowski_reduce(atoms.cell.array)
    return float(np.linalg.norm(reduced, axis=1).min())


def compact_supercell(crystal: Atoms, *, max_atoms: int) -> Atoms | None:
    """The repetition of primitive or conventional cell with the most distant images; None when none has enough sites.

    Among equally distant ones the smallest.
    """
    best: tuple[float, int, Atoms] | None = None
    for unit in (primitive_cell(crystal), conventional_cell(crystal)):
        most = max_atoms // len(unit)
        longest = 2.0 * (most * unit.get_volume()) ** (1 / 3)
        bounds = [max(1, min(most, int(longest / length))) for length in unit.cell.lengths()]
        for i in range(1, bounds[0] + 1):
            for j in range(1, min(bounds[1], most // i) + 1):
                for k in range(1, min(bounds[2], most // (i * j)) + 1):
                    count = i * j * k * len(unit)
                    if count < _FEWEST:
                        continue
                    distance = round(image_distance(Atoms(cell=unit.cell.array * [[i], [j], [k]], pbc=True)), 4)
                    if best is None or (distance, -count) > (best[0], -best[1]):
                        best = distance, count, unit.repeat((i, j, k))
    return None if best is None else best[2]


def sizes(crystal: Atoms, *, max_atoms: int) -> list[Atoms]:
    """Up to two supercells, the smaller first, whose images are at different distances."""
    large = compact_supercell(crystal, max_atoms=max_atoms)
    if large is None:
        return []
    small = compact_supercell(crystal, max_atoms=len(large) // 2)
    if small is None or image_distance(small) > 0.95 * image_distance(large):
        return [large]
    return [small, large]


def without(atoms: Atoms, site: int) -> Atoms:
    """A copy with a vacancy."""
    copy: Atoms = atoms.copy()
    del copy[site]
    return copy


def first_sites(atoms: Atoms) -> dict[str, int]:
    """Index of the first atom of each element."""
    symbols = atoms.get_chemical_symbols()
    return {symbol: symbols.index(symbol) for symbol in dict.fromkeys(symbols)}


def nearest_distance(atoms: Atoms) -> float:
    """Shortest distance between atoms, images included, Å."""
    reach = 1.01 * image_distance(atoms)
    return float(neighbor_list("d", atoms, reach).min())


def nearest_hop(atoms: Atoms, site: int) -> Hop:
    """The nearest atom of the same element moves into the vacancy at `site`."""
    reach = 1.01 * image_distance(atoms)
    first, second, distances, vectors = neighbor_list("ijdD", atoms, reach)
    same = np.flatnonzero((first == site) & (atoms.numbers[second] == atoms.numbers[site]) & (second != site))
    chosen = same[np.argmin(distances[same])]
    neighbor, vector = int(second[chosen]), vectors[chosen]
    initial = without(atoms, site)
    moving = neighbor - int(neighbor > site)
    final = initial.copy()
    final.positions[moving] -= vector
    return Hop(initial, final, moving, float(distances[chosen]))


def largest_displacement(before: Atoms, after: Atoms) -> float:
    """Å; the drift of the whole removed."""
    shift: NDArray[np.float64] = after.positions - before.positions
    shift -= shift.mean(axis=0)
    return float(np.linalg.norm(shift, axis=1).max())
