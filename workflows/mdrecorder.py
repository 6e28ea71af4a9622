"""What a molecular-dynamics run writes while it runs: frames and a table of numbers."""

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from hydrapot.workflows.appending import FrameFile, Table, file_state, read_table, restore_file
from hydrapot.workflows.drift import shadow_correction
from hydrapot.workflows.mdsummary import COLUMNS, Columns
from hydrapot.workflows.outputs import Outputs

_CONSERVED = COLUMNS.index("conserved_ev")
Row = list[float | None]


class Recorder:
    """Frames and table of a run, in files or, without `outputs`, in memory.

    Velocity Verlet's shadow energy at a step needs the forces on both sides of it, so the rows of ``nve``
    wait for the step after theirs.

    Parameters
    ----------
    outputs
        Names of the files; None keeps the table in memory and no frames.
    frame_suffix
        ``.traj``, ``.extxyz``, ``.pdb`` or ``.cif``.
    timestep
        fs.
    shadow
        Whether the conserved quantity is the shadow energy.
    """

    def __init__(self, outputs: Outputs | None, *, frame_suffix: str, timestep: float, shadow: bool) -> None:
        self.paths = {} if outputs is None else {s: outputs.path(s) for s in (frame_suffix, ".csv")}
        self.frame_suffix = frame_suffix
        self.timestep = timestep * units.fs
        self.shadow = shadow
        #: ``(N, 3)`` eV/Å of the step before the latest; empty at the start.
        self.forces_before: NDArray[np.float64] = np.zeros((0, 3))
        self._forces: NDArray[np.float64] = np.zeros((0, 3))
        self._waiting: tuple[Row, NDArray[np.float64]] | None = None
        self._rows: list[Row] = []
        self._frames: FrameFile | None = None
        self._table: Table | None = None

    def open(self, *, states: dict[str, Any] | None = None) -> None:
        """Open the files; with `states` (:meth:`states`), cut them back to what they were then."""
        for suffix, state in (states or {}).items():
            restore_file(self.paths[suffix], state)
        if self.paths:
            self._frames = FrameFile(self.paths[self.frame_suffix])
            self._table = Table(self.paths[".csv"], COLUMNS)

    def states(self) -> dict[str, Any]:
        """Where the files stand."""
        return {suffix: file_state(path) for suffix, path in self.paths.items()}

    def close(self) -> None:
        """Close the files."""
        for file in (self._frames, self._table):
            if file is not None:
                file.close()

    def begin(self, forces: NDArray[np.float64], forces_before: NDArray[np.float64]) -> None:
        """Forces ``(N, 3)`` of the step that the run begins or continues at, and of the one before."""
        self._forces, self.forces_before = forces, forces_before

    def step(self, forces: NDArray[np.float64], masses: NDArray[np.float64]) -> None:
        """Take note of the forces after a step, and complete the row that waits for them.

        Steps within a block are left out; the one before and the one after :meth:`sample` are not, if `shadow`.
        """
        if self._waiting is not None:
            (row, velocities), self._waiting = self._waiting, None
            if len(self.forces_before):
                row[_CONSERVED] = _energy(row) + shadow_correction(
                    velocities=velocities,
                    masses=masses,
                    forces_before=self.forces_before,
                    forces=self._forces,
                    forces_after=forces,
                    timestep=self.timestep,
                )
            self._write(row)
        self.forces_before, self._forces = self._forces, forces

    def sample(self, atoms: Atoms, row: Row, *, again: bool = False) -> None:
        """Record a frame and a row.

        Parameters
        ----------
        again
            The step at which a run is resumed: its frame is in the file, and so is its row unless it was
            waiting.
        """
        if self._frames is not None and not again:
            self._frames.append(atoms)
        if self.shadow:
            self._waiting = row, atoms.get_velocities()
        elif not again:
            self._write(row)

    def finish(self) -> Columns:
        """Write the row that waits, without its shadow energy, and return the table."""
        if self._waiting is not None:
            self._write(self._waiting[0])
            self._waiting = None
        if ".csv" in self.paths:
            return read_table(self.paths[".csv"])
        values = [[np.nan if value is None else value for value in row] for row in self._rows]
        array = np.array(values, dtype=np.float64).reshape(len(values), len(COLUMNS))
        return {name: array[:, k] for k, name in enumerate(COLUMNS)}

    def frame_path(self) -> Path | None:
        """Where the frames are."""
        return self.paths.get(self.frame_suffix)

    def _write(self, row: Row) -> None:
        if self._table is not None:
            self._table.append(tuple(row))
        else:
            self._rows.append(row)


def _energy(row: Row) -> float:
    potential, kinetic = row[COLUMNS.index("potential_ev")], row[COLUMNS.index("kinetic_ev")]
    assert potential is not None  # noqa: S101
    assert kinetic is not None  # noqa: S101
    return potential + kinetic
