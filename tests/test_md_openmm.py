"""``hydrapot md --engine openmm``: the same loop, files and guards, moved by OpenMM."""

import csv
import json

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.io import read, write
from typer.testing import CliRunner

openmm = pytest.importorskip("openmm")

from hydrapot.calculators import HydrapotCalculator  # noqa: E402
from hydrapot.cli.main import build_app  # noqa: E402
from hydrapot.potential.constants import KJ_PER_MOL  # noqa: E402
from hydrapot.potential.errors import ConfigurationError, InvalidStructureError, SimulationError  # noqa: E402
from hydrapot.workflows import MDSettings, md  # noqa: E402
from hydrapot.workflows.engines import engine_names, open_engine  # noqa: E402
from tests.openmm_helpers import COPPER, ETHANOL, ORGANIC, SHIPPED  # noqa: E402


def copper(*, head=COPPER, dtype="float64"):
    atoms = bulk("Cu") * (2, 2, 2)  # in a cell that OpenMM wants turned
    atoms.rattle(0.03, seed=2)
    atoms.calc = HydrapotCalculator(SHIPPED, head=head, dtype=dtype)
    return atoms


def ethanol():
    atoms = molecule("CH3CH2OH")
    atoms.calc = HydrapotCalculator(SHIPPED, head=ETHANOL, dtype="float64")
    return atoms


def run(atoms, engine="openmm", *, ensemble, steps, timestep=1.0, **arguments):
    settings = {"temperature": 300.0, "interval": 5, "checkpoint_interval": 10}
    files = {name: arguments.pop(name) for name in ("output", "resume", "frames", "overwrite") if name in arguments}
    chosen = MDSettings(ensemble=ensemble, steps=steps, timestep=timestep, **{**settings, **arguments})
    with open_engine(engine, model=SHIPPED) as provider:
        return md(atoms, chosen, engine=provider.engine(atoms, chosen), **files)


def test_engine_is_registered():
    assert "openmm" in engine_names()


@pytest.mark.parametrize("make", [copper, ethanol])
def test_nve_is_the_trajectory_of_ase(make):
    """Both are velocity Verlet; what remains are the digits in which ASE's constants differ from CODATA 2018."""
    tables, ends = {}, {}
    for engine in ("ase", "openmm"):
        atoms = make()
        tables[engine] = run(atoms, engine, ensemble="nve", steps=40, timestep=0.5).table
        ends[engine] = atoms
    for name, values in tables["ase"].items():
        assert tables["openmm"][name] == pytest.approx(values, rel=1e-6, abs=1e-7, nan_ok=True), name
    assert ends["openmm"].positions == pytest.approx(ends["ase"].positions, abs=1e-6)
    assert ends["openmm"].get_velocities() == pytest.approx(ends["ase"].get_velocities(), abs=1e-6)


def test_results_of_the_structure_are_those_of_a_calculator():
    """Forces and stress come back from OpenMM's frame."""
    atoms = copper()
    run(atoms, ensemble="npt", steps=30, timestep=2.0, barostat_time=80.0)
    fresh = atoms.copy()
    fresh.calc = HydrapotCalculator(SHIPPED, head=COPPER, dtype="float64")
    assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy(), rel=1e-12)
    assert atoms.get_forces() == pytest.approx(fresh.get_forces(), abs=1e-10)
    assert atoms.get_stress() == pytest.approx(fresh.get_stress(), abs=1e-12)


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "nose-hoover"])
def test_resumed_run_repeats_the_uninterrupted_one(tmp_path, ensemble):
    whole = copper()
    run(whole, ensemble=ensemble, steps=30, output=tmp_path / "whole")
    run(copper(), ensemble=ensemble, steps=20, output=tmp_path / "cut")
    second = copper()
    run(second, ensemble=ensemble, steps=30, output=tmp_path / "cut", resume=True)
    assert second.positions == pytest.approx(whole.positions, abs=1e-12)
    tables = [rows(tmp_path / f"{name}.csv") for name in ("whole", "cut")]
    assert [row["step"] for row in tables[0]] == [row["step"] for row in tables[1]] == [str(5 * k) for k in range(7)]
    for one, two in zip(*tables, strict=True):
        assert float(one["potential_ev"]) == pytest.approx(float(two["potential_ev"]), abs=1e-9)
    assert len(read(tmp_path / "cut.traj", ":")) == 7


@pytest.mark.parametrize("cell", ["isotropic", "full"])
def test_resumed_npt_run_goes_on_from_its_state(tmp_path, cell):
    """OpenMM does not store what its barostat has learned about step sizes, so what comes after differs by chance."""
    settings = {"ensemble": "npt", "cell": cell, "timestep": 2.0, "barostat_time": 240.0}
    first = copper()
    run(first, steps=20, output=tmp_path / "cut", **settings)
    second = copper()
    run(second, steps=20, output=tmp_path / "cut", resume=True, **settings)
    assert second.positions == pytest.approx(first.positions, abs=1e-12)
    assert second.cell.array == pytest.approx(first.cell.array, abs=1e-12)
    assert second.get_velocities() == pytest.approx(first.get_velocities(), abs=1e-12)
    before = second.get_volume()
    run(copper(), steps=60, output=tmp_path / "cut", resume=True, **settings)
    table = rows(tmp_path / "cut.csv")
    assert [row["step"] for row in table] == [str(5 * k) for k in range(13)]
    assert float(table[-1]["volume_a3"]) != before


def test_full_cell_changes_shape_and_isotropic_one_does_not():
    shapes = {}
    for cell in ("isotropic", "full"):
        atoms = copper(dtype="float32")
        start = atoms.cell.cellpar()
        run(atoms, ensemble="npt", cell=cell, steps=100, timestep=2.0, barostat_time=80.0)
        ratio = atoms.cell.cellpar() / start
        assert atoms.get_volume() != pytest.approx(bulk("Cu").get_volume() * 8, rel=1e-4)
        shapes[cell] = np.ptp(ratio[:3]) + np.ptp(ratio[3:])
    assert shapes["isotropic"] < 1e-9
    assert shapes["full"] > 1e-4


@pytest.mark.filterwarnings("ignore:head 'qm22_b3lyp_molecules' was trained on structures with 0 periodic")
def test_barostat_moves_molecules_of_a_pdb_file_whole(tmp_path):
    """Waters that the boundary cuts are put together first; then volume moves leave them as they are."""
    waters = Atoms(cell=np.diag([8.0, 8.5, 9.0]), pbc=True)
    for corner in np.ndindex(2, 2, 2):
        water = molecule("H2O")
        water.positions += np.array(corner) * 4.2
        waters += water
    waters.arrays["atomtypes"] = np.array(["O", "H1", "H2"] * 8)
    waters.arrays["residuenames"] = np.array(["HOH"] * 24)
    waters.arrays["residuenumbers"] = np.repeat(np.arange(1, 9), 3).astype(str)
    waters.wrap()
    waters.calc = HydrapotCalculator(SHIPPED, head=ORGANIC, dtype="float64")
    assert waters.get_all_distances()[0::3, 1::3].diagonal().max() > 5.0
    chosen = MDSettings(ensemble="npt", steps=1, timestep=0.1, temperature=300.0)
    with open_engine("openmm", model=SHIPPED) as provider:
        integrator = provider.engine(waters, chosen).integrator(
            waters,
            ensemble="npt",
            timestep=0.1,
            temperature=300.0,
            pressure=0.0,
            cell="isotropic",
            thermostat_time=100.0,
            barostat_time=1000.0,
            degrees_of_freedom=69,
            rng=np.random.default_rng(0),
        )
    assert sorted(map(tuple, integrator.context.getMolecules())) == [(k, k + 1, k + 2) for k in range(0, 24, 3)]
    assert waters.get_all_distances()[0::3, 1::3].diagonal().max() < 1.1


def test_pressure_squeezes():
    volumes = []
    for pressure in (0.0, 20.0):
        atoms = copper(dtype="float32")
        run(atoms, ensemble="npt", steps=200, timestep=2.0, barostat_time=80.0, pressure=pressure)
        volumes.append(atoms.get_volume())
    assert volumes[1] < 0.95 * volumes[0]


@pytest.mark.slow
def test_thermostat_aims_at_the_degrees_of_freedom_that_there_are():
    """OpenMM counts 3N for Nosé–Hoover; with 3N−3 free momenta the target would be missed by 14 %."""
    atoms = copper(dtype="float32")
    found = run(atoms, ensemble="nose-hoover", steps=30_000, timestep=2.0, thermostat_time=50.0)
    temperatures = found.table["temperature_k"][200:]
    assert temperatures.mean() == pytest.approx(300, abs=12)


def test_conserved_energy_of_nose_hoover_is_conserved():
    table = run(copper(), ensemble="nose-hoover", steps=400, timestep=0.5).table
    conserved, kinetic = table["conserved_ev"], table["kinetic_ev"]
    assert np.ptp(conserved) < 0.02 * np.ptp(kinetic)
    assert conserved[0] == pytest.approx(table["potential_ev"][0] + kinetic[0], abs=1e-3)


def test_record_says_what_ran(tmp_path):
    run(copper(), ensemble="npt", steps=5, output=tmp_path / "run")
    record = json.loads((tmp_path / "run.json").read_text())["engine"]
    assert record == {
        "name": "openmm",
        "version": openmm.version.version,
        "platform": "Reference",
        "integrator": "NoseHooverIntegrator",
        "barostat": "MonteCarloBarostat",
        "backend": record["backend"],
    }


def test_guard_stops_and_says_where(tmp_path):
    atoms = copper()
    with pytest.raises(SimulationError, match=r"stopped at step.*(close|temperature|not finite|conserved)"):
        run(atoms, ensemble="nve", steps=200, timestep=20.0, temperature=20_000.0, output=tmp_path / "hot")
    assert json.loads((tmp_path / "hot.json").read_text())["status"] == "stopped"


def test_what_the_model_cannot_do_has_its_own_type():
    """OpenMM would hand out its own exception with the text alone."""
    atoms = copper()
    chosen = MDSettings(ensemble="nve", steps=1, timestep=1.0)
    with open_engine("openmm", model=SHIPPED) as provider:
        integrator = provider.engine(atoms, chosen).integrator(
            atoms,
            ensemble="nve",
            timestep=1.0,
            temperature=300.0,
            pressure=0.0,
            cell="isotropic",
            thermostat_time=100.0,
            barostat_time=1000.0,
            degrees_of_freedom=21,
            rng=np.random.default_rng(0),
        )
    positions = atoms.positions * 0.1
    positions[1] = positions[0]
    integrator.context.setPositions(positions)
    with pytest.raises(InvalidStructureError, match=r"atoms? 0"):
        integrator.advance(1)
    positions[1] = np.nan
    integrator.context.setPositions(positions)
    with pytest.raises((SimulationError, InvalidStructureError), match=r"not finite|NaN"):
        integrator.advance(1)


def test_what_openmm_cannot_do_is_refused():
    slab = copper()
    slab.pbc = [True, True, False]
    with pytest.raises(InvalidStructureError, match="periodic in all directions or in none"):
        run(slab, ensemble="nve", steps=1)
    fixed = copper()
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigurationError, match="constraints"):
        run(fixed, ensemble="nve", steps=1)
    from ase.calculators.emt import EMT

    other = copper()
    other.calc = EMT()
    with pytest.raises(ConfigurationError, match="hydrapot potentials only"):
        run(other, ensemble="nve", steps=1)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(ConfigurationError, match="engine openmm runs on one process, not on 4"):
        open_engine("openmm", model=SHIPPED)


def test_command_line_runs_and_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("cu.extxyz", bulk("Cu", cubic=True))
    command = ["md", SHIPPED, "cu.extxyz", "-H", COPPER, "--engine", "openmm", "--interval", "5", "--frames", "extxyz"]
    assert CliRunner().invoke(build_app(), [*command, "-n", "10"]).exit_code == 0
    done = CliRunner().invoke(build_app(), [*command, "-n", "20", "--resume"])
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "cu-md.json").read_text())
    assert summary["results"]["steps"] == 20
    assert summary["engine"]["name"] == "openmm"
    frames = read(tmp_path / "cu-md.extxyz", ":")
    assert len(frames) == 5
    assert frames[-1].get_forces().shape == (4, 3)
    with_ase = CliRunner().invoke(build_app(), [*command[:-6], "ase", *command[-4:], "-n", "30", "--resume"])
    assert with_ase.exit_code != 0  # a run goes on with the engine that began it


def test_units_are_those_of_codata_2018():
    assert pytest.approx(96.48533212331, rel=1e-13) == KJ_PER_MOL
    assert pytest.approx(units.mol / units.kJ, rel=1e-7) == KJ_PER_MOL
    openmms = 1.602176634e-19 * openmm.unit.AVOGADRO_CONSTANT_NA._value / 1000
    assert openmms == pytest.approx(KJ_PER_MOL, rel=1e-15)
