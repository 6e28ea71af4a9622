"""Worker of ``speed.py``: SchNetPack's PaiNN, as SchNetPack's own ASE interface evaluates it.

Runs in the environment of its own that :mod:`speed_environment` makes; the package is used unmodified.
"""

import platform
from typing import Any, TypeVar

import torch
import torch.utils.data.dataloader as torch_dataloader
from speed_protocol import serve, timed
from speed_system import CHANNELS, CUTOFF, LAYERS, N_RADIAL, system

if not hasattr(torch_dataloader, "T_co"):
    # SchNetPack 2.1.1 imports this type variable, for an annotation; torch 2.13 no longer has it there.
    torch_dataloader.T_co = TypeVar("T_co", covariant=True)  # type: ignore[attr-defined]

import schnetpack
from schnetpack import properties
from schnetpack.interfaces import AtomsConverter
from schnetpack.transform import MatScipyNeighborList


class SchNetPackModel:
    """Random weights; energy by `Atomwise`, forces and stress by `Forces(calc_stress=True)`."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        representation = schnetpack.representation.PaiNN(
            n_atom_basis=CHANNELS,
            n_interactions=LAYERS,
            radial_basis=schnetpack.nn.GaussianRBF(n_rbf=N_RADIAL, cutoff=CUTOFF),
            cutoff_fn=schnetpack.nn.CosineCutoff(CUTOFF),
        )
        self.model = schnetpack.model.NeuralNetworkPotential(
            representation=representation,
            input_modules=[schnetpack.atomistic.Strain(), schnetpack.atomistic.PairwiseDistances()],
            output_modules=[
                schnetpack.atomistic.Atomwise(n_in=CHANNELS, output_key=properties.energy),
                schnetpack.atomistic.Forces(calc_forces=True, calc_stress=True),
            ],
        )
        # Not what its interface does, but it can only help: nothing is kept for gradients of weights.
        self.model.eval().requires_grad_(requires_grad=False)
        self.converter = AtomsConverter(MatScipyNeighborList(cutoff=CUTOFF), dtype=torch.float32)

    def describe(self) -> dict[str, Any]:
        """Versions and size."""
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "schnetpack": schnetpack.__version__,
            "parameters": sum(p.numel() for p in self.model.representation.parameters()),
            "channels": CHANNELS,
            "layers": LAYERS,
            "n_radial": N_RADIAL,
            "cutoff": CUTOFF,
        }

    def prepare(self, name: str, n_cells: int) -> dict[str, Any]:
        """Build the system and its input."""
        self.atoms = system(name, n_cells)
        self.inputs = self.converter(self.atoms)
        return {"atoms": len(self.atoms), "edges": len(self.inputs[properties.idx_i])}

    def set_threads(self, threads: int) -> None:
        """Threads of torch."""
        torch.set_num_threads(threads)

    def evaluate(self) -> float:
        """Seconds for energy, forces and stress."""
        inputs = {name: value.detach().clone() for name, value in self.inputs.items()}  # it writes into its input
        results: dict[str, torch.Tensor] = {}
        seconds = timed(lambda: results.update(self.model(inputs)))
        if set(results) != {properties.energy, properties.forces, properties.stress}:
            raise RuntimeError(f"unexpected results {sorted(results)}")
        return seconds

    def neighbor_list(self) -> float:
        """Seconds for search and input."""
        return timed(lambda: self.converter(self.atoms))


if __name__ == "__main__":
    serve(SchNetPackModel)
