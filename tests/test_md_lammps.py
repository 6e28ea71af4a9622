"""`hydrapot md --engine lammps`: the same trajectory, files and guards as with ASE, on one and two processes."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.io import read, write

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential.checkpoint import save
from hydrapot.workflows import MDSettings, md
from hydrapot.workflows.appending import read_table
from tests.engine_helpers import CRYSTALS, MOLECULES, small_potential
from tests.mpi_helpers import mpi, needs_lammps, python

pytestmark = [needs_lammps, pytest.mark.filterwarnings("ignore:head 'crystals' was trained on structures")]

CLI = python("-c", "from hydrapot.cli.main import app_main; app_main()")


def turned(atoms: Atoms) -> Atoms:
    """Oriented as no engine likes it, isotopes included."""
    atoms.rattle(0.05, seed=1)
    atoms.rotate(25, (1, 2, 3), rotate_cell=True)
    masses = atoms.get_masses()
    masses[0] += 1.0
    atoms.set_masses(masses)
    return atoms


def wire() -> Atoms:
    atoms = bulk("Cu", cubic=True) * (1, 1, 3)
    atoms.pbc = (False, False, True)
    return atoms


def slab() -> Atoms:
    atoms = fcc111("Cu", (2, 2, 3), a=3.7)  # its third cell vector is zero
    atoms.set_cell(atoms.cell[[2, 1, 0]])  # and comes first
    atoms.pbc = (False, True, True)
    return atoms


def cluster() -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.symbols[::3] = "Ag"
    atoms.pbc = False
    atoms.cell[:] = 0.0
    return atoms


STRUCTURES = {
    "crystal": lambda: bulk("Cu", cubic=True) * (2, 2, 2),
    "skewed, left-handed": lambda: (bulk("Cu") * (2, 2, 2))[::-1],
    "slab": slab,
    "wire": wire,
    "cluster": cluster,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save(small_potential(), path)
    return path


def arguments(model: Path, structure: Path, *, ensemble: str, steps: int, output: Path, more=()) -> list[str]:
    return [
        *CLI, "md", str(model), str(structure), "-H", CRYSTALS, "-e", ensemble, "-n", str(steps), "-o", str(output),
        "--engine", "lammps", "--dtype", "float64", "--interval", "5", "--frames", "extxyz", "--cell", "full", *more,
    ]  # fmt: skip


def same_run(model: Path, atoms: Atoms, ensemble: str, steps: int):
    """By ASE's integrators."""
    atoms = atoms.copy()
    atoms.calc = HydrapotCalculator(model, head=CRYSTALS, dtype="float64")
    return md(atoms, MDSettings(ensemble=ensemble, steps=steps, interval=5, cell="full")), atoms


def test_trajectories_of_all_kinds_of_structures_are_those_of_ase(model, tmp_path):
    from hydrapot.workflows.mdlammps import md_with_lammps

    script = tmp_path / "all.py"
    for number, (name, make) in enumerate(STRUCTURES.items()):
        atoms = turned(make())
        if "left-handed" in name:
            atoms.set_cell(atoms.cell[[1, 0, 2]])
        write(tmp_path / f"{number}.traj", atoms)
    script.write_text(
        "import sys\n"
        "from ase.io import read\n"
        "from hydrapot.calculators import HydrapotCalculator\n"
        f"from hydrapot.workflows import MDSettings\nfrom hydrapot.workflows.mdlammps import {md_with_lammps.__name__}\n"
        "folder, model = sys.argv[1:]\n"
        f"for number in range({len(STRUCTURES)}):\n"
        "    atoms = read(f'{folder}/{number}.traj')\n"
        f"    atoms.calc = HydrapotCalculator(model, head='{CRYSTALS}', dtype='float64')\n"
        "    settings = MDSettings(ensemble='nve', steps=20, interval=5)\n"
        "    md_with_lammps(atoms, settings, model=model, output=f'{folder}/out{number}', frames='traj')\n"
    )
    mpi(2, python(script, tmp_path, model), cwd=tmp_path)
    for number in range(len(STRUCTURES)):
        result, last = same_run(model, read(tmp_path / f"{number}.traj@0").copy(), "nve", 20)
        found = read(tmp_path / f"out{number}.traj@-1")
        # ASE and LAMMPS have constants of their own: 1e-9 relative differences grow with the number of steps.
        np.testing.assert_allclose(found.positions, last.positions, rtol=0, atol=1e-7)
        np.testing.assert_allclose(found.cell.array, last.cell.array, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.get_forces(), last.get_forces(), rtol=0, atol=1e-6)
        if last.pbc.all():
            np.testing.assert_allclose(found.get_stress(), last.get_stress(), rtol=1e-5, atol=1e-8)
        table = read_table(tmp_path / f"out{number}.csv")
        for column, values in result.table.items():
            np.testing.assert_allclose(table[column], values, rtol=1e-6, atol=1e-6, err_msg=column)


def test_thermostats_and_barostats_and_resumed_runs(model, tmp_path):
    write(tmp_path / "start.traj", turned(bulk("Cu", cubic=True) * (2, 2, 2)))
    ensembles = ("npt", "nose-hoover", "langevin")
    script = tmp_path / "all.py"
    script.write_text(
        "import sys\n"
        "from ase.io import read\n"
        "from hydrapot.calculators import HydrapotCalculator\n"
        "from hydrapot.workflows import MDSettings\n"
        "from hydrapot.workflows.mdlammps import md_with_lammps\n"
        "folder, model = sys.argv[1:]\n"
        "def run(name, ensemble, steps, **more):\n"
        "    atoms = read(f'{folder}/start.traj')\n"
        f"    atoms.calc = HydrapotCalculator(model, head='{CRYSTALS}', dtype='float64')\n"
        "    settings = MDSettings(ensemble=ensemble, steps=steps, interval=5, cell='full')\n"
        "    md_with_lammps(atoms, settings, model=model, output=f'{folder}/{name}', frames='extxyz', **more)\n"
        f"for ensemble in {ensembles}:\n"
        "    run(ensemble, ensemble, 20)\n"
        "    run(ensemble + '-parts', ensemble, 10)\n"
        "    run(ensemble + '-parts', ensemble, 20, resume=True)\n"
    )
    mpi(2, python(script, tmp_path, model), cwd=tmp_path)
    for ensemble in ensembles:
        whole, parts = (read_table(tmp_path / f"{ensemble}{suffix}.csv") for suffix in ("", "-parts"))
        np.testing.assert_array_equal(parts["step"], [0, 5, 10, 15, 20])
        assert len(read(tmp_path / f"{ensemble}-parts.extxyz@:")) == 5
        assert json.loads((tmp_path / f"{ensemble}.json").read_text())["model"]["engine"] == "lammps"
        if ensemble == "langevin":  # whose noise is drawn anew
            continue
        for column in ("potential_ev", "temperature_k", "volume_a3", "pressure_gpa"):
            np.testing.assert_allclose(parts[column], whole[column], rtol=1e-6, atol=1e-7, err_msg=column)
        assert np.ptp(whole["conserved_ev"]) < 1e-3 < np.ptp(whole["potential_ev"])
        np.testing.assert_allclose(parts["conserved_ev"], whole["conserved_ev"], rtol=0, atol=1e-4)
        assert (np.ptp(whole["volume_a3"]) > 0.1) == (ensemble == "npt")


def test_restart_files_do_not_disturb_a_run(model, tmp_path):
    """LAMMPS moves atoms between processes when it writes one; lists and ghosts of the run that goes on must follow."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.positions[:, 0] += 0.01  # planes of atoms right at the borders of processes and of the cell
    write(tmp_path / "start.traj", atoms)
    script = tmp_path / "one.py"
    script.write_text(
        "import sys\n"
        "from ase.io import read\n"
        "from hydrapot.calculators import HydrapotCalculator\n"
        "from hydrapot.workflows import MDSettings\n"
        "from hydrapot.workflows.mdlammps import md_with_lammps\n"
        "folder, model = sys.argv[1:]\n"
        "atoms = read(f'{folder}/start.traj')\n"
        f"atoms.calc = HydrapotCalculator(model, head='{CRYSTALS}', dtype='float64')\n"
        "settings = MDSettings(ensemble='nve', steps=40, interval=5, checkpoint_interval=3, temperature=900)\n"
        "md_with_lammps(atoms, settings, model=model, output=f'{folder}/out')\n"
    )
    mpi(2, python(script, tmp_path, model), cwd=tmp_path)
    atoms.calc = HydrapotCalculator(model, head=CRYSTALS, dtype="float64")
    result = md(atoms, MDSettings(ensemble="nve", steps=40, interval=5, temperature=900))
    table = read_table(tmp_path / "out.csv")
    for column, values in result.table.items():
        np.testing.assert_allclose(table[column], values, rtol=1e-6, atol=1e-6, err_msg=column)


def test_command_line_divides_a_run_between_processes(model, tmp_path):
    write(tmp_path / "start.traj", turned(bulk("Cu", cubic=True) * (2, 2, 2)))
    done = mpi(2, arguments(model, tmp_path / "start.traj", ensemble="nve", steps=10, output=tmp_path / "run"))
    assert done.stdout.count("completed: 10 of 10 steps done") == 1  # process 0 speaks for all
    result, _ = same_run(model, read(tmp_path / "start.traj"), "nve", 10)
    table = read_table(tmp_path / "run.csv")
    for column, values in result.table.items():
        np.testing.assert_allclose(table[column], values, rtol=1e-6, atol=1e-6, err_msg=column)


def test_a_run_that_runs_away_stops_with_its_reason_and_files(model, tmp_path):
    structure = tmp_path / "hot.traj"
    write(structure, bulk("Cu", cubic=True) * (2, 2, 2))
    command = arguments(
        model, structure, ensemble="nve", steps=2000, output=tmp_path / "hot", more=["-T", "9000", "--timestep", "20"]
    )
    done = mpi(2, command, check=False)
    assert done.returncode != 0
    assert "stopped at step" in done.stderr
    summary = json.loads((tmp_path / "hot.json").read_text())
    assert summary["status"] == "stopped"


def test_errors_before_the_run_reach_the_user_once(model, tmp_path):
    structure = tmp_path / "x.traj"
    write(structure, Atoms("Xe", cell=[5, 5, 5], pbc=True))
    done = mpi(2, arguments(model, structure, ensemble="nve", steps=1, output=tmp_path / "x"), check=False)
    assert done.returncode != 0
    assert done.stderr.count("was not trained on element Xe") == 1


def test_a_charged_periodic_cell_is_refused_as_by_ase(model, tmp_path):
    """The head knows the charge, LAMMPS knows no reason to refuse it, and the energy has no meaning."""
    structure = tmp_path / "x.traj"
    write(structure, Atoms("H2", [(0, 0, 0), (0.8, 0, 0)], cell=[6, 6, 6], pbc=True))
    more = ["-H", MOLECULES, "--charge", "1", "--spin", "2"]
    for engine in ("lammps", "ase"):
        command = arguments(model, structure, ensemble="nve", steps=1, output=tmp_path / "run", more=more)
        done = mpi(1, [*command, "--engine", engine], check=False)
        assert done.returncode != 0
        assert "charge +1 in a periodic cell has no defined energy" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.traj"]


def test_threads_of_torch_are_what_they_were_when_lammps_has_ended(model, tmp_path):
    script = tmp_path / "threads.py"
    script.write_text(
        "import sys\n"
        "import torch\n"
        "from hydrapot.lammps_plugin.external import import_lammps\n"
        "import_lammps()\n"
        "from mpi4py import MPI\n"
        "from hydrapot.lammps_plugin.session import Session\n"
        "from hydrapot.lammps_plugin.settings import Settings\n"
        "torch.set_num_threads(2)\n"
        f"settings = Settings(model=sys.argv[1], heads={{'{CRYSTALS}': 1.0}}, elements=('Cu',))\n"
        "session = Session(MPI.COMM_WORLD, settings, threads=1)\n"
        "assert torch.get_num_threads() == 1\n"
        "session.close()\n"
        "assert torch.get_num_threads() == 2\n"
    )
    mpi(1, python(script, model), cwd=tmp_path)
