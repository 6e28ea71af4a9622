"""Numbers as a reader of the report wants them."""

import math

from hydrapot.validation.metrics import Metric

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MINUS = "\N{MINUS SIGN}"


def number(value: float | None, *, digits: int = 3) -> str:
    """Significant digits, one more after a leading 1, and powers of ten as such: ``0.0123``, ``1.002``, ``4.2×10⁻⁷``."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if value == 0:
        return "0"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    if mantissa.lstrip("-").startswith("1"):
        mantissa, _, power = f"{value:.{digits}e}".partition("e")
    exponent = int(power)
    places = len(mantissa.lstrip("-").replace(".", "")) - 1 - exponent
    if -4 < exponent < 6:
        written = f"{value:.{max(places, 0)}f}"
        return _stripped(written).replace("-", _MINUS)
    return f"{_stripped(mantissa)}×{power_of_ten(exponent)}".replace("-", _MINUS)


def power_of_ten(exponent: int) -> str:
    """``10⁻⁷``."""
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def _stripped(written: str) -> str:
    """Without zeros at the end of a fraction."""
    return written.rstrip("0").rstrip(".") if "." in written else written


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit."""
    bare = value is None or math.isnan(value) or unit in {"", "1", "number"}
    return number(value) if bare else f"{number(value)} {unit}"


def interval(metric: Metric) -> str:
    """The 95 % interval, empty where there is none."""
    if metric.interval is None:
        return ""
    low, high = metric.interval
    return f"{number(low)} … {number(high)}"


def limit(metric: Metric) -> str:
    """Limits in words."""
    if metric.lower is not None and metric.lower == metric.upper:
        return f"= {number(metric.lower)}"
    if metric.lower is not None and metric.upper is not None:
        return f"{number(metric.lower)} … {number(metric.upper)}"
    if metric.upper is not None:
        return f"≤ {number(metric.upper)}"
    return "" if metric.lower is None else f"≥ {number(metric.lower)}"
