"""What ``speed.py`` records, the ratios it draws, and how they are shown."""

import statistics
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table

PEER = "SchNetPack"
#: The promises, on copper at this size: the native engine on one thread against the peer's eager mode and against our own
#: compiled network, and what a second thread gains.
SYSTEM, ATOMS = "Cu", 864
PEER_RATIO, COMPILED_RATIO, THREAD_GAIN = 40.0, 10.0, 1.8


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Timing(_Record):
    """Repetitions of one model on one system; round k of all models followed one another directly."""

    model: str
    system: str = SYSTEM
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
    system: str = SYSTEM
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


class Promise(_Record):
    """A ratio that is promised, and whether it was kept; null when the system was not part of the run."""

    name: str
    required: float
    measured: float | None = None

    @property
    def passed(self) -> bool | None:
        """None when it was not measured."""
        return None if self.measured is None else self.measured >= self.required


class Report(_Record):
    """One run."""

    schema_version: Literal[2] = 2
    date: str
    command: str
    quick: bool
    seconds_in_total: float = 0.0
    hardware: Hardware
    software: dict[str, dict[str, Any]] = Field(description="Per model: versions, parameters of the encoder, size.")
    timings: list[Timing] = Field(default_factory=list)
    neighbor_lists: list[Timing] = Field(default_factory=list)
    memory: list[Memory] = Field(default_factory=list)
    promises: list[Promise] = Field(default_factory=list)


def ratio(slow: Timing | None, fast: Timing | None) -> Ratio | None:
    """Time of `slow` over that of `fast`, round by round; None where either has no number.

    Rounds that only one of the two completed are left out.
    """
    if slow is None or fast is None or not slow.seconds or not fast.seconds:
        return None
    ratios = [theirs / ours for theirs, ours in zip(slow.seconds, fast.seconds, strict=False)]
    return Ratio(median=statistics.median(ratios), lowest=min(ratios), highest=max(ratios))


def ratio_to_peer(timing: Timing, timings: list[Timing]) -> Ratio | None:
    """Peer's time over `timing`'s, on the same system with the same threads."""
    return ratio(_find(timings, PEER, timing.system, timing.atoms, timing.threads), timing)


def judge(timings: list[Timing], *, native: str, compiled: str) -> list[Promise]:
    """Compare with the promises; `native` and `compiled` are the names of our modes at the peer's size."""
    one, two = (_find(timings, native, SYSTEM, ATOMS, threads) for threads in (1, 2))
    measured = {
        f"{native} over {PEER}": (PEER_RATIO, ratio(_find(timings, PEER, SYSTEM, ATOMS, 1), one)),
        f"{native} over {compiled}": (COMPILED_RATIO, ratio(_find(timings, compiled, SYSTEM, ATOMS, 1), one)),
    }
    promises = [
        Promise(name=name, required=required, measured=found and found.median)
        for name, (required, found) in measured.items()
    ]
    # The two numbers of threads do not take turns: the ratio of medians.
    gain = one.per_atom / two.per_atom if one and two and one.seconds and two.seconds else None
    return [*promises, Promise(name=f"{native}, second thread", required=THREAD_GAIN, measured=gain)]


def _find(timings: list[Timing], model: str, system: str, atoms: int, threads: int) -> Timing | None:
    wanted = (model, system, atoms, threads)
    return next((t for t in timings if (t.model, t.system, t.atoms, t.threads) == wanted), None)


_COLUMNS = (
    "system",
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
    lists = {(t.model, t.system, t.atoms): t for t in report.neighbor_lists}
    memory = {(m.model, m.system, m.atoms, m.threads): m for m in report.memory}
    table: list[tuple[str, ...]] = []
    for timing in report.timings:
        listed = lists.get((timing.model, timing.system, timing.atoms))
        used = memory.get((timing.model, timing.system, timing.atoms, timing.threads))
        faster = ratio_to_peer(timing, report.timings)
        has_time = bool(timing.seconds)
        table.append(
            (
                timing.system,
                f"{timing.atoms:,}",
                str(timing.threads),
                timing.model,
                f"{timing.per_atom:.0f}" if has_time else timing.error,
                "{:.0f}–{:.0f}".format(*timing.range_per_atom) if has_time else "",
                f"{faster.median:.2f}" if faster else "",
                f"{faster.lowest:.2f}–{faster.highest:.2f}" if faster else "",
                f"{listed.per_atom:.1f}" if listed is not None and listed.seconds else "",
                "" if used is None else used.error if used.bytes is None else f"{used.bytes / used.atoms / 1e3:.0f}",
            )
        )
    return table


def terminal_table(report: Report) -> Table:
    """The table for `rich`."""
    table = Table(
        title=f"Energy, forces and stress, float32, 5 Å; × is {PEER} (PaiNN, eager) over the model",
        title_justify="left",
    )
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "model" else "right")
    previous = None
    for row in rows(report):
        if previous not in (None, row[:3]):
            table.add_section()
        previous = row[:3]
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
        *map(verdict, report.promises),
        "List: neighbor search and model input. kB: largest resident memory beyond what was resident before an evaluation.",
    ]
    lines += [
        f"{model}: {', '.join(f'{key} {value}' for key, value in facts.items())}."
        for model, facts in report.software.items()
    ]
    return "\n".join(lines) + "\n"


def verdict(promise: Promise) -> str:
    """One line on a promise."""
    if promise.measured is None:
        return f"{promise.name}: not measured in this run."
    kept = "kept" if promise.passed else "NOT kept"
    return f"{promise.name}: {promise.measured:.2f}, promised {promise.required:g} ({ATOMS} atoms of {SYSTEM}): {kept}."


def write(report: Report, folder: Path) -> None:
    """``speed.json`` and ``speed.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.json").write_text(report.model_dump_json(indent=2) + "\n")
    (folder / "speed.md").write_text(markdown(report))
