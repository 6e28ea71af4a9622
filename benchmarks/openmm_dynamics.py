"""Molecular dynamics by OpenMM against theory and against ASE: conservation, temperature, volume.

    python benchmarks/openmm_dynamics.py [nve|nvt|npt ...] [--picoseconds PS] [-o RESULTS.json]

32 atoms of Cu through the loop of ``hydrapot md`` with the engine openmm, one thread.

nve     float64, after 2 ps of Langevin, steps of 1 fs, 20 ps: drift of the shadow energy. To pass: its 95 % bound is below
        0.0026 meV/atom/ps (10 K/ns).
nvt     300 K, steps of 2 fs, Langevin and Nosé–Hoover: mean temperature and its fluctuation T √(2/f). To pass: both within
        three standard errors.
npt     300 K, 0 GPa: mean volume under OpenMM's Monte Carlo barostat and under ASE's Martyna–Tobias–Klein one. To pass: equal
        within three standard errors of the difference.

Standard errors from 20 blocks. About four minutes for all three on an idle core; `--picoseconds` lengthens nvt and npt.
"""

import argparse
import json
import os
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from ase.build import bulk

from hydrapot.calculators import HydrapotCalculator
from hydrapot.workflows import MDSettings, md
from hydrapot.workflows.engines import open_engine

MODEL, HEAD = "hydrapot-s", "mvl_snap_Cu"
LARGEST_DRIFT = 0.0026  # meV/atom/ps
SEED = 1
BLOCKS = 20


def run(atoms: Any, engine: str, **settings: Any) -> Any:
    """A run of the loop of ``hydrapot md``."""
    chosen = MDSettings(seed=SEED, checkpoint_interval=10_000_000, **settings)
    with open_engine(engine, model=MODEL, threads=1) as provider:
        return md(atoms, chosen, engine=provider.engine(atoms, chosen))


def copper(dtype: str) -> Any:
    """32 atoms with a calculator."""
    atoms = bulk("Cu", cubic=True, a=3.63).repeat(2)
    atoms.calc = calculator(dtype)
    return atoms


def calculator(dtype: str) -> HydrapotCalculator:
    """On one thread."""
    return HydrapotCalculator(MODEL, head=HEAD, dtype=dtype, threads=1)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean, and its standard error from blocks."""
    blocks = np.array([block.mean() for block in np.array_split(values, BLOCKS)])
    return float(values.mean()), float(blocks.std(ddof=1) / np.sqrt(BLOCKS))


def nve() -> dict[str, Any]:
    """Drift over 20 ps."""
    atoms = copper("float64")
    run(atoms, "openmm", ensemble="langevin", steps=2000, timestep=1.0, temperature=300)
    atoms.calc = calculator("float64")
    found = run(atoms, "openmm", ensemble="nve", steps=20_000, timestep=1.0, velocities="file").summary["results"]
    drift, error = found["drift_mev_per_atom_per_ps"], found["drift_uncertainty_mev_per_atom_per_ps"]
    return {"drift": drift, "uncertainty": error, "passed": bool(abs(drift) + 1.96 * error < LARGEST_DRIFT)}


def nvt(ensemble: str, picoseconds: float) -> dict[str, Any]:
    """Temperature and its fluctuation."""
    atoms = copper("float32")
    run(atoms, "openmm", ensemble="langevin", steps=1000, timestep=2.0, temperature=300)
    atoms.calc = calculator("float32")
    if ensemble == "nose-hoover":
        momenta = atoms.get_momenta()
        atoms.set_momenta(momenta - momenta.mean(axis=0))
    steps = round(picoseconds * 500)
    result = run(
        atoms, "openmm", ensemble=ensemble, steps=steps, timestep=2.0, temperature=300, velocities="file", interval=5
    )
    temperatures = result.table["temperature_k"]
    mean, error = mean_and_error(temperatures)
    fluctuations = np.sqrt(np.array([((block - 300) ** 2).mean() for block in np.array_split(temperatures, BLOCKS)]))
    degrees = result.summary["results"]["degrees_of_freedom"]
    wanted = 300 * np.sqrt(2 / degrees)
    fluctuation = float(np.sqrt(((temperatures - 300) ** 2).mean()))
    spread = float(fluctuations.std(ddof=1) / np.sqrt(BLOCKS))
    return {
        "ensemble": ensemble,
        "mean": mean,
        "mean_error": error,
        "fluctuation": fluctuation,
        "fluctuation_error": spread,
        "fluctuation_expected": float(wanted),
        "passed": bool(abs(mean - 300) < 3 * error and abs(fluctuation - wanted) < 3 * spread),
    }


def npt(picoseconds: float) -> dict[str, Any]:
    """Volume under either barostat, Å³ per atom."""
    found: dict[str, Any] = {}
    for engine in ("openmm", "ase"):
        atoms = copper("float32")
        settings = {"ensemble": "npt", "timestep": 2.0, "temperature": 300.0, "barostat_time": 500.0}
        run(atoms, engine, steps=2500, **settings)
        atoms.calc = calculator("float32")
        steps = round(picoseconds * 500)
        result = run(atoms, engine, steps=steps, velocities="file", interval=5, **settings)
        volumes = result.table["volume_a3"] / len(atoms)
        mean, error = mean_and_error(volumes)
        found[engine] = {"mean": mean, "error": error, "fluctuation": float(volumes.std())}
        found[engine]["pressure_gpa"], found[engine]["pressure_error"] = mean_and_error(result.table["pressure_gpa"])
    difference = found["openmm"]["mean"] - found["ase"]["mean"]
    error = float(np.hypot(found["openmm"]["error"], found["ase"]["error"]))
    return {**found, "difference": difference, "error": error, "passed": bool(abs(difference) < 3 * error)}


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["nve", "nvt", "npt", []], help="all unless named")
    parser.add_argument("--picoseconds", type=float, default=50.0, help="length of each nvt and npt run")
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    parts = arguments.parts or ["nve", "nvt", "npt"]
    warnings.simplefilter("ignore")
    print("command:", " ".join(["python", *sys.argv]))
    print(
        f"hardware: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread used; seed {SEED}"
    )
    print(f"OpenMM {openmm.version.version}, platform Reference; {MODEL}, head {HEAD}, 32 atoms of Cu")
    document: dict[str, Any] = {"command": sys.argv, "seed": SEED, "openmm": openmm.version.version}
    passed = True
    for part in parts:
        began = time.perf_counter()
        if part == "nve":
            document[part] = found = nve()
            print(f"nve  drift {found['drift']:+.2e} ± {found['uncertainty']:.0e} meV/atom/ps over 20 ps", end="")
            passed &= found["passed"]
        elif part == "nvt":
            document[part] = [nvt(ensemble, arguments.picoseconds) for ensemble in ("langevin", "nose-hoover")]
            for found in document[part]:
                print(
                    f"nvt  {found['ensemble']}: {found['mean']:.2f} ± {found['mean_error']:.2f} K (300), fluctuation "
                    f"{found['fluctuation']:.2f} ± {found['fluctuation_error']:.2f} K ({found['fluctuation_expected']:.2f})"
                    f"{'' if found['passed'] else '  FAILED'}",
                )
                passed &= found["passed"]
        else:
            document[part] = found = npt(arguments.picoseconds)
            ours, theirs = found["openmm"], found["ase"]
            print(
                f"npt  volume {ours['mean']:.4f} ± {ours['error']:.4f} Å³, ASE {theirs['mean']:.4f} ± {theirs['error']:.4f}; "
                f"difference {found['difference']:+.4f} ± {found['error']:.4f}; fluctuation {ours['fluctuation']:.4f} and "
                f"{theirs['fluctuation']:.4f}",
                end="",
            )
            passed &= found["passed"]
        print(f"  ({time.perf_counter() - began:.0f} s)", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps({**document, "passed": bool(passed)}, indent=2) + "\n", encoding="utf-8")
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
