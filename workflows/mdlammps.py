"""Molecular dynamics by LAMMPS, in the loop, files and guards of :mod:`~hydrapot.workflows.md`.

======================  ==================================================================
ensemble                fixes
======================  ==================================================================
``nve``                 ``nve``
``langevin``            ``nve`` and ``langevin`` (Schneider & Stoll 1978)
``nose-hoover``         ``nvt``, chain of 3
``npt``                 ``npt iso``, or ``npt tri`` for the full cell
======================  ==================================================================

LAMMPS turns a structure so that its periodic lattice vectors form a lower triangle; what comes back is turned back.
"""

import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms, parallel, units
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from hydrapot.calculators import HydrapotCalculator
from hydrapot.calculators.support import check_composition
from hydrapot.lammps_plugin.external import import_lammps
from hydrapot.lammps_plugin.session import Session, State, dismiss, serve
from hydrapot.lammps_plugin.settings import Model, Settings
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.graph import charge_and_spin
from hydrapot.potential.neighbors import complete_cell
from hydrapot.workflows.dynamics import Engine, EngineIntegrator, EngineResults
from hydrapot.workflows.md import MDResult, md
from hydrapot.workflows.mdsettings import MDSettings

_ENSEMBLES = frozenset({"nve", "langevin", "nose-hoover", "npt"})
_BAR = 1e4  # per GPa
_PS = 1e-3  # per fs
#: Å/ps in ASE's unit of velocity.
_SPEED = 1e-3 / units.fs


def md_with_lammps(
    atoms: Atoms, settings: MDSettings | None = None, *, model: str, threads: int | None = None, **arguments: Any
) -> MDResult | None:
    """:func:`~hydrapot.workflows.md` with LAMMPS for neighbors, integration and division between processes.

    Called by all processes of ``mpiexec``.

    Parameters
    ----------
    atoms, settings
        As for :func:`~hydrapot.workflows.md`; the calculator says head and precision.
    model
        Name or path from which each process loads the model.
    threads
        Of each process.
    **arguments
        As for :func:`~hydrapot.workflows.md`.

    Returns
    -------
    The result on process 0, None on all others.

    Raises
    ------
    ConfigurationError
        LAMMPS is not installed, constrained atoms, or a device that is not a CPU; and as for
        :func:`~hydrapot.workflows.md`.
    """
    settings = settings or MDSettings()
    with LammpsProcesses(model, threads=threads) as processes:
        if not processes.first:
            return None
        return md(atoms, settings, engine=processes.engine(atoms, settings), **arguments)


class LammpsProcesses:
    """The processes of ``mpiexec``: inside the block, the first runs a workflow; the others have done what it asked for.

    A :class:`~hydrapot.workflows.engines.Provider`.

    Parameters
    ----------
    model
        Name or path from which each process loads the model.
    threads
        Of each process.

    Attributes
    ----------
    first
        Whether this is process 0. The others enter the block when everything is over.

    Raises
    ------
    ConfigurationError
        LAMMPS or mpi4py is not installed.
    """

    def __init__(self, model: str, *, threads: int | None = None) -> None:
        self.model, self.threads = model, threads
        import_lammps()
        from mpi4py import MPI

        self.comm = MPI.COMM_WORLD
        self.first = self.comm.rank == 0
        self.session: Session | None = None

    def engine(self, atoms: Atoms, settings: MDSettings) -> Engine:
        """See :class:`~hydrapot.workflows.engines.Provider`."""
        obstacle = self.obstacle(atoms, settings)
        if obstacle is not None:
            raise ConfigurationError(f"{obstacle}: use the engine ase")
        calculator = atoms.calc
        assert isinstance(calculator, HydrapotCalculator)  # noqa: S101 - no obstacle
        charge, spin = charge_and_spin(atoms)
        # LAMMPS would say some of it inside the run, and takes a charged periodic cell without a word.
        check_composition(
            calculator.potential, atoms.numbers, head=calculator.head, pbc=atoms.pbc, charge=charge, spin=spin
        )
        return Engine("lammps", self._integrator)

    def obstacle(self, atoms: Atoms, settings: MDSettings) -> str | None:
        """Why LAMMPS cannot do a run; None if it can."""
        calculator = atoms.calc
        if not isinstance(calculator, HydrapotCalculator):
            return "LAMMPS runs hydrapot potentials only, not another calculator"
        if atoms.constraints:
            return "constraints of a structure are not handed to LAMMPS"
        if str(calculator.device) != "cpu":
            return f"LAMMPS evaluates on the CPU, not on {calculator.device}"
        if settings.ensemble not in _ENSEMBLES:
            return f"ensemble {settings.ensemble!r} is not known to the engine lammps"
        return None

    def __enter__(self) -> Self:
        if not self.first:
            serve(self.comm)
        # ASE's readers and writers are collective once mpi4py is imported; only process 0 calls them here.
        self._world, parallel.world.comm = parallel.world.comm, parallel.DummyMPI()
        return self

    def __exit__(self, *_: object) -> None:
        parallel.world.comm = self._world
        if self.session is not None:
            self.session.close()
        elif self.first:
            dismiss(self.comm)

    def _integrator(self, atoms: Atoms, **arguments: Any) -> "LammpsIntegrator":
        calculator = atoms.calc
        assert isinstance(calculator, HydrapotCalculator)  # noqa: S101 - `engine` has made sure
        kinds = _Kinds(atoms)
        charge, spin = charge_and_spin(atoms)
        settings = Settings(
            model=self.model,
            heads={calculator.head: 1.0},
            elements=kinds.elements,
            precision="double" if calculator.dtype == "float64" else "single",
            charge=charge,
            spin=spin,
        )
        self.session = Session(self.comm, settings, model=Model(settings, calculator.potential), threads=self.threads)
        return LammpsIntegrator(atoms, self.session, kinds=kinds, **arguments)


class _Kinds:
    """Atom types: one for each element and mass.

    Attributes
    ----------
    elements, masses
        Of the types 1, 2, …
    types
        ``(N,)`` type of each atom.
    """

    def __init__(self, atoms: Atoms) -> None:
        pairs = np.column_stack([atoms.numbers.astype(float), atoms.get_masses()])
        unique, index = np.unique(pairs, axis=0, return_inverse=True)
        self.elements = tuple(chemical_symbols[int(number)] for number in unique[:, 0])
        self.masses = unique[:, 1]
        self.types = index.reshape(-1) + 1


class _Orientation:
    """Between a structure's frame and LAMMPS', where periodic lattice vectors come first and form a lower triangle."""

    def __init__(self, atoms: Atoms) -> None:
        self.order = np.argsort(~atoms.pbc, kind="stable")
        self.n_periodic = int(atoms.pbc.sum())
        rows = complete_cell(atoms.cell.array, atoms.pbc)[self.order]
        q, r = np.linalg.qr(rows.T)
        self.turn: NDArray[np.float64] = q * np.where(np.diag(r) < 0, -1.0, 1.0)
        self.cell = np.tril(rows @ self.turn)
        self.boundary = " ".join("p" if k < self.n_periodic else "s" for k in range(3))

    def back(self, cell: NDArray[np.float64], original: NDArray[np.float64]) -> NDArray[np.float64]:
        """Cell of the structure from LAMMPS' box; rows that are not periodic stay what they were."""
        result = original.copy()
        result[self.order[: self.n_periodic]] = (cell @ self.turn.T)[: self.n_periodic]
        return result


class LammpsIntegrator(EngineIntegrator):
    """Blocks of steps of LAMMPS; arguments as for :func:`~hydrapot.workflows.dynamics.make_integrator`."""

    def __init__(
        self,
        atoms: Atoms,
        session: Session,
        *,
        kinds: _Kinds,
        ensemble: str,
        timestep: float,
        temperature: float,
        pressure: float,
        cell: str,
        thermostat_time: float,
        barostat_time: float,
        degrees_of_freedom: int,
        rng: np.random.Generator,
    ) -> None:
        self.atoms, self.session, self.kinds = atoms, session, kinds
        self.dt = timestep * units.fs
        self.ensemble = ensemble
        self.orientation = _Orientation(atoms)
        self.results = EngineResults()
        bath = f"temp {temperature:.17g} {temperature:.17g} {thermostat_time * _PS:.17g}"
        box = "iso" if cell == "isotropic" else "tri"
        bar = f"{pressure * _BAR:.17g} {pressure * _BAR:.17g} {barostat_time * _PS:.17g}"
        fixes = {
            "nve": ["fix move all nve"],
            "langevin": [
                "fix move all nve",
                f"fix bath all langevin {bath.removeprefix('temp ')} {int(rng.integers(1, 900_000_000))}",
            ],
            "nose-hoover": [f"fix move all nvt {bath}"],
            "npt": [f"fix move all npt {bath} {box} {bar} flip no"],
        }
        extra = f"extra/dof {3 * len(atoms) - degrees_of_freedom}"
        self._dynamics = [f"timestep {timestep * _PS:.17g}", *fixes[ensemble], f"compute_modify thermo_temp {extra}"]
        if ensemble in {"nose-hoover", "npt"}:
            self._dynamics.append(f"compute_modify move_temp {extra}")
        self._start(self._read_data)

    def advance(self, steps: int) -> None:
        """Advance by a block of time steps and copy the state to the structure."""
        self.session.run(steps)
        self._update()

    def conserved_energy(self) -> float | None:
        """LAMMPS' conserved quantity in eV, for thermostats and barostats that have one."""
        return self.session.thermo("econserve") if self.ensemble in {"nose-hoover", "npt"} else None

    def describe(self) -> dict[str, Any]:
        """See :meth:`~hydrapot.lammps_plugin.session.Session.describe`."""
        return self.session.describe()

    def get_state(self) -> dict[str, NDArray[Any]]:
        """A restart file of LAMMPS."""
        return {"lammps": self.session.restart()}

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from :meth:`get_state`."""

        def read(folder: Path) -> str:
            (folder / "state.restart").write_bytes(state["lammps"].tobytes())
            return f"read_restart {folder / 'state.restart'}"

        self.session.commands("clear")
        self._start(read)

    def _start(self, read: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.session.commands(
                "units metal",
                "atom_style atomic",
                "atom_modify map array sort 0 0",
                f"boundary {self.orientation.boundary}",
                "box tilt large",
                read(Path(folder)),
            )
        self.session.attach()
        self.session.commands(
            *self._dynamics, "thermo_style custom step pe ke press econserve", "thermo_modify norm no"
        )
        self.session.run(0)
        self._update()

    def _read_data(self, folder: Path) -> str:
        """Write the structure as a data file and return the command that reads it."""
        atoms, orientation = self.atoms, self.orientation
        positions = atoms.positions @ orientation.turn
        velocities = atoms.get_velocities() @ orientation.turn / _SPEED
        cell = orientation.cell
        low, high = np.zeros(3), np.diag(cell).copy()
        open_ = np.arange(3) >= orientation.n_periodic
        low[open_], high[open_] = positions.min(axis=0)[open_] - 0.5, positions.max(axis=0)[open_] + 0.5
        lines = ["structure", "", f"{len(atoms)} atoms", f"{len(self.kinds.elements)} atom types"]
        lines += [f"{a:.17g} {b:.17g} {x}lo {x}hi" for a, b, x in zip(low, high, "xyz", strict=True)]
        tilts = cell[1, 0], cell[2, 0], cell[2, 1]
        # The box of `npt tri` has to be able to tilt, even if it does not at the start.
        if any(tilts) or any("tri" in line for line in self._dynamics):
            lines.append("{:.17g} {:.17g} {:.17g} xy xz yz".format(*tilts))
        lines += ["", "Masses", "", *(f"{k} {m:.17g}" for k, m in enumerate(self.kinds.masses, start=1))]
        lines += ["", "Atoms # atomic", ""]
        rows = enumerate(zip(self.kinds.types, positions, strict=True), start=1)
        lines += [f"{tag} {kind} {x:.17g} {y:.17g} {z:.17g}" for tag, (kind, (x, y, z)) in rows]
        lines += ["", "Velocities", ""]
        lines += [f"{tag} {x:.17g} {y:.17g} {z:.17g}" for tag, (x, y, z) in enumerate(velocities, start=1)]
        (folder / "atoms.data").write_text("\n".join([*lines, ""]), encoding="utf-8")
        return f"read_data {folder / 'atoms.data'}"

    def _update(self) -> None:
        """Positions, momenta, cell and results of LAMMPS to the structure."""
        atoms, state = self.atoms, self.session.state()
        turn = self.orientation.turn
        atoms.positions[:] = state.positions @ turn.T
        atoms.cell[:] = self.orientation.back(state.cell, atoms.cell.array)
        atoms.set_velocities(state.velocities @ turn.T * _SPEED)
        self.results.put(atoms, self._results(state))
        atoms.calc = self.results

    def _results(self, state: State) -> dict[str, Any]:
        turn = self.orientation.turn
        results: dict[str, Any] = {
            "energy": state.energy,
            "free_energy": state.energy,
            "forces": state.forces @ turn.T,
        }
        if self.atoms.pbc.all():
            xx, yy, zz, xy, xz, yz = state.virial
            virial = turn @ np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) @ turn.T
            results["stress"] = full_3x3_to_voigt_6_stress(-virial / self.atoms.get_volume())
        return results
