"""``junit.xml``: verdicts in the form that continuous-integration servers read.

One ``testsuite`` per suite, one ``testcase`` per metric that has a verdict. The form is that of the schema which Jenkins'
xUnit plugin publishes (junit-10.xsd): a case holds at most one of ``failure``, ``error`` and ``skipped``.
"""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from hydrapot.potential.container import write_atomically
from hydrapot.validation.document import ERROR, Document, SuiteRecord
from hydrapot.validation.margin import margin
from hydrapot.validation.metrics import Metric, Verdict
from hydrapot.validation.report.numbers import interval, limit, quantity

# Characters that XML 1.0 does not know: one of them in a message would make the file unreadable.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_junit(document: Document, path: str | Path) -> None:
    """Write ``junit.xml``."""
    root = ET.Element("testsuites", name=_clean(f"hydrapot validate {document.subject.name} {document.subject.head}"))
    totals = {"tests": 0, "failures": 0, "errors": 0}
    for record in document.suites:
        element = _suite(record, document.created)
        root.append(element)
        for key in totals:
            totals[key] += int(element.attrib[key])
    root.attrib.update({key: str(value) for key, value in totals.items()}, time=f"{document.seconds:.3f}")
    ET.indent(root, " ")
    write_atomically(path, ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _suite(record: SuiteRecord, created: str) -> ET.Element:
    found = record.found
    cases = [_case(record.name, m) for m in found.metrics if m.verdict is not None] if found is not None else []
    if found is None:
        case = ET.Element("testcase", classname=f"hydrapot.{record.name}", name=record.title, time="0")
        kind = "error" if record.verdict == ERROR else "skipped"
        ET.SubElement(case, kind, message=_clean(record.reason or "not run"))
        cases = [case]
    counts = {kind: sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error", "skipped")}
    element = ET.Element(
        "testsuite",
        name=record.name,
        tests=str(len(cases)),
        failures=str(counts["failure"]),
        errors=str(counts["error"]),
        skipped=str(counts["skipped"]),
        time=f"{record.seconds or 0.0:.3f}",
        timestamp=created.partition("+")[0].removesuffix("Z"),
    )
    element.extend(cases)
    return element


def _case(suite: str, metric: Metric) -> ET.Element:
    subject = ", ".join(part for part in (metric.subject, metric.precision) if part)
    name = f"{metric.name} [{subject}]" if subject else metric.name
    case = ET.Element("testcase", classname=f"hydrapot.{suite}", name=_clean(name), time="0")
    if metric.verdict is Verdict.NOT_APPLICABLE:
        ET.SubElement(case, "skipped", message=_clean(metric.detail or "not tested"))
    elif metric.verdict in {Verdict.FAIL, Verdict.INCONCLUSIVE}:
        words = [f"{quantity(metric.value, metric.unit)}, limit {limit(metric)}", margin(metric)]
        if metric.interval is not None:
            words.insert(1, f"95 % interval {interval(metric)}")
        message = _clean("; ".join(word for word in words if word))
        kind = "failure" if metric.verdict is Verdict.FAIL else "inconclusive"
        ET.SubElement(case, "failure", message=message, type=kind).text = _clean(metric.detail)
    return case


def _clean(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
