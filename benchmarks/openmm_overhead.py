"""What OpenMM costs beside the model: time per step and memory.

    python benchmarks/openmm_overhead.py [overhead|memory ...] [--steps 50000] [-o RESULTS.json]

overhead   a step of velocity Verlet in OpenMM (platform Reference) against the model alone, neighbor list included, at the
           same positions, in turns; 108, 1,000 and 4,000 atoms of Cu, float32, one thread. Processor time, which neighbors on
           a shared machine do not change. To pass: at 1,000 atoms at most 5 % more.
memory     resident memory while 32 atoms of Cu do 50,000 steps of Langevin dynamics. To pass: it grows by less than 1 MiB after
           the first fifth.

Takes about two minutes on an idle core.
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
from ase import Atoms
from ase.build import bulk

from hydrapot.calculators.native import NativeBackend
from hydrapot.calculators.openmm import HydrapotForce
from hydrapot.calculators.openmm_box import ReducedBox
from hydrapot.calculators.verlet import VerletList

MODEL, HEAD = "hydrapot-s", "mvl_snap_Cu"
SIZES = {108: (3, 3, 3), 1000: (5, 5, 10), 4000: (10, 10, 10)}
SEED = 1


def start(atoms: Atoms, integrator: Any) -> tuple[openmm.Context, HydrapotForce]:
    """A context at 300 K."""
    frame = ReducedBox.of(atoms)
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(float(mass))
    system.setDefaultPeriodicBoxVectors(*(frame.box * 0.1))
    made = HydrapotForce(MODEL, atoms.numbers, head=HEAD, periodic=True, threads=1)
    system.addForce(made.force)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(frame.into(atoms.positions) * 0.1)
    context.setVelocitiesToTemperature(300, SEED)
    return context, made


def verlet(timestep: float) -> openmm.CustomIntegrator:
    """Velocity Verlet, ps."""
    integrator = openmm.CustomIntegrator(timestep)
    for variable, expression in (("v", "v+0.5*dt*f/m"), ("x", "x+dt*v"), ("v", "v+0.5*dt*f/m")):
        integrator.addComputePerDof(variable, expression)
    return integrator


def overhead(n_atoms: int, *, rounds: int, steps: int) -> dict[str, Any]:
    """Milliseconds of processor time per step: in OpenMM, and of the model alone."""
    atoms = bulk("Cu", cubic=True, a=3.63) * SIZES[n_atoms]
    integrator = verlet(0.001)
    context, made = start(atoms, integrator)
    potential = made.callback.evaluator.calculator.potential
    alone = NativeBackend(potential, head=HEAD, dtype="float32")
    neighbors = VerletList(cutoff=potential.cutoff, skin=made.record.skin, device="cpu")
    cell, pbc = ReducedBox.of(atoms).box, np.ones(3, bool)

    def evaluate(positions: np.ndarray) -> float:
        """Processor seconds."""
        began = time.process_time()
        pairs, _ = neighbors.pairs(atoms.numbers, positions, cell, pbc, charge=0, spin=None)
        alone.evaluate(pairs, threads=1)
        return time.process_time() - began

    seen: list[np.ndarray] = []
    evaluator = made.callback.evaluator
    original = evaluator.calculator.calculate

    def watched(structure: Atoms, properties: Any) -> None:
        seen.append(structure.positions.copy())  # a few µs that count against OpenMM
        original(structure, properties)

    evaluator.calculator.calculate = watched
    integrator.step(5)
    engine, model = [], []
    for _ in range(rounds):
        seen.clear()
        began = time.process_time()
        integrator.step(steps)
        engine.append((time.process_time() - began) / steps)
        model.append(sum(evaluate(positions) for positions in seen) / len(seen))
    ratios = np.array(engine[1:]) / np.array(model[1:])  # the first searches neighbors on one side only
    extra = float(np.median(ratios)) - 1
    context.getState()
    return {
        "atoms": n_atoms,
        "openmm_ms": 1000 * float(np.median(engine[1:])),
        "model_ms": 1000 * float(np.median(model[1:])),
        "overhead": extra,
        "spread": float(ratios.std(ddof=1) / np.sqrt(len(ratios))),
    }


def resident() -> float:
    """MiB of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(steps: int) -> dict[str, Any]:
    """Resident memory after each tenth of a run."""
    atoms = bulk("Cu", cubic=True, a=3.63) * (2, 2, 2)
    integrator = openmm.LangevinMiddleIntegrator(300, 10, 0.002)
    context, _ = start(atoms, integrator)
    samples = []
    for _ in range(10):
        integrator.step(steps // 10)
        context.getState(energy=True, positions=True)
        samples.append(resident())
    return {"steps": steps, "mib": samples, "growth": samples[-1] - samples[1]}


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["overhead", "memory", []], help="both unless named")
    parser.add_argument("--steps", type=int, default=50_000, help="of the run whose memory is watched")
    parser.add_argument("--rounds", type=int, default=12, help="of each size")
    parser.add_argument("-o", "--output", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    parts = arguments.parts or ["overhead", "memory"]
    warnings.simplefilter("ignore")
    print("command:", " ".join(["python", *sys.argv]))
    print(
        f"hardware: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread used; seed {SEED}"
    )
    print(f"OpenMM {openmm.version.version}, platform Reference; {MODEL}, head {HEAD}, Cu, float32")
    document: dict[str, Any] = {"command": sys.argv, "seed": SEED, "openmm": openmm.version.version}
    passed = True
    if "overhead" in parts:
        document["overhead"] = []
        for n_atoms in SIZES:
            found = overhead(n_atoms, rounds=arguments.rounds, steps=20 if n_atoms < 4000 else 5)
            document["overhead"].append(found)
            print(
                f"{n_atoms:5d} atoms: {found['openmm_ms']:.2f} ms a step in OpenMM, {found['model_ms']:.2f} ms the model: "
                f"{100 * found['overhead']:+.1f} ± {100 * found['spread']:.1f} %",
                flush=True,
            )
            if n_atoms == 1000:
                passed &= found["overhead"] <= 0.05
    if "memory" in parts:
        document["memory"] = found = memory(arguments.steps)
        print(f"memory after each tenth of {found['steps']} steps: {', '.join(f'{x:.1f}' for x in found['mib'])} MiB")
        passed &= found["growth"] < 1.0
    if arguments.output:
        arguments.output.write_text(json.dumps({**document, "passed": bool(passed)}, indent=2) + "\n", encoding="utf-8")
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
