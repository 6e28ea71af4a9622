"""How much of the processor the native engine uses: a roofline of one core.

    python benchmarks/roofline.py -o roofline.png

Counted are the operations that the algorithm needs, not those that are repeated to save memory: matrix products of the
nodes (forward, and one of the same size backward), filters and messages of the edges as `potential/native/src/kernels/edges.hpp`
computes them (quintic splines: six rows a filter). Traffic with memory is what has to come from there once the caches
hold a block of atoms: rows of node features and gradients, and the records of edges, once per pass. The peak is that of
multiply-adds in registers (`peak.cpp`), the bandwidth that of copying an array far larger than the caches.
"""

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from speed_hydrapot import reference_potential
from speed_system import CHANNELS, CUTOFF, LAYERS, N_RADIAL, system

from hydrapot.potential import build_graph
from hydrapot.potential.native import NativeEngine, NativeModel

mpl.use("Agg")
from matplotlib import pyplot as plt

#: Operations per edge and channel of one layer, read off the kernels: 3 filters of 6 rows, then the message.
EDGE_FORWARD = 3 * (2 * 6 - 1) + 16
#: The same with slopes, and the derivative.
EDGE_BACKWARD = 6 * (2 * 6 - 1) + 38
CELLS = (3, 6, 14)


def operations(neighbors: float) -> tuple[float, float]:
    """Operations per atom: matrix products, edges."""
    f, r = CHANNELS, N_RADIAL
    phi, mix, hidden, gates = 2 * (f * f + 3 * f * f), 2 * 3 * 2 * f * f, 2 * 2 * f * f, 2 * 3 * f * f
    first = 2 * r * 2 * f + 2 * 3 * r * 3 * f + 2 * f * f + gates
    products = 2 * (first + (LAYERS - 1) * (phi + mix + hidden + gates))
    edges = neighbors * f * (LAYERS - 1) * (EDGE_FORWARD + EDGE_BACKWARD)
    return products, edges


def traffic(neighbors: float) -> float:
    """Bytes per atom between caches and memory: what nodes keep is written and read once, edges are read in every pass."""
    nodes = (LAYERS - 1) * 2 * 4 * (3 + 3 + 4 + 1) * CHANNELS
    return nodes + 2 * LAYERS * neighbors * 20


def peak() -> float:
    """Operations per second of independent multiply-adds on one core; compiled here for this processor."""
    source = Path(__file__).with_name("peak.cpp")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peak"
        subprocess.run(["g++", "-O3", "-march=native", "-o", str(program), str(source)], check=True)
        done = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[0])


def bandwidth(megabytes: int = 512, repeats: int = 5) -> float:
    """Bytes per second that a copy reads and writes."""
    source = np.ones(megabytes << 17)
    target = np.empty_like(source)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return 2.0 * source.nbytes / min(seconds)


def main(output: Annotated[Path, typer.Option("-o", help="Picture.")] = Path("roofline.png")) -> None:
    """Measure, print and draw."""
    console = Console()
    engine = NativeEngine(NativeModel(reference_potential()), threads=1)
    top, copy = peak(), bandwidth()
    table = Table("atoms", "µs/atom", "Gop/s", "of peak", "op/byte")
    points = []
    for cells in CELLS:
        atoms = system("Cu", cells)
        graph = build_graph(atoms, cutoff=CUTOFF)
        neighbors = float(graph.edge_mask.sum()) / len(atoms)
        seconds = []
        for _ in range(40 if cells < CELLS[-1] else 5):
            start = time.perf_counter()
            engine.evaluate(graph, heads="benchmark", virials=False)
            seconds.append(time.perf_counter() - start)
        per_atom = min(seconds) / len(atoms)
        count = sum(operations(neighbors))
        rate, intensity = count / per_atom, count / traffic(neighbors)
        points.append((intensity, rate, len(atoms)))
        table.add_row(
            f"{len(atoms):,}", f"{per_atom * 1e6:.1f}", f"{rate / 1e9:.0f}", f"{rate / top:.0%}", f"{intensity:.0f}"
        )
    console.print(table)
    products, edges = operations(neighbors)
    console.print(
        f"per atom: {products / 1e6:.2f} M operations in matrix products, {edges / 1e6:.2f} M on edges; "
        f"peak {top / 1e9:.0f} Gop/s, copy {copy / 1e9:.1f} GB/s ({engine.model.instruction_set}, float32, one thread)"
    )
    figure, axes = plt.subplots(figsize=(6.0, 4.0), layout="constrained")
    x = np.logspace(-1, 3, 200)
    axes.loglog(x, np.minimum(top, copy * x) / 1e9, color="#1f4e79", label="roof: multiply-adds, copy")
    for (intensity, rate, atoms), marker in zip(points, "os^", strict=True):
        axes.loglog(intensity, rate / 1e9, marker, color="#c55a11", markerfacecolor="none", label=f"{atoms:,} atoms")
    axes.set(xlabel="operations per byte of memory traffic", ylabel="Gop/s", title="Native engine, one core, float32")
    axes.legend(loc="lower right")
    figure.savefig(output, dpi=150)


if __name__ == "__main__":
    typer.run(main)
