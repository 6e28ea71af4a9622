"""The page: verdict and use matrix first, then suites, then everything that was measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydrapot.potential.container import write_atomically
from hydrapot.validation.document import Document, SuiteRecord
from hydrapot.validation.margin import worst
from hydrapot.validation.metrics import Outcome
from hydrapot.validation.report.markup import Markup, join, tag
from hydrapot.validation.report.numbers import number
from hydrapot.validation.report.plot import figure
from hydrapot.validation.report.style import STYLE
from hydrapot.validation.report.tables import (
    badge,
    margin_cell,
    matrix_table,
    metric_cell,
    metrics_tables,
    reasons,
)
from hydrapot.validation.usematrix import Cell, Color, UseMatrix, matrix_of
from hydrapot.validation.uses import USES

#: Bytes; figures beyond it are left out, which the page says.
MAX_FIGURE_BYTES = 1_500_000

_SENTENCES = {
    "PASS": "Everything that was tested and has a limit passed.",
    "FAIL": "At least one test failed.",
    "INCONCLUSIVE": "Nothing failed, but at least one number is too uncertain to decide.",
    "N-A": "Nothing that was asked for could be tested.",
    "ERROR": "A part of the validation itself failed: there is no verdict on the potential.",
}
# Nothing is fetched, nothing is executed: the browser enforces it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_report(document: Document, path: str | Path) -> None:
    """Write ``report.html``: one file, nothing beside it, no network."""
    write_atomically(path, page(document).encode())


def page(document: Document) -> str:
    """The whole page."""
    matrix = matrix_of(document)
    subject = document.subject
    title = f"{subject.name}, head {subject.head}" if subject.head else subject.name
    body = join(
        _header(document, title),
        tag("main", _uses(matrix), _suites(document), _details(document), _environment(document)),
        tag(
            "footer",
            tag(
                "p",
                "Made by hydrapot validate from results.json, which holds every number. A test that did not run is N-A and "
                "never counts as passed. Verdicts hold for the domain above and say nothing beyond it.",
            ),
        ),
    )
    return document_page(f"{document.verdict}: validation of {title}", body)


def document_page(title: str, body: Markup) -> str:
    """A page with our style that fetches and executes nothing."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', body), lang='en')}\n"


def _header(document: Document, title: str) -> Markup:
    facts = {
        "level of theory": document.subject.level_of_theory,
        "intended for": _domain(document.settings.domain, document.subject.elements),
        "tested": f"{document.created.replace('T', ' ')[:16]} UTC, tier {document.settings.tier}, "
        f"hydrapot {document.environment.versions.get('hydrapot', '?')}",
        "SHA-256": document.subject.sha256 or "none",
    }
    return tag(
        "header",
        tag("h1", badge(document.verdict), title),
        tag("p", _SENTENCES.get(document.verdict, ""), class_="lead"),
        _facts(facts),
    )


def _facts(facts: Mapping[str, object]) -> Markup:
    return tag(
        "dl", *(join(tag("dt", key), tag("dd", value)) for key, value in facts.items() if value != ""), class_="facts"
    )


def _domain(domain: Mapping[str, Any], elements: tuple[str, ...]) -> str:
    """Elements, temperature, pressure, step, ensemble and length of runs in one line."""
    symbols = tuple(domain.get("elements") or elements)
    parts = [" ".join(symbols) if len(symbols) <= 12 else f"{' '.join(symbols[:10])} … ({len(symbols)} elements)"]
    for key, unit in (("temperature", "K"), ("pressure", "GPa")):
        low, high = domain[key]
        parts.append(f"{number(low, digits=6)} {unit}" if low == high else f"{_range(low, high)} {unit}")
    parts.append(f"{number(domain['timestep'])} fs" if domain.get("timestep") else "1 fs (0.5 fs with hydrogen)")
    parts.append(f"{str(domain['ensemble']).upper()}, {number(domain['duration'])} ns")
    return f"{domain['name']}: {', '.join(parts)}"


def _range(low: float, high: float) -> str:
    return f"{number(low, digits=6)} to {number(high, digits=6)}"


def _uses(matrix: UseMatrix) -> Markup:
    return tag(
        "section",
        tag("h2", "What it may be used for", id="uses"),
        _answers(matrix),
        matrix_table(matrix),
        reasons(matrix),
        aria_labelledby="uses",
    )


def _answers(matrix: UseMatrix) -> Markup:
    """The matrix in words: its best answer for each use."""
    groups: dict[str, list[Markup]] = {"green": [], "red": [], "amber": [], "grey": []}
    for use in USES:
        cells = matrix.rows[use.key]
        best = min(cells, key=_rank)
        chosen = [c.title for c, cell in zip(matrix.columns, cells, strict=True) if cell.color is best.color]
        where = f" ({', '.join(chosen)})" if len(chosen) < len(cells) and best.color is Color.GREEN else ""
        groups[best.color.value].append(
            tag("li", f"{use.title}{where}{' (runs soundly, accuracy not compared)' if best.sound else ''}")
        )
    headings = {
        "green": "✓ May be used for, within the domain above",
        "red": "✗ Not for",
        "amber": "? Unclear for",
        "grey": "– Not shown for",
    }
    return tag(
        "div",
        *(
            tag("section", tag("h3", headings[color]), tag("ul", *items), class_=color)
            for color, items in groups.items()
            if items
        ),
        class_="answers",
    )


def _rank(cell: Cell) -> int:
    return (Color.GREEN, Color.AMBER, Color.GREY, Color.RED).index(cell.color)


def _suites(document: Document) -> Markup:
    head = tag(
        "thead",
        tag(
            "tr", *(tag("th", t, scope="col") for t in ("Suite", "Verdict", "Nearest to its limit", "Uses up", "Time"))
        ),
    )
    rows = []
    for record in document.suites:
        found = record.found
        decisive = worst(found.metrics) if found is not None else None
        name = tag("a", record.title, href=f"#{record.name}") if _tested(found) else record.title
        if found is None:
            middle = tag("td", record.reason or "not run", class_="soft", colspan=2, data_label="why")
        else:
            middle = join(metric_cell(decisive), margin_cell(decisive))
        rows.append(
            tag(
                "tr",
                tag("th", name, scope="row"),
                tag("td", badge(record.verdict), data_label="verdict"),
                middle,
                tag("td", _duration(record.seconds), class_="number", data_label="time"),
            )
        )
    table = tag("table", head, tag("tbody", *rows), class_="stack")
    return tag(
        "section", tag("h2", "Suites", id="suites"), tag("div", table, class_="scroll"), aria_labelledby="suites"
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _tested(found: Outcome | None) -> bool:
    return found is not None and any(metric.value is not None for metric in found.metrics)


def _details(document: Document) -> Markup:
    left = MAX_FIGURE_BYTES
    articles = []
    for record in document.suites:
        found = record.found
        if found is None or not _tested(found):
            continue  # the list of suites says why
        drawn = _figures(found, left)
        left -= len(drawn.encode())
        notes = tag("ul", *(tag("li", note) for note in found.notes), class_="small") if found.notes else None
        articles.append(_article(record, drawn, metrics_tables(found.metrics), notes))
    return join(*articles)


def _figures(found: Outcome, budget: int) -> Markup:
    kept: list[Markup] = []
    size = 0
    for drawn in found.figures:
        element = figure(drawn)
        size += len(element.encode())
        if size > budget:
            note = f"{len(found.figures) - len(kept)} figures are left out to keep the page small: see results.json."
            return join(tag("div", *kept, class_="figures") if kept else None, tag("p", note, class_="soft"))
        kept.append(element)
    return tag("div", *kept, class_="figures") if kept else Markup("")


def _article(record: SuiteRecord, *content: Markup | None) -> Markup:
    kind = "contract: holds for every potential" if record.category == "A" else "accuracy: holds for a level of theory"
    return tag(
        "article",
        tag("h2", record.title, badge(record.verdict)),
        tag("p", record.purpose, " ", tag("span", f"({kind})", class_="soft")),
        *content,
        id=record.name,
    )


def _environment(document: Document) -> Markup:
    settings, environment = document.settings, document.environment
    facts = {
        "source": document.subject.source,
        "cutoff, receptive field": f"{number(document.subject.cutoff)} Å, {number(document.subject.receptive_field)} Å",
        "precisions": ", ".join(settings.precisions),
        "engines": ", ".join(settings.engines),
        "seeds": ", ".join(map(str, settings.seeds)),
        "limits of the domain": ", ".join(f"{k} {v:g}" for k, v in (settings.domain.get("limits") or {}).items()),
        "machine": f"{environment.processor}, {environment.cores} cores, {environment.workers} workers of "
        f"{environment.threads_per_worker} threads",
        "system": f"{environment.platform}, Python {environment.python}",
        "packages": ", ".join(f"{name} {version}" for name, version in environment.versions.items()),
        "time taken": _duration(document.seconds),
    }
    return tag(
        "section", tag("h2", "Settings and environment", id="settings"), _facts(facts), aria_labelledby="settings"
    )
