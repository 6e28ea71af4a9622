"""Molecular dynamics of any structure with any calculator: guarded, reproducible, resumable."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms, units

from hydrapot.potential.errors import ConfigurationError, InvalidStructureError, SimulationError
from hydrapot.workflows import record
from hydrapot.workflows.biomolecules import check_writable
from hydrapot.workflows.blocks import Blocks
from hydrapot.workflows.dynamics import (
    Engine,
    EngineIntegrator,
    Integrator,
    advance,
    conserved_energy,
    get_state,
    longest_block,
    make_integrator,
    set_state,
)
from hydrapot.workflows.guards import Guards
from hydrapot.workflows.mdrecorder import Recorder, Row
from hydrapot.workflows.mdsettings import FREE_SETTINGS, MDSettings
from hydrapot.workflows.mdsummary import Columns, plot, results
from hydrapot.workflows.outputs import Outputs
from hydrapot.workflows.progress import ProgressBar
from hydrapot.workflows.restart import Restart
from hydrapot.workflows.threads import single_threaded_algebra
from hydrapot.workflows.velocities import degrees_of_freedom, kinetic_temperature, maxwell_boltzmann

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_RESTART = ".restart.npz"


@dataclass(frozen=True)
class MDResult:
    """Outcome of a run.

    Attributes
    ----------
    status
        ``"completed"`` or ``"interrupted"``; a run that a guard stopped raises instead.
    summary
        What ``PREFIX.json`` holds.
    table
        Columns of ``PREFIX.csv`` by name, ``(n,)`` each.
    """

    status: str
    summary: dict[str, Any]
    table: Columns


def md(
    atoms: Atoms,
    settings: MDSettings | None = None,
    *,
    output: str | Path | None = None,
    frames: Literal["traj", "extxyz", "pdb", "cif"] = "traj",
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = False,
    stop: Callable[[], bool] | None = None,
    engine: Engine | None = None,
) -> MDResult:
    """Run molecular dynamics; `atoms`, which carry a calculator, end in the final state.

    Parameters
    ----------
    atoms
        The structure; for a resumed run the same one that the first run was given.
    settings
        What to simulate.
    output
        Beginning of the names of the output files: frames (``.traj``, …), ``.csv``,
        ``.restart.npz``, ``.json`` and ``.png``. None writes nothing.
    frames
        Format of the frames: ``.traj`` keeps all digits, ``.extxyz`` is text; ``.pdb`` and ``.cif`` (mmCIF) keep the names
        of a biomolecule, and take OpenMM.
    overwrite
        Replace files of an earlier run.
    resume
        Continue the run that wrote `output` from its last restart file, as if it had never stopped; with
        nothing there, start. The settings must be those of the first run, apart from the number of steps.
    progress
        Show a progress bar on standard error.
    stop
        Asked before every step, or every block of steps of an engine, which take at most about half a second; true
        ends the run with a restart file.
    engine
        What moves the atoms; None takes the integrators of ASE.

    Raises
    ------
    SimulationError
        A guard stopped the run. Frames, table, restart file and a summary with the reason are there.
    ConfigurationError, InvalidStructureError, UnknownElementError, UnsupportedChargeError
        Before anything is written.
    """
    settings = settings or MDSettings()
    if settings.timestep is None:
        settings = settings.model_copy(update={"timestep": 0.5 if 1 in atoms.numbers else 1.0})
    _check(atoms, settings)
    outputs, restart = None, None
    if output is not None:
        check_writable(atoms, f".{frames}")
        suffixes = (f".{frames}", ".csv", ".json", ".png", _RESTART)
        outputs = Outputs(output, suffixes, overwrite=overwrite, resume=resume)
        restart = _find_restart(outputs) if resume else None
    with single_threaded_algebra():
        run = _Run(atoms, settings, outputs=outputs, frame_suffix=f".{frames}", engine=engine)
        try:
            if restart is None:
                run.start()
            else:
                run.resume(restart)
            return run.go(progress=progress, stop=stop or (lambda: False))
        finally:
            run.recorder.close()


class _Run:
    """A run in progress."""

    def __init__(
        self,
        atoms: Atoms,
        settings: MDSettings,
        *,
        outputs: Outputs | None,
        frame_suffix: str,
        engine: Engine | None,
    ) -> None:
        self.atoms = atoms
        self.settings = settings
        self.timestep = float(settings.timestep or 0.0)  # fs
        self.outputs = outputs
        self.step = 0
        self.degrees = 0
        self.notices = record.announce(atoms, needs_stress=settings.ensemble == "npt")
        self.record: dict[str, Any] = {
            "settings": settings.model_dump(),
            "model": record.model_record(atoms),
            "system": record.system_record(atoms),
        }
        self.make_integrator: Callable[..., Integrator | EngineIntegrator] = make_integrator
        self.record["engine"] = {"name": "ase"}
        if engine is not None:
            self.make_integrator = engine.integrator
            self.record["engine"]["name"] = self.record["model"]["engine"] = engine.name
        self.rng = np.random.default_rng(settings.seed)
        self.recorder = Recorder(
            outputs, frame_suffix=frame_suffix, timestep=self.timestep, shadow=settings.ensemble == "nve"
        )
        self.seconds_before = 0.0  # used by the runs that this one continues
        self.began = time.perf_counter()
        self.first = 0

    def start(self) -> None:
        """Velocities, first evaluation, first frame."""
        atoms, settings = self.atoms, self.settings
        if settings.velocities == "new":
            maxwell_boltzmann(
                atoms,
                temperature=settings.temperature,
                rng=self.rng,
                zero_momentum=settings.zero_momentum,
                zero_rotation=settings.zero_rotation,
            )
        self.degrees = degrees_of_freedom(atoms, conserves_momentum=settings.ensemble != "langevin")
        if self.degrees < 1:
            raise InvalidStructureError(
                "no atom is free to move: use a larger cell, fewer constraints, or langevin dynamics"
            )
        self._make()
        self.recorder.begin(atoms.get_forces(), np.zeros((0, 3)))
        try:
            self._guard()
        except SimulationError as error:
            raise SimulationError(f"at the start: {error}") from error
        # Whatever can be wrong with structure and settings has been found by now; only then is a file
        # touched.
        if self.outputs is not None:
            self.outputs.clear()
        self.recorder.open()
        self.recorder.sample(atoms, self._row())
        self._checkpoint()

    def resume(self, restart: Restart) -> None:
        """State, files and random numbers of the run that is continued."""
        atoms, settings = self.atoms, self.settings
        _check_same(restart, atoms, self.record)
        if settings.steps < restart.step:
            raise ConfigurationError(
                f"the run is at step {restart.step} already, beyond the {settings.steps} that are asked for"
            )
        atoms.positions[:] = restart.positions
        atoms.cell[:] = restart.cell
        atoms.set_array("momenta", restart.momenta, float, (3,))
        self.rng.bit_generator.state = restart.random
        self.degrees = int(restart.record["degrees_of_freedom"])
        self.seconds_before = float(restart.record["seconds"])
        self.step = self.first = restart.step
        self._make()
        set_state(self.integrator, restart.integrator)
        self.recorder.begin(atoms.get_forces(), restart.forces_before)
        self._guard()
        self.recorder.open(states=restart.files)
        if self.step % settings.interval == 0:
            self.recorder.sample(atoms, self._row(), again=True)
        logger.info("resuming at step %d of %d", self.step, settings.steps)

    def _make(self) -> None:
        settings = self.settings
        self.integrator = self.make_integrator(
            self.atoms,
            ensemble=settings.ensemble,
            timestep=self.timestep,
            temperature=settings.temperature,
            pressure=settings.pressure,
            cell=settings.cell,
            thermostat_time=settings.thermostat_time,
            barostat_time=settings.barostat_time,
            degrees_of_freedom=self.degrees,
            rng=self.rng,
        )
        if isinstance(self.integrator, EngineIntegrator):
            self.record["engine"] |= self.integrator.describe()
        self.blocks = Blocks(settings, shadow=self.recorder.shadow, longest=longest_block(self.integrator))
        self.guards = Guards(
            temperature=max(settings.temperature, self._temperature()),
            degrees_of_freedom=self.degrees,
            n_atoms=len(self.atoms),
            max_temperature=settings.max_temperature,
            closest=settings.closest_contact,
        )

    def go(self, *, progress: bool, stop: Callable[[], bool]) -> MDResult:
        """The loop over steps."""
        status, settings = "completed", self.settings
        self.began = time.perf_counter()
        title = f"{settings.ensemble} {self.atoms.get_chemical_formula()}"
        with ProgressBar(title, total=settings.steps, start=self.step, shown=progress) as bar:
            while self.step < settings.steps:
                if stop():
                    status = "interrupted"
                    break
                good, steps = self.step, self.blocks.steps(self.step)
                try:
                    self._advance(steps)
                except (SimulationError, InvalidStructureError) as error:
                    self.step = good
                    where = f"step {good + 1}" if steps == 1 else f"steps {good + 1} to {good + steps}"
                    message = f"stopped at {where}: {error}{self._last_frame()}"
                    self._finish("stopped", message)
                    raise SimulationError(message) from error
                bar.update(self.step, self._state)
            bar.update(self.step, self._state, last=True)
        self._checkpoint()
        return self._finish(status, f"{self.step} of {settings.steps} steps done")

    def _advance(self, steps: int) -> None:
        with self.blocks.timed(steps):
            advance(self.integrator, steps)
        self.step += steps
        self._guard(steps)  # before the row that waits: its shadow energy takes these forces
        self.recorder.step(self.atoms.get_forces(), self.atoms.get_masses())
        if self.step % self.settings.interval == 0:
            self.recorder.sample(self.atoms, self._row())
        if self.step % self.settings.checkpoint_interval == 0:
            self._checkpoint()

    def _guard(self, steps: int = 1) -> None:
        conserved = conserved_energy(self.integrator)
        if self.settings.ensemble == "nve":
            conserved = self.atoms.get_total_energy()
        self.guards.check(self.atoms, temperature=self._temperature(), conserved=conserved, steps=steps)

    def _temperature(self) -> float:
        return kinetic_temperature(self.atoms, self.degrees)

    def _state(self) -> str:
        return f"{self._temperature():.0f} K  {self.atoms.get_potential_energy() / len(self.atoms):.3f} eV/atom"

    def _row(self) -> Row:
        """The values of `COLUMNS` now."""
        atoms = self.atoms
        pressure = volume = None
        if atoms.pbc.all():
            stress = atoms.get_stress(voigt=False, include_ideal_gas=True)
            pressure, volume = float(-np.trace(stress) / 3 / units.GPa), float(atoms.get_volume())
        return [
            self.step,
            self.step * self.timestep / 1000,
            float(atoms.get_potential_energy()),
            float(atoms.get_kinetic_energy()),
            self._temperature(),
            conserved_energy(self.integrator),
            pressure,
            volume,
        ]

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.began

    def _checkpoint(self) -> None:
        if self.outputs is None:
            return
        restart = Restart(
            step=self.step,
            numbers=self.atoms.numbers,
            positions=self.atoms.positions,
            momenta=self.atoms.get_momenta(),
            cell=self.atoms.cell.array,
            forces_before=self.recorder.forces_before,
            integrator=get_state(self.integrator),
            random=dict(self.rng.bit_generator.state),
            files=self.recorder.states(),
            record={**self.record, "degrees_of_freedom": self.degrees, "seconds": self._seconds()},
        )
        self.outputs.write(_RESTART, restart.write)

    def _last_frame(self) -> str:
        path = self.recorder.frame_path()
        step = self.step - self.step % self.settings.interval
        return "" if path is None else f"; the last good frame, of step {step}, is the last in {path}"

    def _finish(self, status: str, reason: str) -> MDResult:
        # The restart file was written before: a resumed run then completes a row that waits instead of
        # doubling it.
        table = self.recorder.finish()
        seconds = time.perf_counter() - self.began
        summary: dict[str, Any] = {
            "schema": "hydrapot md",
            "schema_version": SCHEMA_VERSION,
            "status": status,
            "reason": reason,
            "versions": record.versions(),
            **self.record,
            "notices": self.notices,
            "results": {
                "steps": self.step,
                "degrees_of_freedom": self.degrees,
                **results(table, n_atoms=len(self.atoms), ensemble=self.settings.ensemble),
                "seconds": self._seconds(),
                "steps_per_second": (self.step - self.first) / seconds,
            },
        }
        if self.outputs is not None:
            suffixes = {"frames": self.recorder.frame_suffix, "table": ".csv", "restart": _RESTART, "plot": ".png"}
            summary["files"] = {name: self.outputs.path(suffix).name for name, suffix in suffixes.items()}
            picture = plot(table, heading=self._heading(), n_atoms=len(self.atoms), settings=self.settings)
            self.outputs.write(".png", picture.save)
            self.outputs.write_json(".json", summary)
        return MDResult(status, summary, table)

    def _heading(self) -> str:
        settings = self.settings
        parts = [self.atoms.get_chemical_formula(), f"{settings.ensemble} {settings.temperature:g} K"]
        if settings.ensemble == "npt":
            parts.append(f"{settings.pressure:g} GPa")
        parts.append(f"{self.timestep:g} fs")
        if "head" in self.record["model"]:
            parts.append(f"head {self.record['model']['head']}")
        return ", ".join(parts)


def _check(atoms: Atoms, settings: MDSettings) -> None:
    if atoms.calc is None:
        raise ConfigurationError("the structure has no calculator: set atoms.calc")
    if len(atoms) == 0:
        raise InvalidStructureError("a structure without atoms")
    if settings.ensemble == "npt" and not atoms.pbc.all():
        raise InvalidStructureError(
            f"npt needs a cell that is periodic in all three directions; this one has pbc {atoms.pbc.tolist()}"
        )
    if settings.ensemble != "nve" and settings.temperature == 0:
        raise ConfigurationError(f"{settings.ensemble} needs a temperature above 0 K")
    if settings.velocities == "file" and not atoms.has("momenta"):
        raise ConfigurationError("velocities of the file were asked for, but it holds none")


def _find_restart(outputs: Outputs) -> Restart | None:
    path = outputs.path(_RESTART)
    if path.exists():
        return Restart.read(path)
    others = [other for other in map(outputs.path, outputs.suffixes) if other.exists()]
    if others:
        raise ConfigurationError(f"{others[0]} exists but {path} does not: start anew with --overwrite")
    logger.info("nothing to resume at %s: starting", outputs.prefix)
    return None


def _check_same(restart: Restart, atoms: Atoms, now: dict[str, Any]) -> None:
    """Raise unless the run that is resumed is the one that was begun."""
    if not np.array_equal(restart.numbers, atoms.numbers):
        raise ConfigurationError("the run to resume is of another structure: give the one that it was begun with")
    begun, engine = (record["model"].get("engine", "ase") for record in (restart.record, now))
    if begun != engine:
        raise ConfigurationError(
            f"the run to resume was begun with the engine {begun}, now it is {engine}: ask for --engine {begun}"
        )
    for part in ("settings", "model", "system"):
        then, current = restart.record[part], json.loads(json.dumps(now[part]))
        for name in sorted({*then, *current} - FREE_SETTINGS):
            if then.get(name) != current.get(name):
                raise ConfigurationError(
                    f"the run to resume was begun with {name} {then.get(name)!r}, now it is {current.get(name)!r}: "
                    "resume with the same, or start anew"
                )
