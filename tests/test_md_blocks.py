"""Engines that advance by blocks of steps: same rows and files as step by step, guarded, quick to stop."""

import time

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT

from hydrapot.potential.errors import ConfigurationError, SimulationError
from hydrapot.workflows import MDSettings, md
from hydrapot.workflows.blocks import PATIENCE, Blocks
from hydrapot.workflows.dynamics import Engine, EngineIntegrator, EngineResults, conserved_energy, make_integrator
from hydrapot.workflows.engines import engine_names, open_engine

SLOW = 0.02


class Elsewhere(EngineIntegrator):
    """ASE's integrators, as if they were another program: the structure sees the end of each block only."""

    seconds = 0.0
    spoil = None

    def __init__(self, atoms, **arguments):
        self.atoms, self.inner = atoms, atoms.copy()
        self.inner.calc = EMT()
        self.integrator = make_integrator(self.inner, **arguments)
        self.dt, self.results, self.blocks, self.done = self.integrator.dt, EngineResults(), [], 0
        self.inner.get_forces()
        self.copy()

    def advance(self, steps):
        self.blocks.append(steps)
        for _ in range(steps):
            time.sleep(self.seconds)
            self.integrator.step()
            self.done += 1
            if self.spoil:
                self.spoil(self.inner, self.done)
        self.copy()

    def copy(self):
        self.atoms.positions[:], self.atoms.cell[:] = self.inner.positions, self.inner.cell.array
        self.atoms.set_momenta(self.inner.get_momenta())
        self.inner.get_forces(), self.inner.get_stress()
        self.results.put(self.atoms, dict(self.inner.calc.results))
        self.atoms.calc = self.results

    def conserved_energy(self):
        return conserved_energy(self.integrator)

    def get_state(self):
        return {}

    def set_state(self, state):
        raise NotImplementedError

    def describe(self):
        return {"version": "7"}


def run(settings, *, elsewhere=True, output=None, stop=None, **attributes):
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(0.05, seed=1)
    atoms.calc = EMT()
    made = []

    def make(structure, **arguments):
        made.append(type("Special", (Elsewhere,), attributes)(structure, **arguments))
        return made[-1]

    engine = Engine("elsewhere", make) if elsewhere else None
    return md(atoms, settings, engine=engine, output=output, stop=stop), made


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "npt"])
@pytest.mark.parametrize("interval", [1, 2, 3, 10])
def test_rows_do_not_depend_on_blocks(ensemble, interval, tmp_path):
    settings = MDSettings(ensemble=ensemble, steps=65, interval=interval, checkpoint_interval=23, barostat_time=100)
    found, (integrator,) = run(settings, output=tmp_path / "run")
    expected, _ = run(settings, elsewhere=False)
    for column, values in expected.table.items():
        np.testing.assert_array_equal(found.table[column], values, err_msg=column)
    assert sum(integrator.blocks) == 65
    assert found.summary["engine"] == {"name": "elsewhere", "version": "7"}
    assert expected.summary["engine"] == {"name": "ase"}
    if interval == 10:
        assert max(integrator.blocks) >= 8
        assert len(integrator.blocks) < 35


def test_blocks_end_where_something_is_due():
    settings = MDSettings(ensemble="nve", steps=1000, interval=100, checkpoint_interval=150)
    for shadow, due in ((False, {100, 150, 200, 300}), (True, {99, 100, 101, 150, 199, 200, 201, 299, 300})):
        blocks = Blocks(settings, shadow=shadow, longest=1000)
        blocks._affordable = 10**6
        done, ends = 0, []
        while done < 300:
            done += blocks.steps(done)
            ends.append(done)
        assert due <= set(ends)
        assert len(ends) <= len(due) + 1
    assert Blocks(settings, shadow=False, longest=7).steps(0) == 1  # nobody knows yet how long a step takes
    blocks._affordable, blocks.longest = 10**6, 7
    assert blocks.steps(102) == 7


def test_a_request_to_stop_is_heard_soon():
    asked = []

    def stop():
        asked.append(time.perf_counter())
        return len(asked) > 8

    settings = MDSettings(steps=10000, interval=10000, checkpoint_interval=10000)
    result, (integrator,) = run(settings, stop=stop, seconds=SLOW)
    assert result.status == "interrupted"
    assert max(np.diff(asked)) < 2 * PATIENCE
    assert max(integrator.blocks) >= 8


def nan(atoms, step):
    if step == 50:
        atoms.arrays["momenta"][3] = np.nan


def hot(atoms, step):
    if step == 50:
        atoms.arrays["momenta"] *= 6.0


def close(atoms, step):
    # At the end of a block: energy and temperature have not had the time to say anything.
    if step == 60:
        atoms.positions[1] = atoms.positions[0] + 0.5


def kick(atoms, step):
    if step == 50:
        atoms.arrays["momenta"] *= np.sqrt(1 + 0.12 * len(atoms) / atoms.get_kinetic_energy())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (nan, "not finite"),
        (hot, "temperature rose"),
        (close, "came as close as 0.8"),
        (kick, r"jumped by .* in \d+ steps"),
    ],
)
def test_guards_act_at_the_end_of_a_block(spoil, words, tmp_path):
    settings = MDSettings(ensemble="nve", steps=400, interval=100, checkpoint_interval=20)
    with pytest.raises(SimulationError, match=words) as caught:
        run(settings, output=tmp_path / "run", spoil=staticmethod(spoil))
    assert "stopped at steps " in str(caught.value)
    first, last = str(caught.value).split(":")[0].removeprefix("stopped at steps ").split(" to ")
    assert int(first) <= (60 if spoil is close else 50) <= int(last) <= 61


def test_engines_are_known_by_name():
    assert {"ase", "lammps"} <= set(engine_names())
    with pytest.raises(ConfigurationError, match=r"engine 'gromacs' is not known: ase, lammps"):
        open_engine("gromacs", model="hydrapot-s")
    with open_engine("ase", model="hydrapot-s") as provider:
        assert provider.first
        assert provider.engine(bulk("Cu"), MDSettings()) is None


def test_results_of_an_engine_are_for_one_structure():
    atoms = bulk("Cu")
    results = EngineResults()
    results.put(atoms, {"energy": 1.0, "forces": np.zeros((1, 3))})
    atoms.calc = results
    assert atoms.get_potential_energy() == 1.0
    atoms.positions += units.Bohr
    with pytest.raises(ConfigurationError, match="has not evaluated"):
        atoms.get_potential_energy()
