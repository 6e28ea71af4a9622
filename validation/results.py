"""What a check reports: a number, its limit and whether it holds."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check on one subject.

    Attributes
    ----------
    name
        The check, e.g. ``forces``.
    subject
        What it ran on: a structure, an element, a pair.
    measured, limit, unit
        The number, the limit that it is held to, and the unit of both.
    passed
        Whether the limit is kept. A number that could not be measured never passes.
    detail
        One line: which way the limit goes, where the worst value was, what could not be resolved.
    is_lower
        Whether the limit is a lower one.
    """

    name: str
    subject: str
    measured: float
    limit: float
    unit: str
    passed: bool
    detail: str = ""
    is_lower: bool = False

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        note = f" ({self.detail})" if self.detail else ""
        figures = f"{self.measured:.3g}, limit {self.limit:.3g} {self.unit}"
        return f"{verdict} {self.name} [{self.subject}]: {figures}{note}"


def at_most(name: str, subject: str, measured: float, limit: float, unit: str, detail: str = "") -> CheckResult:
    """Result of a check that holds while ``measured <= limit``; NaN fails."""
    return CheckResult(name, subject, float(measured), limit, unit, bool(measured <= limit), detail)


def at_least(name: str, subject: str, measured: float, limit: float, unit: str, detail: str = "") -> CheckResult:
    """Result of a check that holds while ``measured >= limit``; NaN fails."""
    return CheckResult(name, subject, float(measured), limit, unit, bool(measured >= limit), detail, is_lower=True)


def unmeasured(name: str, subject: str, limit: float, unit: str, reason: str) -> CheckResult:
    """A check that could not be carried out: it does not pass, and says why."""
    return CheckResult(name, subject, math.nan, limit, unit, passed=False, detail=reason)


def failures(results: list[CheckResult]) -> list[CheckResult]:
    """Those that did not pass, in their order."""
    return [r for r in results if not r.passed]
