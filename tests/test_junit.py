"""junit.xml has the form that servers read, and no verdict becomes a success on the way."""

from xml.etree import ElementTree as ET

import pytest

from hydrapot.validation.document import ERROR
from hydrapot.validation.junit import write_junit
from hydrapot.validation.metrics import Metric, Outcome, skipped
from tests.results_helpers import make_document, sound_outcomes

#: Elements, attributes (required ones first) and children of junit-10.xsd of Jenkins' xUnit plugin that we may use.
SCHEMA = {
    "testsuites": ((), {"name", "time", "tests", "failures", "disabled", "errors"}, {"testsuite"}),
    "testsuite": (
        ("name", "tests"),
        {"failures", "errors", "group", "time", "skipped", "timestamp", "hostname", "id", "package", "file", "log", "url",
         "version"},
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
    ),
    "testcase": (
        ("name",),
        {"time", "classname", "group"},
        {"skipped", "error", "failure", "rerunFailure", "system-out", "system-err"},
    ),
    "failure": ((), {"type", "message"}, set()),
    "error": ((), {"type", "message"}, set()),
    "skipped": ((), {"type", "message"}, set()),
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    outcomes = sound_outcomes()
    outcomes["walls"] = Outcome(
        [
            Metric("flips", "H–N", 2.0, "", upper=0, detail="<b>at 0.4 Å</b>\x00"),
            Metric("height", "H–N", 4.9, "eV", lower=5.0, interval=(4.5, 5.5)),
            skipped("flips", "He–He", "not an element of the head"),
            Metric("depth", "H–N", 1.0, "eV"),
            Metric("flips", "H–H", 0.0, "", upper=0),
        ]
    )
    outcomes["uncertainty"] = "the head has none"
    document = make_document(outcomes)
    broken = document.suites[0].model_copy(update={"verdict": ERROR, "outcome": None, "reason": "MemoryError"})
    document = document.model_copy(update={"suites": (broken, *document.suites[1:]), "verdict": ERROR})
    write_junit(document, tmp_path / "junit.xml")
    return ET.parse(tmp_path / "junit.xml").getroot()  # noqa: S314 - of our own making


def test_the_form_is_that_of_the_schema(root):
    assert root.tag == "testsuites"
    for element in root.iter():
        required, optional, children = SCHEMA[element.tag]
        assert set(required) <= set(element.attrib) <= {*required, *optional}
        assert {child.tag for child in element} <= children
    for case in root.iter("testcase"):
        assert sum(child.tag in {"skipped", "error", "failure"} for child in case) <= 1


def test_counts_are_those_of_the_cases(root):
    for suite in root:
        cases = suite.findall("testcase")
        assert int(suite.attrib["tests"]) == len(cases) > 0
        for attribute, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[attribute]) == sum(case.find(kind) is not None for case in cases)
    for attribute in ("tests", "failures", "errors"):
        assert int(root.attrib[attribute]) == sum(int(suite.attrib[attribute]) for suite in root)


def test_every_verdict_has_its_element(root):
    cases = {
        case.attrib["name"]: case for case in root.iter("testcase") if case.attrib["classname"] == "hydrapot.walls"
    }
    assert len(cases) == 4  # a number without a limit has no verdict, and is no case
    assert cases["flips [H–N]"].find("failure").attrib["type"] == "failure"
    assert "at 0.4 Å" in cases["flips [H–N]"].find("failure").text
    assert cases["height [H–N]"].find("failure").attrib["type"] == "inconclusive"
    assert cases["flips [He–He]"].find("skipped").attrib["message"] == "not an element of the head"
    assert len(cases["flips [H–H]"]) == 0


def test_a_suite_that_failed_itself_is_an_error_and_one_that_did_not_run_is_skipped(root):
    suites = {suite.attrib["name"]: suite for suite in root}
    assert suites["contract"].find("testcase/error").attrib["message"] == "MemoryError"
    assert suites["uncertainty"].find("testcase/skipped").attrib["message"] == "the head has none"
