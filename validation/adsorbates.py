"""Adsorbates on slabs: which atoms of a structure they are, where sites are, and the structure with one lifted."""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Å without any atom, from which on a structure with three periodic directions is a slab.
_GAP = 6.0
#: Å; two sites that are closer along the surface are one.
_SAME_SITE = 0.3


@dataclass(frozen=True)
class Adsorbed:
    """An adsorbate on a slab whose normal is the third Cartesian axis.

    Attributes
    ----------
    slab
        Without the adsorbate; periodic in three directions, with room above it.
    adsorbate
        In the same cell.
    """

    slab: Atoms
    adsorbate: Atoms

    def lifted(self, height: float) -> Atoms:
        """Slab and adsorbate, the latter moved by `height` (Å) along the normal; constraints dropped."""
        moved = self.adsorbate.copy()
        moved.positions[:, 2] += height
        both: Atoms = self.slab.copy() + moved
        both.set_constraint()
        return both

    @property
    def count(self) -> int:
        """Atoms of the adsorbate, the last ones of :meth:`lifted`."""
        return len(self.adsorbate)


def find_adsorbate(atoms: Atoms, *, room: float) -> Adsorbed | None:
    """Split a structure into slab and adsorbate; None when it is no slab, or nothing sits on it.

    The adsorbate is made of all elements that occur in the upper half only. The slab has to lie in the plane of the first
    two lattice vectors; its cell is made `room` (Å) higher than the slab.
    """
    if not atoms.pbc[:2].all() or len(atoms) < 3:
        return None
    normal = np.cross(atoms.cell.array[0], atoms.cell.array[1])
    normal /= np.linalg.norm(normal)
    slab = atoms.copy()
    slab.info = {key: atoms.info[key] for key in ("charge", "spin") if key in atoms.info}
    slab.set_constraint()
    slab.rotate(normal, "z", rotate_cell=True)
    slab.rotate(slab.cell.array[0], "x", rotate_cell=True)
    if slab.pbc[2]:
        height = abs(slab.cell.array[2, 2])
        z = np.sort(slab.positions[:, 2] % height)
        gaps = np.diff(np.append(z, z[0] + height))
        if gaps.max() < _GAP:
            return None
        # Atoms below the gap stay, those above it come from under the slab.
        top = z[int(gaps.argmax())]
        slab.positions[:, 2] = slab.positions[:, 2] % height
        slab.positions[slab.positions[:, 2] > top + 1e-6, 2] -= height
    low, high = slab.positions[:, 2].min(), slab.positions[:, 2].max()
    lower = set(slab.numbers[slab.positions[:, 2] < 0.5 * (low + high)].tolist())
    chosen = np.array([z not in lower for z in slab.numbers.tolist()])
    if not chosen.any() or chosen.all():
        return None
    return Adsorbed(*_with_room(slab[~chosen], slab[chosen], room=room))


def sites(slab: Atoms) -> dict[str, Array]:
    """Positions ``(2,)`` along the surface of high-symmetry sites of a slab of one element, by name.

    On top of an atom, on the bridge to its nearest neighbor in the plane, and in the hollows over atoms of the second and
    third planes.
    """
    heights = slab.positions[:, 2]
    top = int(heights.argmax())
    planes = _planes(heights)
    first = np.flatnonzero(planes == 0)
    found = {"on top": slab.positions[top, :2]}
    cell = slab.cell.array[:2, :2]
    neighbors = np.array(
        [slab.positions[k, :2] + np.array([i, j]) @ cell for k in first for i in (-1, 0, 1) for j in (-1, 0, 1)]
    )
    distances = np.linalg.norm(neighbors - slab.positions[top, :2], axis=1)
    nearest = neighbors[np.argmin(np.where(distances < 1e-3, np.inf, distances))]
    found["bridge"] = 0.5 * (slab.positions[top, :2] + nearest)
    for plane, name in ((1, "hollow over the second plane"), (2, "hollow over the third plane")):
        members = np.flatnonzero(planes == plane)
        if len(members):
            place = slab.positions[members[0], :2]
            if all(_apart(place - other, cell) > _SAME_SITE for other in found.values()):
                found[name] = place
    return found


def place(slab: Atoms, symbol: str, site: Array, *, height: float, room: float) -> Adsorbed:
    """An atom at `height` (Å) over the topmost plane of a slab."""
    position = [*site, slab.positions[:, 2].max() + height]
    atom = Atoms(symbol, positions=[position], cell=slab.cell, pbc=slab.pbc)
    return Adsorbed(*_with_room(slab.copy(), atom, room=room))


def fix_lower_half(atoms: Atoms) -> None:
    """Fix all atoms below the middle of the structure."""
    z = atoms.positions[:, 2]
    atoms.set_constraint(FixAtoms(np.flatnonzero(z < 0.5 * (z.min() + z.max()))))


def _with_room(slab: Atoms, adsorbate: Atoms, *, room: float) -> tuple[Atoms, Atoms]:
    height = float(np.ptp(slab.positions[:, 2])) + room
    shift = -slab.positions[:, 2].min()
    for part in (slab, adsorbate):
        cell = part.cell.array.copy()
        cell[2] = [0.0, 0.0, height]
        part.set_cell(cell)
        part.positions[:, 2] += shift
        part.pbc = True
    return slab, adsorbate


def _planes(heights: Array) -> NDArray[np.int64]:
    """Number of the plane of every atom, the topmost first."""
    order = np.argsort(-heights)
    numbers = np.zeros(len(heights), dtype=np.int64)
    numbers[order[1:]] = np.cumsum(-np.diff(heights[order]) > 0.3)
    return numbers


def _apart(vector: Array, cell: Array) -> float:
    images = [np.linalg.norm(vector + np.array([i, j]) @ cell) for i in range(-2, 3) for j in range(-2, 3)]
    return float(min(images))
