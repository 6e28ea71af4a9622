"""The shadow energy of velocity Verlet: its coefficients, its drift, and what the scaling of fluctuations shows."""

import warnings

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from hydrapot.calculators import HydrapotCalculator
from hydrapot.validation.nve import (
    SLOPE_LIMIT,
    calculator_forces,
    concatenate,
    equilibrate,
    fluctuation_ratio,
    pooled_ratio,
    run_nve,
    slope,
)
from hydrapot.workflows.drift import shadow_correction
from tests.contract_helpers import random_potential

STIFFNESS = 2.0  # eV/Å²


def spring(atoms):
    """A harmonic oscillator per coordinate."""
    return 0.5 * STIFFNESS * float(np.sum(atoms.positions**2)), -STIFFNESS * atoms.positions


def oscillator():
    atoms = Atoms("HO", positions=[[0.1, 0.0, -0.2], [0.0, 0.3, 0.1]])
    atoms.set_velocities([[0.0, 0.05, 0.0], [0.02, 0.0, -0.01]])
    return atoms


def scatter(values):
    return float(np.std(values))


def test_harmonic_oscillators_have_a_known_shadow_energy():
    """Velocity Verlet conserves v²/2 + ω²x²(1 − ω²h²/4)/2 exactly; H̃ is that up to a factor and to order h⁴."""
    h = 0.5
    trace = run_nve(oscillator(), spring, timestep=h, steps=400)
    assert scatter(trace.shadow) < 0.01 * scatter(trace.total)
    one = Atoms("H", positions=[[0.1, 0.0, 0.0]], velocities=[[0.07, 0.0, 0.0]])
    trace = run_nve(one, spring, timestep=h, steps=400)
    squared = STIFFNESS / one.get_masses()[0] * (h * units.fs) ** 2
    conserved = trace.kinetic + trace.potential * (1 - squared / 4)
    assert scatter(conserved) < 1e-14
    np.testing.assert_allclose(trace.shadow, conserved * (1 + squared / 6), rtol=squared**2)


def anharmonic(atoms):
    """Coupled and anharmonic, without any symmetry."""
    x = atoms.positions
    d = x[1] - x[0]
    energy = 0.5 * np.sum(x**2) + 0.7 * np.sum(x**4) + 0.4 * d[0] * d[1] * d[2] + 0.1 * np.sum(x[0]) ** 3
    forces = -(x + 2.8 * x**3)
    product = 0.4 * np.array([d[1] * d[2], d[0] * d[2], d[0] * d[1]])
    forces[0] += product - 0.3 * np.sum(x[0]) ** 2
    forces[1] -= product
    return float(energy), forces


@pytest.mark.parametrize("potential", [spring, anharmonic])
def test_the_shadow_energy_is_conserved_to_fourth_order(potential):
    """Halving the step divides fluctuations of H by 4 and those of H̃ by 16: both coefficients and both signs."""
    runs = [run_nve(oscillator(), potential, timestep=h, steps=round(60 / h)) for h in (0.4, 0.2)]
    assert scatter(runs[0].total) / scatter(runs[1].total) == pytest.approx(4.0, rel=0.05)
    assert scatter(runs[0].shadow) / scatter(runs[1].shadow) == pytest.approx(16.0, rel=0.2)
    assert scatter(runs[1].shadow) < 1e-3 * scatter(runs[1].total)


def test_the_same_shadow_energy_as_in_the_record_of_md_runs():
    h = 0.5 * units.fs
    atoms = oscillator()
    states = []
    for _ in range(3):
        states.append((spring(atoms)[1], atoms.get_velocities()))
        run_nve(atoms, spring, timestep=0.5, steps=1)
    trace = run_nve(oscillator(), spring, timestep=0.5, steps=2)
    expected = shadow_correction(
        velocities=states[1][1],
        masses=atoms.get_masses(),
        forces_before=states[0][0],
        forces=states[1][0],
        forces_after=states[2][0],
        timestep=h,
    )
    assert trace.shadow[1] - trace.total[1] == pytest.approx(expected, rel=1e-9)


def test_runs_continue_each_other():
    whole, atoms = run_nve(oscillator(), anharmonic, timestep=0.5, steps=60), oscillator()
    parts = [run_nve(atoms, anharmonic, timestep=0.5, steps=20, start=10.0 * k) for k in range(3)]
    joined = concatenate(parts)
    for name in ("time", "potential", "kinetic"):
        np.testing.assert_allclose(getattr(joined, name), getattr(whole, name), rtol=1e-12)
    # The force before a part is that of a step backwards, which rounding alone tells from the step made.
    np.testing.assert_allclose(joined.shadow, whole.shadow, rtol=1e-9)


def test_slopes_of_correlated_noise_are_within_their_bound():
    """An AR(1) process that forgets over 30 samples: the bound must hold in 95 % of the cases, and not be vacuous."""
    rng = np.random.default_rng(0)
    time = np.arange(4000) / 1000.0
    kept, bounds, found = 0, [], 0
    for _ in range(200):
        noise = np.zeros(4000)
        for k, kick in enumerate(rng.normal(size=3999)):
            noise[k + 1] = np.exp(-1 / 30) * noise[k] + kick
        result = slope(time, noise)
        kept += abs(result.value) <= result.bound - abs(result.value)
        bounds.append(result.bound)
        found += abs(slope(time, noise + 10.0 * time).value - 10.0) < 5.0
    assert kept >= 0.93 * 200
    assert np.median(bounds) < 10.0
    assert found >= 0.95 * 200


def test_slope_needs_enough_values():
    with pytest.raises(ValueError, match="5 values are too few for 8 blocks"):
        slope(np.arange(5.0), np.arange(5.0))
    exact = slope(np.arange(100.0), 3.0 * np.arange(100.0))
    assert exact.value == pytest.approx(3.0)
    assert exact.error == pytest.approx(0.0, abs=1e-10)


class Friction(Calculator):
    """Lennard-Jones with forces that are 1e-4 off the gradient: a drift that the energy alone would hide."""

    implemented_properties = ("energy", "forces")

    def __init__(self, inner, curl):
        super().__init__()
        self.inner, self.curl = inner, curl

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        copy = atoms.copy()
        copy.calc = self.inner
        x = copy.get_scaled_positions()
        swirl = np.cross(np.sin(2 * np.pi * x), [0.0, 0.0, 1.0])
        self.results = {"energy": copy.get_potential_energy(), "forces": copy.get_forces() + self.curl * swirl}


def argon(calculator):
    atoms = bulk("Ar", "fcc", a=5.4, cubic=True)
    atoms.calc = calculator
    equilibrate(atoms, temperature=40.0, duration=500.0, timestep=5.0, seed=1)
    return atoms


def test_a_smooth_potential_conserves_and_a_curl_does_not():
    smooth = LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0, ro=6.0, smooth=True)
    atoms = argon(smooth)
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12
    good = run_nve(atoms, calculator_forces, timestep=2.0, steps=600)
    assert 10.0 < good.temperature.mean() < 80.0
    assert good.slope().bound < 0.1 * SLOPE_LIMIT, good.slope()

    atoms = argon(smooth)
    atoms.calc = Friction(smooth, curl=3e-5)
    bad = run_nve(atoms, calculator_forces, timestep=2.0, steps=600)
    assert bad.slope().bound > SLOPE_LIMIT, bad.slope()


def test_fluctuations_fall_fourfold_with_half_the_step():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    snapshots = []
    equilibrate(atoms, temperature=300.0, duration=200.0, timestep=2.0, seed=0)
    for _ in range(3):
        run_nve(atoms, calculator_forces, timestep=4.0, steps=10)
        snapshots.append(atoms.copy())
        snapshots[-1].calc = atoms.calc
    ratio, error = pooled_ratio(list(fluctuation_ratio(snapshots, calculator_forces, timestep=4.0, duration=160.0)))
    assert ratio == pytest.approx(4.0, abs=0.4)
    assert error < 0.4


def test_energies_come_without_references():
    """Of all-electron totals 1e-10 eV would be rounding."""
    calculator = HydrapotCalculator(random_potential(elements=["Cu"]), dtype="float64")
    atoms = bulk("Cu", cubic=True)
    atoms.calc = calculator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is recorded about the training of random weights
        energy, _ = calculator_forces(atoms)
    assert energy == calculator.results["interaction_energy"] != calculator.results["energy"]
