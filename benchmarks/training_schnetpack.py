"""Worker of ``training_speed.py``: SchNetPack's own training step (``AtomisticTask.training_step``), unmodified."""

import platform
from typing import Any, TypeVar

import numpy as np
import torch
import torch.utils.data.dataloader as torch_dataloader
from speed_protocol import serve, timed
from training_batch import CHANNELS, CUTOFF, GRADIENT_CLIP, LAYERS, LEARNING_RATE, N_RADIAL, structures

if not hasattr(torch_dataloader, "T_co"):
    # SchNetPack 2.1.1 imports this type variable, for an annotation; torch 2.13 no longer has it there.
    torch_dataloader.T_co = TypeVar("T_co", covariant=True)  # type: ignore[attr-defined]

import schnetpack
from schnetpack import properties
from schnetpack.interfaces import AtomsConverter
from schnetpack.transform import MatScipyNeighborList


class SchNetPackTraining:
    """PaiNN, mean squared errors of energy and forces, AdamW."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        representation = schnetpack.representation.PaiNN(
            n_atom_basis=CHANNELS,
            n_interactions=LAYERS,
            radial_basis=schnetpack.nn.GaussianRBF(n_rbf=N_RADIAL, cutoff=CUTOFF),
            cutoff_fn=schnetpack.nn.CosineCutoff(CUTOFF),
        )
        model = schnetpack.model.NeuralNetworkPotential(
            representation=representation,
            input_modules=[schnetpack.atomistic.PairwiseDistances()],
            output_modules=[
                schnetpack.atomistic.Atomwise(n_in=CHANNELS, output_key=properties.energy),
                schnetpack.atomistic.Forces(calc_forces=True),
            ],
        )
        outputs = [
            schnetpack.task.ModelOutput(name=name, loss_fn=torch.nn.MSELoss(), loss_weight=weight, metrics={})
            for name, weight in ((properties.energy, 0.01), (properties.forces, 0.99))
        ]
        self.task = schnetpack.task.AtomisticTask(
            model=model, outputs=outputs, optimizer_cls=torch.optim.AdamW, optimizer_args={"lr": LEARNING_RATE}
        )
        # Logging belongs to a trainer, which is not part of the step.
        self.task.log = lambda *_, **__: None
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def describe(self) -> dict[str, Any]:
        """Versions and size."""
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "schnetpack": schnetpack.__version__,
            "parameters": sum(p.numel() for p in self.task.model.parameters()),
        }

    def prepare(self, name: str, n_cells: int) -> dict[str, Any]:  # noqa: ARG002 - one batch only
        """Build the batch."""
        atoms = structures()
        self.batch = AtomsConverter(MatScipyNeighborList(cutoff=CUTOFF), dtype=torch.float32)(atoms)
        self.batch[properties.energy] = torch.tensor([a.info["E"] for a in atoms], dtype=torch.float32)
        self.batch[properties.forces] = torch.tensor(np.concatenate([a.arrays["F"] for a in atoms])).float()
        return {"atoms": sum(map(len, atoms)), "edges": len(self.batch[properties.idx_i])}

    def set_threads(self, threads: int) -> None:
        """Threads of torch."""
        torch.set_num_threads(threads)

    def evaluate(self) -> float:
        """Seconds of one optimizer step."""
        batch = {name: value.detach().clone() for name, value in self.batch.items()}  # it writes into its input

        def step() -> None:
            self.optimizer.zero_grad()
            self.task.training_step(batch, 0).backward()
            torch.nn.utils.clip_grad_norm_(self.task.parameters(), GRADIENT_CLIP)
            self.optimizer.step()

        return timed(step)

    def neighbor_list(self) -> float:
        """Not timed here."""
        raise NotImplementedError


if __name__ == "__main__":
    serve(SchNetPackTraining)
