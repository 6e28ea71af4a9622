"""Training steps of hydrapot beside SchNetPack's and MACE's own, on the same batch: 536 atoms, 43 neighbors, 5 Å.

    python benchmarks/training_speed.py            # about ten minutes; the first time the peers are installed
    python benchmarks/training_speed.py --no-peers # hydrapot only

hydrapot as it trains (compiled, sums over neighbors in C++), with sums in torch, and eagerly in torch as autograd does it.
hydrapot takes the batch as its sampler packs it, in parts of like numbers of neighbors, whose gradients add up to the
batch's.
hydrapot and SchNetPack: PaiNN, 64 channels × 3 layers, 20 radial functions. MACE: 2 interactions, 64 scalar channels,
correlation 3 (another architecture; its step is what one of its users pays). float32, energy and force loss, one thread and two.
Every model has a process, and they take turns within each round. The median over rounds is reported, and ratios by round.
"""

import json
import os
import platform
import shlex
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from speed_environment import MACE, SCHNETPACK, EnvironmentFailedError, peer_python
from speed_protocol import Worker, WorkerError

HERE = Path(__file__).resolve().parent
OURS, DENSE, EAGER = "hydrapot", "hydrapot, sums in torch", "hydrapot, eager torch"
#: What issue and README promise: as it trains over eager.
PROMISED = 2.5

console = Console(width=None if sys.stdout.isatty() else 120)


def contenders(*, peers: bool) -> dict[str, tuple[Path, str, tuple[str, ...]]]:
    """Name → interpreter, script, arguments."""
    here = Path(sys.executable)
    models: dict[str, tuple[Path, str, tuple[str, ...]]] = {
        OURS: (here, "training_hydrapot.py", ("compiled", "native")),
        DENSE: (here, "training_hydrapot.py", ("compiled", "torch")),
        EAGER: (here, "training_hydrapot.py", ("eager", "torch")),
    }
    if peers:
        version = torch.__version__.split("+")[0]
        for name, peer, folder in (("SchNetPack", SCHNETPACK, "schnetpack"), ("MACE", MACE, "mace")):
            python = peer_python(
                Path(f".venv-bench-{folder}").absolute(), peer=peer, torch_version=version, announce=console.print
            )
            models[name] = (python, f"training_{folder}.py", ())
    return models


def measure(
    models: dict[str, tuple[Path, str, tuple[str, ...]]], threads: int, rounds: int, log: Path
) -> dict[str, Any]:
    """Seconds per step of every model in turns, after two steps that compile and warm up, and memory of one more."""
    workers = {n: Worker(python, HERE / script, *args, log=log) for n, (python, script, args) in models.items()}
    seconds: dict[str, list[float]] = {n: [] for n in workers}
    software: dict[str, Any] = {}
    errors: dict[str, str] = {}
    memory: dict[str, int] = {}
    atoms = 0
    try:
        for name, worker in workers.items():
            try:
                software[name] = worker.ask("describe")
                atoms = worker.ask("prepare", name="batch", n_cells=1)["atoms"]
                for _ in range(2):
                    worker.ask("evaluate", threads=threads)
            except WorkerError as error:
                errors[name] = str(error)
        for _ in range(rounds):
            for name in [n for n in workers if n not in errors]:
                seconds[name].append(workers[name].ask("evaluate", threads=threads)["seconds"])
        for name in [n for n in workers if n not in errors]:
            memory[name] = workers[name].ask("memory", threads=threads)["bytes"]
    finally:
        for worker in workers.values():
            worker.close()
    return {
        "threads": threads,
        "atoms": atoms,
        "seconds": seconds,
        "memory": memory,
        "software": software,
        "errors": errors,
    }


def main(
    peers: Annotated[bool, typer.Option(help="SchNetPack and MACE as well.")] = True,
    rounds: Annotated[int, typer.Option(min=3)] = 9,
    output: Annotated[Path, typer.Option(help="Folder of the result.")] = Path("runs/training_speed"),
) -> None:
    """Time optimizer steps; exit code 1 if hydrapot's is not 2.5 times as fast as eager torch."""
    output.mkdir(parents=True, exist_ok=True)
    try:
        models = contenders(peers=peers)
    except EnvironmentFailedError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(2) from None
    load = os.getloadavg()[0]
    if load > 0.5:
        console.print(f"[yellow]The machine is busy (load {load:.1f}): do not quote the result.")
    results = [measure(models, threads, rounds, output / "workers.log") for threads in (1, 2)]
    table = Table("model", "threads", "ms/step", "µs/atom", f"× {OURS}", "range", "MB/step")
    missed = False
    for result in results:
        ours = result["seconds"][OURS]
        for name, values in result["seconds"].items():
            if not values or not ours:
                table.add_row(name, str(result["threads"]), result["errors"].get(name, "no result"), "", "", "", "")
                continue
            ratios = [theirs / mine for theirs, mine in zip(values, ours, strict=True)]
            median, ratio = statistics.median(values), statistics.median(ratios)
            missed |= name == EAGER and ratio < PROMISED
            table.add_row(
                name,
                str(result["threads"]),
                f"{1e3 * median:.0f}",
                f"{1e6 * median / result['atoms']:.0f}",
                f"{ratio:.2f}",
                f"{min(ratios):.2f}–{max(ratios):.2f}",
                f"{result['memory'][name] / 1e6:.0f}",
            )
    document = {
        "command": f"python {shlex.join(sys.argv)}",
        "processor": platform.processor() or platform.machine(),
        "load": load,
        "results": results,
    }
    (output / "training_speed.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    console.print(table)
    if missed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
