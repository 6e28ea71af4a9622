"""How far a metric is from its limit: which one is the worst of a suite, and by how much."""

import math
from collections.abc import Iterable

from hydrapot.validation.metrics import Metric, Verdict

_ORDER = {Verdict.FAIL: 3, Verdict.INCONCLUSIVE: 2, Verdict.PASS: 1, Verdict.NOT_APPLICABLE: 0}


def share(metric: Metric) -> float | None:
    """Share of what the limits allow that the value uses up: 1 at the limit, more beyond it.

    None where no such share exists: nothing measured, no limit, or a limit of zero on one side only.
    """
    value, lower, upper = metric.value, metric.lower, metric.upper
    if value is None or (lower is None and upper is None):
        return None
    if not math.isfinite(value):
        return math.inf
    if lower is not None and upper is not None:
        half = (upper - lower) / 2
        return abs(value - (lower + upper) / 2) / half if half > 0 else (0.0 if value == upper else math.inf)
    if upper is not None:
        return max(value, 0.0) / upper if upper > 0 else None
    assert lower is not None  # noqa: S101 - for the type checker
    if lower <= 0:
        return None
    return lower / value if value > 0 else math.inf


def worst(metrics: Iterable[Metric]) -> Metric | None:
    """The metric that decides: by verdict, then by the share of its limit; None where there is no verdict at all."""
    judged = [m for m in metrics if m.verdict is not None]
    return max(judged, key=_badness, default=None)


def margin(metric: Metric) -> str:
    """The share in words: ``31 % of the limit``, ``12 times the limit``."""
    used = share(metric)
    if used is None:
        return ""
    if math.isinf(used):
        return "beyond any limit"
    if metric.lower is not None and metric.upper is not None:
        return f"{100 * used:.0f} % of the way" if used <= 1 else f"{_times(used)} the half-width"
    if used <= 0.995:
        return "< 1 % of the limit" if 0 < used < 0.01 else f"{100 * used:.0f} % of the limit"
    return "at the limit" if used <= 1.005 else f"{_times(used)} the limit"


def _times(factor: float) -> str:
    return f"{factor:.1f} times" if factor < 10 else f"{factor:.0f} times" if factor < 1e4 else f"{factor:.0e} times"


def _badness(metric: Metric) -> tuple[int, float]:
    used = share(metric)
    return (_ORDER[metric.verdict or Verdict.NOT_APPLICABLE], -1.0 if used is None else used)
