"""`hydrapot md --engine lammps` takes the compiled pair style where it is built, and gives what ASE gives."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential.checkpoint import save
from hydrapot.workflows import MDSettings, md
from hydrapot.workflows.appending import read_table
from tests.engine_helpers import CRYSTALS, small_potential
from tests.mpi_helpers import MPIEXEC, ROOT
from tests.pair_style_helpers import needs_pair_style, plugin

pytestmark = [needs_pair_style, pytest.mark.filterwarnings("ignore:head 'crystals' was trained on structures")]

SCRIPT = """
import logging, sys
from ase.io import read
from hydrapot.calculators import HydrapotCalculator
from hydrapot.workflows import MDSettings
from hydrapot.workflows.mdlammps import md_with_lammps
logging.basicConfig(level=logging.INFO, format="%(message)s")
folder, model, head = sys.argv[1:]
atoms = read(f"{folder}/start.traj")
atoms.calc = HydrapotCalculator(model, head=head, dtype="float64")
settings = MDSettings(ensemble="npt", steps=10, interval=5, cell="full")
md_with_lammps(atoms, settings, model=model, output=f"{folder}/half", frames="traj")
atoms = read(f"{folder}/start.traj")
atoms.calc = HydrapotCalculator(model, head=head, dtype="float64")
settings = MDSettings(ensemble="nve", steps=20, interval=5)
md_with_lammps(atoms, settings, model=model, output=f"{folder}/out", frames="traj")
"""


AUTO = """
import logging, sys
from ase.constraints import FixAtoms
from ase.io import read
from hydrapot.calculators import HydrapotCalculator
from hydrapot.workflows import MDSettings, md
from hydrapot.workflows.engines import open_engine
logging.basicConfig(level=logging.INFO, format="%(message)s")
folder, model, head = sys.argv[1:4]
settings = MDSettings(steps=4)
for case in sys.argv[4].split(","):
    with open_engine("auto", model=model) as provider:
        if not provider.first:
            continue
        atoms = read(f"{folder}/start.traj")
        atoms.calc = HydrapotCalculator(model, head=head, backend="torch" if case == "torch" else "auto")
        atoms.set_constraint(FixAtoms([0]) if case == "fixed" else None)
        found = md(atoms, settings, engine=provider.engine(atoms, settings)).summary
        print(case, found["engine"]["name"], found["engine"].get("forces"))
"""


def home(tmp_path: Path, factory: pytest.TempPathFactory, *, built: bool) -> dict[str, str]:
    """Environment of a user who has built the pair style, or not."""
    inherited = {name: value for name, value in os.environ.items() if name != "LAMMPS_PLUGIN_PATH"}
    environment = {**inherited, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    where = [sys.executable, "-c", "from hydrapot.lammps_plugin.folders import *; print(lammps_plugins())"]
    folder = Path(subprocess.run(where, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    assert folder.is_relative_to(tmp_path)
    if built:
        folder.mkdir(parents=True)
        shutil.copy(plugin(factory), folder)
    return environment


def started(processes: int, script: str, *arguments: str | Path) -> list[str]:
    launcher = [] if processes == 1 else [str(MPIEXEC), "-n", str(processes)]
    return [*launcher, sys.executable, "-c", script, *map(str, arguments)]


@pytest.mark.parametrize(("built", "processes"), [(True, 1), (False, 1), (True, 2), (False, 2)])
def test_auto_takes_the_pair_style_for_runs_that_it_can_do(built, processes, tmp_path_factory, tmp_path):
    model = tmp_path / "small.safetensors"
    save(small_potential(), model)
    write(tmp_path / "start.traj", bulk("Cu", cubic=True) * (2, 2, 2))
    environment = home(tmp_path, tmp_path_factory, built=built)
    command = started(
        processes, AUTO, tmp_path, model, CRYSTALS, "plain,fixed,torch" if processes == 1 else "plain,fixed"
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    says = done.stderr
    if not built and processes == 2:  # ASE would run twice, into the same files
        assert done.returncode != 0
        assert "the pair style is not built (hydrapot lammps build), and the engine ase runs on one process" in says
        return
    if processes == 1:
        assert done.returncode == 0, says[-3000:]
        kinds = ["lammps pair style" if built else "ase None", "ase None", "ase None"]
        assert done.stdout.splitlines() == [f"{a} {b}" for a, b in zip(("plain", "fixed", "torch"), kinds, strict=True)]
        lines = [line for line in says.splitlines() if line.startswith("engine ")]
        reasons = ("pair style is built", "constraints", "by torch") if built else 3 * ("pair style is not built",)
        assert all(reason in line for reason, line in zip(reasons, lines, strict=True))
        return
    assert done.returncode != 0  # constraints need ASE
    assert done.stdout.splitlines() == ["plain lammps pair style"]
    assert "the engine ase runs on one process, not on 2" in says


@pytest.mark.parametrize("built", [True, False])
def test_trajectories_are_those_of_ase_by_either_way(built, tmp_path_factory, tmp_path):
    model = tmp_path / "small.safetensors"
    save(small_potential(), model)
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    atoms.rotate(25, (1, 2, 3), rotate_cell=True)
    write(tmp_path / "start.traj", atoms)
    environment = home(tmp_path, tmp_path_factory, built=built)
    command = started(2, SCRIPT, tmp_path, model, CRYSTALS)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("compiled pair style" in done.stderr) == built
    record = json.loads((tmp_path / "out.json").read_text())["engine"]
    assert (record["name"], record["processes"]) == ("lammps", 2)
    assert record["forces"] == ("pair style" if built else "fix external")

    atoms.calc = HydrapotCalculator(model, head=CRYSTALS, dtype="float64")
    result = md(atoms, MDSettings(ensemble="nve", steps=20, interval=5))
    found = read(tmp_path / "out.traj@-1")
    np.testing.assert_allclose(found.positions, atoms.positions, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.get_stress(), atoms.get_stress(), rtol=1e-5, atol=1e-8)
    table = read_table(tmp_path / "out.csv")
    for column, values in result.table.items():
        np.testing.assert_allclose(table[column], values, rtol=1e-6, atol=1e-6, err_msg=column)
    assert len(read(tmp_path / "half.traj@:")) == 3
