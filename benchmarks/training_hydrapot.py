"""Worker of ``training_speed.py``: a training step of hydrapot.

Usage: ``training_hydrapot.py eager|compiled native|torch`` (``run.compile`` and ``run.backend`` of a configuration)
"""

import platform
import sys
from typing import Any, cast

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from speed_protocol import serve, timed
from training_batch import (
    CHANNELS,
    CUTOFF,
    ELEMENTS,
    EMA_DECAY,
    GRADIENT_CLIP,
    LAYERS,
    LEARNING_RATE,
    N_RADIAL,
    structures,
)

from hydrapot.potential.graph import build_graph, collate
from hydrapot.potential.metadata import CheckpointInfo, HeadInfo, LevelOfTheory, ModelConfig, PaiNNConfig
from hydrapot.potential.model import Potential
from hydrapot.potential.references import zero_references
from hydrapot.training.averaging import MovingAverage
from hydrapot.training.config import OptimizerConfig
from hydrapot.training.gradients import accumulate
from hydrapot.training.messages import Backend, training_message_sum
from hydrapot.training.objective import ObjectiveConfig, Targets
from hydrapot.training.optimizer import make_optimizer, update
from hydrapot.training.step import Batch, CompiledStep, EagerStep


class HydrapotTraining:
    """Loss with its second derivatives, gradient clipping, AdamW and moving average, as :mod:`hydrapot.training` does."""

    def __init__(self, mode: str, backend: Backend) -> None:
        head = HeadInfo(
            dataset="benchmark",
            level_of_theory=LevelOfTheory(functional="none: random labels"),
            references="zero",
            structures_per_element=dict.fromkeys(ELEMENTS, 1000),
        )
        encoder = PaiNNConfig(channels=CHANNELS, layers=LAYERS, n_radial=N_RADIAL)
        info = CheckpointInfo(architecture=ModelConfig(encoder=encoder, cutoff=CUTOFF), heads={"benchmark": head})
        torch.manual_seed(0)
        references = {"benchmark": zero_references([atomic_numbers[e] for e in ELEMENTS])}
        self.potential = Potential(info, references=references)
        self.parameters = [p for p in self.potential.parameters() if p.requires_grad]
        self.kind, self.backend = {"eager": EagerStep, "compiled": CompiledStep}[mode], backend
        self.threads = 0
        self.optimizer = make_optimizer(self.parameters, OptimizerConfig(learning_rate=LEARNING_RATE))
        self.average = MovingAverage(self.parameters, decay=EMA_DECAY)

    def describe(self) -> dict[str, Any]:
        """Versions and size."""
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "parameters": sum(p.numel() for p in self.parameters),
        }

    def prepare(self, name: str, n_cells: int) -> dict[str, Any]:  # noqa: ARG002 - one batch only
        """Build the batch, in parts as the sampler packs it: structures of like numbers of neighbors together."""
        atoms = structures()
        by_kind: dict[str, list[Atoms]] = {}
        for a in atoms:
            by_kind.setdefault(a.get_chemical_formula(empirical=True), []).append(a)
        # Of the whole batch, so that the gradients of the parts add up to its gradient.
        normalizers = torch.tensor([len(atoms), sum(map(len, atoms)), 0.0], dtype=torch.float64)
        self.parts = [_part(some, normalizers) for some in by_kind.values()]
        edges = sum(int(part.graph.edge_mask.sum()) for part in self.parts)
        return {"atoms": sum(map(len, atoms)), "edges": edges}

    def set_threads(self, threads: int) -> None:
        """Threads of torch, and the step for as many."""
        if threads != self.threads:
            torch.set_num_threads(threads)
            sums = training_message_sum(self.potential, backend=self.backend)
            self.gradients = self.kind(self.potential, config=ObjectiveConfig(stress=0.0), message_sum=sums)
            self.threads = threads

    def evaluate(self) -> float:
        """Seconds of one optimizer step."""

        def step() -> None:
            _, gradients = accumulate(self.gradients, self.parts, like=self.parameters)
            norm = torch.nn.utils.get_total_norm(gradients)
            update(self.optimizer, self.parameters, gradients, rate=LEARNING_RATE, clip=GRADIENT_CLIP, norm=norm)
            self.average.update(self.parameters)

        return timed(step)

    def neighbor_list(self) -> float:
        """Not timed here."""
        raise NotImplementedError


def _part(atoms: list[Atoms], normalizers: torch.Tensor) -> Batch:
    graph = collate([build_graph(a, cutoff=CUTOFF) for a in atoms], cutoff=CUTOFF)
    one = torch.ones(len(atoms), dtype=torch.float64)
    targets = Targets(
        energy=torch.tensor([a.info["E"] for a in atoms], dtype=torch.float64),
        forces=torch.from_numpy(np.concatenate([a.arrays["F"] for a in atoms])),
        strain_gradient=torch.zeros(len(atoms), 3, 3, dtype=torch.float64),
        energy_weight=one,
        force_weight=torch.ones(graph.n_atoms, dtype=torch.float64),
        strain_weight=0.0 * one,
        energy_scale=one,
        force_scale=one,
        strain_scale=one,
        atoms=torch.tensor([float(len(a)) for a in atoms], dtype=torch.float64),
        normalizers=normalizers,
        noise=torch.zeros(len(atoms), 3, dtype=torch.float64),
    )
    return Batch(graph, torch.zeros(len(atoms), dtype=torch.int64), targets)


if __name__ == "__main__":
    serve(lambda: HydrapotTraining(sys.argv[1], cast("Backend", sys.argv[2])))
