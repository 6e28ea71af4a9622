"""Force softening: a seeded slope is recovered, with an interval that knows what it does not know."""

import numpy as np
import pytest

from hydrapot.validation.bootstrap import interval
from hydrapot.validation.metrics import Verdict
from hydrapot.validation.suites.softening import SUITE, slope
from tests.accuracy_helpers import context, emt_subject, label, metric, rattled_copper, references

NAME = "force slope, large forces"


def scaled(factor):
    def change(results, atoms):
        results["forces"] = factor * results["forces"]

    return change


def test_the_reference_itself_has_slope_one(tmp_path):
    data = references(tmp_path, [label(a) for a in rattled_copper(40)])
    found = metric(SUITE.run(context(emt_subject(), **data)), NAME)
    assert found.value == pytest.approx(1.0, abs=1e-6)
    assert found.verdict is Verdict.PASS


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_seeded_factor_is_recovered_and_fails(tmp_path, factor):
    data = references(tmp_path, [label(a) for a in rattled_copper(40)])
    outcome = SUITE.run(context(emt_subject(scaled(factor)), **data))
    for name in ("force slope", NAME):
        assert metric(outcome, name).value == pytest.approx(factor, rel=1e-6)
    assert metric(outcome, NAME).verdict is Verdict.FAIL
    assert metric(outcome, "force slope").verdict is None


def test_softening_of_large_forces_only_is_seen_there(tmp_path):
    """Forces that saturate: nearly right near equilibrium, far too small where they are large."""

    def saturate(results, atoms):
        results["forces"] = 4.0 * np.tanh(results["forces"] / 4.0)

    data = references(tmp_path, [label(a) for a in rattled_copper(40, width=(0.01, 0.4))])
    outcome = SUITE.run(context(emt_subject(saturate), **data))
    far, everywhere = metric(outcome, NAME), metric(outcome, "force slope")
    assert far.verdict is Verdict.FAIL
    assert far.value < everywhere.value < 1.0


def test_noise_without_bias_is_no_softening(tmp_path):
    rng = np.random.default_rng(1)

    def noisy(results, atoms):
        results["forces"] = results["forces"] + 0.3 * rng.normal(size=results["forces"].shape)

    data = references(tmp_path, [label(a) for a in rattled_copper(60)])
    found = metric(SUITE.run(context(emt_subject(noisy), **data)), NAME)
    low, high = found.interval
    assert low < 1.0 < high
    assert found.verdict is Verdict.PASS


def test_intervals_by_structure_are_wider_than_by_component():
    """Components share the factor of their structure; the interval must hold the true slope in 95 % of the cases."""
    rng = np.random.default_rng(0)
    kept = 0
    for _ in range(200):
        factors = 1.0 + 0.1 * rng.normal(size=30)
        reference = rng.normal(size=(30, 24))
        predicted = factors[:, None] * reference
        sums = np.stack([(predicted * reference).sum(1), (reference**2).sum(1)], axis=1)
        low, high = interval(sums, slope, groups=["same"] * 30, seed=0)
        kept += low < 1.0 < high
    assert 0.88 * 200 < kept < 0.99 * 200


def test_a_group_is_drawn_as_a_whole():
    """Ten trajectories of fifty equal frames say no more than ten frames."""
    rng = np.random.default_rng(0)
    values = np.repeat(1.0 + 0.1 * rng.normal(size=10), 50)
    sums = np.stack([values, np.ones(500)], axis=1)
    groups = [str(k // 50) for k in range(500)]
    grouped = interval(sums, slope, groups=groups, seed=0)
    single = interval(sums, slope, groups=["one"] * 500, seed=0)
    assert np.ptp(grouped) > 4 * np.ptp(single)


def test_too_few_structures_and_no_data_do_not_apply(tmp_path):
    data = references(tmp_path, [label(a) for a in rattled_copper(5)])
    assert SUITE.run(context(emt_subject(), **data)).verdict is Verdict.NOT_APPLICABLE
    assert SUITE.run(context(emt_subject())).verdict is Verdict.NOT_APPLICABLE


def test_a_potential_that_raises_fails(tmp_path):
    broken = []

    def change(results, atoms):
        if broken:
            raise RuntimeError("no answer")

    data = references(tmp_path, [label(a) for a in rattled_copper(12)])
    subject = emt_subject(change)
    broken.append(True)
    outcome = SUITE.run(context(subject, **data))
    assert outcome.verdict is Verdict.FAIL
    assert "RuntimeError" in metric(outcome, "structures without an answer").detail
