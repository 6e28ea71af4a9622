"""QM7-X (Hoja et al., Sci. Data 8, 43 (2021)): one HDF5 group per molecule, one below it per structure.

Molecule → structure, as in ``1`` → ``Geom-m1-i1-c1-opt`` and ``Geom-m1-i1-c1-d1``, with ``atNUM`` (N,), ``atXYZ`` (N, 3)
in Å, energies of one number in eV and forces (N, 3) in eV/Å: ``ePBE0+MBD`` with ``totFOR``, ``ePBE0`` with ``pbe0FOR``.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers.hdf5 import hdf5, scalar
from hydrapot.training.data.readers.records import ReaderOptions, Record, Reject

FORCES = {"ePBE0+MBD": "totFOR", "ePBE0": "pbe0FOR"}
"""The forces that are the gradient of each energy."""


def read(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield all structures; the group is the molecule, whose structures are all near each other."""
    energy = options.energy or "ePBE0+MBD"
    position = 0
    with hdf5(path) as file:
        for molecule in sorted(file):
            for name in sorted(file[molecule]):
                position += 1
                if position <= start:
                    continue
                structure = file[molecule][name]
                if energy not in structure:
                    raise DatasetError(f"{path}, {molecule}/{name}: no {energy!r}")
                forces = FORCES[energy]
                yield Record(
                    position,
                    f"{molecule}/{name}",
                    np.asarray(structure["atNUM"]),
                    np.asarray(structure["atXYZ"]),
                    energy=scalar(structure[energy][()]),
                    forces=np.asarray(structure[forces]) if forces in structure else None,
                    group=molecule,
                )
