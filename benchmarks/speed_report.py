"""What ``speed.py`` records, the ratios it draws, and how they are shown."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table

#: The promise: hydrapot's fastest mode against the peer's eager mode.
BAR_RATIO, BAR_ATOMS, BAR_THREADS = 3.0, 864, 1
PEER = "SchNetPack"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Timing(_Record):
    """Repetitions of one model on one system; round k of all models followed one another directly."""

    model: str
    atoms: int
    threads: int
    seconds: list[float] = Field(default_factory=list, description="Per evaluation: energy, forces and stress.")
    error: str = Field(default="", description="Why there is no number.")

    @property
    def per_atom(self) -> float:
        """Median, µs/atom."""
        return statistics.median(self.seconds) / self.atoms * 1e6

    @property
    def range_per_atom(self) -> tuple[float, float]:
        """Fastest and slowest repetition, µs/atom."""
        return min(self.seconds) / self.atoms * 1e6, max(self.seconds) / self.atoms * 1e6


class Ratio(_Record):
    """How many times faster than the peer: the median of the ratios within each round, and their range."""

    median: float
    lowest: float
    highest: float


class Memory(_Record):
    """Largest resident memory during one evaluation beyond what was resident before it."""

    model: str
    atoms: int
    threads: int
    bytes: int | None = None
    error: str = ""


class Hardware(_Record):
    """Where it ran."""

    cpu: str
    cores: int
    memory_gib: float
    system: str
    load_average: float = Field(description="Of one minute, before the start: other work on the machine.")


class Bar(_Record):
    """The promise and whether it was kept; null when the system was not part of the run."""

    required_ratio: float = BAR_RATIO
    atoms: int = BAR_ATOMS
    threads: int = BAR_THREADS
    eager_ratio: float | None = None
    best_ratio: float | None = None
    passed: bool | None = None


class Report(_Record):
    """One run."""

    schema_version: Literal[1] = 1
    date: str
    command: str
    quick: bool
    seconds_in_total: float = 0.0
    hardware: Hardware
    software: dict[str, dict[str, Any]] = Field(description="Per model: versions, parameters of the encoder, size.")
    timings: list[Timing] = Field(default_factory=list)
    neighbor_lists: list[Timing] = Field(default_factory=list)
    memory: list[Memory] = Field(default_factory=list)
    bar: Bar = Field(default_factory=Bar)


def ratio_to_peer(timing: Timing, timings: list[Timing]) -> Ratio | None:
    """Peer's time over `timing`'s, round by round; None where either has no number.

    Rounds that only one of the two completed are left out.
    """
    setting = (timing.atoms, timing.threads)
    peer = next((t for t in timings if t.model == PEER and (t.atoms, t.threads) == setting), None)
    if peer is None or not peer.seconds or not timing.seconds:
        return None
    ratios = [theirs / ours for theirs, ours in zip(peer.seconds, timing.seconds, strict=False)]
    return Ratio(median=statistics.median(ratios), lowest=min(ratios), highest=max(ratios))


def judge(timings: list[Timing], *, eager: str, others: Sequence[str]) -> Bar:
    """Compare with the promise.

    Parameters
    ----------
    timings
        Of all models.
    eager, others
        Names of our modes at the peer's size: the plain one, and the rest.
    """
    ratios = {
        t.model: ratio.median
        for t in timings
        if t.model in (eager, *others)
        and (t.atoms, t.threads) == (BAR_ATOMS, BAR_THREADS)
        and (ratio := ratio_to_peer(t, timings)) is not None
    }
    if not ratios:
        return Bar()
    best = max(ratios.values())
    return Bar(eager_ratio=ratios.get(eager), best_ratio=best, passed=best >= BAR_RATIO)


_COLUMNS = (
    "atoms",
    "threads",
    "model",
    "µs/atom",
    "range",
    "× peer",
    "range of ×",
    "list µs/atom",
    "kB/atom",
)


def rows(report: Report) -> list[tuple[str, ...]]:
    """The table as text, a row for every model, system and number of threads."""
    lists = {(t.model, t.atoms): t for t in report.neighbor_lists}
    memory = {(m.model, m.atoms, m.threads): m for m in report.memory}
    table: list[tuple[str, ...]] = []
    for timing in report.timings:
        listed = lists.get((timing.model, timing.atoms))
        used = memory.get((timing.model, timing.atoms, timing.threads))
        ratio = ratio_to_peer(timing, report.timings)
        has_time = bool(timing.seconds)
        table.append(
            (
                f"{timing.atoms:,}",
                str(timing.threads),
                timing.model,
                f"{timing.per_atom:.0f}" if has_time else timing.error,
                "{:.0f}–{:.0f}".format(*timing.range_per_atom) if has_time else "",
                f"{ratio.median:.2f}" if ratio else "",
                f"{ratio.lowest:.2f}–{ratio.highest:.2f}" if ratio else "",
                f"{listed.per_atom:.1f}" if listed is not None and listed.seconds else "",
                "" if used is None else used.error if used.bytes is None else f"{used.bytes / used.atoms / 1e3:.0f}",
            )
        )
    return table


def terminal_table(report: Report) -> Table:
    """The table for `rich`."""
    table = Table(
        title=f"Energy, forces and stress of copper, float32, 5 Å; × is {PEER} (PaiNN, eager) over the model",
        title_justify="left",
    )
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "model" else "right")
    previous = None
    for row in rows(report):
        if previous not in (None, row[:2]):
            table.add_section()
        previous = row[:2]
        table.add_row(*row)
    return table


def markdown(report: Report) -> str:
    """The table and where it comes from."""
    hardware = report.hardware
    lines = [
        "| " + " | ".join(_COLUMNS) + " |",
        "| " + " | ".join("---" if c == "model" else "---:" for c in _COLUMNS) + " |",
        *("| " + " | ".join(row) + " |" for row in rows(report)),
        "",
        f"{hardware.cpu}, {hardware.cores} cores, {hardware.memory_gib:.0f} GiB, {hardware.system}; {report.date}.",
        f"`{report.command}`; load before the start {hardware.load_average:.1f}.",
        f"Medians. The models take turns in each round; × is the time of {PEER} (PaiNN, eager) in a round over theirs.",
        "List: neighbor search and model input. kB: largest resident memory beyond what was resident before an evaluation.",
    ]
    lines += [
        f"{model}: {', '.join(f'{key} {value}' for key, value in facts.items())}."
        for model, facts in report.software.items()
    ]
    return "\n".join(lines) + "\n"


def verdict(bar: Bar) -> str:
    """One line on the promise."""
    if bar.passed is None or bar.best_ratio is None:
        return "The promise was not tested in this run."
    eager = "not measured" if bar.eager_ratio is None else f"{bar.eager_ratio:.1f}"
    return (
        f"At {bar.atoms} atoms on {bar.threads} thread: eager {eager}, fastest mode {bar.best_ratio:.1f} times the "
        f"peer's eager mode; promised {bar.required_ratio:.0f}: {'kept' if bar.passed else 'NOT kept'}."
    )


def write(report: Report, folder: Path) -> None:
    """``speed.json`` and ``speed.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.json").write_text(report.model_dump_json(indent=2) + "\n")
    (folder / "speed.md").write_text(markdown(report))
