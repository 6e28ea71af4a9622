"""A verdict never claims more than its number shows, and survives the way through JSON."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, Verdict, from_checks, skipped
from hydrapot.validation.results import at_least, at_most, unmeasured

FINITE = st.floats(-1e12, 1e12)
ANY = st.floats(allow_nan=True, allow_infinity=True)
MAYBE = st.none() | FINITE


@st.composite
def metrics(draw):
    value, interval = draw(st.none() | ANY), draw(st.none() | st.tuples(ANY, ANY))
    return Metric(draw(st.text()), draw(st.text()), value, "eV", draw(MAYBE), draw(MAYBE), interval, draw(st.text()))


@given(metrics())
def test_a_pass_has_a_finite_number_with_its_whole_interval_within_the_limits(metric):
    if metric.verdict is not Verdict.PASS:
        return
    low, high = metric.interval or (metric.value, metric.value)
    assert math.isfinite(metric.value)
    assert metric.lower is None or low >= metric.lower
    assert metric.upper is None or high <= metric.upper


@given(FINITE, FINITE, FINITE)
def test_an_interval_on_both_sides_of_a_limit_is_inconclusive(a, b, c):
    low, limit, high = sorted((a, b, c))
    verdict = Metric("m", "s", low, "eV", upper=limit, interval=(low, high)).verdict
    assert verdict is (Verdict.PASS if high <= limit else Verdict.INCONCLUSIVE)
    verdict = Metric("m", "s", high, "eV", lower=limit, interval=(low, high)).verdict
    assert verdict is (Verdict.PASS if low >= limit else Verdict.INCONCLUSIVE)


@given(FINITE, FINITE, FINITE)
def test_an_interval_beyond_the_limit_fails(a, b, c):
    limit, low, high = sorted((a, b, c))
    if limit < low:
        assert Metric("m", "s", low, "eV", upper=limit, interval=(low, high)).verdict is Verdict.FAIL


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("limits", [(None, 1.0), (0.0, None), (-1.0, 1.0)])
def test_a_number_that_is_not_finite_fails_whatever_the_limit(value, limits):
    assert Metric("m", "s", value, "eV", *limits).verdict is Verdict.FAIL


def test_nan_as_interval_does_not_pass():
    assert Metric("m", "s", 0.5, "eV", upper=1.0, interval=(math.nan, 0.6)).verdict is Verdict.FAIL


@given(MAYBE, MAYBE)
def test_what_was_not_measured_does_not_apply_and_never_passes(lower, upper):
    assert Metric("m", "s", None, "eV", lower, upper).verdict is Verdict.NOT_APPLICABLE
    assert Outcome([skipped("m", "s", "why")]).verdict is Verdict.NOT_APPLICABLE


def test_a_number_without_limit_is_reported_without_a_verdict():
    assert Metric("m", "s", 1.0, "eV").verdict is None
    assert Outcome([Metric("m", "s", 1.0, "eV")]).verdict is Verdict.NOT_APPLICABLE


ORDER = [Verdict.NOT_APPLICABLE, Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]


@given(st.lists(st.sampled_from(ORDER)))
def test_the_verdict_on_several_is_the_worst(verdicts):
    assert Verdict.of(verdicts) is max(verdicts, key=ORDER.index, default=Verdict.NOT_APPLICABLE)


def _same(a, b):
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


@given(metrics())
def test_metrics_survive_json_with_all_their_digits_and_their_verdict(metric):
    text = json.dumps(metric.as_dict(), allow_nan=False)
    again = Metric.from_dict(json.loads(text))
    assert again.verdict is metric.verdict
    for name in ("name", "subject", "value", "unit", "lower", "upper", "detail"):
        assert _same(getattr(again, name), getattr(metric, name))
    assert (again.interval is None) == (metric.interval is None)
    assert all(map(_same, again.interval or (), metric.interval or ()))


@given(st.lists(ANY, min_size=1, max_size=5), st.booleans())
def test_curves_survive_json(numbers, with_error):
    series = Series("s", numbers, numbers, "points", numbers if with_error else None)
    outcome = Outcome([skipped("m", "s", "r")], [Figure("t", "x", "y", [series], x_ticks=[(0.0, "Γ")])], ["note"])
    again = Outcome.from_dict(json.loads(json.dumps(outcome.as_dict(), allow_nan=False)))
    curve = again.figures[0].series[0]
    assert all(map(_same, curve.x, numbers))
    assert all(map(_same, curve.y, numbers))
    assert (curve.error is not None) == with_error
    assert again.figures[0].x_ticks == [(0.0, "Γ")]
    assert again.notes == ["note"]


def test_a_verdict_in_a_file_is_computed_anew():
    document = Metric("m", "s", 2.0, "eV", upper=1.0).as_dict() | {"verdict": "PASS"}
    assert Metric.from_dict(document).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        (at_most("forces", "s", 1e-9, 1e-6, "eV/Å"), Verdict.PASS),
        (at_most("forces", "s", 1e-3, 1e-6, "eV/Å"), Verdict.FAIL),
        (at_most("forces", "s", math.nan, 1e-6, "eV/Å"), Verdict.FAIL),
        (at_least("cutoff energy", "s", 3.1, 2.9, "power of the distance"), Verdict.PASS),
        (at_least("cutoff energy", "s", 1.1, 2.9, "power of the distance"), Verdict.FAIL),
        (at_least("signal", "s", 2.0, 1.0, "eV/Å", "largest force, at least"), Verdict.PASS),
        (at_least("signal", "s", 0.5, 1.0, "eV/Å", "largest force, at least"), Verdict.FAIL),
        (unmeasured("cutoff force", "s", 1.9, "power of the distance", "no forces"), Verdict.FAIL),
    ],
)
def test_checks_of_the_contract_keep_their_verdict(check, verdict):
    assert from_checks([check])[0].verdict is verdict
    assert check.passed == (verdict is Verdict.PASS)
