"""Figures of suites as inline SVG: no script, no font, colours from the page, shapes that do not need colour."""

import math
from collections.abc import Sequence
from itertools import pairwise

from hydrapot.validation.metrics import Figure, Series
from hydrapot.validation.report.axes import Axis, make_axis
from hydrapot.validation.report.markup import Markup, join, tag, text
from hydrapot.validation.report.numbers import number

WIDTH = 480
#: Where the frame ends; labels come below it.
FRAME = 254
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 46
#: Below, for labels that do not fit side by side and stand upright.
_UPRIGHT = 110
_LETTER = 6.5
#: Points of a curve, and of a cloud: more than pixels only cost space.
MAX_POINTS = 400
#: Curves with labels of their own before colours repeat.
COLORS = 6
_MARKS = ("dots", "squares", "crosses")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4")


def figure(drawn: Figure) -> Markup:
    """A figure element: plot, legend, caption."""
    styles = _styles(drawn.series)
    x_axis, y_axis = _axes(drawn)
    legend = _legend(drawn.series, styles, y_axis)
    return tag(
        "figure",
        tag(
            "svg",
            tag("title", drawn.title),
            tag("desc", describe(drawn)),
            _frame(drawn, x_axis, y_axis),
            # A reference lies on top of the cloud that it is there to judge.
            *(
                _draw(s, styles[s.label], x_axis, y_axis)
                for s in sorted(drawn.series, key=lambda s: s.style == "reference")
            ),
            viewBox=f"0 0 {WIDTH} {FRAME + _bottom(drawn)}",
            role="img",
            aria_label=f"{drawn.title}. {describe(drawn)}",
        ),
        legend,
        tag("figcaption", drawn.title),
    )


def describe(drawn: Figure) -> str:
    """The figure in words, for those who cannot see it."""
    parts = []
    for series in drawn.series:
        known = [y for y in series.y if math.isfinite(y)]
        span = f"{number(min(known))} to {number(max(known))}" if known else "no finite value"
        parts.append(f"{series.label or 'curve'} {span}")
        if len(parts) == 8:
            parts.append(f"and {len(drawn.series) - 8} more")
            break
    return f"{drawn.y_label} over {drawn.x_label}: {'; '.join(parts)}."


def _styles(series: Sequence[Series]) -> dict[str, int]:
    """Number of the style of each label, in order of appearance; limits and references have their own."""
    order = dict.fromkeys(s.label for s in series if s.style in {"line", "points"})
    styles = {label: k for k, label in enumerate(order)}
    return {**dict.fromkeys((s.label for s in series), 0), **styles}


def _axes(drawn: Figure) -> tuple[Axis, Axis]:
    data = [s for s in drawn.series if s.style != "limit"] or list(drawn.series)
    xs = [x for s in drawn.series for x in s.x]
    ys = [y for s in data for y in _with_errors(s)]
    finite = [y for y in ys if math.isfinite(y) and (y > 0 or not drawn.y_log)]
    for s in drawn.series:
        # A limit far beyond the data would press them into a line: it is then named in the legend only.
        if s.style == "limit" and (drawn.y_log or _near(s.y, finite)):
            ys += s.y
    lines = any(s.style == "line" for s in drawn.series)
    x_axis = make_axis(
        xs, start=LEFT, end=WIDTH - RIGHT, log=drawn.x_log, ticks=drawn.x_ticks, tight=bool(drawn.x_ticks) and lines
    )
    return x_axis, make_axis(ys, start=FRAME, end=TOP, log=drawn.y_log)


def _bottom(drawn: Figure) -> int:
    """Room below the frame; labels that would run into each other stand upright."""
    if not drawn.x_ticks:
        return BOTTOM
    places = sorted(at for at, _ in drawn.x_ticks)
    span = (places[-1] - places[0]) or 1.0
    gaps = [b - a for a, b in pairwise(places) if b > a]
    room = min(gaps, default=span) / span * (WIDTH - LEFT - RIGHT)
    longest = max(len(label) for _, label in drawn.x_ticks)
    return _UPRIGHT if longest > 3 and longest * _LETTER > room else BOTTOM


def _fitting(label: str) -> str | None:
    """Style of a label that would be longer than the frame."""
    room = FRAME / (0.55 * max(len(label), 1))
    return f"font-size:{max(room, 7):.1f}px" if room < 13 else None


def _upright(label: str, x: float, bottom: float) -> Markup:
    place = f"{_n(x + 4)} {_n(bottom + 6)}"
    shown = label if len(label) <= 15 else f"{label[:14]}…"
    return tag("text", shown, transform=f"translate({place}) rotate(-90)", text_anchor="end")


def _with_errors(series: Series) -> list[float]:
    if series.error is None:
        return list(series.y)
    pairs = list(zip(series.y, series.error, strict=False))
    return [y - e for y, e in pairs] + [y + e for y, e in pairs]


def _near(limit: Sequence[float], finite: Sequence[float]) -> bool:
    if not finite:
        return True
    low, high = min(finite), max(finite)
    span = (high - low) or abs(high) or 1.0
    return all(low - 4 * span <= y <= high + 4 * span for y in limit)


def _frame(drawn: Figure, x_axis: Axis, y_axis: Axis) -> Markup:
    right, bottom = WIDTH - RIGHT, FRAME
    below = _bottom(drawn)
    upright = below > BOTTOM
    parts: list[Markup] = []
    for value, label in y_axis.ticks:
        y = y_axis.place(value)
        if y is None:
            continue
        parts += (
            tag("line", class_="grid", x1=LEFT, x2=right, y1=_n(y), y2=_n(y)),
            tag("text", label, x=LEFT - 6, y=_n(y + 4), text_anchor="end"),
        )
    for value, label in x_axis.ticks:
        x = x_axis.place(value)
        if x is None:
            continue
        parts += (
            tag("line", class_="grid", x1=_n(x), x2=_n(x), y1=TOP, y2=bottom),
            _upright(label, x, bottom) if upright else tag("text", label, x=_n(x), y=bottom + 16, text_anchor="middle"),
        )
    middle = (TOP + bottom) / 2
    parts += (
        tag("rect", class_="frame", x=LEFT, y=TOP, width=right - LEFT, height=bottom - TOP),
        tag("text", drawn.x_label, class_="label", x=(LEFT + right) / 2, y=FRAME + below - 10, text_anchor="middle"),
        tag(
            "text",
            drawn.y_label,
            class_="label",
            x=13,
            y=_n(middle),
            text_anchor="middle",
            transform=f"rotate(-90 13 {_n(middle)})",
            style=_fitting(drawn.y_label),
        ),
    )
    return tag("g", *parts, class_="axes")


def _draw(series: Series, style: int, x_axis: Axis, y_axis: Axis) -> Markup:
    points = [
        (x_axis.place(x), y_axis.place(y) if series.style != "limit" or y_axis.shows(y) else None)
        for x, y in zip(series.x, series.y, strict=False)
    ]
    if series.style == "limit" and len(points) == 1 and points[0][1] is not None:
        # One value stands for a level over the whole width.
        points = [(x_axis.start, points[0][1]), (x_axis.end, points[0][1])]
    kind = f"c{style % COLORS}" if series.style in {"line", "points"} else series.style
    parts = []
    if series.style == "points":
        stride = max(1, math.ceil(len(points) / (4 * MAX_POINTS)))
        marks = "".join(_mark(x, y, style) for x, y in points[::stride] if x is not None and y is not None)
        crowded = "0.45" if len(points) > 200 else None
        parts.append(tag("path", class_=f"{_MARKS[style % len(_MARKS)]} {kind}", d=marks, stroke_opacity=crowded))
    else:
        dash = _DASHES[(style // COLORS + style) % len(_DASHES)] if series.style == "line" else None
        parts.append(tag("path", class_=f"curve {kind}", d=_path(_thinned(points)), stroke_dasharray=dash or None))
    if series.error is not None:
        parts.append(tag("path", class_=f"bars {kind}", d=_bars(series, x_axis, y_axis)))
    return join(*parts)


def _mark(x: float, y: float, style: int) -> str:
    """A dot, a square or a cross: the shapes of the classes in :data:`_MARKS`."""
    if _MARKS[style % len(_MARKS)] == "crosses":
        return f"M{_n(x - 3)} {_n(y - 3)}l6 6m-6 0l6 -6"
    return f"M{_n(x)} {_n(y)}h0"


def _path(points: Sequence[tuple[float | None, float | None]]) -> str:
    """A line through the points; it is interrupted where one cannot be drawn."""
    written, pen_down = [], False
    for x, y in points:
        if x is None or y is None:
            pen_down = False
            continue
        written.append(f"{'L' if pen_down else 'M'}{_n(x)} {_n(y)}")
        pen_down = True
    return "".join(written)


def _thinned(points: list[tuple[float | None, float | None]]) -> list[tuple[float | None, float | None]]:
    """At most about MAX_POINTS, keeping the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= MAX_POINTS:
        return points
    width = math.ceil(2 * len(points) / MAX_POINTS)
    kept: list[tuple[float | None, float | None]] = []
    for begin in range(0, len(points), width):
        stretch = list(enumerate(points[begin : begin + width]))
        missing = [item for item in stretch if item[1][1] is None or item[1][0] is None]
        known = [(k, (x, y)) for k, (x, y) in stretch if x is not None and y is not None]
        chosen: dict[int, tuple[float | None, float | None]] = dict(missing[:1])
        if known:
            lowest, highest = (extreme(known, key=lambda item: item[1][1]) for extreme in (min, max))
            chosen |= dict([known[0], lowest, highest, known[-1]])
        kept += [chosen[k] for k in sorted(chosen)]
    return kept


def _bars(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    written = []
    stride = max(1, math.ceil(len(series.x) / MAX_POINTS))
    triples = list(zip(series.x, series.y, series.error or (), strict=False))[::stride]
    for at, value, error in triples:
        x, high = x_axis.place(at), y_axis.place(value + error)
        low = y_axis.place(max(value - error, y_axis.low))
        if x is not None and high is not None and low is not None:
            written.append(f"M{_n(x)} {_n(low)}V{_n(high)}M{_n(x - 3)} {_n(high)}h6M{_n(x - 3)} {_n(low)}h6")
    return "".join(written)


def _legend(series: Sequence[Series], styles: dict[str, int], y_axis: Axis) -> Markup | None:
    entries: dict[str, Series] = {}
    for s in series:
        if s.label:
            entries.setdefault(s.label, s)
    if not entries or (len(entries) == 1 and len(series) == 1 and series[0].style != "limit"):
        return None
    items = []
    for label, s in list(entries.items())[:16]:
        hidden = s.style == "limit" and not any(y_axis.shows(y) for y in s.y)
        style = styles[label]
        kind = f"c{style % COLORS}" if s.style in {"line", "points"} else s.style
        if s.style == "points":
            sample = tag("path", class_=f"{_MARKS[style % len(_MARKS)]} {kind}", d=_mark(12, 6, style))
        else:
            dash = _DASHES[(style // COLORS + style) % len(_DASHES)] if s.style == "line" else None
            sample = tag("path", class_=f"curve {kind}", d="M0 6H24", stroke_dasharray=dash or None)
        swatch = tag("svg", sample, viewBox="0 0 24 12", width=24, height=12, aria_hidden="true")
        items.append(tag("li", swatch, text(f" {label}{' (beyond the axis)' if hidden else ''}")))
    if len(entries) > 16:
        items.append(tag("li", f"and {len(entries) - 16} more"))
    return tag("ul", *items, class_="legend")


def _n(value: float) -> str:
    """A coordinate with a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
