"""Calibration: honest uncertainties pass; overconfident, underconfident and ignorant ones are told apart."""

import numpy as np
import pytest

from hydrapot.validation.metrics import Verdict
from hydrapot.validation.suites.uncertainty import SUITE, coverage, ence, miscalibration, rank_correlation
from tests.accuracy_helpers import context, emt_subject, label, metric, rattled_copper, references

AREA = "miscalibration area of forces"
RANK = "rank correlation of forces"


def with_errors(factor, *, informed=True, per_atom=False, seed=0):
    """EMT with normal errors of its forces (0.02 to 0.5 eV/Å) and an uncertainty `factor` times their deviation."""
    rng = np.random.default_rng(seed)

    def change(results, atoms):
        shape = (len(atoms), 1 if per_atom else 3)
        deviation = np.exp(rng.uniform(np.log(0.02), np.log(0.5), size=shape))
        results["forces"] = results["forces"] + deviation * rng.normal(size=(len(atoms), 3))
        given = deviation if informed else np.full(shape, 0.2) * np.exp(rng.normal(size=shape))
        results["forces_uncertainty"] = factor * (given[:, 0] if per_atom else given)
        results["energy"] += 0.05 * len(atoms) * rng.normal()
        results["energy_uncertainty"] = factor * 0.05 * len(atoms)

    return change


@pytest.fixture
def data(tmp_path):
    return references(tmp_path, [label(a) for a in rattled_copper(60)])


def run(change, data):
    return SUITE.run(context(emt_subject(change), structures={"Cu": rattled_copper(1)[0]}, **data))


@pytest.mark.parametrize("per_atom", [False, True])
def test_honest_uncertainties_pass(data, per_atom):
    outcome = run(with_errors(1.0, per_atom=per_atom), data)
    assert metric(outcome, AREA).verdict is Verdict.PASS
    assert metric(outcome, AREA).value < 0.04
    assert metric(outcome, RANK).verdict is Verdict.PASS
    assert metric(outcome, "miscalibration area of energies").value < 0.1
    assert metric(outcome, "ENCE of forces").value < 0.2


@pytest.mark.parametrize(("factor", "area"), [(0.5, 0.203), (2.0, 0.205)])
def test_over_and_underconfidence_fail(data, factor, area):
    outcome = run(with_errors(factor), data)
    found = metric(outcome, AREA)
    assert found.verdict is Verdict.FAIL
    assert found.value == pytest.approx(area, abs=0.04)
    assert float(found.detail.split()[2]) == pytest.approx(1 / factor, rel=0.15)  # "errors are 2 times …"
    assert metric(outcome, RANK).verdict is Verdict.PASS  # still knows where errors are large
    assert metric(outcome, "ENCE of forces").value == pytest.approx(abs(1 - 1 / factor), abs=0.15)


def test_uncertainties_that_know_nothing_fail(data):
    found = metric(run(with_errors(1.0, informed=False), data), RANK)
    assert found.verdict in {Verdict.FAIL, Verdict.INCONCLUSIVE}
    assert found.value < 0.1


def test_negative_uncertainties_fail(data):
    assert metric(run(with_errors(-1.0), data), AREA).verdict is Verdict.FAIL


def test_measures_on_known_distributions():
    rng = np.random.default_rng(0)
    deviations = np.exp(rng.uniform(0, np.log(3.0), size=100_000))
    errors = deviations * rng.normal(size=100_000)
    assert miscalibration(errors, deviations) < 3e-3
    assert ence(errors, deviations) < 0.02
    assert rank_correlation(errors, deviations) == pytest.approx(0.33, abs=0.02)
    assert miscalibration(np.zeros(10), np.ones(10)) == pytest.approx(0.5, abs=0.03)
    assert miscalibration(1e9 * np.ones(10), np.ones(10)) == pytest.approx(0.5, abs=0.03)
    assert miscalibration(np.ones(10), np.zeros(10)) == pytest.approx(0.5, abs=0.03)  # no uncertainty, but an error
    assert coverage(errors, deviations)[20] == pytest.approx(0.5, abs=0.01)


def test_a_potential_without_uncertainty_does_not_apply(data):
    outcome = SUITE.run(context(emt_subject(), structures={"Cu": rattled_copper(1)[0]}, **data))
    assert outcome.verdict is Verdict.NOT_APPLICABLE
    assert "gives no uncertainty" in outcome.metrics[0].detail
