"""Relaxation of positions and, if wanted, of the cell to a minimum of energy or enthalpy."""

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms, units
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import BFGS, FIRE, LBFGS
from numpy.typing import NDArray

from hydrapot.potential.errors import ConfigurationError, InvalidStructureError, SimulationError
from hydrapot.workflows import record
from hydrapot.workflows.appending import FrameFile
from hydrapot.workflows.outputs import Outputs
from hydrapot.workflows.plots import Curve, Panel, Plot
from hydrapot.workflows.progress import ProgressBar
from hydrapot.workflows.threads import single_threaded_algebra

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
OptimizerName = Literal["FIRE", "LBFGS", "BFGS"]
CellName = Literal["none", "isotropic", "full", "shape"]
_OPTIMIZERS = {"FIRE": FIRE, "LBFGS": LBFGS, "BFGS": BFGS}
#: Strains that a filter lets through.
_FILTERS: dict[str, dict[str, bool]] = {
    "isotropic": {"hydrostatic_strain": True},
    "full": {},
    "shape": {"constant_volume": True},
}
#: How much the energy of an atom may rise above where it began before the relaxation is called off, eV.
_RISE = 50.0


@dataclass(frozen=True)
class RelaxResult:
    """Outcome of a relaxation.

    Attributes
    ----------
    converged
        Whether forces, and the stress of a relaxed cell, are below their limits.
    status
        ``"converged"``, ``"not converged"`` (out of steps) or ``"interrupted"``.
    summary
        What ``PREFIX.json`` holds.
    energies, max_forces, max_stresses
        ``(steps + 1,)`` eV, eV/Å and GPa along the way; stress is NaN where the cell is not relaxed.
    """

    converged: bool
    status: str
    summary: dict[str, Any]
    energies: NDArray[np.float64]
    max_forces: NDArray[np.float64]
    max_stresses: NDArray[np.float64]


def relax(
    atoms: Atoms,
    *,
    fmax: float = 0.01,
    max_steps: int = 500,
    optimizer: OptimizerName = "FIRE",
    cell: CellName = "none",
    pressure: float = 0.0,
    smax: float = 0.05,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = False,
    stop: Callable[[], bool] | None = None,
) -> RelaxResult:
    """Relax `atoms`, which carry a calculator, in place.

    Parameters
    ----------
    fmax
        eV/Å; converged when no force on an atom is longer.
    max_steps
        Steps of the optimizer after which it gives up.
    optimizer
        FIRE is robust far from a minimum, LBFGS and BFGS are faster near one.
    cell
        ``"none"``; ``"isotropic"`` (volume), ``"full"`` (lengths and angles) or ``"shape"`` (at constant
        volume).
    pressure
        GPa, that a relaxed cell is held at.
    smax
        GPa; a relaxed cell has converged when no component of what is left of the stress is larger.
    output
        Beginning of the names of the output files: ``.traj`` (every step), ``.extxyz`` (the final structure),
        ``.json`` and ``.png``. None writes nothing.
    overwrite
        Replace files of an earlier run.
    resume
        Go on from the last structure in ``.traj``. The optimizer begins afresh, so the way differs, the
        minimum not.
    progress
        Show a progress bar on standard error.
    stop
        Asked before every step; true ends the run.

    Raises
    ------
    SimulationError
        The energy is not finite or rises without bound. Everything up to there is in the ``.traj`` file.
    ConfigurationError, InvalidStructureError, UnknownElementError, UnsupportedChargeError
        Before anything is written.
    """
    _check(atoms, fmax=fmax, smax=smax, max_steps=max_steps, optimizer=optimizer, cell=cell, pressure=pressure)
    outputs = None
    if output is not None:
        suffixes = (".traj", ".extxyz", ".json", ".png")
        outputs = Outputs(output, suffixes, overwrite=overwrite, resume=resume)
        resume = resume and _take_last_frame(atoms, outputs.path(".traj"))
    settings = {
        "fmax": fmax,
        "max_steps": max_steps,
        "optimizer": optimizer,
        "cell": cell,
        "pressure": pressure,
        "smax": smax,
    }
    with single_threaded_algebra():
        run = _Run(atoms, settings, outputs=outputs, resumed=resume)
        try:
            return run.go(progress=progress, stop=stop or (lambda: False))
        finally:
            if run.frames is not None:
                run.frames.close()


class _Run:
    """A relaxation in progress."""

    def __init__(self, atoms: Atoms, settings: dict[str, Any], *, outputs: Outputs | None, resumed: bool) -> None:
        self.atoms = atoms
        self.settings = settings
        self.relaxes_cell = settings["cell"] != "none"
        self.pressure = settings["pressure"] * units.GPa
        self.notices = record.announce(atoms, needs_stress=self.relaxes_cell)
        self.record = {"model": record.model_record(atoms), "system": record.system_record(atoms)}
        self.steps = 0
        self.history: list[tuple[float, float, float]] = []
        self.outputs = outputs
        self.frames: FrameFile | None = None
        self.target: Any = atoms
        if self.relaxes_cell:
            strains = _FILTERS[settings["cell"]]
            self.target = FrechetCellFilter(atoms, scalar_pressure=self.pressure, **strains)
        self.observe()  # whatever is wrong with the structure raises here, before a file is touched
        if outputs is not None:
            if not resumed:
                outputs.clear()
            self.frames = FrameFile(outputs.path(".traj"))
            if not resumed:
                self.frames.append(atoms)

    def observe(self) -> None:
        """Energy, largest force and largest stress now."""
        energy = float(self.atoms.get_potential_energy())
        forces = self.atoms.get_forces()
        largest = float(np.linalg.norm(forces, axis=1).max())
        self.history.append((energy, largest, self.largest_stress()))

    def largest_stress(self) -> float:
        """Largest component, in GPa, of the stress that the relaxed part of the cell still feels."""
        if not self.relaxes_cell:
            return np.nan
        stress = self.atoms.get_stress(voigt=False) + self.pressure * np.eye(3)
        mean = np.trace(stress) / 3
        if self.settings["cell"] == "isotropic":
            stress = mean * np.eye(3)
        elif self.settings["cell"] == "shape":
            stress -= mean * np.eye(3)
        return float(np.abs(stress).max() / units.GPa)

    def converged(self) -> bool:
        """Whether the latest state is a minimum within the limits."""
        _, force, stress = self.history[-1]
        return force <= self.settings["fmax"] and not stress > self.settings["smax"]

    def go(self, *, progress: bool, stop: Callable[[], bool]) -> RelaxResult:
        """Step until converged."""
        began = time.perf_counter()
        optimizer = _OPTIMIZERS[self.settings["optimizer"]](self.target, logfile=None)
        interrupted = False
        with (
            warnings.catch_warnings(),
            ProgressBar("relaxing", total=self.settings["max_steps"], shown=progress, bar=False) as bar,
        ):
            # The filter takes logarithms of strains close to 1; scipy doubts the thirteenth digit.
            warnings.filterwarnings("ignore", message="logm result may be inaccurate", category=RuntimeWarning)
            while not self.converged() and self.steps < self.settings["max_steps"]:
                if stop():
                    interrupted = True
                    break
                try:
                    optimizer.step()
                    self.observe()
                    self._guard()
                except (SimulationError, InvalidStructureError) as error:
                    message = f"stopped at step {self.steps + 1}: {error}"
                    if self.outputs is not None:
                        message += f"; the last good structure is the last in {self.outputs.path('.traj')}"
                    raise SimulationError(message) from error
                self.steps += 1
                optimizer.nsteps += 1
                if self.frames is not None:
                    self.frames.append(self.atoms)
                bar.update(self.steps, self._state)
            bar.update(self.steps, self._state, last=True)
        converged = self.converged()
        status = "converged" if converged else "interrupted" if interrupted else "not converged"
        return self._finish(status, seconds=time.perf_counter() - began)

    def _guard(self) -> None:
        start, now = self.history[0][0], self.history[-1][0]
        if now - start > _RISE * len(self.atoms):
            raise SimulationError(
                f"the energy rose by {(now - start) / len(self.atoms):.0f} eV/atom: the structure fell apart"
            )

    def _state(self) -> str:
        energy, force, stress = self.history[-1]
        cell = "" if np.isnan(stress) else f"  σ {stress:.3f} GPa"
        return f"{energy / len(self.atoms):.4f} eV/atom  F {force:.4f} eV/Å{cell}"

    def _finish(self, status: str, *, seconds: float) -> RelaxResult:
        energies, forces, stresses = np.array(self.history).T
        summary: dict[str, Any] = {
            "schema": "hydrapot relax",
            "schema_version": SCHEMA_VERSION,
            "status": status,
            "versions": record.versions(),
            "settings": self.settings,
            **self.record,
            "notices": self.notices,
            "results": {
                "steps": self.steps,
                "energy_start_ev": float(energies[0]),
                "energy_ev": float(energies[-1]),
                "max_force_ev_per_a": float(forces[-1]),
                "max_residual_stress_gpa": float(stresses[-1]),
                "cell_a": self.atoms.cell.array.tolist(),
                "volume_a3": float(self.atoms.get_volume()) if self.atoms.pbc.all() else None,
                "seconds": seconds,
                "steps_per_second": self.steps / seconds,
            },
        }
        if self.outputs is not None:
            suffixes = {"frames": ".traj", "structure": ".extxyz", "plot": ".png"}
            summary["files"] = {name: self.outputs.path(suffix).name for name, suffix in suffixes.items()}
            self.outputs.write(".extxyz", lambda path: write(path, self.atoms, format="extxyz"))
            self.outputs.write(".png", self._plot(energies, forces, stresses).save)
            self.outputs.write_json(".json", summary)
        return RelaxResult(status == "converged", status, summary, energies, forces, stresses)

    def _plot(self, energies: NDArray[np.float64], forces: NDArray[np.float64], stresses: NDArray[np.float64]) -> Plot:
        change = 1000 * (energies - energies[-1]) / len(self.atoms)
        panels = [
            Panel("E − E_final (meV/atom)", [Curve(change)]),
            Panel("largest force (eV/Å)", [Curve(forces)], target=self.settings["fmax"], log=True),
        ]
        if self.relaxes_cell:
            panels.append(Panel("largest stress (GPa)", [Curve(stresses)], target=self.settings["smax"], log=True))
        model = self.record["model"]
        head = f", head {model['head']}" if "head" in model else ""
        heading = f"{self.atoms.get_chemical_formula()}, {self.settings['optimizer']}{head}"
        return Plot(heading, np.arange(len(energies), dtype=np.float64), "step", panels)


def _check(
    atoms: Atoms, *, fmax: float, smax: float, max_steps: int, optimizer: str, cell: str, pressure: float
) -> None:
    if atoms.calc is None:
        raise ConfigurationError("the structure has no calculator: set atoms.calc")
    if len(atoms) == 0:
        raise InvalidStructureError("a structure without atoms")
    if optimizer not in get_args(OptimizerName):
        raise ConfigurationError(f"optimizer {optimizer!r} is not known: {', '.join(get_args(OptimizerName))}")
    if cell not in get_args(CellName):
        raise ConfigurationError(f"cell {cell!r} is not known: {', '.join(get_args(CellName))}")
    for name, value in (("fmax", fmax), ("smax", smax)):
        if not value > 0:
            raise ConfigurationError(f"{name} must be above zero, not {value}")
    if max_steps < 0:
        raise ConfigurationError(f"max_steps must not be negative, it is {max_steps}")
    if not np.isfinite(pressure):
        raise ConfigurationError(f"pressure must be a number, not {pressure}")
    if pressure and cell not in {"isotropic", "full"}:
        raise ConfigurationError("a pressure needs a cell that can follow it: relax the cell isotropic or full")
    if cell != "none" and not atoms.pbc.all():
        raise InvalidStructureError(
            f"only a cell that is periodic in all three directions can be relaxed; this one has pbc {atoms.pbc.tolist()}"
        )


def _take_last_frame(atoms: Atoms, path: Path) -> bool:
    """Set `atoms` to the last structure of an earlier run; false if there is none."""
    if not path.exists() or path.stat().st_size == 0:
        logger.info("nothing to resume at %s: starting", path)
        return False
    try:
        last = read(path, index=-1)
    except Exception as error:
        raise ConfigurationError(
            f"{path} cannot be read ({type(error).__name__}): start anew with --overwrite"
        ) from error
    if not (isinstance(last, Atoms) and np.array_equal(last.numbers, atoms.numbers)):
        raise ConfigurationError(f"{path} is of another structure: give the one that the run was begun with")
    atoms.set_cell(last.cell)
    atoms.positions[:] = last.positions
    return True
