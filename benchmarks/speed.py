"""Speed and memory of hydrapot beside SchNetPack's PaiNN, both at 128 channels × 3 layers, 20 radial functions, 5 Å.

    python benchmarks/speed.py            # about ten minutes; the first time the peer is installed
    python benchmarks/speed.py --quick    # 108 atoms only: does everything run?

Energy, forces and stress of copper, silicon and water in float32, on one and on two threads; the neighbor list is timed on its
own. Every
model has a process, and the models take turns within each round, so that a machine that slows down slows all of them.
"""

import datetime as dt
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from speed_environment import SCHNETPACK, EnvironmentFailedError, peer_python
from speed_protocol import Worker, WorkerError
from speed_report import PEER, Hardware, Memory, Report, Timing, judge, terminal_table, verdict, write

from hydrapot.potential import shipped_models

HERE = Path(__file__).resolve().parent
NATIVE, EAGER, COMPILED = "hydrapot native", "hydrapot torch", "hydrapot compiled"
SHIPPED = "hydrapot-s"
THREADS = (1, 2)
#: Cubic cells along an edge. Copper: 108, 864 and 10,976 atoms; silicon: 1,000; water: 1,029 atoms.
SYSTEMS = (("Cu", 3), ("Cu", 6), ("Si", 5), ("H2O", 7), ("Cu", 14))
QUICK = SYSTEMS[:1]
#: Rounds of one system and number of threads: as many as fit the time, within limits.
ROUND_SECONDS, MIN_ROUNDS, MAX_ROUNDS = 20.0, 2, 15
MEMORY_THREADS = 2

console = Console(width=None if sys.stdout.isatty() else 120)


class Contender(NamedTuple):
    """A model in a mode, and how its worker is started."""

    name: str
    python: Path
    script: str
    arguments: tuple[str, ...] = ()

    def start(self, log: Path) -> Worker:
        """A new worker."""
        return Worker(self.python, HERE / self.script, *self.arguments, log=log)


def contenders(peer: Path) -> list[Contender]:
    """The peer, ours at the same size, and the shipped model if this checkout has it."""
    here, script = Path(sys.executable), "speed_hydrapot.py"
    models = [
        Contender(PEER, peer, "speed_schnetpack.py"),
        Contender(NATIVE, here, script, ("reference", "native")),
        Contender(EAGER, here, script, ("reference", "eager")),
        Contender(COMPILED, here, script, ("reference", "compiled")),
    ]
    if SHIPPED in shipped_models():
        models += [
            Contender(f"{SHIPPED} native", here, script, (SHIPPED, "native")),
            Contender(f"{SHIPPED} torch", here, script, (SHIPPED, "eager")),
        ]
    return models


def hardware() -> Hardware:
    """What the benchmark runs on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Hardware(
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=memory,
        system=f"{platform.system()} {platform.release()}",
        load_average=os.getloadavg()[0],
    )


def take_turns(workers: dict[str, Worker], timings: dict[str, Timing], command: str, threads: int, rounds: int) -> None:
    """One request to every worker, `rounds` times; a worker that fails drops out."""
    for _ in range(rounds):
        for name, worker in workers.items():
            timing = timings[name]
            if timing.error:
                continue
            try:
                timing.seconds.append(worker.ask(command, threads=threads)["seconds"])
            except WorkerError as error:
                timing.error = str(error)
                timing.seconds.clear()


def measure(report: Report, workers: dict[str, Worker], system: str, n_cells: int, *, warm: bool) -> None:
    """All models on one system: neighbor lists, then evaluations by number of threads."""
    ready: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    sizes = set()
    for name, worker in workers.items():
        try:
            prepared = worker.ask("prepare", name=system, n_cells=n_cells)
        except WorkerError as error:
            failed[name] = str(error)
            continue
        ready[name] = worker
        sizes.add((prepared["atoms"], prepared["edges"]))
    if len(sizes) > 1:
        raise RuntimeError(f"the models do not see the same neighbors: (atoms, edges) {sorted(sizes)}")
    atoms = next(iter(sizes))[0] if sizes else 0

    def empty(threads: int) -> dict[str, Timing]:
        return {
            n: Timing(model=n, system=system, atoms=atoms, threads=threads, error=failed.get(n, "")) for n in workers
        }

    lists = empty(1)
    take_turns(ready, lists, "neighbor_list", 1, 3)
    report.neighbor_lists += lists.values()
    for threads in THREADS:
        if warm:
            take_turns(ready, empty(threads), "evaluate", threads, 1)
        timings = empty(threads)
        start = time.perf_counter()
        take_turns(ready, timings, "evaluate", threads, 1)
        rounds = int(ROUND_SECONDS / (time.perf_counter() - start))
        take_turns(ready, timings, "evaluate", threads, min(max(rounds, MIN_ROUNDS), MAX_ROUNDS) - 1)
        report.timings += timings.values()


def measure_memory(contender: Contender, system: str, n_cells: int, log: Path) -> Memory:
    """Peak memory of one evaluation, in a process that has done nothing else but a small system."""
    result = Memory(model=contender.name, system=system, atoms=0, threads=MEMORY_THREADS)
    worker = contender.start(log)
    try:
        worker.ask("prepare", name=QUICK[0][0], n_cells=QUICK[0][1])
        worker.ask("evaluate", threads=MEMORY_THREADS)  # loads libraries, compiles
        result.atoms = worker.ask("prepare", name=system, n_cells=n_cells)["atoms"]
        result.bytes = worker.ask("memory", threads=MEMORY_THREADS)["bytes"]
    except WorkerError as error:
        result.error = str(error)
    finally:
        worker.close()
    return result


def run(report: Report, models: Sequence[Contender], systems: Sequence[tuple[str, int]], log: Path) -> None:
    """Everything, with a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=len(models) * 2 + 4 * len(systems))
        workers = {model.name: model.start(log) for model in models}
        try:
            for name, worker in workers.items():
                progress.update(task, description=f"loading {name}", advance=1)
                try:
                    report.software[name] = worker.ask("describe")
                except WorkerError as error:
                    report.software[name] = {"error": str(error)}
            for name, n_cells in systems:
                progress.update(task, description=f"{name} {n_cells}³ in turns")
                # The large system has run warm on smaller ones, and one evaluation may take half a minute.
                measure(report, workers, name, n_cells, warm=(name, n_cells) != SYSTEMS[-1])
                progress.advance(task, 4)
        finally:
            for worker in workers.values():
                worker.close()
        for model in models:
            progress.update(task, description=f"memory of {model.name}", advance=1)
            report.memory.append(measure_memory(model, *systems[-1], log))


def main(
    quick: Annotated[bool, typer.Option("--quick", help="108 atoms only.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for speed.json, speed.md and the log.")] = Path("runs/speed"),
    peer_environment: Annotated[Path, typer.Option(help="Made once; about 1.4 GB.")] = Path(".venv-bench-schnetpack"),
) -> None:
    """Time energy, forces and stress beside SchNetPack; exit code 1 if a promised ratio is missed."""
    output.mkdir(parents=True, exist_ok=True)
    try:
        python = peer_python(
            peer_environment.absolute(),
            peer=SCHNETPACK,
            torch_version=torch.__version__.split("+")[0],
            announce=console.print,
        )
    except EnvironmentFailedError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    report = Report(
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        command=f"python {shlex.join(sys.argv)}",
        quick=quick,
        hardware=hardware(),
        software={},
    )
    if report.hardware.load_average > 0.5:
        console.print(
            f"[yellow]The machine is busy (load {report.hardware.load_average:.1f}): do not quote the result."
        )
    start = time.perf_counter()
    run(report, contenders(python), QUICK if quick else SYSTEMS, output / "workers.log")
    report.promises = judge(report.timings, native=NATIVE, compiled=COMPILED)
    report.seconds_in_total = time.perf_counter() - start
    write(report, output)
    console.print(terminal_table(report))
    for promise in report.promises:
        console.print(verdict(promise))
    console.print(f"{report.seconds_in_total:.0f} s; written to {output}")
    if any(promise.passed is False for promise in report.promises):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
