"""Find structures that are the same, within and across datasets."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.data.frames import Frames

ENERGY_TOLERANCE = 1e-5  # eV/atom: scatter of one first-principles code over equivalent settings
FORCE_TOLERANCE = 5e-3  # eV/Å
VOLUME_TOLERANCE = 1e-5  # relative


def same_structure(datasets: list[Frames]) -> list[NDArray[np.int64]]:
    """Number the classes of equal structures over all datasets.

    Two structures are in one class when their `structure_hash` agrees, or when they are twins: same
    composition, periodicity and volume, energies equal to 1e-5 eV/atom and sorted force magnitudes to
    5e-3 eV/Å. Twins are what a hash of coordinates cannot see: the same strain along another axis of a cubic
    crystal, a rotated, shifted or re-ordered copy. The labels stand in for a geometric comparison because
    they share every symmetry of the structure. A chance agreement does no harm: it puts two structures on
    one side.

    Returns
    -------
    For each dataset the class of each of its structures, shape (n,); structures marked as isolated atoms are
    alone in their class.
    """
    sizes = np.cumsum([0, *map(len, datasets)])
    parent = np.arange(sizes[-1])

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    by_hash: dict[str, int] = {}
    comparable: dict[bytes, list[tuple[float, float, NDArray[np.float64], int]]] = defaultdict(list)
    for start, frames in zip(sizes, datasets, strict=False):
        compositions = frames.compositions()
        for i in np.flatnonzero(~frames.isolated):
            node = int(start + i)
            first = by_hash.setdefault(str(frames.hashes[i]), node)
            parent[root(node)] = root(first)
            structure = frames.structure(int(i))
            if np.isnan(structure.energy) or np.isnan(structure.forces).any():
                continue
            n = len(structure.numbers)
            volume = abs(float(np.linalg.det(structure.cell))) if structure.pbc.all() else 0.0
            magnitudes = np.sort(np.linalg.norm(structure.forces, axis=1))
            key = compositions[i].tobytes() + structure.pbc.tobytes()
            comparable[key].append((structure.energy / n, volume, magnitudes, node))

    for entries in comparable.values():
        entries.sort(key=lambda entry: (entry[0], entry[3]))
        for a, (energy, volume, forces, node) in enumerate(entries):
            for b in range(a + 1, len(entries)):  # a slice would copy all that follow, for every one
                other_energy, other_volume, other_forces, other = entries[b]
                if other_energy - energy > ENERGY_TOLERANCE:
                    break
                if (
                    abs(other_volume - volume) <= VOLUME_TOLERANCE * volume
                    and np.abs(other_forces - forces).max() <= FORCE_TOLERANCE
                ):
                    parent[root(other)] = root(node)

    classes = np.array([root(i) for i in range(len(parent))], np.int64)
    return [classes[a:b] for a, b in pairwise(sizes)]
