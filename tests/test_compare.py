"""Two results side by side: what became worse decides the exit code, and nothing that is missing counts as better."""

import json
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrapot.validation.compare import compare, ordered
from hydrapot.validation.document import write_document
from hydrapot.validation.metrics import Metric, Outcome, skipped
from tests.results_helpers import make_document, run_cli, sound_outcomes

GOOD = Metric("residual", "MgO", 0.5, "eV", upper=1.0)
METRICS = {
    "PASS": GOOD,
    "N-A": skipped("residual", "MgO", "no time"),
    "INCONCLUSIVE": replace(GOOD, interval=(0.1, 2.0)),
    "FAIL": replace(GOOD, value=3.0),
}
RANK = list(METRICS)


def with_walls(*metrics):
    outcomes = sound_outcomes()
    outcomes["walls"] = Outcome(list(metrics))
    return make_document(outcomes)


@given(st.sampled_from(RANK), st.sampled_from(RANK))
def test_worse_is_a_verdict_that_fell(before, after):
    found = compare(with_walls(METRICS[before]), with_walls(METRICS[after]))
    assert found.worse == (RANK.index(after) > RANK.index(before))
    (change,) = [c for c in found.metrics if c.key[0] == "walls"]
    assert change.worse == found.worse
    (suite,) = [s for s in found.suites if s.name == "walls"]
    rose = RANK.index(after) < RANK.index(before) and after != "N-A"
    assert change.better == suite.better == rose
    assert compare(found.a, found.a).worse is False


def test_a_suite_that_is_no_longer_tested_is_worse_and_a_metric_of_another_tier_is_not():
    other = replace(GOOD, subject="NaCl")
    assert not compare(with_walls(GOOD, other), with_walls(GOOD)).worse
    assert compare(with_walls(GOOD, other), with_walls(GOOD)).only_a == (("walls", "residual", "NaCl", ""),)
    outcomes = sound_outcomes()
    outcomes["walls"] = "not part of the tier"
    assert compare(make_document(), make_document(outcomes)).worse
    del outcomes["walls"]
    assert compare(make_document(), make_document(outcomes)).worse
    assert not compare(make_document(outcomes), make_document()).worse


def test_numbers_that_differ_within_their_intervals_are_the_same():
    a, b = replace(GOOD, interval=(0.4, 0.6)), replace(GOOD, value=0.55, interval=(0.45, 0.65))
    (same,) = [c for c in compare(with_walls(a), with_walls(b)).metrics if c.key[0] == "walls"]
    assert not same.significant
    assert same.difference == pytest.approx(0.05)
    far = replace(b, value=0.9, interval=(0.8, 0.95))
    (moved,) = [c for c in compare(with_walls(a), with_walls(far)).metrics if c.key[0] == "walls"]
    assert moved.significant
    assert not moved.worse


def test_two_numbers_of_the_same_name_are_compared_in_their_order():
    found = compare(with_walls(GOOD, GOOD), with_walls(GOOD, replace(GOOD, value=5.0)))
    assert found.worse
    assert len([c for c in found.metrics if c.key[0] == "walls"]) == 2


def test_what_is_worse_comes_first():
    a = with_walls(*(replace(GOOD, subject=s) for s in "abc"))
    b = with_walls(GOOD, *(replace(GOOD, subject=s, value=v) for s, v in (("a", 0.5), ("b", 0.7), ("c", 4.0))))
    assert [c.key[2] for c in ordered(compare(a, b).metrics)][:2] == ["c", "b"]


@pytest.fixture
def cli(capsys):
    return partial(run_cli, capsys)


@pytest.fixture
def folders(tmp_path):
    for name, value in (("a", 0.5), ("b", 3.0)):
        (tmp_path / name).mkdir()
        write_document(with_walls(replace(GOOD, value=value)), tmp_path / name / "results.json")
    return tmp_path


def test_exit_codes_of_the_command(folders, cli):
    a, b = folders / "a", folders / "b" / "results.json"
    code, out, _ = cli("compare", a, b)
    assert code == 1
    assert "PASS → FAIL" in out
    assert "B is worse" in out
    assert cli("compare", b, a)[0] == cli("compare", a, a)[0] == 0
    assert cli("compare", a, folders / "missing")[0] == 2
    assert cli("compare", a, b, "-o", folders / "x.pdf")[0] == 2
    (folders / "broken.json").write_text("{}")
    assert cli("compare", a, folders / "broken.json")[0] == 2


def test_page_and_json_hold_every_number(folders, cli):
    cli("compare", folders / "a", folders / "b", "-o", folders / "c.html")
    cli("compare", folders / "a", folders / "b", "-o", folders / "c.json")
    html = (folders / "c.html").read_text(encoding="utf-8")
    root = ET.fromstring(html.removeprefix("<!DOCTYPE html>\n"))  # noqa: S314 - of our own making
    words = "".join(root.itertext())
    assert "B is worse than A" in words
    assert "▼ worse" in words
    document = json.loads((folders / "c.json").read_text(encoding="utf-8"))
    assert document["worse"] is True
    assert len(document["metrics"]) == sum(len(o.metrics) for o in sound_outcomes().values())


def test_different_domains_and_tiers_are_remarked(tmp_path):
    a = make_document()
    b = make_document(tier="smoke", seeds=(7,))
    assert len(compare(a, b).remarks) == 2
    assert compare(a, a).remarks == []
