"""Files that grow during a run and can be set back to an earlier state: trajectory and table of a resumed
run.

A restart file remembers, for each of them, how long it was; what a killed run wrote after that is cut off
before the run continues, so that no frame and no row is missing or doubled.
"""

import csv
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.io.extxyz import write_xyz
from ase.io.trajectory import Trajectory
from numpy.typing import NDArray

from hydrapot.potential.errors import ConfigurationError
from hydrapot.workflows.biomolecules import BiomoleculeWriter

#: ASE's trajectory format keeps its counters in the first bytes of the file; all else is only ever appended.
_COUNTERS = 48


def file_state(path: Path) -> dict[str, Any]:
    """Length and leading bytes of a file, after making sure that it is on the disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
        head = handle.read(_COUNTERS)
        length = handle.seek(0, os.SEEK_END)
    return {"length": length, "head": head.hex()}


def restore_file(path: Path, state: dict[str, Any]) -> None:
    """Set a file back to :func:`file_state`.

    Raises
    ------
    ConfigurationError
        The file is missing or shorter than it was.
    """
    if not path.exists() or path.stat().st_size < state["length"]:
        raise ConfigurationError(f"{path} is missing or was shortened since the restart file was written: start anew")
    with path.open("r+b") as handle:
        handle.truncate(state["length"])
        handle.write(bytes.fromhex(state["head"]))
        os.fsync(handle.fileno())


class FrameFile:
    """Frames appended to a ``.traj`` (exact, with momenta and results), ``.extxyz`` (text), ``.pdb`` or ``.cif`` file.

    Parameters
    ----------
    path
        Its suffix decides the format. ``.pdb`` and ``.cif`` (mmCIF) hold names and positions only, and one box.

    Raises
    ------
    ConfigurationError
        ``.pdb`` or ``.cif`` without OpenMM.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._binary = path.suffix == ".traj"
        self._writer = Trajectory(str(path), "a") if self._binary else None
        self._models = BiomoleculeWriter(path) if path.suffix in {".pdb", ".cif"} else None

    def append(self, atoms: Atoms) -> None:
        """Write one frame with the results that its calculator has."""
        if self._writer is not None:
            self._writer.write(atoms)
        elif self._models is not None:
            self._models.append(atoms)
        else:
            with self.path.open("a", encoding="utf-8") as handle:
                write_xyz(handle, [atoms])

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Table:
    """Rows of numbers appended to a CSV file, each number with all its digits.

    Parameters
    ----------
    path
        The file; a header is written if it does not exist.
    columns
        Their names, with units.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path = path
        self.columns = columns
        new = not path.exists()
        self._handle = path.open("a", encoding="utf-8", newline="")
        self._writer = csv.writer(self._handle, lineterminator="\n")
        if new:
            self._writer.writerow(columns)
            self._handle.flush()

    def append(self, row: tuple[float | None, ...]) -> None:
        """Write one row; None leaves a field empty."""
        self._writer.writerow(["" if value is None else repr(value) for value in row])
        self._handle.flush()

    def close(self) -> None:
        """Close the file."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_table(path: Path) -> dict[str, NDArray[np.float64]]:
    """Columns of a table by name; empty fields are NaN."""
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))
    values = [[float(field) if field else np.nan for field in row] for row in rows[1:]]
    array = np.array(values, dtype=np.float64).reshape(len(values), len(rows[0]))
    return {name: array[:, k] for k, name in enumerate(rows[0])}
