"""Copper in LAMMPS and in ASE: time per step, nanoseconds per day, memory per atom.

    hydrapot lammps build
    python benchmarks/lammps_speed.py              # minutes; 97,556 atoms need 8 GB
    python benchmarks/lammps_speed.py --quick      # 108 atoms: does everything run?

Dynamics at constant energy, 1 fs, float32, 300 K. The contenders take turns within each round, so that a machine that slows
down slows all of them; every time is the median over rounds.

``pair style``
    ``pair_style hydrapot``, compiled, on one and two processes of one thread; 1 Å of skin. Time of LAMMPS' loop.
``fix external``
    The same deck by ``hydrapot lammps run``, in torch; up to ``--torch-limit`` atoms.
``ASE``
    :class:`~hydrapot.calculators.HydrapotCalculator` with the native engine and ASE's velocity Verlet, as many threads.
``md lammps``, ``md ase``
    ``hydrapot md`` as users run it, with guards, a row and a frame every 10 steps, by either engine; as many processes or
    threads.
``engine``
    The native engine alone, with a list of neighbors within the cutoff: what the others are measured by.

Memory is the peak of a process by LAMMPS' own account (`info memory`), less that of the smallest system.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from ase.io import write
from rich.console import Console
from rich.table import Table
from speed_hydrapot import reference_potential
from speed_protocol import Worker
from speed_system import system

from hydrapot.potential.checkpoint import save

HERE = Path(__file__).resolve().parent
#: Cubic cells along an edge: 108, 864, 4,000, 10,976 and 97,556 atoms.
CELLS = (3, 6, 10, 14, 29)
RANKS = (1, 2)
#: Atom-steps of one measurement, and limits of its steps.
WORK, FEWEST, MOST = 200_000, 10, 500
DECK = """units metal
read_data atoms.data
pair_style hydrapot
pair_coeff * * {model} {head} Cu
neighbor 1.0 bin
velocity all create 300 4711
timestep 0.001
fix move all nve
thermo 1000000
run 3
run {steps}
info memory
"""
LOOP = re.compile(r"^Loop time of (\S+) on \d+ procs for (\d+) steps", re.MULTILINE)
PEAK = re.compile(r"Maximum resident set size: *(\S+) Mbyte")

console = Console(width=None if sys.stdout.isatty() else 120)


class Run(NamedTuple):
    """One measurement; or why there is none."""

    contender: str
    atoms: int
    ranks: int
    seconds: float  # per step
    megabytes: float = 0.0  # of the first process
    error: str = ""


def lammps(contender: str, folder: Path, *, ranks: int, atoms: int) -> Run:
    """Run the deck of a folder with `lmp`, or through fix external."""
    here = Path(sys.executable).parent
    start = [str(here / "mpiexec"), "-n", str(ranks)] if ranks > 1 else []
    program = [str(here / "lmp")] if contender == "pair style" else [str(here / "hydrapot"), "lammps", "run"]
    command = [*start, *program, "-in", f"in.{contender.replace(' ', '_')}", "-log", "none"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    loops = LOOP.findall(done.stdout)
    if done.returncode or len(loops) != 2:
        text = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line] or ["no output"]
        return Run(contender, atoms, ranks, 0.0, error=text[0][:100])
    peak = PEAK.search(done.stdout)
    seconds, steps = loops[-1]
    return Run(contender, atoms, ranks, float(seconds) / int(steps), float(peak[1]) if peak else 0.0)


def workflow(engine: str, folder: Path, *, model: str, head: str, ranks: int, atoms: int, steps: int) -> Run:
    """Run `hydrapot md` by an engine."""
    here = Path(sys.executable).parent
    start = [str(here / "mpiexec"), "-n", str(ranks)] if ranks > 1 and engine == "lammps" else []
    command = [
        *start, str(here / "hydrapot"), "md", model, "start.traj", "--head", head, "--engine", engine, "--ensemble", "nve",
        "--timestep", "1", "--steps", str(steps), "--threads", "1" if start else str(ranks), "-o", engine, "--overwrite",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        return Run(f"md {engine}", atoms, ranks, 0.0, error=done.stderr.strip().rpartition("\n")[2][:100])
    found = json.loads((folder / f"{engine}.json").read_text())["results"]
    return Run(f"md {engine}", atoms, ranks, 1.0 / found["steps_per_second"])


def rounds(cells: int, *, model: str, head: str, count: int, torch_limit: int) -> Iterator[Run]:
    """All contenders at one size, in turn."""
    copper = system("Cu", cells)
    atoms = len(copper)
    steps = min(max(WORK // atoms, FEWEST), MOST)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "start.traj", copper)
        write(folder / "atoms.data", copper, format="lammps-data", specorder=["Cu"], masses=True)
        (folder / "in.pair_style").write_text(DECK.format(model=model, head=head, steps=steps))
        (folder / "in.fix_external").write_text(DECK.format(model=model, head=head, steps=max(steps // 10, 3)))
        engine = Worker(Path(sys.executable), HERE / "speed_hydrapot.py", model, "native", log=folder / "log")
        ase = Worker(Path(sys.executable), HERE / "lammps_ase.py", model, head, str(steps), log=folder / "log")
        workers = {"engine": (engine, max(steps // 5, 3)), "ASE": (ase, 1)}
        for worker, _ in workers.values():
            worker.ask("prepare", name="Cu", n_cells=cells)
        for _ in range(count):
            for ranks in RANKS:
                for contender, (worker, repeats) in workers.items():
                    times = [worker.ask("evaluate", threads=ranks)["seconds"] for _ in range(repeats)]
                    yield Run(contender, atoms, ranks, statistics.median(times))
                yield lammps("pair style", folder, ranks=ranks, atoms=atoms)
                for mover in ("lammps", "ase"):
                    yield workflow(mover, folder, model=model, head=head, ranks=ranks, atoms=atoms, steps=steps)
                if atoms <= torch_limit:
                    yield lammps("fix external", folder, ranks=ranks, atoms=atoms)
        for worker, _ in workers.values():
            worker.close()


def summarize(runs: list[Run]) -> list[dict[str, float | int | str]]:
    """One row for each contender, size and number of processes: medians, and the ratio to the engine of the same round."""
    cases = list(dict.fromkeys((run.atoms, run.ranks, run.contender) for run in runs))
    smallest = {run.contender: run.megabytes for run in reversed(runs) if run.megabytes}
    rows: list[dict[str, float | int | str]] = []
    for atoms, ranks, contender in cases:
        these = [run for run in runs if (run.atoms, run.ranks, run.contender) == (atoms, ranks, contender)]
        engine = [run.seconds for run in runs if (run.atoms, run.ranks, run.contender) == (atoms, ranks, "engine")]
        row: dict[str, float | int | str] = {"contender": contender, "atoms": atoms, "ranks": ranks}
        errors = [run.error for run in these if run.error]
        if errors:
            rows.append({**row, "error": errors[0]})
            continue
        seconds = statistics.median(run.seconds for run in these)
        megabytes = statistics.median(run.megabytes for run in these)
        row |= {"ms per step": 1e3 * seconds, "us per atom and step": 1e6 * seconds / atoms}
        row |= {"ns per day": 86400e-6 / seconds}
        row |= {"over engine": statistics.median(run.seconds / e for run, e in zip(these, engine, strict=True))}
        if megabytes:
            row |= {"peak MB of a process": megabytes}
            own = atoms / ranks
            row |= {"kB per atom": 1e3 * max(megabytes - smallest[contender], 0.0) / own}
        rows.append(row)
    return rows


def table(rows: list[dict[str, float | int | str]]) -> Table:
    """For the terminal."""
    names = ("ms per step", "us per atom and step", "ns per day", "over engine", "peak MB of a process", "kB per atom")
    made = Table("contender", "atoms", "ranks", *names)
    for row in rows:
        cells = [f"{row[name]:.3g}" if name in row else str(row.get("error", "")) for name in names]
        made.add_row(str(row["contender"]), f"{row['atoms']:,}", str(row["ranks"]), *cells)
    return made


def main(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="108 atoms, one round.")] = False,
    model: Annotated[
        str, typer.Option(help="Shipped model or checkpoint; `reference`: random weights, 128 channels × 3 layers.")
    ] = "hydrapot-s",
    head: Annotated[str, typer.Option(help="Head, with copper.")] = "mvl_snap_Cu",
    count: Annotated[int, typer.Option("--rounds")] = 3,
    largest: Annotated[int, typer.Option(help="No system with more atoms.")] = 100_000,
    smallest: Annotated[int, typer.Option(help="No system with fewer atoms.")] = 0,
    torch_limit: Annotated[int, typer.Option(help="No system with more atoms through fix external.")] = 11_000,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON.")] = None,
) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        named, chosen = model, head
        if model == "reference":
            chosen, model = "benchmark", str(Path(folder) / "reference.safetensors")
            save(reference_potential(), model)
        runs: list[Run] = []
        for cells in CELLS[:1] if quick else CELLS:
            if smallest <= 4 * cells**3 <= largest:
                arguments = {"model": model, "head": chosen, "torch_limit": torch_limit}
                runs += rounds(cells, count=1 if quick else count, **arguments)  # type: ignore[arg-type]
                console.print(table(summarize([run for run in runs if run.atoms == 4 * cells**3])))
    rows = summarize(runs)
    console.print(table(rows))
    if output is not None:
        output.write_text(json.dumps({"model": named, "head": chosen, "rows": rows}, indent=1))


if __name__ == "__main__":
    typer.run(main)
