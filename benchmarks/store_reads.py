"""How fast structures are read: from hydrapot's store, HDF5, LMDB, extended XYZ, and from the memory of two ranks.

    python benchmarks/store_reads.py                      # 100,000 structures of the sizes of a real mix, ~4 minutes
    python benchmarks/store_reads.py --data set.store     # real structures, repeated until there are so many
    python benchmarks/store_reads.py --cold               # files dropped from the page cache before every measurement

Needs `pip install h5py lmdb` and an MPI with mpiexec. Rounds of all formats alternate, so that whatever else the machine
does meets all of them; the table shows medians over the rounds. The distributed store and the file store that it is
compared with are measured in the same way on all ranks at once, and rates are those of one rank.
"""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hydrapot.training.data import read_extxyz
from hydrapot.training.data.distributed import DistributedSource
from hydrapot.training.data.frames import Frames
from hydrapot.training.data.records import record_sizes
from hydrapot.training.data.store import Store, is_store

BATCH = 128
SEED = 0
BARS = {"deferred": 2.0, "synchronous": 5.0}
app = typer.Typer(add_completion=False)


def synthetic(n: int) -> Frames:
    """Structures of 2 to 200 atoms, 25 on average, periodic, with all labels; geometry does not matter for reading."""
    rng = np.random.default_rng(SEED)
    counts = np.clip(rng.lognormal(np.log(21.0), 0.6, n), 2, 200).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    atoms = int(offsets[-1])
    halves = rng.integers(0, 2**32, (n, 2))
    return Frames(
        name="benchmark",
        numbers=rng.integers(1, 84, atoms).astype(np.int16),
        positions=rng.uniform(0, 12, (atoms, 3)),
        forces=rng.normal(size=(atoms, 3)),
        offsets=offsets,
        cells=np.eye(3) * rng.uniform(8, 12, (n, 1, 1)),
        pbc=np.ones((n, 3), bool),
        energy=rng.normal(-1e3, 1e2, n),
        stress=rng.normal(size=(n, 3, 3)),
        charge=np.zeros(n, np.int16),
        spin=np.zeros(n, np.int16),
        isolated=np.zeros(n, bool),
        group=np.array([f"run{i % 40}" for i in range(n)]),
        hashes=np.array([f"{a:08x}{b:08x}" for a, b in halves.tolist()]),
    )


def real(path: Path, n: int) -> Frames:
    """Structures of a dataset, repeated."""
    if is_store(path):
        with Store(path) as store:
            split = max(store.splits, key=lambda key: store.splits[key].structures)
            frames = store.read_range(0, min(n, store.splits[split].structures), split=split)
    else:
        frames = read_extxyz(path)
    return frames.subset(np.arange(n) % len(frames))


def drop(path: Path) -> None:
    """Take files out of the page cache."""
    for file in [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]:
        handle = os.open(file, os.O_RDONLY)
        os.fdatasync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def random_rate(reader: Any, n: int, *, batch: int, seconds: float, rng: np.random.Generator) -> float:
    """Structures per second, drawn at random, `batch` a call."""
    reader.read(rng.integers(0, n, batch))
    done, start = 0, time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        reader.read(rng.integers(0, n, batch))
        done += batch
    return done / (now - start)


def sequential_rate(reader: Any, sizes: NDArray[np.int64], *, seconds: float) -> float:
    """GB per second of packed structures, in order from the beginning, 4,096 a call."""
    done, start, at = 0, time.perf_counter(), 0
    while (now := time.perf_counter()) < start + seconds:
        stop = min(at + 4096, len(sizes))
        reader.read(np.arange(at, stop))
        done += int(sizes[at:stop].sum())
        at = stop % len(sizes)
    return done / (now - start) / 1e9


def size_on_disk(path: Path) -> int:
    """Bytes."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


@app.command()
def main(
    structures: Annotated[int, typer.Option(help="How many.")] = 100_000,
    data: Annotated[
        Path | None, typer.Option(help="Extended XYZ or a store to repeat, instead of made-up ones.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Of every measurement.")] = 3,
    seconds: Annotated[float, typer.Option(help="Of one measurement.")] = 1.5,
    ranks: Annotated[int, typer.Option(help="Of the distributed store.")] = 2,
    cold: Annotated[bool, typer.Option(help="Drop files from the page cache before every measurement.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Where the files go; by default a temporary folder.")] = None,
) -> None:
    """Write, read, compare."""
    from store_formats import WRITERS, readers

    console = Console(width=120)
    console.print(f"python {shlex.join(sys.argv)}\n{hardware()}; seed {SEED}")
    frames = synthetic(structures) if data is None else real(data, structures)
    sizes = record_sizes(frames.counts, precision="float32")
    console.print(
        f"{len(frames):,} structures of {frames.counts.mean():.1f} atoms ({frames.counts.min()}–{frames.counts.max()}),"
        f" {sizes.sum() / 1e6:.0f} MB packed in float32; {'cold' if cold else 'warm'} page cache"
    )
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        here = Path(temporary)
        written = {}
        for name, (file, write) in WRITERS.items():
            start = time.perf_counter()
            write(here / file, frames)
            written[name] = (size_on_disk(here / file), time.perf_counter() - start)
        n = len(frames)
        del frames
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        rng = np.random.default_rng(SEED)
        formats = readers(here)
        for _ in range(rounds):
            for name, (file, reader) in formats.items():
                for what, measure in (
                    ("single", lambda r: random_rate(r, n, batch=1, seconds=seconds, rng=rng)),
                    ("batch", lambda r: random_rate(r, n, batch=BATCH, seconds=seconds, rng=rng)),
                    ("sequential", lambda r: sequential_rate(r, sizes, seconds=seconds)),
                ):
                    if cold:
                        drop(here / file)
                    found[name][what].append(measure(reader))
        show_formats(console, written, {name: medians(values) for name, values in found.items()})
        with_ranks(console, here, ranks=ranks, rounds=rounds, seconds=seconds)


def hardware() -> str:
    """Processor, and versions of what is measured."""
    import adios2
    import h5py
    import lmdb

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return (
        f"{model}, {os.cpu_count()} cores; Python {platform.python_version()}, numpy {np.__version__},"
        f" adios2 {adios2.__version__}, h5py {h5py.__version__}, lmdb {lmdb.__version__}"
    )


def medians(values: dict[str, list[float]]) -> dict[str, float]:
    """Of each list."""
    return {key: float(np.median(list_)) for key, list_ in values.items()}


def show_formats(console: Console, written: dict[str, Any], found: dict[str, dict[str, float]]) -> None:
    """One row a format; factors are those of the store's deferred reads over the row."""
    table = Table("format", "one a call /s", f"{BATCH} a call /s", "sequential GB/s", "MB on disk", "s to write")
    table.title = "random and sequential reads, one process; (how many times as fast the store is, deferred)"
    ours = found["store, deferred"]
    for name, rates in found.items():
        size, seconds = written["store" if name.startswith("store") else name]
        cells = [
            f"{rates[key]:,.{digits}f} ({ours[key] / rates[key]:.1f})"
            for key, digits in (("single", 0), ("batch", 0), ("sequential", 2))
        ]
        table.add_row(name, *cells, f"{size / 1e6:.0f}", f"{seconds:.1f}")
    console.print(table)


def with_ranks(console: Console, folder: Path, *, ranks: int, rounds: int, seconds: float) -> None:
    """Start this program on several ranks and show what they found."""
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if mpiexec is None:
        console.print("no mpiexec: the distributed store was not measured")
        return
    command = [mpiexec, "-n", str(ranks), sys.executable, __file__, "on-ranks", str(folder / "set.store")]
    command += ["--rounds", str(rounds), "--seconds", str(seconds)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the ranks failed:\n{done.stderr}")
    result = json.loads(done.stdout)
    table = Table(f"{ranks} ranks at once", f"{BATCH} a call /s, each", "× file, deferred", "× file, sync, one a call")
    table.add_column("× file, sync, batched")
    deferred, one, batched = (
        result["rates"][f"file, {key}"] for key in ("deferred", "synchronous, one", "synchronous")
    )
    for name, rate in result["rates"].items():
        table.add_row(name, f"{rate:,.0f}", *(f"{rate / other:.1f}" for other in (deferred, one, batched)))
    console.print(table)
    for transport, memory in result["memory"].items():
        console.print(
            f"memory, {transport}: {memory['records'] / 2**20:.1f} MiB of {memory['copy'] / 2**20:.1f} MiB a rank,"
            f" index {memory['node_index'] / 2**20:.1f} MiB a node; proportional set size +{memory['pss'] / 2**20:.1f} MiB"
            f" a rank; loaded in {memory['seconds']:.1f} s"
        )
    best = min(result["rates"][f"distributed, {transport}"] for transport in result["memory"])
    for name, bar, ratio in (
        ("the file store's best, deferred and batched", BARS["deferred"], best / deferred),
        ("its synchronous one, one structure a call", BARS["synchronous"], best / one),
    ):
        console.print(f"{'reached' if ratio >= bar else 'NOT reached'}: {ratio:.1f} × {name} (bar {bar:g} ×)")


@app.command(hidden=True)
def on_ranks(path: Path, rounds: int = 3, seconds: float = 1.5) -> None:
    """Measure on all ranks at once; the first prints the means over ranks of the medians over rounds, as JSON."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    rng = np.random.default_rng([SEED, comm.rank])
    files = {deferred: Store(path, deferred=deferred).view("all") for deferred in (True, False)}
    sources: dict[str, DistributedSource] = {}
    memory: dict[str, dict[str, float]] = {}
    for transport in ("shared", "rma"):
        before, start = pss(), time.perf_counter()
        sources[transport] = source = DistributedSource(files[True], comm, transport=transport)
        held = source.memory
        memory[transport] = {
            "records": held.records,
            "copy": held.copy,
            "node_index": held.node_index,
            "pss": comm.allreduce(pss() - before) / comm.size,
            "seconds": time.perf_counter() - start,
        }
    cases: list[tuple[str, Any, int]] = [
        ("distributed, shared", sources["shared"], BATCH),
        ("distributed, rma", sources["rma"], BATCH),
        ("file, deferred", files[True], BATCH),
        ("file, synchronous", files[False], BATCH),
        ("file, synchronous, one", files[False], 1),
        ("distributed, shared, one", sources["shared"], 1),
        ("distributed, rma, one", sources["rma"], 1),
    ]
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, source_, batch in cases:
            comm.Barrier()
            rates[name].append(random_rate(source_, len(source_), batch=batch, seconds=seconds, rng=rng))
    means = {name: comm.allreduce(rate) / comm.size for name, rate in medians(rates).items()}
    if comm.rank == 0:
        sys.stdout.write(json.dumps({"rates": means, "memory": memory}))
    comm.Barrier()
    for source in sources.values():
        source.close()


def pss() -> int:
    """Bytes of this process, shared pages divided among those that share them."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


if __name__ == "__main__":
    app(sys.argv[1:] if sys.argv[1:2] == ["on-ranks"] else ["main", *sys.argv[1:]])
