"""LAMMPS under the control of one process: the first gives commands, the others carry them out with it.

Under ``mpiexec`` every command of LAMMPS is collective. A workflow that decides, writes files and may fail should run once,
though, so it runs on process 0, and the others wait in :func:`serve` for what it asks for. Messages are JSON.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hydrapot.lammps_plugin.compiled import CompiledForces, load_pair_style
from hydrapot.lammps_plugin.errors import SharedError
from hydrapot.lammps_plugin.external import ExternalForces, import_lammps
from hydrapot.lammps_plugin.guards import abort
from hydrapot.lammps_plugin.settings import Model, Settings
from hydrapot.potential.errors import SimulationError


class State(NamedTuple):
    """All atoms in the order of their IDs 1 … N, in LAMMPS' frame and units (Å, Å/ps, eV/Å).

    Positions are unwrapped; rows of `cell` are the box vectors; `virial` is in LAMMPS' order xx, yy, zz, xy, xz, yz, eV.
    """

    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]
    forces: NDArray[np.float64]
    cell: NDArray[np.float64]
    energy: float
    virial: NDArray[np.float64]


class _Engine:
    """One process's LAMMPS; every method is called on all processes alike."""

    def __init__(self, comm: Any, settings: Settings, model: Model | None, threads: int | None) -> None:
        self.comm, self.threads = comm, threads
        self._threads_before = torch.get_num_threads()
        if threads is not None:
            torch.set_num_threads(threads)
        self.error: BaseException | None = None
        self.lmp = import_lammps()(comm=comm, cmdargs=["-screen", "none", "-log", "none", "-nocite"])
        self.model = model or Model(settings)
        self.forces: ExternalForces | CompiledForces | None = None

    def _fail(self, comm: Any, error: BaseException) -> None:
        if comm.size > 1 and not isinstance(error, SharedError):
            abort(comm, error)
        self.error = self.error or error
        self.lmp.force_timeout()

    def commands(self, lines: str) -> None:
        """Carry out lines of an input deck."""
        try:
            self.lmp.commands_string(lines)
        except Exception as error:
            # One process alone has failed inside LAMMPS, where the others wait for it.
            if self.comm.size > 1 and type(error).__name__ == "MPIAbortException":
                abort(self.comm, error)
            raise self.error or SimulationError(f"LAMMPS: {str(error).removeprefix('ERROR: ')}") from error
        if self.error is not None:
            raise self.error

    def attach(self) -> None:
        """Let the model give the forces: by the compiled pair style where all processes have it."""
        compiled = np.array([load_pair_style(self.lmp)], dtype=np.int32)
        everywhere = compiled.copy()
        self.comm.Allreduce(compiled, everywhere)
        if everywhere[0] == self.comm.size:
            self.forces = CompiledForces(self.lmp, self.comm, self.model, threads=self.threads)
            self.forces.attach()
            return
        self.forces = ExternalForces(self.lmp, self.comm, self.model, on_error=self._fail)
        self.forces.attach()

    def state(self) -> State:
        """Positions and everything else now."""
        assert self.forces is not None  # noqa: S101
        low, high, xy, yz, xz = self.lmp.extract_box()[:5]
        cell = np.diag(np.subtract(high, low))
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
        arrays = {
            name: np.ctypeslib.as_array(self.lmp.gather_atoms(name, kind, 3)).reshape(-1, 3).copy()
            for name, kind in (("x", 1), ("v", 1), ("f", 1), ("image", 0))
        }
        return State(
            arrays["x"] + arrays["image"] @ cell,
            arrays["v"],
            arrays["f"],
            cell,
            self.forces.energy,
            self.forces.virial.copy(),
        )

    def describe(self) -> dict[str, Any]:
        """What gives the forces, on how many processes and threads of each, in which LAMMPS."""
        assert self.forces is not None  # noqa: S101
        threads = self.forces.threads if isinstance(self.forces, CompiledForces) else torch.get_num_threads()
        version = int(self.lmp.version())
        return {"forces": self.forces.name, "processes": self.comm.size, "threads": threads, "lammps": version}

    def thermo(self, name: str) -> float:
        """A quantity of the thermodynamic output."""
        return float(self.lmp.get_thermo(name))

    def close(self) -> None:
        """End LAMMPS, and leave torch the threads that it had."""
        self.lmp.close()
        torch.set_num_threads(self._threads_before)


class Session:
    """LAMMPS with a model, as process 0 sees it.

    Parameters
    ----------
    comm
        Communicator of mpi4py; the other processes are in :func:`serve`.
    settings
        What is evaluated.
    model
        The same, loaded already: spares process 0 the reading.
    threads
        Threads of each process; 1 with several processes, torch's own choice with one.
    """

    def __init__(
        self, comm: Any, settings: Settings, *, model: Model | None = None, threads: int | None = None
    ) -> None:
        self.comm = comm
        threads = threads or (1 if comm.size > 1 else None)
        _send(comm, ["open", asdict(settings), threads])
        self._engine: _Engine = _together(comm, partial(_Engine, comm, settings, model, threads))
        self._open = True
        self._continues = False

    def commands(self, *lines: str) -> None:
        """Carry out lines of an input deck that are not runs (:meth:`run`).

        Raises
        ------
        SimulationError
            LAMMPS refuses one, or the run had to stop; not where a process failed alone, which ends all of them.
        """
        self._continues = False
        self._all("commands", "\n".join(lines))

    def run(self, steps: int) -> None:
        """Advance by time steps, or evaluate the forces with 0; where nothing happened since the last run, without setup.

        Raises
        ------
        SimulationError
            As for :meth:`commands`.
        """
        # Other commands may move atoms to other processes (write_restart does), which makes lists and ghosts stale.
        continues, self._continues = self._continues, False
        self._all("commands", f"run {steps} pre {'no' if continues else 'yes'} post no")
        self._continues = True

    def attach(self) -> None:
        """Let the model give the forces; box and atoms exist."""
        self._continues = False
        self._all("attach")

    def state(self) -> State:
        """All atoms now."""
        found: State = self._all("state")
        return found

    def describe(self) -> dict[str, Any]:
        """``forces`` (``"pair style"`` or ``"fix external"``), ``processes``, ``threads`` of each, version of ``lammps``."""
        return self._engine.describe()

    def thermo(self, name: str) -> float:
        """A quantity of LAMMPS' thermodynamic output, such as ``econserve``."""
        return float(self._all("thermo", name))

    def restart(self) -> NDArray[np.uint8]:
        """The bytes of a restart file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "state.restart"
            self.commands(f"write_restart {path}")
            return np.frombuffer(path.read_bytes(), dtype=np.uint8)

    def close(self) -> None:
        """End LAMMPS and release the other processes."""
        if self._open:
            self._open = False
            _send(self.comm, ["close"])
            self._engine.close()

    def _all(self, name: str, *arguments: str) -> Any:
        _send(self.comm, [name, *arguments])
        return _together(self.comm, lambda: getattr(self._engine, name)(*arguments))


def serve(comm: Any) -> None:
    """What all processes but the first do: carry out what it asks for, until it closes."""
    engine: _Engine | None = None
    while True:
        name, *arguments = _receive(comm)
        if name == "close":
            if engine is not None:
                engine.close()
            return
        if name == "open":
            settings, threads = arguments
            settings["elements"] = tuple(settings["elements"])
            engine = _together(comm, partial(_Engine, comm, Settings(**settings), None, threads))
            continue
        with suppress(SimulationError):  # process 0 has raised the same and decides what comes next
            _together(comm, partial(getattr(engine, name), *arguments))


def _together(comm: Any, action: Callable[[], Any]) -> Any:
    """What `action` returns; an error that not all processes have ends all of them."""
    result, error = None, None
    try:
        result = action()
    except Exception as caught:  # noqa: BLE001 - raised again below
        error = caught
    outcomes = np.array([error is None, error is not None], dtype=np.int32)
    comm.Allreduce(outcomes.copy(), outcomes)
    if error is not None:
        if outcomes.all() or (comm.size > 1 and not isinstance(error, SimulationError)):
            abort(comm, error)
        raise error
    if outcomes[1]:
        comm.Barrier()  # until the process that failed has ended this one too
    return result


def dismiss(comm: Any) -> None:
    """Release the other processes where no session was opened; process 0 calls it after an early error."""
    _send(comm, ["close"])


def _send(comm: Any, message: Sequence[Any]) -> None:
    data = np.frombuffer(json.dumps(message).encode(), dtype=np.uint8).copy()
    comm.Bcast(np.array([len(data)], dtype=np.int64))
    comm.Bcast(data)


def _receive(comm: Any) -> list[Any]:
    length = np.zeros(1, dtype=np.int64)
    comm.Bcast(length)
    data = np.zeros(int(length[0]), dtype=np.uint8)
    comm.Bcast(data)
    message: list[Any] = json.loads(data.tobytes())
    return message
