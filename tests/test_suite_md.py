"""The suite ``md`` and what it stands on: runs that fail are noticed, and samples are compared with their ensemble."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from hydrapot.validation.domain import StructureSource
from hydrapot.validation.guarded import guarded
from hydrapot.validation.metrics import Verdict
from hydrapot.validation.sampling import BROKEN, Ramp, sample, temperature_band
from hydrapot.validation.suite import Tier
from hydrapot.validation.suites import md
from hydrapot.validation.suites.md import SUITE, clopper_pearson
from tests.crystal_helpers import Altered, context_of, metric, not_a_number

pytest.importorskip("physical_validation")

from hydrapot.validation import ensembles
from hydrapot.validation.ensembles import (
    best_interval,
    deviation_limits,
    independent,
    kinetic_deviations,
    potential_deviation,
)

KINETIC = ("kinetic energy mean", "kinetic energy width")


def context(factory=EMT, *structures, **settings):
    return context_of(factory, *structures, tier=Tier.SMOKE, **settings)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    plan = replace(md.PLANS[Tier.SMOKE], max_atoms=8, ramp=60.0, settle=40.0, held=400.0)
    monkeypatch.setitem(md.PLANS, Tier.SMOKE, plan)


# --- ensembles ----------------------------------------------------------------------------------------------------------
def boltzmann(temperature, *, atoms=20, count=300, seed=0):
    """Kinetic energies (eV) of velocities in ASE's units, drawn from the distribution of Maxwell and Boltzmann."""
    rng = np.random.default_rng(seed)
    crystal = bulk("Cu").repeat((atoms, 1, 1))
    energies = []
    for _ in range(count):
        spread = np.sqrt(units.kB * temperature / crystal.get_masses())
        crystal.set_velocities(spread[:, None] * rng.normal(size=(atoms, 3)))
        energies.append(crystal.get_kinetic_energy())
    return np.array(energies)


def test_a_boltzmann_sample_has_its_temperature_and_no_other():
    """In eV, K and amu: a wrong factor anywhere in the units would be a wrong temperature."""
    kinetic = [boltzmann(300.0)]
    right = kinetic_deviations(kinetic, temperature=300.0, degrees_of_freedom=60)
    assert max(right) < 3.0
    for wrong in (280.0, 320.0):
        assert kinetic_deviations(kinetic, temperature=wrong, degrees_of_freedom=60)[0] > 4.0
    # Of 57 degrees of freedom it would be that of 316 K.
    assert kinetic_deviations(kinetic, temperature=300.0, degrees_of_freedom=57)[0] > 4.0
    narrow = [300.0 / 310.0 * (0.5 * k + 0.5 * k.mean()) for k in kinetic]
    assert kinetic_deviations(narrow, temperature=300.0, degrees_of_freedom=60)[1] > 4.0


def test_limits_hold_for_small_samples():
    """Errors of small samples are uncertain themselves: one sound sample in thousands may exceed the limits."""
    rng = np.random.default_rng(0)
    kinetic = [rng.gamma(24.0, units.kB * 300.0, size=25) for _ in range(150)]
    found = np.array([kinetic_deviations([k], temperature=300.0, degrees_of_freedom=48) for k in kinetic])
    counts = [len(independent([k])) for k in kinetic]
    assert np.all(found < [deviation_limits(count) for count in counts])
    assert found[:, 1].max() > 4.0  # what a limit of four standard errors would have failed


def test_units_of_the_package():
    package = pytest.importorskip("physical_validation")
    found = ensembles.unit_data(package)
    assert found.kb == pytest.approx(8.617333e-5)  # eV/K
    assert found.energy_conversion == pytest.approx(96.48533)  # kJ/mol
    assert found.length_conversion == 0.1  # nm
    assert found.volume_conversion == pytest.approx(1e-3)
    assert found.pressure_conversion == pytest.approx(1.602177e6)  # bar
    assert found.time_conversion == 1e-3  # ps


def test_potential_energies_at_two_temperatures():
    """Harmonic: a Γ distribution of n/2. Energies that are twice too large for the forces are found out."""
    rng = np.random.default_rng(1)
    n, low = 60, 300.0
    high = low + best_interval(low, degrees_of_freedom=n)
    first, second = ([rng.gamma(n / 2, units.kB * t, size=300)] for t in (low, high))
    assert potential_deviation(first, second, temperatures=(low, high)) < 3.0
    doubled = [[2.0 * u for u in runs] for runs in (first, second)]
    assert potential_deviation(*doubled, temperatures=(low, high)) > 4.0
    # A total energy of 1e6 eV, or one whose least value is exactly zero, changes nothing.
    shifted = [[u - 1e5 for u in runs] for runs in (first, second)]
    assert potential_deviation(*shifted, temperatures=(low, high)) < 3.0
    apart = [u + 1000.0 for u in second]
    with pytest.raises(ValueError, match="overlap"):
        potential_deviation(first, apart, temperatures=(low, high))
    with pytest.raises(ValueError, match="does not fluctuate"):
        potential_deviation([np.ones(50)], second, temperatures=(low, high))


def test_correlated_values_are_thinned():
    rng = np.random.default_rng(0)
    noise = np.zeros(4000)
    for k, kick in enumerate(rng.normal(size=3999)):
        noise[k + 1] = np.exp(-1 / 20) * noise[k] + kick
    assert 40 < len(independent([noise])) < 250  # 4000 / (2 · 20 steps) = 100
    assert len(independent([rng.normal(size=400)])) > 150


def test_the_package_stays_silent(capfd, caplog):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for name in [m for m in sys.modules if m.startswith(("physical_validation", "pymbar"))]:
        del sys.modules[name]
    kinetic_deviations([boltzmann(300.0, count=50)], temperature=300.0, degrees_of_freedom=60)
    captured = capfd.readouterr()
    assert captured.out == captured.err == caplog.text == ""
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


# --- runs ---------------------------------------------------------------------------------------------------------------
class Springs(Calculator):
    """Atoms on springs to where they began, and a bond that may be weak."""

    implemented_properties = ("energy", "forces")

    def __init__(self, sites, stiffness=1.0, bond=0.0):
        super().__init__()
        self.sites, self.stiffness, self.bond = sites, stiffness, bond

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        x = self.atoms.positions - self.sites
        forces = -self.stiffness * x
        if self.bond:  # a constant pull that breaks it
            forces[0, 0] -= self.bond
            forces[1, 0] += self.bond
        self.results = {"energy": 0.5 * self.stiffness * float(np.sum(x**2)), "forces": forces}


def test_kinetic_energies_are_without_error_of_the_time_step():
    """ωh = 1: velocities at the end of a step would be too cold by a quarter."""
    atoms = Atoms("Cu8", positions=3.0 * np.arange(24).reshape(8, 3))
    stiffness = atoms.get_masses()[0] / (2.0 * units.fs) ** 2
    atoms.calc = guarded(Springs(atoms.positions.copy(), stiffness))
    found = sample(atoms, Ramp((300.0, 300.0)), timestep=2.0, steps=3000, thermostat_time=20.0, seed=0)
    assert found.failure == ""
    assert found.temperatures().mean() == pytest.approx(300.0, rel=0.04)


def test_a_ramp_rises():
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.calc = guarded(EMT())
    ramp = Ramp((100.0, 500.0), pressure=(0.0, 20.0))
    found = sample(atoms, ramp, timestep=2.0, steps=300, thermostat_time=30.0, seed=0)
    assert found.failure == ""
    assert found.target[0] == pytest.approx(100.0 + 400.0 / 300.0)
    assert found.target[-1] == pytest.approx(500.0)
    assert found.temperatures()[-50:].mean() == pytest.approx(500.0, rel=0.25)
    # Murnaghan with B = 134 GPa: 9 % less; the piston lags behind.
    assert 0.85 < np.mean(found.volume[-30:]) / found.volume[0] < 0.97


def test_a_broken_bond_is_named():
    atoms = Atoms("C2", positions=[[0, 0, 0], [1.5, 0, 0]])
    atoms.calc = guarded(Springs(atoms.positions.copy(), 0.1, bond=0.2))
    found = sample(atoms, Ramp((300.0, 300.0)), timestep=2.0, steps=400, thermostat_time=10.0, seed=0)
    assert "bond" in found.failure
    assert "broke" in found.failure
    assert found.stretch > BROKEN
    assert len(found.time) < 400


def test_two_atoms_that_meet_are_named():
    atoms = Atoms("Cu2", positions=[[0, 0, 0], [2.6, 0, 0]])
    atoms.calc = guarded(Springs(atoms.positions.copy(), 0.1, bond=-4.0))
    found = sample(atoms, Ramp((300.0, 300.0)), timestep=2.0, steps=400, thermostat_time=5.0, seed=0)
    assert "Cu and Cu came as close as 1." in found.failure


def test_runaway_heat_is_named():
    def heat(results, atoms):
        results["forces"] += 30.0 * atoms.get_velocities()

    atoms = bulk("Cu", cubic=True)
    atoms.calc = guarded(Altered(heat))
    found = sample(atoms, Ramp((300.0, 300.0)), timestep=1.0, steps=500, thermostat_time=1000.0, seed=0)
    assert "the temperature rose to" in found.failure


# --- the suite ----------------------------------------------------------------------------------------------------------
def test_clopper_pearson():
    """0 of n: 1 − 0.025^(1/n), and the textbook interval of 3 of 10."""
    assert clopper_pearson(0, 8) == (0.0, pytest.approx(1 - 0.025**0.125))
    assert clopper_pearson(8, 8) == (pytest.approx(0.025**0.125), 1.0)
    assert clopper_pearson(3, 10) == (pytest.approx(0.0667, abs=1e-4), pytest.approx(0.6525, abs=1e-4))


def test_a_control_passes():
    outcome = SUITE.run(context())
    assert outcome.verdict is Verdict.PASS, outcome.metrics
    count, probability = metric(outcome, "failed runs"), metric(outcome, "failure probability")
    assert (count.value, count.detail) == (0.0, "0 of 8 runs failed")
    assert probability.interval == clopper_pearson(0, 8)
    assert metric(outcome, "smallest distance").value > 0.7
    assert metric(outcome, "highest temperature").upper == temperature_band(8)
    assert [m.value for m in outcome.metrics if m.name in KINETIC] == [pytest.approx(2.5, abs=2.5)] * 4
    assert len([m for m in outcome.metrics if m.name == "density after compression"]) == 2


def test_a_molecule_is_watched_for_its_bonds():
    water = StructureSource(name="water", molecule="H2O")
    outcome = SUITE.run(context(EMT, water, elements=("H", "O")))
    assert metric(outcome, "largest bond stretch").value >= 1.0
    assert not [m for m in outcome.metrics if m.name.startswith("density")]


def test_a_potential_that_collapses_fails():
    """No repulsion at all: atoms fall into each other."""

    def hole(results, atoms):
        d = atoms.get_all_distances(mic=True, vector=True)
        r = np.linalg.norm(d, axis=2) + np.eye(len(atoms))
        results["forces"] += (30.0 * d / r[..., None] * (r < 2.5)[..., None]).sum(axis=1)

    outcome = SUITE.run(context(lambda: Altered(hole)))
    count = metric(outcome, "failed runs")
    assert count.verdict is Verdict.FAIL
    assert count.value > 0


def test_forces_that_do_not_belong_to_the_energy_are_a_wrong_ensemble(monkeypatch):
    """Energies four times those of the forces: runs survive, and sample another ensemble than that of the energy."""
    monkeypatch.setitem(md.PLANS, Tier.SMOKE, replace(md.PLANS[Tier.SMOKE], held=1000.0))
    sites = context().repeated("Cu", max_atoms=8).positions

    class Overstated(Springs):
        def calculate(self, *arguments):
            super().calculate(*arguments)
            self.results["energy"] *= 4.0

    outcome = SUITE.run(context(lambda: Overstated(sites, 3.0)))
    assert metric(outcome, "failed runs").verdict is Verdict.PASS
    assert metric(outcome, "potential energy distributions").verdict is Verdict.FAIL


def test_no_answer_is_a_failed_metric():
    outcome = SUITE.run(context(lambda: Altered(not_a_number)))
    assert outcome.verdict is Verdict.FAIL
    assert "not finite" in metric(outcome, "failed runs").detail


def test_without_stress_there_is_no_compression():
    class NoStress(Altered):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

    outcome = SUITE.run(context(lambda: NoStress(lambda _r, _a: None)))
    found = metric(outcome, "density after compression")
    assert found.verdict is Verdict.NOT_APPLICABLE
    assert "no stress" in found.detail
