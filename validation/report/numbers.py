"""Numbers as a reader of the report wants them."""

import math

from hydrapot.validation.metrics import Metric

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MINUS = "\N{MINUS SIGN}"


def number(value: float | None, *, digits: int = 3) -> str:
    """Significant digits, powers of ten as such: ``0.0123``, ``1.2×10⁻⁷``."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    written = f"{value:.{digits}g}"
    mantissa, _, exponent = written.partition("e")
    if exponent:
        mantissa += f"×10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return mantissa.replace("-", _MINUS)


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit."""
    return number(value) if value is None or not unit else f"{number(value)} {unit}"


def interval(metric: Metric) -> str:
    """The 95 % interval, empty where there is none."""
    if metric.interval is None:
        return ""
    low, high = metric.interval
    return f"{number(low)} … {number(high)}"


def limit(metric: Metric) -> str:
    """Limits in words."""
    if metric.lower is not None and metric.upper is not None:
        return f"{number(metric.lower)} … {number(metric.upper)}"
    if metric.upper is not None:
        return f"≤ {number(metric.upper)}"
    return "" if metric.lower is None else f"≥ {number(metric.lower)}"
