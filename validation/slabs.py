"""Slabs of a crystal: oriented, cut where the fewest bonds break, as thick as wanted."""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from numpy.typing import NDArray

from hydrapot.validation.crystals import conventional_cell, primitive_cell, space_group

Miller = tuple[int, int, int]

#: Multiples of the primitive vectors among which those of a surface are looked for.
_SPAN = 5

#: Å; between the centers of two species, from which on the two sides of a slab differ.
_POLAR = 0.05


@dataclass(frozen=True)
class Facet:
    """A stack of planes.

    Attributes
    ----------
    miller
        Indices in the conventional cell.
    period
        Crystal whose third lattice vector leads from one repetition of the stack to the next; cut at the widest gap.
    area
        Å² of one side.
    """

    miller: Miller
    period: Atoms
    area: float

    def slab(self, repeats: int, *, vacuum: float) -> Atoms:
        """A slab of so many periods with `vacuum` (Å) up to its next image; periodic in three directions."""
        stacked: Atoms = self.period.repeat((1, 1, repeats))
        first, second, third = stacked.cell.array
        normal = np.cross(first, second)
        normal /= np.linalg.norm(normal)
        thickness = float(np.ptp(stacked.positions @ normal))
        stacked.set_cell([first, second, np.sign(third @ normal) * normal * (thickness + vacuum)])
        stacked.center(axis=2)
        return stacked

    @property
    def height(self) -> float:
        """Å; thickness of one period."""
        return float(self.period.get_volume() / self.area)


def facets(crystal: Atoms) -> list[Miller]:
    """Low-index planes: (100), (110), (111), with what differs from them by symmetry where axes are not equal."""
    number, _ = space_group(crystal, tolerance=1e-3)
    if number >= 195:
        return [(1, 0, 0), (1, 1, 0), (1, 1, 1)]
    if number >= 143:
        return [(0, 0, 1), (1, 0, 0)]
    if number >= 75:
        return [(0, 0, 1), (1, 0, 0), (1, 1, 0)]
    return [(1, 0, 0), (0, 1, 0), (0, 0, 1)]


def facet(crystal: Atoms, miller: Miller) -> Facet:
    """The stack of planes of given indices of the conventional cell, in the smallest cell along the surface."""
    oriented = _oriented(primitive_cell(crystal), _normal(crystal, miller))
    area = float(np.linalg.norm(np.cross(oriented.cell[0], oriented.cell[1])))
    heights = oriented.get_scaled_positions(wrap=True)[:, 2] % 1.0
    period = oriented.get_volume() / area
    order = np.argsort(heights)
    ranked = heights[order]
    gaps = np.diff(np.append(ranked, ranked[0] + 1.0)) * period
    # Of equally wide gaps the last, so that a stack of equal planes is not shifted at all.
    widest = len(gaps) - 1 - int(np.argmax(gaps[::-1] > gaps.max() - 1e-3))
    start = ranked[(widest + 1) % len(ranked)]
    scaled = oriented.get_scaled_positions(wrap=True)
    scaled[:, 2] = (scaled[:, 2] - start + 1e-6) % 1.0
    oriented.set_scaled_positions(scaled)
    return Facet(miller, oriented, area)


def same_sides(slab: Atoms) -> bool:
    """Whether the two sides can be the same: the centers of all species coincide along the third axis.

    Otherwise the slab is polar or ends in two ways, and an energy of one side is not defined.
    """
    heights = slab.positions[:, 2]
    centers = [heights[slab.numbers == z].mean() for z in set(slab.numbers.tolist())]
    return float(np.ptp(centers)) < _POLAR


def thickness(slab: Atoms) -> float:
    """Å, between the outermost planes."""
    return float(np.ptp(slab.positions[:, 2]))


def _normal(crystal: Atoms, miller: Miller) -> NDArray[np.float64]:
    reciprocal = np.linalg.inv(conventional_cell(crystal).cell.array).T
    normal = np.asarray(miller, dtype=float) @ reciprocal
    return np.asarray(normal / np.linalg.norm(normal))


def _oriented(primitive: Atoms, normal: NDArray[np.float64]) -> Atoms:
    """The primitive cell by two shortest lattice vectors in the plane and the shortest to the next plane.

    The normal along z, the first vector along x.
    """
    span = np.arange(-_SPAN, _SPAN + 1)
    combinations: NDArray[np.int64] = np.array(np.meshgrid(span, span, span)).reshape(3, -1).T
    vectors = combinations @ primitive.cell.array
    lengths, heights = np.linalg.norm(vectors, axis=1), vectors @ normal
    flat = np.flatnonzero((np.abs(heights) < 1e-4) & (lengths > 1e-4))
    first = flat[np.argmin(lengths[flat])]
    areas = np.linalg.norm(np.cross(vectors[first], vectors[flat]), axis=1)
    others, areas = flat[areas > 1e-4], areas[areas > 1e-4]
    smallest = others[areas < areas.min() + 1e-4]
    second = smallest[np.argmin(lengths[smallest])]
    above = np.flatnonzero(heights > 1e-4)
    lowest = above[heights[above] < heights[above].min() + 1e-4]
    third = lowest[np.argmin(lengths[lowest])]
    chosen = combinations[[first, second, third]]
    if np.linalg.det(chosen) < 0:
        chosen[1] *= -1
    oriented: Atoms = make_supercell(primitive, chosen)
    oriented.rotate(normal, "z", rotate_cell=True)
    oriented.rotate(oriented.cell.array[0], "x", rotate_cell=True)
    return oriented
