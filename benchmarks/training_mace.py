"""Worker of ``training_speed.py``: MACE's own training step (``mace.tools.train.take_step``), unmodified."""

import contextlib
import importlib
import platform
import sys
from typing import Any

import ase.data
import numpy as np
import torch
from speed_protocol import serve, timed
from torch_ema import ExponentialMovingAverage
from training_batch import CHANNELS, CUTOFF, ELEMENTS, EMA_DECAY, GRADIENT_CLIP, LEARNING_RATE, structures

# e3nn 0.4.4 reads tables of its own as it is imported: what torch.load refuses since 2.6 is allowed first.
torch.serialization.add_safe_globals([slice])
with contextlib.redirect_stdout(sys.stderr):  # standard output carries the protocol, and the package talks
    from e3nn import o3
    from mace import __version__, data, modules
    from mace.tools import AtomicNumberTable, torch_geometric

# The package rebinds the name `train` to a function of this module.
take_step = importlib.import_module("mace.tools.train").take_step

NEIGHBORS = 39.0


class MaceTraining:
    """ScaleShiftMACE, two interactions, scalar features (``64x0e``) and correlation 3, as its small models have."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float32)
        numbers = sorted(ase.data.atomic_numbers[e] for e in ELEMENTS)
        self.table = AtomicNumberTable(numbers)
        residual = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        self.model = modules.ScaleShiftMACE(
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
            r_max=CUTOFF,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=residual,
            interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
            num_interactions=2,
            num_elements=len(numbers),
            hidden_irreps=o3.Irreps(f"{CHANNELS}x0e"),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(len(numbers)),
            avg_num_neighbors=NEIGHBORS,
            atomic_numbers=numbers,
            correlation=3,
            gate=torch.nn.functional.silu,
        )
        self.loss = modules.WeightedEnergyForcesLoss(energy_weight=1.0, forces_weight=100.0)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, amsgrad=True)
        self.average = ExponentialMovingAverage(self.model.parameters(), decay=EMA_DECAY)

    def describe(self) -> dict[str, Any]:
        """Versions and size."""
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "mace": __version__,
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }

    def prepare(self, name: str, n_cells: int) -> dict[str, Any]:  # noqa: ARG002 - one batch only
        """Build the batch."""
        keys = data.KeySpecification(info_keys={"energy": "E"}, arrays_keys={"forces": "F"})
        made = [
            data.AtomicData.from_config(
                data.config_from_atoms(atoms, key_specification=keys), z_table=self.table, cutoff=CUTOFF
            )
            for atoms in structures()
        ]
        loader = torch_geometric.dataloader.DataLoader(dataset=made, batch_size=len(made), shuffle=False)
        self.batch = next(iter(loader))
        return {"atoms": int(self.batch.num_nodes), "edges": int(self.batch.edge_index.shape[1])}

    def set_threads(self, threads: int) -> None:
        """Threads of torch."""
        torch.set_num_threads(threads)

    def evaluate(self) -> float:
        """Seconds of one optimizer step."""
        return timed(
            lambda: take_step(
                model=self.model,
                loss_fn=self.loss,
                batch=self.batch.clone(),
                optimizer=self.optimizer,
                ema=self.average,
                output_args={"forces": True, "virials": False, "stress": False},
                max_grad_norm=GRADIENT_CLIP,
                device=torch.device("cpu"),
            )
        )

    def neighbor_list(self) -> float:
        """Not timed here."""
        raise NotImplementedError


if __name__ == "__main__":
    serve(MaceTraining)
