"""Energy conservation in LAMMPS: slope of the shadow energy over 10 ps, on one process and on four.

    hydrapot lammps build
    python benchmarks/lammps_nve.py             # 10 ps of copper and MgO, on 1 and 4 processes: 4 minutes on 4 idle cores
    python benchmarks/lammps_nve.py --quick     # 0.3 ps

Each run is ``hydrapot md --engine lammps --ensemble nve`` with the shipped model, from the same structure and velocities.
The shadow energy is what velocity Verlet conserves to the next order, so a slope far smaller than the fluctuations of the
energy can be seen; slope ± half of its 95 % confidence interval as in ``PREFIX.json``. Rounding differs between numbers of
processes, so trajectories part after some picoseconds, and the slopes have to agree within their errors only.

``float64`` evaluates the network in double precision with exact radial functions; ``float32``, in single precision with
splines, as by default.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from ase.build import bulk
from ase.io import write
from rich.console import Console
from rich.table import Table

console = Console(width=None if sys.stdout.isatty() else 120)


class Case(NamedTuple):
    """A system, the head that knows it, and the temperature (K) at the start, of which about half remains."""

    name: str
    head: str
    temperature: float


CASES = (Case("Cu", "mvl_snap_Cu", 1200.0), Case("MgO", "polymlp_MgO", 1200.0))


def structure(name: str) -> Any:
    """108 atoms of fcc copper, 64 of MgO."""
    if name == "Cu":
        return bulk("Cu", a=3.63, cubic=True) * (3, 3, 3)
    return bulk("MgO", "rocksalt", a=4.25, cubic=True) * (2, 2, 2)


def run(case: Case, folder: Path, *, ranks: int, steps: int, timestep: float, dtype: str, seed: int) -> dict[str, Any]:
    """Summary of one run."""
    here = Path(sys.executable).parent
    launcher = [str(here / "mpiexec"), "-n", str(ranks)] if ranks > 1 else []
    output = folder / f"{case.name}-{ranks}"
    command = [
        *launcher, str(here / "hydrapot"), "md", "hydrapot-s", str(folder / f"{case.name}.traj"), "--head", case.head,
        "--engine", "lammps", "--ensemble", "nve", "--temperature", str(case.temperature), "--timestep", str(timestep),
        "--steps", str(steps), "--dtype", dtype, "--seed", str(seed), "--threads", "1", "-o", str(output),
    ]  # fmt: skip
    # With more processes than cores, those that wait let others work.
    environment = {**os.environ, "MPIR_CVAR_POLLS_BEFORE_YIELD": "1", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{done.stderr[-2000:]}")
    summary: dict[str, Any] = json.loads(output.with_suffix(".json").read_text())
    return summary


def main(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="0.3 ps.")] = False,
    picoseconds: Annotated[float, typer.Option(help="Length of each run.")] = 10.0,
    ranks: Annotated[str, typer.Option(help="Numbers of processes.")] = "1,4",
    dtype: Annotated[str, typer.Option(help="float64: exact radial functions; float32: splines.")] = "float64",
    timestep: Annotated[float, typer.Option(help="fs.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the velocities.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON.")] = None,
) -> None:
    """Run and compare."""
    steps = round(1000 * (0.3 if quick else picoseconds) / timestep)
    console.print(
        f"{shlex.join(sys.argv)}: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, seed {seed}"
    )
    names = ("system", "processes", "forces from", "K", "ps", "slope, meV/atom/ps", "± (95 %)", "steps/s")
    table, rows = Table(*names), []
    for case in CASES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder / f"{case.name}.traj", structure(case.name))
            found = []
            for count in map(int, ranks.split(",")):
                summary = run(case, folder, ranks=count, steps=steps, timestep=timestep, dtype=dtype, seed=seed)
                results, engine = summary["results"], summary["engine"]
                slope, error = (results[f"drift{part}_mev_per_atom_per_ps"] for part in ("", "_uncertainty"))
                found.append((slope, error))
                atoms = summary["system"]["atoms"]
                kelvin, length, rate = (results[key] for key in ("temperature_mean_k", "time_ps", "steps_per_second"))
                label = f"{case.name}, {atoms} atoms"
                table.add_row(
                    label, str(count), engine["forces"], f"{kelvin:.0f}", f"{length:.2f}", f"{slope:+.2e}", f"{error:.1e}",
                    f"{rate:.1f}",
                )  # fmt: skip
                rows.append({"system": case.name, "atoms": atoms, "processes": count, "forces": engine["forces"],
                             "slope": slope, "error": error, "temperature_k": kelvin, "ps": length})  # fmt: skip
            (first, first_error), *others = found
            for (slope, error), count in zip(others, ranks.split(",")[1:], strict=True):
                difference, both = abs(slope - first), (error**2 + first_error**2) ** 0.5
                verdict = "within" if difference <= both else "BEYOND"
                table.add_row(
                    "", f"{count} − 1", "", "", "", f"{slope - first:+.2e}", f"{both:.1e}", f"{verdict} the error"
                )
    console.print(table)
    if output is not None:
        output.write_text(json.dumps({"dtype": dtype, "timestep_fs": timestep, "seed": seed, "rows": rows}, indent=1))


if __name__ == "__main__":
    typer.run(main)
