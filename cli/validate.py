"""``hydrapot validate``."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from hydrapot.cli import options

if TYPE_CHECKING:
    from hydrapot.validation.document import Document, SuiteRecord
    from hydrapot.validation.plan import Plan


class TierName(StrEnum):
    """How much is tested."""

    smoke = "smoke"
    standard = "standard"
    full = "full"


def validate(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Shipped model (hydrapot-s) or checkpoint file.")
    ] = None,
    *,
    head: options.Head = None,
    domain: Annotated[
        Path | None, typer.Option("--domain", metavar="FILE", help="YAML: structures, temperatures, limits of the use.")
    ] = None,
    tier: Annotated[
        TierName, typer.Option("--tier", help="smoke: 2 minutes; standard: half an hour; full: larger and longer.")
    ] = TierName.standard,
    suites: Annotated[
        str | None, typer.Option("--suites", metavar="A,B", help="Only these suites, of any tier; see --list.")
    ] = None,
    engines: Annotated[
        str | None,
        typer.Option(
            "--engines", metavar="A,B", help="Among ase, lammps, openmm.", show_default="those that are installed"
        ),
    ] = None,
    precisions: Annotated[
        str | None,
        typer.Option("--precisions", metavar="A,B", help="Compared with float64.", show_default="f64,f32"),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", metavar="N,N", help="Of everything random.")] = "0,1",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes.", show_default="one per core")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="For all results; made if need be.")
    ] = None,
    calculator: Annotated[
        str | None,
        typer.Option(
            "--calculator",
            metavar="MODULE:FUNCTION",
            help="Instead of MODEL: what makes an ASE calculator; also FILE.py:…",
        ),
    ] = None,
    elements: Annotated[
        str | None, typer.Option("--elements", metavar="Cu,Ag", help="That a --calculator knows.")
    ] = None,
    cutoff: Annotated[
        float | None, typer.Option("--cutoff", help="Å, of a --calculator.", show_default="measured")
    ] = None,
    receptive_field: Annotated[
        float | None, typer.Option("--receptive-field", help="Å, of a --calculator.", show_default="measured")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Private key that signs the certificate.")
    ] = None,
    artifact: Annotated[
        list[Path] | None,
        typer.Option("--artifact", metavar="FILE", help="Exported file for the certificate; repeatable."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show all suites and exit.")] = False,
) -> None:
    """Prove what a head of a model, or any ASE calculator, may be used for.

    Writes results.json, report.html, junit.xml and certificate.json into FOLDER. A run that was ended goes on with the
    same command; suites of which nothing changed are kept.

    Exit code 0: PASS. 1: FAIL. 2: an error, of the input or of a suite. 3: INCONCLUSIVE, or nothing could be tested.
    """
    from hydrapot.cli.reporting import INTERRUPTED, STOPPED, say
    from hydrapot.potential.errors import ConfigurationError
    from hydrapot.training.interrupt import StopRequest
    from hydrapot.validation.domain import Domain, load_domain
    from hydrapot.validation.subject import SubjectSpec
    from hydrapot.validation.suite import Tier
    from hydrapot.validation.validate import Request, Validation

    if list_:
        _show_suites()
        return
    if output is None:
        raise ConfigurationError("name a folder for the results with -o FOLDER")
    if calculator is None:
        _refuse({"--elements": elements, "--cutoff": cutoff, "--receptive-field": receptive_field})
    _check_key(key)
    request = Request(
        SubjectSpec(
            model=model,
            head=head,
            factory=calculator,
            elements=_split(elements) or (),
            cutoff=cutoff,
            receptive_field=receptive_field,
        ),
        domain=Domain() if domain is None else load_domain(domain),
        tier=Tier(tier.value),
        suites=_split(suites),
        precisions=_split(precisions),
        engines=_split(engines),
        seeds=_integers(seeds),
        workers=workers,
    )
    with StopRequest() as stop:
        validation = Validation(request, output)
        _show_plan(validation.plan, tier.value)
        with _Progress(validation.plan) as progress:
            document = validation.run(
                started=progress.started, finished=progress.finished, stop=lambda: stop.requested is not None
            )
    if document is None:
        say(f"interrupted: the same command goes on; finished suites are in {output / 'suites'}")
        raise typer.Exit(INTERRUPTED.get(stop.requested or "", STOPPED))
    _write(document, output, key=key, artifacts=artifact or [])
    _show_results(document)
    typer.echo(f"written     {output}: results.json, report.html, junit.xml, certificate.json")
    raise typer.Exit(document.exit_code)


def _write(document: "Document", folder: Path, *, key: Path | None, artifacts: list[Path]) -> None:
    from hydrapot.validation.certificate import write_certificate
    from hydrapot.validation.junit import write_junit
    from hydrapot.validation.report import write_report

    write_report(document, folder / "report.html")
    write_junit(document, folder / "junit.xml")
    write_certificate(
        document,
        folder / "certificate.json",
        results=folder / "results.json",
        artifacts={path.name: path for path in artifacts},
        key=key,
    )


def _show_suites() -> None:
    from hydrapot.cli.columns import print_columns
    from hydrapot.validation.plan import missing_reason
    from hydrapot.validation.suite import Tier
    from hydrapot.validation.suites import load_suites

    rows = []
    for suite in load_suites():
        missing = suite.missing()
        rows.append(
            {
                "suite": suite.name,
                "class": suite.category,
                "tiers": " ".join(tier.value for tier in Tier if tier in suite.tiers),
                "what it shows": suite.purpose + (f" ({missing_reason(missing)})" if missing else ""),
            }
        )
    if rows:
        print_columns(rows, flexible="what it shows")
    typer.echo("class A: no reference data, hard limits; class B: accuracy against a level of theory")


def _show_plan(plan: "Plan", tier: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"Plan: tier {tier}, {plan.workers} processes, about {_duration(plan.seconds)}", title_justify="left"
    )
    for title in ("suite", "class", "predicted", "what it shows, or why it is not run"):
        table.add_column(title, justify="right" if title == "predicted" else "left")
    for entry in plan.entries:
        predicted = "unknown" if entry.seconds is None else _duration(entry.seconds)
        style = None if entry.selected else "dim"
        row = (entry.suite.name, entry.suite.category, predicted if entry.selected else "–")
        table.add_row(*row, entry.suite.purpose if entry.selected else f"not run: {entry.reason}", style=style)
    Console(stderr=True).print(table)


def _show_results(document: "Document") -> None:
    from hydrapot.cli.columns import print_columns
    from hydrapot.validation.document import ERROR
    from hydrapot.validation.margin import margin, worst

    rows = []
    for record in document.suites:
        found = record.found
        decisive = None if found is None or record.reason else worst(found.metrics)
        if decisive is None:
            text = record.reason
        elif decisive.value is None:
            text = decisive.detail
        else:
            share = margin(decisive)
            text = (
                f"{decisive.name} [{decisive.subject}] {decisive.value:.3g} {decisive.unit} (limit {decisive.limit}"
                + (f", {share})" if share else ")")
            )
        seconds = "" if record.seconds is None else _duration(record.seconds)
        kept = "kept" if record.resumed else seconds
        rows.append(
            {"suite": record.name, "verdict": record.verdict, "time": kept, "worst metric": " ".join(text.split())}
        )
    if rows:
        print_columns(rows, flexible="worst metric", numbers=["time"])
    subject = document.subject
    name = f"{subject.name} {subject.head}".strip()
    typer.echo(f"{document.verdict:11} {name} ({subject.level_of_theory}), {_duration(document.seconds)}")
    if document.verdict == ERROR:
        typer.echo("No verdict on the potential: a suite failed by itself. The same command tries it again.")


class _Progress:
    """What runs now and what has finished, on standard error; a bar on a terminal, else a line for each suite."""

    def __init__(self, plan: "Plan") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (BarColumn(bar_width=20), TextColumn("{task.completed:.0f} of {task.total:.0f}"), TimeElapsedColumn())
        self._bar = Progress(
            *columns, TextColumn("{task.description}"), console=console, disable=not console.is_terminal
        )
        self._task = self._bar.add_task("", total=len(plan.selected))
        self._running: list[str] = []

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def started(self, name: str) -> None:
        """A suite begins."""
        self._running.append(name)
        self._bar.update(self._task, description=", ".join(self._running))

    def finished(self, record: "SuiteRecord") -> None:
        """A suite has ended, or was kept from an earlier run."""
        from hydrapot.cli.reporting import say

        if record.name in self._running:
            self._running.remove(record.name)
        self._bar.update(self._task, advance=1, description=", ".join(self._running))
        time = "kept from an earlier run" if record.resumed else _duration(record.seconds or 0.0)
        line = " ".join(f"{record.name}: {record.verdict}, {time} {record.reason}".split())
        show: Callable[[str], None] = say if self._bar.disable else self._print
        show(line)

    def _print(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False)


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _split(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    return names or None


def _integers(text: str) -> tuple[int, ...]:
    from hydrapot.potential.errors import ConfigurationError

    try:
        seeds = tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigurationError(f"--seeds {text!r}: write whole numbers with commas between them") from error
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"--seeds {text!r}: all different, and none negative")
    return seeds


def _refuse(given: dict[str, object]) -> None:
    from hydrapot.potential.errors import ConfigurationError

    for name, value in given.items():
        if value is not None:
            raise ConfigurationError(f"{name} belongs to --calculator; a model states it itself")


def _check_key(key: Path | None) -> None:
    """A key that cannot be read is no news for the end of half an hour."""
    if key is None:
        return
    from hydrapot.validation import signing

    signing.sign(b"", key)
