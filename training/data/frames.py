"""Columnar in-memory dataset: all structures of one dataset in a handful of arrays.

Lists of `ase.Atoms` cost minutes to build and gigabytes to hold; the trainer, the splits and the reference
energies want whole columns. `Frames` is what every reader returns and what everything in training consumes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from hydrapot.potential.errors import HydrapotError

MAX_Z = 118
POSITION_GRID = 1e-4
"""Å; see `structure_hash`."""


class DatasetError(HydrapotError, ValueError):
    """A dataset file, cache or split manifest that cannot be used as it is; names the file and the frame."""


class Structure(NamedTuple):
    """One structure with its labels, as views into the columns of `Frames` (units: eV, Å, eV/Å³)."""

    numbers: NDArray[np.int16]  # (N,)
    positions: NDArray[np.float64]  # (N, 3)
    cell: NDArray[np.float64]  # (3, 3), rows are the vectors
    pbc: NDArray[np.bool_]  # (3,)
    energy: float  # NaN when not labelled
    forces: NDArray[np.float64]  # (N, 3), NaN when not labelled
    stress: NDArray[np.float64]  # (3, 3), NaN when not labelled
    charge: int
    spin: int  # multiplicity 2S+1; 0 = not given


@dataclass(frozen=True)
class Frames:
    """All structures of one dataset, column by column.

    Units are eV, Å and eV/Å³; the stress has ASE's sign, (dE/dε)/V, positive under tension. A missing label
    is NaN throughout its row; a label that is there is finite.

    Attributes
    ----------
    name
        Name of the dataset, equal to the head that is trained on it.
    numbers, positions, forces
        Per atom, all structures concatenated: (atoms,) int16, (atoms, 3) float64, (atoms, 3) float64.
    offsets
        (n + 1,) int64; structure ``i`` owns the atoms ``offsets[i]:offsets[i + 1]``.
    cells, pbc, energy, stress
        (n, 3, 3) float64, (n, 3) bool, (n,) float64, (n, 3, 3) float64.
    charge, spin
        (n,) int16 total charge in e, and multiplicity 2S+1 with 0 for "not given".
    isolated
        (n,) bool; frames marked as isolated reference atoms. The mark decides, never the number of atoms: a
        crystal with one atom per cell is an ordinary structure.
    group
        (n,) str; which trajectory, source file or molecule the frame belongs to, '' if the file does not say.
    hashes
        (n,) str; `structure_hash` of each structure.
    """

    name: str
    numbers: NDArray[np.int16]
    positions: NDArray[np.float64]
    forces: NDArray[np.float64]
    offsets: NDArray[np.int64]
    cells: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    energy: NDArray[np.float64]
    stress: NDArray[np.float64]
    charge: NDArray[np.int16]
    spin: NDArray[np.int16]
    isolated: NDArray[np.bool_]
    group: NDArray[np.str_]
    hashes: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of atoms of each structure, shape (n,)."""
        return np.diff(self.offsets)

    @property
    def has_forces(self) -> NDArray[np.bool_]:
        """Which structures carry forces, shape (n,)."""
        return ~np.isnan(self.forces[self.offsets[:-1], 0]) if len(self) else np.zeros(0, bool)

    @property
    def has_stress(self) -> NDArray[np.bool_]:
        """Which structures carry a stress, shape (n,)."""
        return ~np.isnan(self.stress[:, 0, 0])

    def subset(self, indices: Sequence[int] | NDArray[np.integer[Any]] | NDArray[np.bool_]) -> "Frames":
        """Return the structures ``indices`` (integers, or a boolean mask of shape (n,)), in that order."""
        chosen = np.asarray(indices)
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        index = np.arange(len(self))[index]  # normalises negative indices; an index out of range raises
        counts = self.counts[index]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        atoms = np.repeat(self.offsets[index] - offsets[:-1], counts) + np.arange(offsets[-1])
        columns: dict[str, Any] = {"name": self.name, "offsets": offsets}
        for field in fields(self):
            if field.name not in columns:
                rows = atoms if field.name in PER_ATOM else index
                columns[field.name] = getattr(self, field.name)[rows]
        return Frames(**columns)

    def structure(self, i: int) -> Structure:
        """Return structure ``i`` as views, without copying."""
        i = range(len(self))[i]
        atoms = slice(self.offsets[i], self.offsets[i + 1])
        return Structure(
            numbers=self.numbers[atoms],
            positions=self.positions[atoms],
            cell=self.cells[i],
            pbc=self.pbc[i],
            energy=float(self.energy[i]),
            forces=self.forces[atoms],
            stress=self.stress[i],
            charge=int(self.charge[i]),
            spin=int(self.spin[i]),
        )

    def compositions(self) -> NDArray[np.int64]:
        """Return how many atoms of each element every structure has: (n, 119), column = atomic number."""
        counts = np.zeros((len(self), MAX_Z + 1), np.int64)
        np.add.at(counts, (np.repeat(np.arange(len(self)), self.counts), self.numbers), 1)
        return counts

    def to_atoms(self, i: int) -> ase.Atoms:
        """Return structure ``i`` as `ase.Atoms` with its labels in a `SinglePointCalculator`."""
        s = self.structure(i)
        atoms = ase.Atoms(numbers=s.numbers, positions=s.positions, cell=s.cell, pbc=s.pbc)
        atoms.info["charge"] = s.charge
        if s.spin:
            atoms.info["spin"] = s.spin
        labels: dict[str, Any] = {}
        if not np.isnan(s.energy):
            labels["energy"] = s.energy
        if not np.isnan(s.forces).any():
            labels["forces"] = s.forces.copy()
        if not np.isnan(s.stress).any():
            (xx, xy, xz), (_, yy, yz), (_, _, zz) = s.stress
            labels["stress"] = np.array([xx, yy, zz, yz, xz, xy])
        if labels:
            atoms.calc = SinglePointCalculator(atoms, **labels)
        return atoms


PER_ATOM = frozenset({"numbers", "positions", "forces"})


def structure_hash(
    numbers: NDArray[np.integer[Any]],
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
) -> str:
    """Return 16 hexadecimal digits that name a structure, whichever dataset and file order it stands in.

    Numbers, periodicity, the cell (only its periodic vectors) and positions enter; labels, charge and spin do
    not: one geometry computed twice is still one structure when the data are split. Lengths are rounded to
    1e-4 Å. That is coarser than any text format in use writes (six digits or more), so that conversion noise
    vanishes, and far finer than two frames of a trajectory differ (about 1e-2 Å per step). Rounding is no
    equivalence, though: a value on the edge of two cells of the grid can fall on either side after
    conversion. Copies with the same digits always agree; nothing more is relied on.
    The frame is not normalised: rotated, translated or re-ordered copies count as different structures.
    """
    periodic = np.asarray(pbc, bool)
    content = hashlib.sha256()
    content.update(np.asarray(numbers, "<i2").tobytes())
    content.update(periodic.astype(np.uint8).tobytes())
    for lengths in (np.asarray(cell, np.float64)[periodic], np.asarray(positions, np.float64)):
        # Integers have no negative zero, which text files are full of.
        content.update(np.rint(lengths / POSITION_GRID).astype("<i8").tobytes())
    return content.hexdigest()[:16]
