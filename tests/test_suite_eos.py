"""The suite ``eos``: the fit, copper's bulk modulus, spurious minima, wrong pressures and Δ."""

import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT
from ase.eos import birchmurnaghan
from ase.utils.deltacodesdft import delta

from hydrapot.validation.domain import StructureSource
from hydrapot.validation.metrics import Verdict
from hydrapot.validation.suites.eos import SUITE, fit
from tests.crystal_helpers import COPPER, Altered, context_of, metric, not_a_number, raises

pytest.importorskip("spglib")


def test_fit_returns_the_parameters_of_a_birch_murnaghan_curve():
    volumes = np.linspace(11.0, 12.4, 11)
    found = fit(volumes, birchmurnaghan(volumes, -3.5, 0.85, 5.2, 11.7))
    assert found.volume == pytest.approx(11.7, rel=1e-9)
    assert found.bulk_modulus == pytest.approx(0.85, rel=1e-7)
    assert found.derivative == pytest.approx(5.2, rel=1e-6)
    assert found.energy == pytest.approx(-3.5, abs=1e-10)


def test_copper():
    outcome = SUITE.run(context_of())
    assert outcome.verdict is Verdict.PASS
    assert metric(outcome, "bulk modulus").value == pytest.approx(134.4, abs=0.2)  # Asap's test suite has 133.99
    assert metric(outcome, "equilibrium volume").value == pytest.approx(3.5898**3 / 4, abs=2e-3)
    assert metric(outcome, "Δ").verdict is Verdict.NOT_APPLICABLE  # EMT is of no functional
    assert len(outcome.figures) == 1


def test_a_spurious_minimum_under_compression_is_found():
    def bump(results, atoms):
        # 0.6 meV: small beside the 20 meV/atom of the curve, enough for a second minimum near its bottom
        results["energy"] += 6e-4 * len(atoms) * np.cos(40.0 * atoms.get_volume() / len(atoms))

    outcome = SUITE.run(context_of(lambda: Altered(bump)))
    assert metric(outcome, "minima of the curve").value > 1
    assert metric(outcome, "minima of the curve").verdict is Verdict.FAIL


def test_a_rough_curve_is_found():
    def rough(results, atoms):
        results["energy"] += 2e-3 * len(atoms) * np.cos(40.0 * atoms.get_volume() / len(atoms))

    outcome = SUITE.run(context_of(lambda: Altered(rough)))
    assert metric(outcome, "deviation from Birch–Murnaghan").verdict is Verdict.FAIL


@pytest.mark.parametrize("factor", [-1.0, 0.95, 1.02])
def test_a_stress_that_is_not_the_slope_of_the_energy_is_found(factor):
    def scale(results, atoms):
        results["stress"] *= factor

    outcome = SUITE.run(context_of(lambda: Altered(scale)))
    assert metric(outcome, "pressure against the slope of the curve").verdict is Verdict.FAIL


@pytest.mark.parametrize(("change", "words"), [(not_a_number, "not finite"), (raises, "element 29")])
def test_a_broken_potential_fails_and_does_not_raise(change, words):
    outcome = SUITE.run(context_of(lambda: Altered(change)))
    assert outcome.verdict is Verdict.FAIL
    assert any(words in m.detail for m in outcome.metrics)


def test_delta_where_functional_and_crystal_match():
    outcome = SUITE.run(context_of(EMT, level_of_theory="PBE / PAW (VASP)"))
    found = metric(outcome, "Δ")
    volume = metric(outcome, "equilibrium volume").value
    modulus = metric(outcome, "bulk modulus").value * units.GPa
    derivative = metric(outcome, "pressure derivative of the bulk modulus").value
    expected = 1e3 * delta(volume, modulus, derivative, 11.9511, 141.335 * units.GPa, 4.86)
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert found.verdict is Verdict.FAIL  # EMT is no PBE: 3 % in volume
    assert "PBE" in found.level_of_theory


@pytest.mark.parametrize(
    ("level", "source"),
    [
        ("PBEsol / PAW (VASP)", COPPER),
        ("PBE0 (ORCA)", COPPER),
        ("PBE (VASP)", StructureSource(name="Cu", crystal="bcc", formula="Cu", a=2.87)),
        ("PBE (VASP)", StructureSource(name="CuAl", crystal="cesiumchloride", formula="CuAl", a=3.05)),
    ],
)
def test_delta_does_not_apply_to_another_functional_or_crystal(level, source):
    assert metric(SUITE.run(context_of(EMT, source, level_of_theory=level)), "Δ").verdict is Verdict.NOT_APPLICABLE


def test_an_interrupted_suite_goes_on(tmp_path):
    first = SUITE.run(context_of(folder=tmp_path))
    second = SUITE.run(context_of(lambda: Altered(raises), folder=tmp_path))
    assert first.as_dict() == second.as_dict()


def test_molecules_do_not_apply():
    outcome = SUITE.run(context_of(EMT, StructureSource(name="N2", molecule="N2"), elements=("N",)))
    assert outcome.verdict is Verdict.NOT_APPLICABLE
