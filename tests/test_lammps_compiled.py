"""`hydrapot md --engine lammps` takes the compiled pair style where it is built, and gives what ASE gives."""

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


@pytest.mark.parametrize("built", [True, False])
def test_trajectories_are_those_of_ase_by_either_way(built, tmp_path_factory, tmp_path):
    model = tmp_path / "small.safetensors"
    save(small_potential(), model)
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    atoms.rotate(25, (1, 2, 3), rotate_cell=True)
    write(tmp_path / "start.traj", atoms)
    inherited = {name: value for name, value in os.environ.items() if name != "LAMMPS_PLUGIN_PATH"}
    environment = {**inherited, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    where = [sys.executable, "-c", "from hydrapot.lammps_plugin.folders import *; print(lammps_plugins())"]
    folder = Path(subprocess.run(where, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    assert folder.is_relative_to(tmp_path)
    if built:
        folder.mkdir(parents=True)
        shutil.copy(plugin(tmp_path_factory), folder)
    command = [str(MPIEXEC), "-n", "2", sys.executable, "-c", SCRIPT, str(tmp_path), str(model), CRYSTALS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("compiled pair style" in done.stderr) == built

    atoms.calc = HydrapotCalculator(model, head=CRYSTALS, dtype="float64")
    result = md(atoms, MDSettings(ensemble="nve", steps=20, interval=5))
    found = read(tmp_path / "out.traj@-1")
    np.testing.assert_allclose(found.positions, atoms.positions, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.get_stress(), atoms.get_stress(), rtol=1e-5, atol=1e-8)
    table = read_table(tmp_path / "out.csv")
    for column, values in result.table.items():
        np.testing.assert_allclose(table[column], values, rtol=1e-6, atol=1e-6, err_msg=column)
    assert len(read(tmp_path / "half.traj@:")) == 3
