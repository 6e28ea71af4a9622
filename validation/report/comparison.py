"""A comparison of two validations as a page or as JSON."""

import json
from pathlib import Path

from hydrapot.potential.container import write_atomically
from hydrapot.validation.compare import Comparison, Key, MetricChange, ordered
from hydrapot.validation.document import Document
from hydrapot.validation.report.markup import Markup, join, tag
from hydrapot.validation.report.numbers import limit, quantity
from hydrapot.validation.report.page import document_page
from hydrapot.validation.report.tables import badge


def write_comparison(comparison: Comparison, path: str | Path) -> None:
    """Write the comparison, as JSON for a name that ends so, else as a page."""
    path = Path(path)
    if path.suffix == ".json":
        text = json.dumps(comparison.as_dict(), indent=1, allow_nan=False) + "\n"
    else:
        text = comparison_page(comparison)
    write_atomically(path, text.encode())


def comparison_page(comparison: Comparison) -> str:
    """The whole page."""
    answer = "B is worse than A" if comparison.worse else "B is no worse than A"
    body = join(
        tag("header", tag("h1", answer), _identities(comparison), _remarks(comparison.remarks)),
        tag(
            "main",
            _suites(comparison),
            _metrics(comparison),
            _only("A", comparison.only_a),
            _only("B", comparison.only_b),
        ),
    )
    return document_page(f"{answer}: {_name(comparison.a)} and {_name(comparison.b)}", body)


def _name(document: Document) -> str:
    subject = document.subject
    return ", ".join(part for part in (subject.name, subject.head) if part)


def _identities(comparison: Comparison) -> Markup:
    pairs = []
    for label, document in (("A", comparison.a), ("B", comparison.b)):
        words = f" {_name(document)}, tier {document.settings.tier}, {document.created}"
        pairs.append(join(tag("dt", label), tag("dd", badge(document.verdict), words)))
    return tag("dl", *pairs, class_="facts")


def _remarks(remarks: list[str]) -> Markup | None:
    return tag("ul", *(tag("li", remark) for remark in remarks), class_="small") if remarks else None


def _change(*, worse: bool, better: bool) -> Markup:
    if worse:
        return tag("span", "▼ worse", class_="verdict red")
    return tag("span", "▲ better", class_="verdict green") if better else Markup("")


def _table(titles: tuple[str, ...], rows: list[Markup]) -> Markup:
    head = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in titles)))
    return tag("div", tag("table", head, tag("tbody", *rows), class_="stack"), class_="scroll")


def _suites(comparison: Comparison) -> Markup:
    titles = {r.name: r.title for document in (comparison.a, comparison.b) for r in document.suites}
    rows = [
        tag(
            "tr",
            tag("th", titles[change.name], scope="row"),
            *(
                tag("td", badge(v) if v else "unknown", data_label=k)
                for k, v in (("A", change.before), ("B", change.after))
            ),
            tag("td", _change(worse=change.worse, better=change.better), data_label="change"),
        )
        for change in comparison.suites
    ]
    return join(tag("h2", "Suites"), _table(("Suite", "A", "B", "Change"), rows))


def _metrics(comparison: Comparison) -> Markup:
    changes = ordered(comparison.metrics)
    differing = [c for c in changes if c.worse or c.better or c.significant]
    same = changes[len(differing) :]
    titles = ("Quantity", "Of", "A", "B", "Limit", "Change")
    parts = [tag("h2", f"Numbers that differ ({len(differing)})"), _table(titles, [_row(c) for c in differing])]
    if same:
        summary = tag("summary", f"{len(same)} numbers that are the same within their intervals")
        parts.append(tag("details", summary, _table(titles, [_row(c) for c in same])))
    return join(*parts)


def _row(change: MetricChange) -> Markup:
    suite, name, subject, precision = change.key
    return tag(
        "tr",
        tag("td", tag("strong", name), tag("span", f" {suite}", class_="soft small"), data_label="quantity"),
        tag("td", ", ".join(part for part in (subject, precision) if part), data_label="of"),
        *(
            tag("td", quantity(m.value, m.unit), " ", badge(m.verdict.value) if m.verdict else None, data_label=label)
            for label, m in (("A", change.before), ("B", change.after))
        ),
        tag("td", limit(change.after), class_="number", data_label="limit"),
        tag("td", _change(worse=change.worse, better=change.better), data_label="change"),
    )


def _only(label: str, keys: tuple[Key, ...]) -> Markup | None:
    if not keys:
        return None
    items = [tag("li", f"{k[0]}: {', '.join(part for part in k[1:] if part)}") for k in keys[:500]]
    return tag("details", tag("summary", f"{len(keys)} numbers only in {label}"), tag("ul", *items))
