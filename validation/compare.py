"""Two results side by side: what changed, and whether anything became worse.

Worse is a suite or a metric of both whose verdict fell, and a suite that was tested in A and not in B: evidence that is
gone. Metrics that only one of the two has (another tier, other structures) are listed and decide nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hydrapot.validation.document import ERROR, Document
from hydrapot.validation.metrics import Metric

#: Best first; what was not tested is worse than what passed, and better than what is known to be wrong.
_RANK = {"PASS": 0, "N-A": 1, "INCONCLUSIVE": 2, "FAIL": 3, ERROR: 4}

#: Suite, name, subject, precision: the same quantity in both.
Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class SuiteChange:
    """Verdicts of one suite; None where a document does not know it."""

    name: str
    before: str | None
    after: str | None

    @property
    def worse(self) -> bool:
        """Whether B says less for the subject than A."""
        return _rank(self.after) > _rank(self.before)

    @property
    def better(self) -> bool:
        """Whether B says more; what was not tested is never better."""
        return self.after not in {None, "N-A"} and _rank(self.after) < _rank(self.before)


@dataclass(frozen=True)
class MetricChange:
    """One quantity of both."""

    key: Key
    before: Metric
    after: Metric

    @property
    def worse(self) -> bool:
        """Whether its verdict fell; numbers without limit never do."""
        if self.before.verdict is None or self.after.verdict is None:
            return False
        return _rank(self.after.verdict.value) > _rank(self.before.verdict.value)

    @property
    def better(self) -> bool:
        """Whether its verdict rose; what was not measured is never better."""
        return self.after.value is not None and MetricChange(self.key, self.after, self.before).worse

    @property
    def difference(self) -> float | None:
        """B − A, in the metric's unit."""
        if self.before.value is None or self.after.value is None:
            return None
        return self.after.value - self.before.value

    @property
    def significant(self) -> bool:
        """Whether the values differ by more than their intervals; exact numbers differ when they are not equal."""
        if self.before.value is None or self.after.value is None:
            return self.before.value is not self.after.value
        low_a, high_a = self.before.interval or (self.before.value,) * 2
        low_b, high_b = self.after.interval or (self.after.value,) * 2
        return not (low_a <= high_b and low_b <= high_a)


@dataclass(frozen=True)
class Comparison:
    """A and B."""

    a: Document
    b: Document
    suites: tuple[SuiteChange, ...]
    metrics: tuple[MetricChange, ...]
    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]

    @property
    def worse(self) -> bool:
        """Whether anything became worse."""
        return any(s.worse for s in self.suites) or any(m.worse for m in self.metrics)

    @property
    def remarks(self) -> list[str]:
        """Why the two may not be comparable."""
        a, b = self.a, self.b
        found = []
        if a.settings.domain != b.settings.domain:
            found.append("the domains differ, and with them structures and limits")
        for what, one, other in (
            ("tiers", a.settings.tier, b.settings.tier),
            ("levels of theory", a.subject.level_of_theory, b.subject.level_of_theory),
            ("seeds", a.settings.seeds, b.settings.seeds),
            (
                "versions of hydrapot",
                a.environment.versions.get("hydrapot"),
                b.environment.versions.get("hydrapot"),
            ),
        ):
            if one != other:
                found.append(f"the {what} differ: {one} and {other}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema": "hydrapot comparison",
            "schema_version": 1,
            "a": _identity(self.a),
            "b": _identity(self.b),
            "worse": self.worse,
            "remarks": self.remarks,
            "suites": [
                {"name": s.name, "a": s.before, "b": s.after, "worse": s.worse, "better": s.better} for s in self.suites
            ],
            "metrics": [
                {
                    "suite": change.key[0],
                    "name": change.key[1],
                    "subject": change.key[2],
                    "precision": change.key[3],
                    "a": change.before.as_dict(),
                    "b": change.after.as_dict(),
                    "worse": change.worse,
                    "better": change.better,
                    "significant": change.significant,
                }
                for change in self.metrics
            ],
            "only_a": [list(key) for key in self.only_a],
            "only_b": [list(key) for key in self.only_b],
        }


def compare(a: Document, b: Document) -> Comparison:
    """Put two documents side by side; B is the newer, or the candidate."""
    names = dict.fromkeys([r.name for r in a.suites] + [r.name for r in b.suites])
    suites = tuple(SuiteChange(name, _verdict(a, name), _verdict(b, name)) for name in names)
    before, after = _metrics(a), _metrics(b)
    shared = tuple(MetricChange(key, before[key], after[key]) for key in before if key in after)
    return Comparison(
        a, b, suites, shared, tuple(k for k in before if k not in after), tuple(k for k in after if k not in before)
    )


def ordered(changes: Iterable[MetricChange]) -> list[MetricChange]:
    """Worse first, then better, then what differs, each in its order."""
    return sorted(changes, key=lambda c: (not c.worse, not c.better, not c.significant))


def _metrics(document: Document) -> Mapping[Key, Metric]:
    found: dict[Key, Metric] = {}
    for record in document.suites:
        outcome = record.found
        for metric in outcome.metrics if outcome is not None else ():
            key = (record.name, metric.name, metric.subject, metric.precision)
            count = 2
            while key in found:  # the second of the same name is compared with the second
                key = (*key[:2], f"{metric.subject} ({count})", metric.precision)
                count += 1
            found[key] = metric
    return found


def _verdict(document: Document, name: str) -> str | None:
    record = document.suite(name)
    return None if record is None else record.verdict


def _rank(verdict: str | None) -> int:
    return _RANK["N-A"] if verdict is None else _RANK[verdict]


def _identity(document: Document) -> dict[str, Any]:
    return {
        "name": document.subject.name,
        "head": document.subject.head,
        "sha256": document.subject.sha256,
        "created": document.created,
        "tier": document.settings.tier,
        "verdict": document.verdict,
    }
