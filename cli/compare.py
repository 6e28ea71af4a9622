"""``hydrapot compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hydrapot.cli.columns import print_columns

if TYPE_CHECKING:
    from hydrapot.validation.compare import Comparison, Key

#: Lines of numbers on the terminal; -o writes all.
_SHOWN = 40
_WORSE = 1


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="results.json, or the folder that holds it.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The same, of the newer or the candidate.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write everything to a .html or .json file.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show numbers that did not change, too.")] = False,
) -> None:
    """Put two validations side by side: verdicts that changed, numbers of both, what only one of them tested.

    Exit code 0: no verdict in B is worse. 1: some verdict is worse, or a suite that A passed was not tested in B. 2:
    something cannot be read.
    """
    from hydrapot.potential.errors import ConfigurationError
    from hydrapot.validation.compare import compare as put_side_by_side
    from hydrapot.validation.document import read_document
    from hydrapot.validation.report.comparison import write_comparison

    if output is not None and output.suffix not in {".html", ".json"}:
        raise ConfigurationError(f"{output}: the name of the output ends in .html or .json")
    found = put_side_by_side(read_document(a), read_document(b))
    if output is not None:
        write_comparison(found, output)
    _show(found, everything=everything)
    if output is not None:
        typer.echo(f"wrote {output}")
    if found.worse:
        raise typer.Exit(_WORSE)


def _show(found: "Comparison", *, everything: bool) -> None:
    from hydrapot.validation.compare import ordered
    from hydrapot.validation.report.numbers import number

    for label, document in (("A", found.a), ("B", found.b)):
        subject = document.subject
        name = ", ".join(part for part in (subject.name, subject.head) if part)
        typer.echo(f"{label}  {document.verdict:12} {name}, tier {document.settings.tier}, {document.created}")
    for remark in found.remarks:
        typer.echo(f"note: {remark}")
    typer.echo("")
    rows = [
        {"suite": s.name, "A": s.before or "unknown", "B": s.after or "unknown", "": _word(s.worse, s.better)}
        for s in found.suites
    ]
    if rows:
        print_columns(rows)
    changes = [c for c in ordered(found.metrics) if everything or c.worse or c.better or c.significant]
    shown = changes if everything else changes[:_SHOWN]
    rows = [
        {
            "quantity": f"{change.key[0]}: {change.before.name}",
            "of": ", ".join(part for part in change.key[2:] if part),
            "A": number(change.before.value),
            "B": number(change.after.value),
            "unit": change.before.unit,
            "verdict": _verdicts(change.before.verdict, change.after.verdict),
            "": _word(change.worse, change.better),
        }
        for change in shown
    ]
    typer.echo("")
    if rows:
        print_columns(rows, flexible="of", numbers=["A", "B"])
    same = len(found.metrics) - len(changes)
    typer.echo(f"{len(changes)} numbers differ" + (f", {len(shown)} shown" if len(shown) < len(changes) else "")
               + f"; {same} of both are the same within their intervals")  # fmt: skip
    for label, keys in (("A", found.only_a), ("B", found.only_b)):
        if keys:
            typer.echo(f"only in {label}: {len(keys)} numbers ({_suites(keys)})")
    typer.echo("B is worse" if found.worse else "B is no worse")


def _word(worse: bool, better: bool) -> str:
    return "worse" if worse else "better" if better else ""


def _verdicts(before: str | None, after: str | None) -> str:
    return f"{before or 'no limit'}" if before == after else f"{before or 'no limit'} → {after or 'no limit'}"


def _suites(keys: "tuple[Key, ...]") -> str:
    return ", ".join(dict.fromkeys(key[0] for key in keys))
