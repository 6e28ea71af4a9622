"""results.json reads back as it was written, or says in one line why not."""

import json
import math

import pytest

from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation.document import (
    Document,
    Environment,
    Settings,
    SubjectRecord,
    SuiteRecord,
    now,
    overall,
    read_document,
    write_document,
)
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series


def record(name, value, **changes):
    curve = Series("energy", [0.0, 1.0], [math.nan, math.inf])
    metrics = [Metric("number", "Cu", value, "eV", upper=1.0, interval=None if value is None else (value, value))]
    outcome = Outcome(metrics, [Figure("t", "x", "y", [curve])], ["note"])
    fields = {"verdict": outcome.verdict.value, "outcome": outcome.as_dict(), "seconds": 1.5} | changes
    return SuiteRecord(name=name, title=name, purpose="p", category="A", **fields)


def document(*records):
    return Document(
        created=now(),
        verdict=overall(records),
        subject=SubjectRecord(
            kind="checkpoint",
            name="m",
            head="h",
            level_of_theory="PBE",
            source="m.safetensors",
            sha256="0",
            elements=("Cu",),
            cutoff=5.0,
            receptive_field=15.0,
            resolution=2.2e-16,
            precisions=("f64",),
        ),
        settings=Settings(tier="smoke", suites=("a",), precisions=("f64",), engines=("ase",), seeds=(0,), domain={}),
        environment=Environment(
            platform="p", processor="c", cores=2, workers=1, threads_per_worker=1, python="3", versions={"torch": "2"}
        ),
        suites=records,
        seconds=2.0,
        fingerprint="f",
    )


@pytest.mark.parametrize("value", [0.1 + 0.2, math.nan, math.inf, -math.inf, None])
def test_document_reads_back_as_it_was_written(tmp_path, value):
    written = document(record("a", value), record("b", 0.5))
    write_document(written, tmp_path / "results.json")
    read = read_document(tmp_path)
    assert read.as_dict() == written.as_dict()
    found = read.suite("a").found.metrics[0].value
    assert found == value or (math.isnan(found) and math.isnan(value))
    assert read.suite("absent") is None


def test_file_is_json_without_numbers_that_json_lacks(tmp_path):
    write_document(document(record("a", math.nan)), tmp_path / "results.json")

    def refuse(constant):
        raise AssertionError(constant)

    raw = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert raw["schema"] == "hydrapot validation"
    assert raw["schema_version"] == 1


@pytest.mark.parametrize(
    ("values", "error", "code"),
    [([0.5], False, 0), ([0.5, None], False, 0), ([None], False, 3), ([0.5, 2.0], False, 1), ([2.0], True, 2)],
)
def test_exit_code_follows_the_worst_suite_and_an_error_before_all(values, error, code):
    records = [record(str(k), value) for k, value in enumerate(values)]
    if error:
        records.append(record("e", 0.5, verdict="ERROR", outcome=None, reason="why"))
    assert document(*records).exit_code == code


def alter(raw, *path, to):
    for key in path[:-1]:
        raw = raw[key]
    raw[path[-1]] = to


@pytest.mark.parametrize(
    ("path", "to", "message"),
    [
        (("schema",), "other", "not a results.json"),
        (("schema_version",), 2, "schema version 2"),
        (("verdict",), "PASS", "does not follow"),
        (("suites", 0, "verdict"), "PASS", "does not follow"),
        (("suites", 0, "outcome", "metrics", 0, "upper"), 3.0, "does not follow"),
        (("suites", 0, "outcome", "metrics"), None, "outcome"),
        (("suites", 0, "outcome"), None, "without an outcome"),
        (("subject", "cutoff"), "far", "subject.cutoff"),
        (("more",), 1, "more"),
    ],
)
def test_altered_documents_are_refused_with_the_place(tmp_path, path, to, message):
    raw = document(record("a", 2.0)).as_dict()
    alter(raw, *path, to=to)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(ConfigurationError, match=message) as raised:
        read_document(file)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["{", "[]", "null", ""])
def test_what_is_no_document_is_refused(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ConfigurationError, match="results"):
        read_document(tmp_path)


def test_a_missing_document_is_an_error_of_one_line(tmp_path):
    with pytest.raises(ConfigurationError, match="absent"):
        read_document(tmp_path / "absent.json")
