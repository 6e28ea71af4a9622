"""Errors of a run on all validation structures, shared out over the processes.

Every batch is computed by one process. The sums of each batch are exchanged, not those of each process, and added up in the
order of the batches: the result has the same bits for any number of processes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hydrapot.potential.backbones.painn import MessageSums
from hydrapot.training.config import TrainConfig
from hydrapot.training.data.prepared import PreparedDataset, Scales, make_batch
from hydrapot.training.data.sampler import BalancedSampler
from hydrapot.training.layout import Layout
from hydrapot.training.metrics import Metrics, baseline, error_sums, metrics_of_sums
from hydrapot.training.setup import Setup
from hydrapot.training.step import Batch, Predictor


class Evaluation:
    """The validation of a run.

    Parameters
    ----------
    setup, config
        The run.
    layout
        What this process holds.
    message_sum
        Code of the sums over neighbors.
    """

    def __init__(self, setup: Setup, config: TrainConfig, layout: Layout, *, message_sum: MessageSums) -> None:
        self.layout, self.cutoff = layout, config.model.cutoff
        self.datasets = {name: data for name, data in setup.validation.items() if len(data)}
        self.scales = setup.scales
        self.predictor = Predictor(layout.potential, compiled=config.run.compile, message_sum=message_sum)
        self.batches = {name: _batches(data, config) for name, data in self.datasets.items()}
        #: Errors of the mean predictor, which do not change during a run.
        self.baselines = {name: baseline(setup.training[name], data) for name, data in self.datasets.items()}

    def __call__(self) -> dict[str, Metrics]:
        """Errors of the present weights per head, with those of the mean predictor; the same on every process.

        Raises
        ------
        SimulationError
            A prediction is not finite.
        """
        shares = {name: self.layout.share(name) for name in self.datasets}
        table = torch.zeros(sum(len(b) for b in self.batches.values()), 10, dtype=torch.float64)
        row = 0
        with self.layout.whole():
            for name, batches in self.batches.items():
                for indices in batches:
                    if row in shares[name]:
                        table[row] = self._sums(name, indices)
                    row += 1
        table = self.layout.total(table.to(self.layout.device)).cpu()
        metrics, row = {}, 0
        for name, batches in self.batches.items():
            metrics[name] = metrics_of_sums(table[row : row + len(batches)].sum(dim=0)) | self.baselines[name]
            row += len(batches)
        return metrics

    def _sums(self, name: str, indices: Sequence[int]) -> Tensor:
        rows = np.stack([np.zeros(len(indices), dtype=np.int64), np.asarray(indices, dtype=np.int64)], axis=1)
        scales: list[Scales] = [self.scales[name]]
        graph, head, targets = make_batch(rows, [self.datasets[name]], scales=scales, weights=[1.0], cutoff=self.cutoff)
        head = torch.full_like(head, self.layout.heads.index(name))
        batch = Batch(graph, head, targets).to(self.layout.device)
        return error_sums(self.predictor(batch), batch).cpu()


def _batches(data: PreparedDataset, config: TrainConfig) -> list[list[int]]:
    """Every structure once, packed as in training."""
    sampler = BalancedSampler(
        [data.frames.counts],
        [data.degrees],
        temperature=1.0,
        edge_slots=config.sampler.edge_slots,
        max_structures=config.sampler.max_structures,
        seed=config.run.seed,
    )
    return [rows[:, 1].tolist() for rows in sampler.round(0)]
