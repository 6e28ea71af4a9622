"""Relaxation of many structures: TorchSim's batch against ASE one by one, with the same model.

    python benchmarks/torchsim_relax.py [MODEL] [--kind crystals|molecules] [--cell] [--threads N] [-o RESULTS.json]

Crystals: 64 structures of 14 to 62 atoms, magnesium oxide with a missing pair of ions at varying places, rattled by 0.05 Å
and strained. Molecules: 64 of ethanol and methanol, rattled by 0.1 Å. FIRE in both, with the same parameters, until the
largest force is below --fmax; with --cell the cell is relaxed, too. TorchSim's automatic batching swaps converged structures
for waiting ones, in batches of --batch atoms. To pass: both end in the same minima, by energy and by every distance between
neighbors. Under a minute on two cores.
"""

import argparse
import json
import platform
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from hydrapot.calculators import HydrapotCalculator
from hydrapot.calculators.torch_sim import HydrapotModel
from hydrapot.potential import build_graph

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_sim as ts

HEADS = {"crystals": "polymlp_MgO", "molecules": "botnet_ethanol_methanol"}
MAX_STEPS = 2000
#: Two runs to the same fmax stop this close to a minimum; other minima (another site of the vacancy, another conformer) are
#: some meV and tenths of an ångström away.
SAME_ENERGY, SAME_DISTANCE = 1e-5, 0.005  # eV per atom, Å


def molecules(number: int, *, seed: int) -> list[Atoms]:
    """Ethanol and methanol."""
    made = [molecule(["CH3CH2OH", "CH3OH"][k % 2]) for k in range(number)]
    for k, atoms in enumerate(made):
        atoms.rattle(0.1, seed=seed + k)
    return made


def crystals(number: int, *, seed: int) -> list[Atoms]:
    """Magnesium oxide with a missing pair."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(number):
        repeats = [(2, 2, 2), (3, 2, 2), (3, 3, 2), (2, 2, 1), (4, 4, 2)][k % 5]
        unit = bulk("MgO", "rocksalt", a=4.24, cubic=repeats == (2, 2, 1))
        atoms = unit.repeat(repeats)
        metal = [a.index for a in atoms if a.symbol == "Mg"]
        oxygen = [a.index for a in atoms if a.symbol == "O"]
        del atoms[[rng.choice(metal), rng.choice(oxygen)]]
        strain = 0.01 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        atoms.rattle(0.05, seed=seed + k)
        made.append(atoms)
    return made


def one_by_one(atoms: list[Atoms], args: argparse.Namespace) -> tuple[list[Atoms], tuple[float, float], int]:
    """Relaxed structures, seconds (of the clock, of the processors) and evaluations of ASE."""
    calculator = HydrapotCalculator(args.model, head=HEADS[args.kind], dtype=args.precision, threads=args.threads)
    relaxed, steps = [a.copy() for a in atoms], 0
    begin, cpu = time.perf_counter(), time.process_time()
    for one in relaxed:
        one.calc = calculator
        optimizer = FIRE(FrechetCellFilter(one) if args.cell else one, logfile=None)
        optimizer.run(fmax=args.fmax, steps=MAX_STEPS)
        steps += optimizer.nsteps + 1
        one.info["energy"] = one.get_potential_energy()
        one.calc = None
    return relaxed, (time.perf_counter() - begin, time.process_time() - cpu), steps


def fire(*, cell: bool) -> dict[str, Any]:
    """The optimizer, by whichever interface TorchSim has."""
    if hasattr(ts, "Optimizer"):
        filters = {"init_kwargs": {"cell_filter": ts.CellFilter.frechet}} if cell else {}
        return {"optimizer": ts.Optimizer.fire, **filters}
    return {"optimizer": ts.optimizers.frechet_cell_fire if cell else ts.optimizers.fire}


def batched(atoms: list[Atoms], args: argparse.Namespace) -> tuple[list[Atoms], tuple[float, float], int]:
    """Relaxed structures, seconds (of the clock, of the processors) and evaluations of TorchSim."""
    model = HydrapotModel(
        args.model,
        head=HEADS[args.kind],
        precision=args.precision,
        compute_stress=args.cell,
        threads=args.threads,
        device=args.device,
        backend=args.backend,
    )
    counted = [0]
    model.register_forward_hook(lambda _module, _inputs, output: counted.append(len(output["energy"])))
    begin, cpu = time.perf_counter(), time.process_time()
    state = ts.optimize(
        model.state(atoms),
        model,
        **fire(cell=args.cell),
        convergence_fn=ts.generate_force_convergence_fn(args.fmax, include_cell_forces=args.cell),
        autobatcher=ts.InFlightAutoBatcher(model, memory_scales_with="n_atoms", max_memory_scaler=args.batch),
        max_steps=MAX_STEPS * len(atoms),  # TorchSim counts the steps of all batches together
        steps_between_swaps=args.swap,
    )
    if args.device != "cpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begin, time.process_time() - cpu
    relaxed = state.to_atoms()
    for one, energy in zip(relaxed, state.energy.tolist(), strict=True):
        one.info["energy"] = energy
    return relaxed, seconds, sum(counted)


def difference(a: Atoms, b: Atoms, cutoff: float) -> tuple[float, float]:
    """Of the energies per atom (eV) and the largest of all vectors between neighbors (Å)."""
    graph = build_graph(a, cutoff=cutoff)
    index, shifts = graph.edge_index.numpy(), graph.edge_shifts.numpy()
    # By fractional coordinates, since TorchSim may have wrapped atoms.
    moved = a.positions - b.positions
    wraps = np.rint(np.linalg.solve(b.cell.array.T, moved.T).T) if b.pbc.any() else np.zeros_like(moved)
    places = b.positions + wraps @ b.cell.array

    def distances(positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
        vectors = positions[index[1]] - positions[index[0]] + shifts @ cell
        return np.asarray(np.linalg.norm(vectors, axis=1)[graph.edge_mask.numpy()])

    apart = distances(a.positions, a.cell.array) - distances(places, b.cell.array)
    return abs(a.info["energy"] - b.info["energy"]) / len(a), float(np.abs(apart).max())


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Both relaxations and what they differ in."""
    torch.set_num_threads(args.threads)
    atoms = {"crystals": crystals, "molecules": molecules}[args.kind](args.number, seed=args.seed)
    for warm in (one_by_one, batched):
        warm(atoms[:2], args)
    theirs, seconds, evaluations = one_by_one(atoms, args)
    ours, batch_seconds, batch_evaluations = batched(atoms, args)
    found = [difference(a, b, 3.0) for a, b in zip(theirs, ours, strict=True)]
    energy, distance = (max(values) for values in zip(*found, strict=True))
    return {
        "structures": len(atoms),
        "atoms": sum(map(len, atoms)),
        "ase_s": seconds[0],
        "ase_cpu_s": seconds[1],
        "ase_evaluations": evaluations,
        "torchsim_s": batch_seconds[0],
        "torchsim_cpu_s": batch_seconds[1],
        "torchsim_evaluations": batch_evaluations,
        "ratio": seconds[0] / batch_seconds[0],
        "cpu_ratio": seconds[1] / batch_seconds[1],
        "largest_energy_difference_ev_per_atom": energy,
        "largest_distance_difference_a": distance,
        "same_minima": bool(energy <= SAME_ENERGY and distance <= SAME_DISTANCE),
    }


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="hydrapot-s")
    parser.add_argument("--kind", default="crystals", choices=list(HEADS))
    parser.add_argument("--number", type=int, default=64, help="structures")
    parser.add_argument("--fmax", type=float, default=0.002, help="eV/Å")
    parser.add_argument("--cell", action="store_true", help="relax the cell, too")
    parser.add_argument("--precision", default="float64", choices=["float32", "float64"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4000, help="atoms in a batch")
    parser.add_argument("--swap", type=int, default=5, help="steps between looks at convergence")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="auto", choices=["auto", "native", "torch"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure and print."""
    args = parsed()
    result = measure(args)
    result |= {
        "command": " ".join(sys.argv),
        "processor": platform.processor(),
        "torch_sim": version("torch-sim-atomistic"),
    }
    result |= {"torch": torch.__version__, "threads": args.threads, "precision": args.precision, "seed": args.seed}
    text = json.dumps(result, indent=1)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if result["same_minima"] else 1)


if __name__ == "__main__":
    main()
