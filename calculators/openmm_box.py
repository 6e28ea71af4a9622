"""OpenMM's periodic boxes: lower triangular and reduced, for a cell of any shape and orientation.

OpenMM wants lattice vectors a = (aₓ, 0, 0), b = (bₓ, b_y, 0), c = (cₓ, c_y, c_z) with aₓ, b_y, c_z > 0, 2|bₓ| ≤ aₓ, 2|cₓ| ≤ aₓ
and 2|c_y| ≤ b_y, and refuses others. Every lattice has such a basis, up to a rotation and, for a left-handed cell, a
reflection, neither of which changes an energy.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hydrapot.potential.errors import InvalidStructureError
from hydrapot.potential.neighbors import check_geometry

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ReducedBox:
    """Between a structure's frame and OpenMM's; lattice vectors are rows.

    Attributes
    ----------
    box
        ``(3, 3)`` Å, reduced: ``whole @ cell @ turn``; None for a structure that is not periodic.
    turn
        ``(3, 3)``, orthogonal.
    whole
        ``(3, 3)`` whole numbers, of determinant 1.
    """

    box: Array | None
    turn: Array
    whole: Array

    @classmethod
    def of(cls, atoms: Atoms) -> "ReducedBox":
        """The box of a structure.

        Raises
        ------
        InvalidStructureError
            Periodic in one or two directions only, or a cell without volume.
        """
        if not atoms.pbc.any():
            return cls(None, np.eye(3), np.eye(3))
        if not atoms.pbc.all():
            raise InvalidStructureError(
                f"OpenMM's boxes are periodic in all directions or in none, this structure has pbc {atoms.pbc.tolist()}: "
                "use the engine ase or lammps, or a large periodic cell with a vacuum"
            )
        check_geometry(atoms.positions, atoms.cell.array, atoms.pbc)
        cell = atoms.cell.array
        turn = _turn(cell)
        box, whole = reduce(np.tril(cell @ turn))
        return cls(box, turn, whole)

    def into(self, vectors: Array) -> Array:
        """Positions, velocities or forces ``(N, 3)`` of the structure in OpenMM's frame."""
        return vectors @ self.turn

    def back(self, vectors: Array) -> Array:
        """The opposite of :meth:`into`."""
        return vectors @ self.turn.T

    def cell(self, box: Array, before: Array) -> Array:
        """Cell of the structure, Å, for a box of OpenMM that has been scaled or strained.

        Parameters
        ----------
        box
            ``(3, 3)`` Å. OpenMM reduces it anew where it has to, which changes the basis but not the lattice.
        before
            ``(3, 3)`` Å; the cell not long ago, whose basis is kept.
        """
        whole = np.rint(box @ np.linalg.inv(before @ self.turn))
        return np.asarray(np.linalg.solve(whole, box @ self.turn.T))


def reduce(box: Array) -> tuple[Array, Array]:
    """A reduced basis of the lattice of a lower triangular `box`, and the whole numbers that combine it.

    Returns
    -------
    reduced, whole
        ``(3, 3)`` each; ``reduced = whole @ box``.
    """
    reduced, whole = box.copy(), np.eye(3)
    for row, column in ((2, 1), (2, 0), (1, 0)):
        times = np.rint(reduced[row, column] / reduced[column, column])
        reduced[row] -= times * reduced[column]
        whole[row] -= times * whole[column]
    # Half a vector exactly, as in hexagonal cells: rounding must not carry it beyond what OpenMM accepts.
    for row, column in ((2, 1), (2, 0), (1, 0)):
        limit = reduced[column, column] / 2
        reduced[row, column] = np.clip(reduced[row, column], -limit, limit)
    return reduced, whole


def make_whole(positions: Array, box: Array, bonds: Iterable[tuple[int, int]]) -> Array:
    """Positions ``(N, 3)`` Å in images where bonded atoms are next to each other; the first of each molecule stays.

    Barostats of OpenMM move molecules by their centers, which a molecule that the boundary cuts has at the wrong place.
    """
    whole, inverse = positions.copy(), np.linalg.inv(box)
    partners: dict[int, list[int]] = {}
    for i, j in bonds:
        partners.setdefault(i, []).append(j)
        partners.setdefault(j, []).append(i)
    placed: set[int] = set()
    for first in sorted(partners):
        waiting = [] if first in placed else [first]
        placed.add(first)
        while waiting:
            i = waiting.pop()
            for j in partners[i]:
                if j not in placed:
                    placed.add(j)
                    waiting.append(j)
                    away = whole[j] - whole[i]
                    whole[j] -= np.rint(away @ inverse) @ box
    return whole


def _turn(cell: Array) -> Array:
    """Orthogonal matrix for which ``cell @ turn`` is lower triangular with a positive diagonal."""
    if not np.triu(cell, 1).any() and (np.diag(cell) > 0).all():
        return np.eye(3)  # to the last digit
    q, r = np.linalg.qr(cell.T)
    return np.asarray(q * np.where(np.diag(r) < 0, -1.0, 1.0))
