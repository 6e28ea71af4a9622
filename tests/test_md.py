"""Molecular dynamics: reproducible, resumable to the last bit, conserving, guarded."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.io import read

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential import ConfigurationError, InvalidStructureError, SimulationError, build_graph, save
from hydrapot.workflows import MDSettings, md
from hydrapot.workflows.appending import read_table
from hydrapot.workflows.dynamics import make_integrator
from hydrapot.workflows.guards import Guards, closest_contact, hottest_allowed
from hydrapot.workflows.velocities import degrees_of_freedom, kinetic_temperature, maxwell_boltzmann
from tests.engine_helpers import CRYSTALS, MOLECULES, small_potential

ENSEMBLES = {
    "nve": {"ensemble": "nve"},
    "langevin": {"ensemble": "langevin"},
    "nose-hoover": {"ensemble": "nose-hoover", "thermostat_time": 20.0},
    "npt": {"ensemble": "npt", "barostat_time": 50.0, "pressure": 1.0},
    "npt full": {"ensemble": "npt", "cell": "full", "barostat_time": 50.0},
}
SMALL = {"steps": 60, "interval": 5, "checkpoint_interval": 25, "seed": 3}


def crystal(calculator=None):
    """A fresh structure with a fresh calculator, as a new process would have it."""
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = calculator or HydrapotCalculator(small_potential(), head=CRYSTALS, skin=0.3)
    return atoms


def kill_at(step):
    """A `stop` that ends the process, as far as a test can do that."""
    count = iter(range(step + 1))

    def stop():
        if next(count, None) is None:
            raise KeyboardInterrupt
        return False

    return stop


def content(folder, name):
    return {p.suffix: p.read_bytes() for p in folder.glob(f"{name}.*") if p.suffix in {".traj", ".extxyz", ".csv"}}


@pytest.mark.parametrize("name", ENSEMBLES)
def test_a_killed_run_resumes_to_the_same_bits(name, tmp_path):
    settings = MDSettings(**SMALL, **ENSEMBLES[name])
    whole = crystal()
    md(whole, settings, output=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        md(crystal(), settings, output=tmp_path / "killed", stop=kill_at(38))
    frames = read(tmp_path / "killed.traj", index=":")
    assert len(frames) == 8  # to step 35, ten steps beyond the restart file
    assert not (tmp_path / "killed.json").exists()
    resumed = crystal()
    result = md(resumed, settings, output=tmp_path / "killed", resume=True)
    assert result.status == "completed"
    assert content(tmp_path, "killed") == content(tmp_path, "whole")
    np.testing.assert_array_equal(resumed.positions, whole.positions)
    np.testing.assert_array_equal(resumed.get_momenta(), whole.get_momenta())
    np.testing.assert_array_equal(resumed.cell.array, whole.cell.array)
    frames = read(tmp_path / "killed.traj", index=":")
    assert len(frames) == 13
    np.testing.assert_array_equal(frames[-1].positions, whole.positions)
    assert result.table["step"].tolist() == list(range(0, 61, 5))


@pytest.mark.parametrize("name", ["nve", "langevin"])
def test_interrupting_at_any_step_and_extending_change_nothing(name, tmp_path):
    settings = MDSettings(**SMALL, **ENSEMBLES[name])
    md(crystal(), settings, output=tmp_path / "whole", frames="extxyz")
    interrupted = md(
        crystal(), settings, output=tmp_path / "parts", frames="extxyz", stop=iter([False] * 13 + [True]).__next__
    )
    assert interrupted.status == "interrupted"
    assert interrupted.summary["results"]["steps"] == 13
    shorter = settings.model_copy(update={"steps": 31})
    md(crystal(), shorter, output=tmp_path / "parts", frames="extxyz", resume=True)
    md(crystal(), settings, output=tmp_path / "parts", frames="extxyz", resume=True)
    assert content(tmp_path, "parts") == content(tmp_path, "whole")
    # Once more, with nothing left to do.
    md(crystal(), settings, output=tmp_path / "parts", frames="extxyz", resume=True)
    assert content(tmp_path, "parts") == content(tmp_path, "whole")


def test_sigkill(tmp_path):
    """The same with a process that is really killed in the middle of whatever it does."""
    save(small_potential(), tmp_path / "m.safetensors")
    setup = (
        "import torch; torch.set_num_threads(1)\n"
        "from ase.build import bulk; from hydrapot.calculators import HydrapotCalculator\n"
        "from hydrapot.workflows import MDSettings, md\n"
        "a = bulk('Cu', cubic=True); a.calc = HydrapotCalculator('m.safetensors', head='crystals')\n"
    )
    long = setup + "md(a, MDSettings(steps=100000, interval=1, checkpoint_interval=7), output='run')\n"
    process = subprocess.Popen([sys.executable, "-c", long], cwd=tmp_path)
    table = tmp_path / "run.csv"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (table.exists() and table.stat().st_size > 4000):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = int(table.read_text().splitlines()[-2].split(",")[0])
    assert done > 10
    settings = MDSettings(steps=done + 20, interval=1, checkpoint_interval=7)
    for name in ("run", "whole"):
        atoms = bulk("Cu", cubic=True)
        atoms.calc = HydrapotCalculator(tmp_path / "m.safetensors", head=CRYSTALS)
        md(atoms, settings, output=tmp_path / name, resume=True)
    assert content(tmp_path, "run") == content(tmp_path, "whole")
    assert len(read(tmp_path / "run.traj", index=":")) == done + 21


def test_the_seed_decides(tmp_path):
    def final(seed):
        atoms = crystal()
        md(atoms, MDSettings(steps=10, seed=seed))
        return atoms.positions

    np.testing.assert_array_equal(final(1), final(1))
    assert np.abs(final(1) - final(2)).max() > 1e-3


@pytest.mark.parametrize("name", ["nose-hoover", "npt", "npt full"])
def test_extended_energy_is_conserved(name):
    atoms = crystal(EMT())
    settings = MDSettings(steps=200, timestep=2.0, interval=1, **{**ENSEMBLES[name], "barostat_time": 300.0})
    table = md(atoms, settings).table
    conserved, total = table["conserved_ev"], table["potential_ev"] + table["kinetic_ev"]
    assert np.ptp(conserved) < 0.01 * np.ptp(total)


def test_nve_conserves_the_shadow_energy_and_the_error_falls_with_the_square_of_the_step():
    spread, shadow = [], []
    for timestep, steps in ((2.0, 300), (1.0, 600)):
        atoms = crystal(HydrapotCalculator(small_potential(), head=CRYSTALS, dtype="float64"))
        result = md(atoms, MDSettings(ensemble="nve", steps=steps, timestep=timestep, interval=1, seed=5))
        energy = result.table["potential_ev"] + result.table["kinetic_ev"]
        spread.append(energy.std())
        shadow.append(np.nanstd(result.table["conserved_ev"]))
        assert np.isnan(result.table["conserved_ev"][[0, -1]]).all()
        assert result.summary["results"]["conserved_quantity"] == "shadow energy"
    assert spread[0] / spread[1] == pytest.approx(4, rel=0.2)
    assert shadow[0] / shadow[1] == pytest.approx(16, rel=0.35)
    assert shadow[1] < 0.02 * spread[1]


def test_momentum_stays_zero_and_the_thermostat_knows(tmp_path):
    atoms = molecule("CH3CH2OH")
    model = small_potential(largest_force=0.02)
    atoms.calc = HydrapotCalculator(model, head=CRYSTALS, dtype="float64")
    with pytest.warns(UserWarning, match="periodic directions"):
        result = md(atoms, MDSettings(ensemble="nose-hoover", steps=50, interval=10))
    assert result.summary["results"]["degrees_of_freedom"] == 3 * 9 - 6
    assert result.summary["settings"]["timestep"] == 0.5
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-8
    integrator = make_integrator(
        atoms,
        ensemble="nose-hoover",
        timestep=1,
        temperature=300,
        pressure=0,
        cell="full",
        thermostat_time=100,
        barostat_time=1000,
        degrees_of_freedom=21,
        rng=np.random.default_rng(0),
    )
    mass = integrator._thermostat._Q[0] / (units.kB * 300 * (100 * units.fs) ** 2)
    assert mass == pytest.approx(21)


def test_velocities():
    rng = np.random.default_rng(0)
    for atoms, expected in (
        (bulk("Cu", cubic=True).repeat(2), 93),
        (molecule("CH3CH2OH"), 21),
        (molecule("CO2"), 4),
        (molecule("H2"), 1),
        (Atoms("Cu"), 3),
    ):
        maxwell_boltzmann(atoms, temperature=321.0, rng=rng)
        count = degrees_of_freedom(atoms, conserves_momentum=True)
        assert count == expected
        assert kinetic_temperature(atoms, count) == pytest.approx(321.0)
        if len(atoms) > 1:
            assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12
        if not atoms.pbc.any() and len(atoms) > 1:
            assert np.abs(atoms.get_angular_momentum()).max() < 1e-10
        assert degrees_of_freedom(atoms, conserves_momentum=False) == 3 * len(atoms)
    fixed = bulk("Cu", cubic=True)
    fixed.set_constraint(FixAtoms([0, 1]))
    maxwell_boltzmann(fixed, temperature=300.0, rng=rng)
    assert np.abs(fixed.get_momenta()[:2]).max() == 0
    assert degrees_of_freedom(fixed, conserves_momentum=True) == 6
    # The distribution itself, before anything is taken off: mean kinetic energy and its variance.
    gas = Atoms("Cu4000", positions=np.zeros((4000, 3)))
    maxwell_boltzmann(gas, temperature=300.0, rng=rng, zero_momentum=False)
    energies = 0.5 * (gas.get_momenta() ** 2).sum(axis=1) / gas.get_masses()
    assert energies.mean() == pytest.approx(1.5 * units.kB * 300, rel=0.02)
    assert energies.var() == pytest.approx(1.5 * (units.kB * 300) ** 2, rel=0.1)


def test_fixed_atoms_do_not_move():
    atoms = crystal(EMT())
    atoms.set_constraint(FixAtoms([0]))
    start = atoms.positions.copy()
    for ensemble in ("nve", "langevin", "nose-hoover"):
        md(atoms, MDSettings(ensemble=ensemble, steps=10))
        np.testing.assert_array_equal(atoms.positions[0], start[0])
        assert np.abs(atoms.positions - start).max() > 1e-3
    with pytest.raises(ConfigurationError, match="constraints"):
        md(atoms, MDSettings(ensemble="npt", steps=10))


def test_outputs(tmp_path, caplog):
    atoms = crystal()
    with caplog.at_level("INFO", logger="hydrapot"):
        result = md(atoms, MDSettings(ensemble="npt", steps=40), output=tmp_path / "run")
    summary = json.loads((tmp_path / "run.json").read_text())
    assert summary["schema"] == "hydrapot md"
    assert summary["status"] == "completed"
    assert summary["model"]["head"] == CRYSTALS
    assert summary["model"]["level_of_theory"]["functional"] == "PBE"
    assert summary["settings"]["ensemble"] == "npt"
    assert summary["results"]["steps"] == 40
    assert summary["results"]["steps_per_second"] > 0
    assert "pressure_mean_gpa" in summary["results"]
    assert {"hydrapot", "torch", "ase", "numpy"} <= set(summary["versions"])
    assert any("PBE" in line for line in summary["notices"])
    assert any("without stress" in line for line in summary["notices"])
    assert "without stress" in caplog.text
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "run.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [int(float(row["step"])) for row in rows] == [0, 10, 20, 30, 40]
    assert float(rows[-1]["potential_ev"]) == atoms.get_potential_energy()
    frames = read(tmp_path / "run.traj", index=":")
    assert frames[2].get_potential_energy() == result.table["potential_ev"][2]
    assert frames[2].get_stress().shape == (6,)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"run.traj", "run.csv", "run.json", "run.png", "run.restart.npz"}


def test_nothing_is_overwritten_or_continued_by_accident(tmp_path):
    settings = MDSettings(**SMALL)
    md(crystal(), settings, output=tmp_path / "run")
    before = content(tmp_path, "run")
    with pytest.raises(ConfigurationError, match="exists already"):
        md(crystal(), settings, output=tmp_path / "run")
    for change, word in (
        ({"temperature": 301.0}, "temperature"),
        ({"timestep": 2.0}, "timestep"),
        ({"interval": 10}, "interval"),
        ({"steps": 59}, "step 60 already"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            md(crystal(), settings.model_copy(update=change), output=tmp_path / "run", resume=True)
    other = crystal(HydrapotCalculator(small_potential(), head=CRYSTALS, dtype="float64"))
    with pytest.raises(ConfigurationError, match="dtype"):
        md(other, settings, output=tmp_path / "run", resume=True)
    with pytest.raises(ConfigurationError, match="another structure"):
        md(_three(), settings, output=tmp_path / "run", resume=True)
    assert content(tmp_path, "run") == before
    (tmp_path / "run.csv").write_text("cut")
    with pytest.raises(ConfigurationError, match="shortened"):
        md(crystal(), settings, output=tmp_path / "run", resume=True)
    (tmp_path / "run.restart.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ConfigurationError, match="damaged"):
        md(crystal(), settings, output=tmp_path / "run", resume=True)
    (tmp_path / "run.restart.npz").unlink()
    with pytest.raises(ConfigurationError, match="--overwrite"):
        md(crystal(), settings, output=tmp_path / "run", resume=True)
    md(crystal(), settings, output=tmp_path / "run", overwrite=True)
    assert content(tmp_path, "run") == before


def _three():
    atoms = crystal()
    del atoms[0]
    return atoms


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"steps": -1}, "steps"),
        ({"timestep": 0}, "timestep"),
        ({"temperature": float("nan")}, "temperature"),
        ({"ensemble": "nvt"}, "ensemble"),
    ],
)
def test_settings_that_make_no_sense(settings, word):
    with pytest.raises(ConfigurationError, match=word):
        MDSettings.checked(**settings)


def test_structures_that_cannot_run(tmp_path):
    lone = molecule("H2O")
    lone.calc = HydrapotCalculator(small_potential(), head=MOLECULES)
    with pytest.raises(InvalidStructureError, match="periodic in all three"):
        md(lone, MDSettings(ensemble="npt"), output=tmp_path / "run")
    with pytest.raises(ConfigurationError, match="above 0 K"):
        md(lone, MDSettings(temperature=0), output=tmp_path / "run")
    with pytest.raises(ConfigurationError, match="holds none"):
        md(lone, MDSettings(velocities="file"), output=tmp_path / "run")
    with pytest.raises(ConfigurationError, match="calculator"):
        md(molecule("H2O"), MDSettings())
    with pytest.raises(ConfigurationError, match="does not exist"):
        md(lone, MDSettings(), output=tmp_path / "no" / "run")
    close = crystal()
    close.positions[1] = close.positions[0] + [0.9, 0, 0]
    with pytest.raises(SimulationError, match=r"at the start: atom 0 \(Cu\) and atom 1 \(Cu\) came as close as 0.900"):
        md(close, MDSettings(), output=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_the_contact_guard_lets_every_bond_pass_and_temperature_limits_fit_few_atoms():
    for name in ("H2", "N2", "CO", "C2H2", "HF", "LiF", "O2", "F2"):
        assert closest_contact(build_graph(molecule(name), cutoff=5.0)).ratio > 0.7
    assert closest_contact(build_graph(Atoms("H"), cutoff=5.0)) is None
    assert hottest_allowed(temperature=300, degrees_of_freedom=3000) < 2000
    assert 300 * 10 < hottest_allowed(temperature=300, degrees_of_freedom=3) < 300 * 200


def test_collision_stops_the_run_and_leaves_what_is_good(tmp_path):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 3.0]])
    atoms.calc = HydrapotCalculator(small_potential(), head=MOLECULES)
    atoms.set_velocities([[0, 0, 6.0], [0, 0, -6.0]])
    settings = MDSettings(
        ensemble="nve",
        steps=500,
        timestep=0.05,
        velocities="file",
        max_temperature=1e7,
        interval=5,
        checkpoint_interval=10,
    )
    with pytest.raises(
        SimulationError, match=r"stopped at step \d+: .*last good frame, of step \d+.*run\.traj"
    ) as error:
        md(atoms, settings, output=tmp_path / "run")
    assert "atom 0 (H) and atom 1 (H) came as close as" in str(error.value)
    summary = json.loads((tmp_path / "run.json").read_text())
    assert summary["status"] == "stopped"
    assert "came as close" in summary["reason"]
    frames = read(tmp_path / "run.traj", index=":")
    assert f"of step {5 * (len(frames) - 1)}," in str(error.value)
    assert frames[-1].get_distance(0, 1) > 0.31
    assert (tmp_path / "run.png").exists()


def test_heat_stops_the_run():
    with pytest.raises(SimulationError, match=r"temperature rose to \d+ K \(limit 310 K\); fastest is atom \d"):
        md(crystal(), MDSettings(steps=500, temperature=300, max_temperature=310))


def test_a_jump_of_the_conserved_energy_stops_the_run():
    atoms = crystal()
    atoms.get_forces()
    guards = Guards(temperature=300, degrees_of_freedom=9, n_atoms=4)
    for conserved in (-1.0, -0.9, -0.7):
        guards.check(atoms, temperature=300, conserved=conserved)
    with pytest.raises(SimulationError, match=r"jumped by 100 meV/atom in one step \(limit 89\)"):
        guards.check(atoms, temperature=300, conserved=-0.3)
    atoms.positions[2, 0] = np.nan
    with pytest.raises(SimulationError, match=r"atom 2 \(Cu\) is not finite"):
        guards.check(atoms, temperature=300, conserved=None)


@pytest.mark.parametrize("frames", ["pdb", "cif"])
def test_frames_that_cannot_be_written_leave_an_earlier_run_alone(frames, tmp_path, monkeypatch):
    pytest.importorskip("openmm")
    earlier = tmp_path / "run.csv"
    earlier.write_text("earlier")
    settings = MDSettings(ensemble="nve", steps=1)
    mirrored = crystal(EMT())
    mirrored.set_cell(mirrored.cell[[1, 0, 2]])
    with pytest.raises(InvalidStructureError, match="left-handed"):
        md(mirrored, settings, output=tmp_path / "run", frames=frames, overwrite=True)
    monkeypatch.setitem(sys.modules, "openmm.app", None)
    with pytest.raises(ConfigurationError, match="takes OpenMM"):
        md(crystal(EMT()), settings, output=tmp_path / "run", frames=frames, overwrite=True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("run.csv", "earlier")]


def test_forces_after_a_collision_do_not_spoil_the_table(tmp_path):
    """The shadow energy of the last good row would need the forces of the step that a guard refused."""

    class Collides(EMT):
        calls = 0

        def calculate(self, *arguments, **keywords):
            super().calculate(*arguments, **keywords)
            Collides.calls += 1
            if Collides.calls > 10:
                self.results["energy"] += 100.0
                self.results["forces"] = self.results["forces"] * 1e6

    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.02, seed=0)
    atoms.calc = Collides()
    with pytest.raises(SimulationError, match="temperature rose"):
        md(atoms, MDSettings(ensemble="nve", steps=50, interval=1), output=tmp_path / "run")
    table = read_table(tmp_path / "run.csv")
    shadow = table["conserved_ev"][np.isfinite(table["conserved_ev"])]
    assert len(shadow) > 3
    assert np.ptp(shadow) < 0.1


def test_energies_that_are_not_finite_stop_the_run(tmp_path):
    atoms = crystal()
    calls = []

    def network(graph):
        calls.append(1)
        energies = atoms.calc.potential.network_energies(graph, head=CRYSTALS)
        return energies * (float("nan") if len(calls) > 20 else 1.0)

    atoms.calc._network = network
    with pytest.raises(SimulationError, match=r"stopped at step 20: the energy or a force is not finite"):
        md(atoms, MDSettings(steps=100), output=tmp_path / "run")
    assert len(read(tmp_path / "run.traj", index=":")) == 2


@pytest.mark.filterwarnings("ignore:.*periodic directions:UserWarning")
def test_pairs_are_measured_again_before_any_can_have_come_too_close():
    """The guard looks at all pairs only now and then; an approach in small steps must not slip through."""
    atoms = Atoms("Cu3", positions=[[0, 0, 0], [2.6, 0, 0], [0, 6.0, 0]])
    atoms.calc = HydrapotCalculator(small_potential(), head=CRYSTALS)
    guards = Guards(temperature=300, degrees_of_freedom=6, n_atoms=3)
    limit = 0.5 * 2 * covalent_radii[29]
    for mover, axis in ((1, 0), (2, 1)):  # one inside the cutoff from the start, one from beyond it
        guards.check(atoms, temperature=300, conserved=None)
        start = atoms.get_positions()

        def approach():
            while True:
                atoms.positions[mover, axis] -= 0.01  # noqa: B023 - called within the turn of the loop
                atoms.get_forces()
                guards.check(atoms, temperature=300, conserved=None)

        with pytest.raises(SimulationError, match="came as close as"):
            approach()
        assert atoms.positions[mover, axis] == pytest.approx(limit, abs=0.011)
        atoms.positions = start
        atoms.get_forces()
