"""Tables of the report: the use matrix, the list of suites, the metrics of a suite."""

from collections.abc import Sequence
from typing import NamedTuple

from hydrapot.validation.margin import margin, share
from hydrapot.validation.metrics import Metric, Verdict
from hydrapot.validation.report.markup import Markup, join, tag
from hydrapot.validation.report.numbers import interval, limit, quantity
from hydrapot.validation.usematrix import Cell, Color, UseMatrix
from hydrapot.validation.uses import USES

_TITLES = ("Quantity", "Of", "Value", "95 % interval", "Limit", "Verdict", "Remark")
_ALWAYS = {"Quantity", "Value", "Verdict"}
_MARKS = {Color.GREEN: "✓", Color.RED: "✗", Color.AMBER: "?", Color.GREY: "–"}
_SIGNS = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?", "N-A": "–", "ERROR": "!"}
_ORDER = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS, None, Verdict.NOT_APPLICABLE)
#: Rows of a table that stands open as a whole, and rows behind a summary: the rest is in results.json.
OPEN_ROWS, MAX_ROWS = 8, 100


def badge(verdict: str) -> Markup:
    """A verdict with its sign, so that it reads without colour."""
    return tag("span", f"{_SIGNS.get(verdict, '')} {verdict}".strip(), class_=f"verdict {verdict}")


def matrix_table(matrix: UseMatrix) -> Markup:
    """Uses by engines and precisions; under each use, what stands against it."""
    heads = [tag("th", "Use", scope="col"), *(tag("th", c.title, scope="col") for c in matrix.columns)]
    rows = []
    for use in USES:
        cells = matrix.rows[use.key]
        reasons = _shared(cells)
        why = tag("span", reasons, class_="why") if reasons else None
        rows.append(
            tag(
                "tr",
                tag("th", use.title, why, scope="row"),
                *(_cell(cell, column.title) for cell, column in zip(cells, matrix.columns, strict=True)),
            )
        )
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_="matrix")
    return join(tag("div", table, class_="scroll"), _key())


def _cell(cell: Cell, column: str) -> Markup:
    tip = "; ".join((*cell.reasons, *(f"left out: {gap}" for gap in cell.gaps))) or "everything required passed"
    gaps = f"{len(cell.gaps)} left out" if cell.gaps and cell.color is Color.GREEN else None
    return tag(
        "td",
        tag("span", "◐" if cell.sound else _MARKS[cell.color], class_="mark", aria_hidden="true"),
        tag("span", cell.word, class_="word"),
        tag("span", gaps, class_="gap") if gaps else None,
        class_=cell.color.value,
        title=tip,
        data_label=column,
    )


def _shared(cells: Sequence[Cell]) -> str:
    """The first reason of the first column that is not green, which is that of the potential itself."""
    first = next((cell for cell in cells if cell.reasons), None)
    if first is None:
        return ""
    more = len(first.reasons) - 1
    return first.reasons[0] + (f" … and {more} more" if more else "")


def _key() -> Markup:
    entries = (
        ("green", "✓ yes", "everything that this use requires was tested and passed"),
        ("red", "✗ no", "something that it requires failed"),
        ("amber", "? unclear", "the uncertainty of a number contains its limit"),
        ("grey", "◐ sound only", "runs soundly, but its accuracy was not compared with reference data"),
        ("grey", "– not shown", "something that it requires was not tested"),
    )
    return tag("ul", *(tag("li", tag("span", word, class_=color), text) for color, word, text in entries), class_="key")


def reasons(matrix: UseMatrix) -> Markup:
    """Everything that stands against each use, by column; for readers of paper, too."""
    parts = []
    for use in USES:
        found: dict[tuple[str, ...], list[str]] = {}
        for column, cell in zip(matrix.columns, matrix.rows[use.key], strict=True):
            lines = (*cell.reasons, *(f"left out: {gap}" for gap in cell.gaps))
            if lines:
                found.setdefault(lines, []).append(column.title)
        for lines, columns in found.items():
            where = "" if len(columns) == len(matrix.columns) else f" ({', '.join(columns)})"
            parts.append(join(tag("h3", f"{use.title}{where}"), tag("ul", *(tag("li", line) for line in lines))))
    if not parts:
        return Markup("")
    return tag("details", tag("summary", "All reasons, use by use"), *parts)


def metric_cell(metric: Metric | None) -> Markup:
    """The worst metric of a suite in one line."""
    if metric is None:
        return tag("td", "no limits", class_="soft", data_label="worst")
    if metric.value is None:
        return tag("td", metric.detail or "not tested", class_="soft", data_label="why")
    where = f"{metric.subject}" if metric.subject else ""
    return tag(
        "td",
        metric.name,
        tag("span", f" {where}", class_="soft small") if where else None,
        data_label="worst",
    )


def margin_cell(metric: Metric | None) -> Markup:
    """How much of the limit the worst metric uses up: a bar up to the limit, and words."""
    words = margin(metric) if metric is not None else ""
    if metric is None or metric.value is None:
        return tag("td", data_label="margin")
    if not words:  # a limit of zero has no shares
        return tag("td", f"{quantity(metric.value, metric.unit)}, limit {limit(metric)}", data_label="margin")
    used = min(share(metric) or 0.0, 1.0)
    bar = tag("span", tag("i", style=f"width:{100 * used:.0f}%"), class_="bar", aria_hidden="true")
    return tag("td", bar, words, class_="margin", data_label="margin")


def metrics_tables(metrics: Sequence[Metric]) -> Markup:
    """Open: what failed or is unclear, and of every quantity what is nearest to its limit; the rest behind a summary."""
    ordered = [m for verdict in _ORDER for m in _by_share(metrics, verdict)]
    if len(ordered) <= OPEN_ROWS:
        return _metrics_table(ordered)
    shown: list[Metric] = []
    rest: list[Metric] = []
    for metric in ordered:
        serious = metric.verdict in {Verdict.FAIL, Verdict.INCONCLUSIVE} and len(shown) < 2 * OPEN_ROWS
        (shown if serious or metric.name not in {m.name for m in shown} else rest).append(metric)
    parts = [_metrics_table(shown)]
    if rest[:MAX_ROWS]:
        hidden = rest[:MAX_ROWS]
        parts.append(tag("details", tag("summary", f"{len(hidden)} more ({_counts(hidden)})"), _metrics_table(hidden)))
    if left := rest[MAX_ROWS:]:
        parts.append(tag("p", f"{len(left)} further rows ({_counts(left)}) are in results.json.", class_="soft small"))
    return join(*parts)


def _by_share(metrics: Sequence[Metric], verdict: Verdict | None) -> list[Metric]:
    found = [m for m in metrics if m.verdict is verdict]
    return sorted(found, key=lambda m: -(share(m) or 0.0)) if verdict in _ORDER[:3] else found


def _counts(metrics: Sequence[Metric]) -> str:
    names = [m.verdict.value if m.verdict else "without limit" for m in metrics]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def _metrics_table(metrics: Sequence[Metric]) -> Markup:
    """A table without the columns that would be empty."""
    rows = [_metric_row(metric) for metric in metrics]
    used = [k for k, title in enumerate(_TITLES) if title in _ALWAYS or any(row[k].content for row in rows)]
    head = tag("thead", tag("tr", *(tag("th", _TITLES[k], scope="col") for k in used)))
    body = (
        tag("tr", *(tag("td", row[k].content, class_=row[k].style, data_label=_TITLES[k].lower()) for k in used))
        for row in rows
    )
    return tag("div", tag("table", head, tag("tbody", *body), class_="stack"), class_="scroll")


class _Field(NamedTuple):
    content: str
    style: str | None = None


def _metric_row(metric: Metric) -> list[_Field]:
    level = f"against {metric.level_of_theory}" if metric.level_of_theory else ""
    remark = "; ".join(part for part in (metric.detail, level) if part)
    subject = ", ".join(part for part in (metric.subject, metric.precision) if part)
    verdict = badge(metric.verdict.value) if metric.verdict else tag("span", "no limit", class_="soft small")
    return [
        _Field(tag("strong", metric.name)),
        _Field(subject),
        _Field(quantity(metric.value, metric.unit), "number"),
        _Field(interval(metric), "number"),
        _Field(limit(metric), "number"),
        _Field(verdict),
        _Field(remark, "small"),
    ]
