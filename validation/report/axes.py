"""Axes of a plot: range, ticks, and the way from a value to a place on paper."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hydrapot.validation.report.numbers import number, power_of_ten

#: What an exploded run reaches is not drawn: differences of such numbers overflow.
_HUGE = 1e300


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes
    ----------
    low, high
        Ends of the axis, in the unit of the values; low < high.
    start, end
        Where the ends are on paper.
    log
        Logarithmic; both ends are positive then.
    ticks
        Value and label.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: Sequence[tuple[float, str]]

    def place(self, value: float) -> float | None:
        """Where a value is on paper; None for one that cannot be drawn."""
        if not abs(value) < _HUGE or (self.log and value <= 1.0 / _HUGE):
            return None
        low, high, at = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        place = self.start + (at - low) / (high - low) * (self.end - self.start)
        return place if abs(place) < 1e5 else None

    def shows(self, value: float) -> bool:
        """Whether a value lies on the axis."""
        return self.low <= value <= self.high


def make_axis(
    values: Iterable[float],
    *,
    start: float,
    end: float,
    log: bool,
    ticks: Sequence[tuple[float, str]] | None = None,
    tight: bool = False,
    n_ticks: int = 5,
) -> Axis:
    """An axis that shows `values`, with round ticks unless `ticks` are given; `tight` leaves no room at the ends."""
    finite = [v for v in values if abs(v) < _HUGE and (v > 1.0 / _HUGE or not log)]
    low, high = (min(finite), max(finite)) if finite else (1.0, 10.0)
    if log:
        return _log_axis(low, high, start=start, end=end)
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-12 * largest, 1.0 / _HUGE):
        half = 0.05 * largest if largest > 1e12 / _HUGE else 1.0
        low, high = low - half, high + half
    room = 0.0 if tight else 0.04 * (high - low)
    low, high = low - room, high + room
    if ticks is None:
        ticks = _round_ticks(low, high, n_ticks)
    return Axis(low, high, start, end, log=False, ticks=[t for t in ticks if low <= t[0] <= high])


def _log_axis(low: float, high: float, *, start: float, end: float) -> Axis:
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if first == last:
        first, last = first - 1, last + 1
    step = max(1, math.ceil((last - first) / 6))
    powers = range(first, last + 1, step)
    ticks = [(10.0**p, number(10.0**p) if -3 < p < 4 else power_of_ten(p)) for p in powers]
    return Axis(10.0**first, 10.0**last, start, end, log=True, ticks=ticks)


def _round_ticks(low: float, high: float, count: int) -> list[tuple[float, str]]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    values = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    largest = max((abs(v) for v in values), default=1.0)
    digits = max(1, math.ceil(math.log10(largest / step)) + 1) if largest > 0 else 1
    return [(v, number(0.0 if v == 0 else v, digits=min(digits, 15))) for v in values]
