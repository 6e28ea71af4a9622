"""Transition1x (Schreiner et al., Sci. Data 9, 779 (2022)): reaction paths by nudged elastic band, in HDF5.

``data`` → formula → reaction → ``atomic_numbers`` (Na,), ``positions`` (Nc, Na, 3) in Å, ``wB97x_6-31G(d).energy`` (Nc,)
in eV and ``wB97x_6-31G(d).forces`` (Nc, Na, 3) in eV/Å: the images of all iterations of the path. Below each reaction
``reactant``, ``transition_state`` and ``product`` hold one structure each in the same form. The groups ``train``, ``val``
and ``test`` of the file link to the same reactions. The transition state is the highest image of the converged path, and
is left out here because it is on the path already.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers.hdf5 import conformations, hdf5, scalar
from hydrapot.training.data.readers.records import ReaderOptions, Record, Reject

LEVEL = "wB97x_6-31G(d)"
ENERGIES = (f"{LEVEL}.energy", f"{LEVEL}.atomization_energy")
ENDS = ("reactant", "product")


def read(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield reactant, product and path of every reaction; the group is the reaction."""
    energy = options.energy or ENERGIES[0]
    position = 0
    with hdf5(path) as file:
        for formula in sorted(file["data"]):
            for reaction in sorted(file["data"][formula]):
                whole = file["data"][formula][reaction]
                for part in (*ENDS, ""):
                    group = whole[part] if part else whole
                    numbers = np.asarray((group if "atomic_numbers" in group else whole)["atomic_numbers"])
                    if energy not in group:
                        raise DatasetError(f"{path}, {formula}/{reaction}: no {energy!r}")
                    names = ("positions", energy, f"{LEVEL}.forces")
                    wanted = {name: group[name] for name in names if name in group}
                    for at, i, row in conformations(numbers, wanted, position=position, start=start):
                        yield Record(
                            at,
                            f"{formula}/{reaction}/{part or i}",
                            numbers,
                            row["positions"],
                            energy=scalar(row[energy]),
                            forces=row.get(f"{LEVEL}.forces"),
                            group=f"{formula}/{reaction}",
                        )
                    position += len(group["positions"])
