"""ANI-1x (Smith et al., Sci. Data 7, 134 (2020)): one HDF5 group per chemical formula.

Each group holds ``atomic_numbers`` (Na,), ``coordinates`` (Nc, Na, 3) in Å, and per level of theory ``LEVEL.energy``
(Nc,) in hartree and, for some, ``LEVEL.forces`` (Nc, Na, 3) in hartree/Å. NaN stands for "not computed at this level".
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hydrapot.potential.constants import HARTREE
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers.hdf5 import conformations, hdf5, scalar
from hydrapot.training.data.readers.records import ReaderOptions, Record, Reject

ENERGIES = ("wb97x_dz.energy", "wb97x_tz.energy", "ccsd(t)_cbs.energy")


def read(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield all conformations; the group is the chemical formula. Molecules are neutral; the spin is not stated."""
    energy = options.energy or ENERGIES[0]
    force = energy.removesuffix(".energy") + ".forces"
    position = 0
    with hdf5(path) as file:
        for formula in sorted(file):
            group = file[formula]
            if energy not in group:
                raise DatasetError(f"{path}, {formula}: no {energy!r}; it has {', '.join(sorted(group))}")
            numbers = np.asarray(group["atomic_numbers"])
            wanted = {name: group[name] for name in ("coordinates", energy, force) if name in group}
            for at, i, row in conformations(numbers, wanted, position=position, start=start):
                value = scalar(row[energy])
                forces = row.get(force)
                yield Record(
                    at,
                    f"{formula}/{i}",
                    numbers,
                    row["coordinates"],
                    energy=None if np.isnan(value) else value * HARTREE,
                    # The file has single precision: the unit is applied in double.
                    forces=None if forces is None or np.isnan(forces).all() else np.asarray(forces, float) * HARTREE,
                    group=formula,
                )
            position += len(group["coordinates"])
