"""What a suite reports: numbers with unit, interval, limit and verdict, and curves for the report.

A verdict is never stronger than its number: a limit inside the 95 % interval is INCONCLUSIVE, a test that did not run
is N-A, a number that is not finite fails.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from hydrapot.validation.results import CheckResult


class Verdict(StrEnum):
    """Outcome of a metric, a suite or a whole validation."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_APPLICABLE = "N-A"

    @classmethod
    def of(cls, verdicts: Iterable["Verdict"]) -> "Verdict":
        """The verdict on all together: the worst; those that do not apply count only when there is no other."""
        found = set(verdicts)
        return next((v for v in (cls.FAIL, cls.INCONCLUSIVE, cls.PASS) if v in found), cls.NOT_APPLICABLE)


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes
    ----------
    name
        What was measured, in the words of the field, e.g. ``shadow energy slope``. The same quantity has the same name
        for every subject.
    subject
        What it was measured on, e.g. ``Cu32, 300 K, 1 fs, seed 0``.
    value
        The number; None when it was not measured, for the reason in `detail`.
    unit
        Its unit, and that of interval and limits.
    lower, upper
        Acceptance limits; None on a side that is open. Without any, the number is reported and has no verdict.
    interval
        95 % confidence interval of the value; None for a number without statistical error.
    detail
        One line: where the worst value was, what could not be resolved, why nothing was measured.
    level_of_theory
        Of the reference that it was compared with; empty where no reference is involved.
    precision
        Precision of the network that it holds for (``f64``, ``f32``, …), where that differs from the validation's.
    """

    name: str
    subject: str
    value: float | None
    unit: str
    lower: float | None = None
    upper: float | None = None
    interval: tuple[float, float] | None = None
    detail: str = ""
    level_of_theory: str = ""
    precision: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """None for a number without a limit; a number that was not measured does not apply."""
        if self.value is None:
            return Verdict.NOT_APPLICABLE
        if self.lower is None and self.upper is None:
            return None
        low, high = self.interval or (self.value, self.value)
        lower = -math.inf if self.lower is None else self.lower
        upper = math.inf if self.upper is None else self.upper
        if math.isnan(low) or math.isnan(high) or not math.isfinite(self.value):
            return Verdict.FAIL
        if low >= lower and high <= upper:
            return Verdict.PASS
        if high < lower or low > upper:
            return Verdict.FAIL
        return Verdict.INCONCLUSIVE

    @property
    def limit(self) -> str:
        """The limits in words."""
        if self.lower is not None and self.upper is not None:
            return f"{self.lower:.4g} … {self.upper:.4g}"
        if self.upper is not None:
            return f"≤ {self.upper:.4g}"
        return "" if self.lower is None else f"≥ {self.lower:.4g}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that are not finite become text, which JSON can carry."""
        document = asdict(self)
        for key in ("value", "lower", "upper"):
            document[key] = _plain(document[key])
        document["interval"] = None if self.interval is None else [_plain(x) for x in self.interval]
        document["verdict"] = None if self.verdict is None else self.verdict.value
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Metric":
        """Inverse of :meth:`as_dict`; the verdict is computed anew."""
        known = {key: document[key] for key in document if key != "verdict"}
        for key in ("value", "lower", "upper"):
            known[key] = None if known.get(key) is None else float(known[key])
        if known.get("interval") is not None:
            low, high = known["interval"]
            known["interval"] = (float(low), float(high))
        return cls(**known)


def skipped(name: str, subject: str, reason: str, *, unit: str = "") -> Metric:
    """A test that did not run: N-A, never PASS."""
    return Metric(name, subject, None, unit, detail=reason)


def from_checks(checks: Iterable[CheckResult]) -> list[Metric]:
    """Results of the contract's checks as metrics."""
    return [_from_check(check) for check in checks]


def _from_check(check: CheckResult) -> Metric:
    return Metric(
        check.name,
        check.subject,
        check.measured,
        check.unit,
        lower=check.limit if check.is_lower else None,
        upper=None if check.is_lower else check.limit,
        detail=check.detail,
    )


@dataclass(frozen=True)
class Series:
    """One curve or cloud of points in a figure; `style` is ``line``, ``points``, ``reference`` (a dashed line) or ``limit``."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "line"
    error: Sequence[float] | None = None


@dataclass(frozen=True)
class Figure:
    """Data of a plot in the report; labels carry their units."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_log: bool = False
    y_log: bool = False
    x_ticks: Sequence[tuple[float, str]] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a suite found.

    Attributes
    ----------
    metrics
        At least one; a suite that does not apply returns :func:`skipped` ones.
    figures
        Plots for the report.
    notes
        Lines a reader of the report needs, e.g. what a number does not show.
    """

    metrics: list[Metric]
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the metrics."""
        return Verdict.of(v for v in (m.verdict for m in self.metrics) if v is not None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "verdict": self.verdict.value,
            "metrics": [metric.as_dict() for metric in self.metrics],
            "figures": [_plain_figure(figure) for figure in self.figures],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Outcome":
        """Inverse of :meth:`as_dict`."""
        return cls(
            [Metric.from_dict(metric) for metric in document["metrics"]],
            [_figure(figure) for figure in document["figures"]],
            list(document["notes"]),
        )


def _plain(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(float(value))


def _plain_figure(figure: Figure) -> dict[str, Any]:
    document = asdict(figure)
    for series in document["series"]:
        for axis in ("x", "y", "error"):
            if series[axis] is not None:
                series[axis] = [_plain(float(value)) for value in series[axis]]
    return document


def _figure(document: Mapping[str, Any]) -> Figure:
    series = [
        Series(
            s["label"],
            [float(v) for v in s["x"]],
            [float(v) for v in s["y"]],
            s["style"],
            None if s["error"] is None else [float(v) for v in s["error"]],
        )
        for s in document["series"]
    ]
    ticks = document["x_ticks"]
    return Figure(
        document["title"],
        document["x_label"],
        document["y_label"],
        series,
        document["x_log"],
        document["y_log"],
        None if ticks is None else [(float(at), str(label)) for at, label in ticks],
    )
