"""Does training wait for data? Batches from memory and from a store, made in threads while the model computes.

    python benchmarks/prefetching.py                  # about 3 minutes on two cores; compiles the step once a run
    python benchmarks/prefetching.py --eager          # without compiling: slower steps, so that waiting is seen less
    python benchmarks/prefetching.py --data DIR       # real datasets (extended XYZ) instead of made-up ones

Structures are written into a store. Then, with one and with two processes at once (each with one thread of torch, as two
ranks on two cores), the small model (64 channels, 3 layers) trains on batches that come

    memory    from memory, neighbor lists kept from their first use on
    lists     from memory, every neighbor list built anew
    file      from the store, every neighbor list built anew, references and repulsion taken off on the spot

and the share of the step's time is taken that the loop has waited for its batch. The first steps, which fill the queue and
compile, are left out. At the end batches are made alone, by threads and by processes (which have to send them), to see
which keep up: the rate is that of batches arriving in the process that would train.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from ase import Atoms
from ase.build import bulk, make_supercell, molecule
from rich.console import Console
from rich.table import Table

from hydrapot.potential.metadata import LevelOfTheory
from hydrapot.training.config import TrainConfig
from hydrapot.training.data.frames import Frames, structure_hash
from hydrapot.training.data.sampler import Position
from hydrapot.training.data.store_layout import StoreAttributes
from hydrapot.training.data.store_writer import StoreWriter
from hydrapot.training.feed import PreparedFeed, Work, make_sampler
from hydrapot.training.messages import training_message_sum
from hydrapot.training.setup import Setup, set_up
from hydrapot.training.step import CompiledStep, EagerStep

SEED = 0
BAR = 5.0
MODES = {
    "memory": {"structures": "memory", "neighbor_gib": 4.0},
    "lists": {"structures": "memory", "neighbor_gib": 0.0},
    "file": {"structures": "file", "neighbor_gib": 0.0},
}
app = typer.Typer(add_completion=False)


def synthetic(n: int) -> Frames:
    """Rattled metals, oxides and molecules of 5 to 128 atoms with made-up labels: what they are does not matter here."""
    rng = np.random.default_rng(SEED)
    cells = [bulk("Cu", cubic=True), bulk("MgO", "rocksalt", a=4.2, cubic=True), bulk("Si", cubic=True)]
    crystals = [make_supercell(c, np.diag(d)) for c in cells for d in ((1, 1, 1), (2, 2, 1), (2, 2, 2))]
    kinds: list[Atoms] = [*crystals, *(molecule(m) for m in ("CH4", "C6H6", "CH3CH2OH", "C4H4O"))]
    columns: dict[str, list[Any]] = {k: [] for k in ("numbers", "positions", "cells", "pbc", "hashes", "count")}
    for _ in range(n):
        atoms = kinds[rng.integers(len(kinds))]
        positions = atoms.positions + rng.normal(0, 0.05, atoms.positions.shape)
        columns["numbers"].append(atoms.numbers.astype(np.int16))
        columns["positions"].append(positions)
        columns["cells"].append(atoms.cell.array)
        columns["pbc"].append(atoms.pbc)
        columns["hashes"].append(structure_hash(atoms.numbers, positions, atoms.cell.array, atoms.pbc))
        columns["count"].append(len(atoms))
    counts = np.array(columns["count"])
    return Frames(
        name="made-up",
        numbers=np.concatenate(columns["numbers"]),
        positions=np.concatenate(columns["positions"]),
        forces=rng.normal(size=(counts.sum(), 3)),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        cells=np.array(columns["cells"]),
        pbc=np.array(columns["pbc"]),
        energy=-3.0 * counts + rng.normal(size=n),
        stress=np.full((n, 3, 3), np.nan),
        charge=np.zeros(n, dtype=np.int16),
        spin=np.zeros(n, dtype=np.int16),
        isolated=np.zeros(n, dtype=bool),
        group=np.array(["made up"] * n),
        hashes=np.array(columns["hashes"]),
    )


def write_store(frames: Frames, folder: Path) -> None:
    """One store with the splits that training knows."""
    attributes = StoreAttributes(level_of_theory=LevelOfTheory(functional="none"), licence="none", attribution="none")
    usable = frames.subset(~frames.isolated)
    with StoreWriter(folder / "set.store", name="set", attributes=attributes) as writer:
        writer.append(usable.subset(np.arange(len(usable)) % 20 != 0), split="train")
        writer.append(usable.subset(np.arange(len(usable)) % 20 == 0), split="validation")


def ready(folder: Path, mode: str, *, workers: int) -> tuple[TrainConfig, Setup, PreparedFeed]:
    """A run's data, and what feeds it."""
    level = {"functional": "none"}
    entry = {"file": "set.store", "references": "fit", "level_of_theory": level, "licence": "", "attribution": ""}
    config = TrainConfig.model_validate(
        {
            "name": "benchmark",
            "split": "none",
            "model": {"encoder": {"channels": 64, "layers": 3}, "repulsion": "zbl", "charge_spin": True},
            "sampler": {"edge_slots": 16_000, "max_structures": 10},
            "data": {**MODES[mode], "workers": workers},
            "datasets": [entry],
        }
    )
    setup = set_up(config, data=folder, manifest_path=folder / "none", cache_dir=folder)
    feed = PreparedFeed(setup, config, sampler=make_sampler(setup, config, parts=1, branches=None), parts=[0])
    return config, setup, feed


def train(folder: Path, mode: str, *, workers: int, steps: int, compiled: bool) -> dict[str, float]:
    """Steps without optimizer, and what they waited for data."""
    torch.set_num_threads(1)
    config, setup, feed = ready(folder, mode, workers=workers)
    potential = setup.potential.float()
    sums = training_message_sum(potential, backend="auto")
    step = (CompiledStep if compiled else EagerStep)(potential, config=config.objective, message_sum=sums)
    feed.start(Position())
    try:
        for _ in range(5):
            step(next(feed).batches[0])
        waited, began, atoms = feed.waited, time.perf_counter(), 0
        for _ in range(steps):
            batch = next(feed).batches[0]
            atoms += batch.graph.n_atoms
            step(batch)
        seconds = time.perf_counter() - began
        return {
            "ms_per_step": 1e3 * seconds / steps,
            "atoms_per_second": atoms / seconds,
            "wait_percent": 100.0 * (feed.waited - waited) / seconds,
        }
    finally:
        feed.close()


_MADE: dict[str, Any] = {}


def _begin(folder: Path, mode: str) -> None:
    torch.set_num_threads(1)
    _MADE["feed"] = ready(folder, mode, workers=1)[2]


def _make(item: tuple[Position, list[Any]]) -> Work:
    work: Work = _MADE["feed"]._work(item)  # noqa: SLF001 (what a worker of the feed does)
    return work


def alone(folder: Path, mode: str, *, workers: int, processes: bool, seconds: float) -> float:
    """Batches per second that arrive in this process when nothing is computed."""
    _, _, feed = ready(folder, mode, workers=1)
    items: Iterator[Any] = feed.sampler.stream(Position())
    pool: Any
    call: Callable[[Any], Work]
    if processes:
        pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(folder, mode)
        )
        call = _make
    else:
        pool = ThreadPoolExecutor(workers)
        call = feed._work  # noqa: SLF001
    with pool:
        waiting = [pool.submit(call, next(items)) for _ in range(4 * workers)]
        for future in waiting[: 2 * workers]:
            future.result()
        waiting = waiting[2 * workers :]
        began, made = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            waiting.append(pool.submit(call, next(items)))
            waiting.pop(0).result()
            made += 1
        rate = made / (time.perf_counter() - began)
        for future in waiting:
            future.result()
    return rate


@app.command()
def main(
    structures: Annotated[int, typer.Option(help="How many.")] = 3000,
    steps: Annotated[int, typer.Option(help="Of every measurement.")] = 40,
    workers: Annotated[int, typer.Option(help="Threads that make batches.")] = 1,
    seconds: Annotated[float, typer.Option(help="Of every measurement of batches alone.")] = 3.0,
    eager: Annotated[bool, typer.Option("--eager", help="Do not compile the step.")] = False,
    data: Annotated[Path | None, typer.Option(help="Folder of extended-XYZ files.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    worker: Annotated[str | None, typer.Option(hidden=True)] = None,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Write a store, train on it in each way, and compare."""
    if worker is not None and folder is not None:
        print(json.dumps(train(folder, worker, workers=workers, steps=steps, compiled=not eager)))
        return
    console = Console(width=110)
    command = f"python {shlex.join(sys.argv)}"
    hardware = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    console.print(f"{command}\n{hardware}; seed {SEED}; load of the machine {os.getloadavg()[0]:.1f}")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        frames = synthetic(structures) if data is None else _real(data, structures)
        write_store(frames, here)
        shown = Table("batches from", "processes", "ms a step", "atoms/s of each", "waiting for data", "bar")
        for mode in MODES:
            for ranks in (1, 2):
                arguments = [sys.executable, *sys.argv, "--worker", mode, "--folder", str(here)]
                running = [
                    subprocess.Popen(
                        arguments, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
                    )
                    for _ in range(ranks)
                ]
                found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
                worst = max(f["wait_percent"] for f in found)
                results[f"{mode}, {ranks}"] = found
                shown.add_row(
                    mode,
                    str(ranks),
                    f"{np.mean([f['ms_per_step'] for f in found]):.0f}",
                    f"{np.mean([f['atoms_per_second'] for f in found]):,.0f}",
                    f"{worst:.2f} %",
                    "met" if worst < BAR else "MISSED",
                )
        console.print(shown)
        rates = Table("batches alone, per second", "1 thread", "2 threads", "1 process", "2 processes")
        for mode in ("memory", "file"):
            row = [
                alone(here, mode, workers=n, processes=processes, seconds=seconds)
                for processes in (False, True)
                for n in (1, 2)
            ]
            results[f"{mode}, alone"] = dict(
                zip(("1 thread", "2 threads", "1 process", "2 processes"), row, strict=True)
            )
            rates.add_row(mode, *(f"{rate:.0f}" for rate in row))
        console.print(rates)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        document = {"command": command, "hardware": hardware, "seed": SEED, "bar_percent": BAR, "results": results}
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _real(folder: Path, n: int) -> Frames:
    from hydrapot.training.data.extxyz import read_many
    from hydrapot.training.data.source import concatenate

    files = sorted(p for p in folder.iterdir() if ".xyz" in p.name or ".extxyz" in p.name)
    frames = concatenate(list(read_many(files).values()))
    kept = np.flatnonzero(~frames.isolated & (frames.charge == 0))
    return frames.subset(np.random.default_rng(SEED).permutation(kept)[:n])


if __name__ == "__main__":
    app()
