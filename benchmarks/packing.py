"""How equal the parts of a batch are, and how much padding they hold: packed beside plain random batches.

    python benchmarks/packing.py                       # 200,000 structures of 10–500 atoms, 8, 64 and 512 ranks; a minute
    python benchmarks/packing.py --structures 2000000  # a round as long as the sampler's window
    python benchmarks/packing.py --data DIR            # sizes of the real datasets (extended XYZ) in a folder instead

Three ways to make batches of the same structures, one part for every rank. *random*: the same number of structures for every
rank, in random order (the usual distributed sampler). *filled*: random order too, but every part is filled up to the limit of
atoms × largest neighbor count. *packed*: what hydrapot's sampler does. A rank that has more to do than the mean keeps the
others waiting, so max/mean − 1 of a batch is time lost; it is taken per batch, for atoms and for edges, and averaged. Padding
is the share of rows × widest row that holds no edge. Nothing is trained: loads are counted. One process, one thread.
"""

import json
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hydrapot.training.data.packing import pack
from hydrapot.training.data.parts import Limits, Packed, fill
from hydrapot.training.data.sampler import JITTER

mpl.use("Agg")
import matplotlib.pyplot as plt

SEED = 0
BAR = 1.05
Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
app = typer.Typer(add_completion=False)


def synthetic(n: int) -> Columns:
    """Atoms, largest neighbor count and edges of structures of 10 to 500 atoms (log-uniform) in four kinds of surroundings:
    12, 28, 45 and 70 neighbors on average, as in molecules, open frameworks, oxides and metals within 5 Å.
    """
    rng = np.random.default_rng(SEED)
    atoms = np.exp(rng.uniform(np.log(10), np.log(500), n)).astype(np.int64)
    mean = rng.choice([12.0, 28.0, 45.0, 70.0], n) * rng.uniform(0.8, 1.2, n)
    degrees = np.ceil(mean * rng.uniform(1.05, 1.4, n)).astype(np.int64)
    return atoms, degrees, (atoms * mean).astype(np.int64)


def real(folder: Path, n: int, *, cutoff: float) -> Columns:
    """The same of real datasets, repeated until there are `n` structures."""
    from hydrapot.training.data.census import take_census
    from hydrapot.training.data.extxyz import read_many
    from hydrapot.training.data.source import FramesSource

    files = sorted(p for p in folder.iterdir() if ".xyz" in p.name or ".extxyz" in p.name)
    counted = [take_census(FramesSource(f), cutoff=cutoff, folder=None) for f in read_many(files).values()]
    columns = [np.concatenate([getattr(c, k).all() for c in counted]) for k in ("atoms", "degrees", "edges")]
    chosen = np.random.default_rng(SEED).integers(0, len(columns[0]), n)
    atoms, degrees, edges = (c[chosen] for c in columns)
    return atoms, np.maximum(degrees, 1), edges


def equal_counts(n: int, *, parts: int, size: int, rng: np.random.Generator) -> Packed:
    """Random batches of `size` structures a part; what is left over is dropped."""
    batches = n // (parts * size)
    offsets = np.arange(batches)[:, None] * parts * size + np.arange(parts + 1) * size
    return Packed(rng.permutation(n), offsets)


def filled(atoms: NDArray[np.int64], degrees: NDArray[np.int64], *, parts: int, limits: Limits) -> Packed:
    """Parts filled one after the other in random order, `parts` of them a batch; what is left over is dropped."""
    order = np.random.default_rng(SEED + 1).permutation(len(atoms))
    one = fill(atoms[order], degrees[order], limits=limits)
    batches = len(one) // parts
    starts = one.offsets[: batches * parts, 0].reshape(batches, parts)
    ends = one.offsets[: batches * parts, 1].reshape(batches, parts)
    return Packed(order[one.members], np.concatenate([starts[:, :1], ends], axis=1))


def measure(packed: Packed, columns: Columns, *, limits: Limits) -> dict[str, float]:
    """Loads of the parts of all batches."""
    atoms, degrees, edges = columns
    starts = packed.offsets[:, :-1]
    used = packed.members[: packed.offsets[-1, -1]]

    def of_parts(values: NDArray[np.int64], reduce: Any = np.add) -> NDArray[np.int64]:
        return np.asarray(reduce.reduceat(values[used], starts.ravel()).reshape(starts.shape))

    a, e, widest = of_parts(atoms), of_parts(edges), of_parts(degrees, np.maximum)
    slots = a * widest
    found: dict[str, float] = {"batches": len(packed), "structures_per_part": len(used) / a.size}
    for name, load in (("atoms", a), ("edges", e), ("slots", slots)):
        ratio = load.max(axis=1) / load.mean(axis=1)
        found |= {
            f"{name}_per_part": float(load.mean()),
            f"{name}_max_over_mean": float(ratio.mean()),
            f"{name}_max_over_mean_95th": float(np.quantile(ratio, 0.95)),
        }
    found["padding_percent"] = 100.0 * (1.0 - float(e.sum() / slots.sum()))
    found["largest_slots_over_limit"] = float(slots.max() / limits.edge_slots)
    return found


def compare(columns: Columns, *, parts: int, limits: Limits) -> dict[str, dict[str, float]]:
    """All three ways for one number of ranks."""
    rng = np.random.default_rng([SEED, parts])
    atoms, degrees, edges = columns
    order = np.argsort(degrees * (1.0 + JITTER * rng.random(len(atoms))), kind="stable")
    began = time.process_time()
    packed = pack(atoms[order], degrees[order], edges[order], parts=parts, limits=limits)
    seconds = time.process_time() - began
    packed = Packed(order[packed.members], packed.offsets)
    mine = measure(packed, columns, limits=limits) | {"structures_per_cpu_second": len(atoms) / seconds}
    size = max(1, round(mine["structures_per_part"]))
    return {
        "random": measure(equal_counts(len(atoms), parts=parts, size=size, rng=rng), columns, limits=limits),
        "filled": measure(filled(atoms, degrees, parts=parts, limits=limits), columns, limits=limits),
        "packed": mine,
    }


def table(results: dict[str, dict[str, dict[str, float]]]) -> Table:
    """One row for each number of ranks and way."""
    shown = Table("ranks", "batches", "structures", "atoms", "max/mean atoms", "max/mean edges", "95 %", "padding")
    for column in shown.columns[2:]:
        column.justify = "right"
    for ranks, ways in results.items():
        for way, m in ways.items():
            shown.add_row(
                ranks,
                way,
                f"{m['structures_per_part']:.1f}",
                f"{m['atoms_per_part']:,.0f}",
                f"{m['atoms_max_over_mean']:.3f}",
                f"{m['edges_max_over_mean']:.3f}",
                f"{max(m['atoms_max_over_mean_95th'], m['edges_max_over_mean_95th']):.3f}",
                f"{m['padding_percent']:.1f} %",
            )
    return shown


def draw(results: dict[str, dict[str, dict[str, float]]], file: Path, *, title: str, own_padding: float) -> None:
    """Load and padding for each number of ranks."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    colors = {"random": "#b0b0b0", "filled": "#7aa6c2", "packed": "#c44e52"}
    panels = (
        ("atoms_max_over_mean", "atoms of the fullest part / mean"),
        ("edges_max_over_mean", "edges of the fullest part / mean"),
        ("padding_percent", "padding, % of rows × widest row"),
    )
    for ax, (key, label) in zip(axes, panels, strict=True):
        for k, (way, color) in enumerate(colors.items()):
            heights = [ways[way][key] for ways in results.values()]
            bars = ax.bar(np.arange(len(heights)) + 0.27 * (k - 1), heights, 0.25, label=way, color=color)
            digits = "%.0f" if key == "padding_percent" else "%.2f"
            ax.bar_label(bars, fmt=digits, fontsize=7, padding=4 if way == "packed" else 1)
        ax.set_xticks(range(len(results)), list(results))
        ax.set_xlabel("ranks")
        ax.set_title(label, fontsize=9)
        ax.margins(y=0.25)
        if key == "padding_percent":
            ax.axhline(own_padding, color="black", lw=0.8, ls=":", label="structures by themselves")
        else:
            ax.set_ylim(bottom=0)
            ax.axhline(BAR, color="black", lw=0.8, ls="--", label=f"bar {BAR}")
    axes[0].legend(fontsize=7, frameon=False, loc="upper left")
    axes[2].legend(
        *(found[:1] for found in axes[2].get_legend_handles_labels()), fontsize=7, frameon=False, loc="upper left"
    )
    figure.suptitle(title, fontsize=9)
    figure.savefig(file, dpi=150)
    plt.close(figure)


@app.command()
def main(
    structures: Annotated[int, typer.Option(help="How many.")] = 200_000,
    ranks: Annotated[str, typer.Option(help="Numbers of ranks.")] = "8,64,512",
    edge_slots: Annotated[int, typer.Option(help="Atoms × largest neighbor count of a part at most.")] = 64_000,
    max_structures: Annotated[int, typer.Option(help="Structures of a part at most.")] = 64,
    data: Annotated[Path | None, typer.Option(help="Folder of extended-XYZ files whose sizes to take.")] = None,
    cutoff: Annotated[float, typer.Option(help="Å, with --data.")] = 5.0,
    out: Annotated[Path, typer.Option(help="Folder for packing.json and packing.png.")] = Path("runs/packing"),
) -> None:
    """Pack, compare, draw."""
    console = Console(width=120)
    command = f"python {shlex.join(sys.argv)}"
    hardware = f"{platform.processor() or platform.machine()}, one thread, numpy {np.__version__}"
    console.print(f"{command}\n{hardware}; seed {SEED}")
    columns = synthetic(structures) if data is None else real(data, structures, cutoff=cutoff)
    limits = Limits(edge_slots=edge_slots, structures=max_structures)
    atoms, degrees, edges = columns
    own = 100.0 * (1.0 - float(edges.sum() / (atoms * degrees).sum()))
    what = (
        f"{len(atoms):,} structures of {atoms.min()}–{atoms.max()} atoms, {edges.sum() / atoms.sum():.0f} neighbors on"
        f" average; parts of at most {edge_slots:,} slots and {max_structures} structures"
    )
    console.print(what)
    results = {}
    for number in ranks.split(","):
        results[number] = compare(columns, parts=int(number), limits=limits)
        rate = results[number]["packed"]["structures_per_cpu_second"]
        console.print(f"{number} ranks packed at {rate:,.0f} structures per second of one core")
    console.print(table(results))
    worst = max(m["packed"][f"{load}_max_over_mean"] for m in results.values() for load in ("atoms", "edges"))
    console.print(
        f"largest max/mean of the packed batches: {worst:.3f} (bar {BAR}): {'met' if worst <= BAR else 'MISSED'}"
    )
    console.print(f"padding that structures have one by one: {own:.1f} %")
    out.mkdir(parents=True, exist_ok=True)
    draw(results, out / "packing.png", title=what, own_padding=own)
    document = {
        "command": command,
        "hardware": hardware,
        "seed": SEED,
        "structures": what,
        "own_padding_percent": own,
        "bar": BAR,
        "met": worst <= BAR,
        "results": results,
    }
    (out / "packing.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.print(f"wrote {out / 'packing.json'} and {out / 'packing.png'}")
    raise typer.Exit(code=int(worst > BAR))


if __name__ == "__main__":
    app()
