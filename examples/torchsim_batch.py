"""Many structures at once with TorchSim: relaxation and molecular dynamics of magnesium oxide with a missing pair of ions.

    python examples/torchsim_batch.py [--structures 16] [--steps 200] [--device cpu]

Needs ``pip install 'hydrapot[torchsim]'``. Half a minute on two cores; ``--device cuda`` where there is a GPU.
"""

import argparse
import time
import warnings
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from hydrapot.calculators.torch_sim import HydrapotModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # TorchSim 0.3 uses torch.jit.script
    import torch_sim as ts


def vacancies(number: int) -> list[Atoms]:
    """Crystals of 30 ions, each without one cation and one anion."""
    rng = np.random.default_rng(1)
    made = []
    for _ in range(number):
        atoms = bulk("MgO", "rocksalt", a=4.25).repeat((2, 2, 4))
        del atoms[[2 * rng.integers(16), 2 * rng.integers(16) + 1]]  # even: Mg, odd: O
        atoms.rattle(0.03, rng=rng)
        made.append(atoms)
    return made


def cell_relaxation() -> dict[str, Any]:
    """FIRE for positions and cell."""
    if hasattr(ts, "Optimizer"):  # TorchSim 0.4 and later
        return {"optimizer": ts.Optimizer.fire, "init_kwargs": {"cell_filter": ts.CellFilter.frechet}}
    return {"optimizer": ts.optimizers.frechet_cell_fire}


def main() -> None:
    """Relax, then heat what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200, help="of molecular dynamics, 1 fs each")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    # States in float64, network in float32: what the ASE calculator does by default.
    model = HydrapotModel("hydrapot-s", head="polymlp_MgO", device=args.device, precision="float32")

    # Converged structures leave the batch and waiting ones take their places. On a GPU, autobatcher=True finds out by
    # itself how much fits into the memory; a CPU does not profit from more than some hundred atoms at a time.
    state = model.state(vacancies(args.structures))
    batcher = ts.InFlightAutoBatcher(model, memory_scales_with="n_atoms", max_memory_scaler=500)
    begin = time.perf_counter()
    relaxed = ts.optimize(
        state,
        model,
        **cell_relaxation(),
        convergence_fn=ts.generate_force_convergence_fn(0.02, include_cell_forces=True),
        autobatcher=True if args.device != "cpu" else batcher,
        max_steps=500 * args.structures,  # TorchSim 0.3 counts the steps of all batches together
    )
    print(f"relaxed {relaxed.n_systems} structures in {time.perf_counter() - begin:.1f} s")
    energies = relaxed.energy.cpu().numpy()
    order = np.argsort(energies)
    volumes = np.linalg.det(relaxed.row_vector_cell.cpu().numpy())
    for k in order[:3]:
        print(f"  structure {k:2d}: {energies[k] - energies[order[0]]:8.4f} eV above the lowest, {volumes[k]:7.2f} Å³")

    begin = time.perf_counter()
    final = ts.integrate(
        relaxed.to_atoms(),
        model,
        integrator=ts.Integrator.nvt_langevin if hasattr(ts, "Integrator") else ts.nvt_langevin,
        n_steps=args.steps,
        temperature=600,
        timestep=0.001,  # ps
    )
    kinetic = ts.calc_kinetic_energy(momenta=final.momenta, masses=final.masses, system_idx=final.system_idx)
    atoms = torch.bincount(final.system_idx)
    temperature = (2 * kinetic / (3 * atoms) / ts.units.MetalUnits.temperature).mean().item()
    seconds = time.perf_counter() - begin
    print(f"{args.steps} steps of Langevin dynamics at 600 K in {seconds:.1f} s, now at {temperature:.0f} K on average")


if __name__ == "__main__":
    main()
