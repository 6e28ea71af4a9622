"""Energy conservation in molecular dynamics: drift of the shadow energy, and order of the integrator.

    python benchmarks/nve.py [MODEL] [--timestep 0.5] [-o RESULTS.json]

32 atoms of Cu and a molecule of ethanol, float64, 300 K after 2 ps of Langevin and 4 ps of free dynamics, 30 ps with
steps of 1 fs (--timestep). To pass: the 95 % bound of the drift of velocity Verlet's shadow energy is below 0.0026
meV/atom/ps (10 K/ns), and the fluctuation of the energy falls four times, ± 20 %, when the step is halved. Takes some
minutes on one core.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from hydrapot.calculators import HydrapotCalculator
from hydrapot.workflows import MDSettings, md, relax

LARGEST_DRIFT = 0.0026  # meV/atom/ps
SYSTEMS = {
    "Cu32": (lambda: bulk("Cu", cubic=True, a=3.63).repeat(2), "mvl_snap_Cu"),
    "ethanol": (lambda: molecule("CH3CH2OH"), "botnet_ethanol_methanol"),
}


def energy_fluctuation(states: list[Atoms], *, timestep: float, time: float = 0.1) -> float:
    """Root-mean-square fluctuation of the energy in meV within `time` (ps) after each of the states.

    Short stretches from common states: two trajectories that differ in their step explore the same motion only as long
    as they have not diverged.
    """
    variances = []
    for state in states:
        atoms = state.copy()
        atoms.calc = state.calc
        steps = round(1000 * time / timestep)
        settings = MDSettings(ensemble="nve", steps=steps, timestep=timestep, velocities="file", interval=1)
        table = md(atoms, settings).table
        variances.append((table["potential_ev"] + table["kinetic_ev"]).var())
    return float(1000 * np.sqrt(np.mean(variances)))


def measure(model: str, name: str, *, picoseconds: float, timestep: float, seed: int, threads: int) -> dict[str, Any]:
    """One row of the table."""
    make, head = SYSTEMS[name]
    atoms = make()
    atoms.calc = HydrapotCalculator(model, head=head, dtype="float64", threads=threads)
    relax(atoms, fmax=0.01)
    md(atoms, MDSettings(steps=2000, timestep=1.0, temperature=300, seed=seed))
    states = []
    for _ in range(20):
        md(atoms, MDSettings(ensemble="nve", steps=200, timestep=1.0, velocities="file"))
        states.append(atoms.copy())
        states[-1].calc = atoms.calc
    coarse = energy_fluctuation(states, timestep=timestep)
    fine = energy_fluctuation(states, timestep=timestep / 2)
    steps = round(1000 * picoseconds / timestep)
    settings = MDSettings(ensemble="nve", steps=steps, timestep=timestep, velocities="file", interval=2)
    found = md(atoms, settings, progress=True).summary["results"]
    drift, error = found["drift_mev_per_atom_per_ps"], found["drift_uncertainty_mev_per_atom_per_ps"]
    bound, ratio = abs(drift) + error, coarse / fine
    return {
        "system": name,
        "head": head,
        "time_ps": found["time_ps"],
        "temperature_k": found["temperature_mean_k"],
        "drift_mev_per_atom_per_ps": drift,
        "drift_uncertainty_95": error,
        "drift_bound_95": bound,
        "timestep_fs": timestep,
        "seed": seed,
        "fluctuation_mev": coarse,
        "fluctuation_ratio_of_halved_step": ratio,
        "passed": bool(bound < LARGEST_DRIFT and abs(ratio - 4) <= 0.8),
    }


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="hydrapot-s")
    parser.add_argument("--systems", nargs="+", choices=sorted(SYSTEMS), default=sorted(SYSTEMS))
    parser.add_argument("--time", type=float, default=30.0, help="ps")
    parser.add_argument("--timestep", type=float, default=1.0, help="fs")
    parser.add_argument("--seed", type=int, default=1, help="of the velocities")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    settings = {"timestep": options.timestep, "seed": options.seed, "threads": options.threads}
    rows = [measure(options.model, s, picoseconds=options.time, **settings) for s in options.systems]
    print(
        f"{'system':8} {'T (K)':>6} {'drift ± 95 % (meV/atom/ps)':>28} {'bound':>8} {'ratio':>6}  limit {LARGEST_DRIFT}, 4 ± 20 %"
    )
    for row in rows:
        drift = f"{row['drift_mev_per_atom_per_ps']:+.5f} ± {row['drift_uncertainty_95']:.5f}"
        print(
            f"{row['system']:8} {row['temperature_k']:6.0f} {drift:>28} {row['drift_bound_95']:8.5f} "
            f"{row['fluctuation_ratio_of_halved_step']:6.2f}  {'passed' if row['passed'] else 'FAILED'}"
        )
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if np.all([row["passed"] for row in rows]) else 1)


if __name__ == "__main__":
    main()
