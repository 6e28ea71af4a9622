"""What the loop consumes: for every step, this process's parts of the global batch."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hydrapot.training.config import TrainConfig
from hydrapot.training.data.prepared import PreparedDataset, make_batch
from hydrapot.training.data.sampler import GlobalSampler, Position
from hydrapot.training.prefetch import Prefetched
from hydrapot.training.setup import Setup
from hydrapot.training.step import Batch


class Work(NamedTuple):
    """One step's work of one process."""

    #: Where the run stands once this step is done; the same on every process.
    following: Position
    #: ``(B, 2)`` of each part: dataset, structure.
    rows: list[NDArray[np.int64]]
    #: The parts; heads are numbered as in the whole model, normalizers are those of the global batch.
    batches: list[Batch]


class Feed(Protocol):
    """Endless, reproducible stream of work: a pure function of the position."""

    def start(self, position: Position) -> None:
        """Begin at `position`; asked for once, before the first work."""

    def __next__(self) -> Work:
        """The next step's work; waits until it is ready."""

    def close(self) -> None:
        """End what prepares work in the background."""


def make_sampler(
    setup: Setup, config: TrainConfig, *, parts: int, branches: Sequence[Sequence[int]] | None
) -> GlobalSampler:
    """The global batches of a run: the same for every process, and for every number of them.

    Parameters
    ----------
    setup, config
        The run.
    parts
        Parts of a global batch.
    branches
        From :func:`hydrapot.training.layout.branch_numbers`.
    """
    datasets = list(setup.training.values())
    sampling = [d.sampling for d in config.datasets]
    return GlobalSampler(
        [d.frames.counts for d in datasets],
        [d.degrees for d in datasets],
        [np.array([len(e.senders) for e in d.edges], dtype=np.int64) for d in datasets],
        temperature=config.sampler.temperature,
        weights=None if all(w == 1.0 for w in sampling) else sampling,
        edge_slots=config.sampler.edge_slots,
        max_structures=config.sampler.max_structures,
        parts=parts,
        strata=config.sampler.strata,
        branches=branches,
        seed=config.run.seed,
        window=config.sampler.window,
    )


class PreparedFeed:
    """Batches of datasets held in memory, made in a thread.

    Parameters
    ----------
    setup, config
        The run.
    sampler
        Its global batches.
    parts
        Numbers of the parts that this process computes.
    """

    def __init__(self, setup: Setup, config: TrainConfig, *, sampler: GlobalSampler, parts: Sequence[int]) -> None:
        self.datasets = list(setup.training.values())
        self.scales = list(setup.scales.values())
        self.weights = [d.weight for d in config.datasets]
        self.cutoff = config.model.cutoff
        self.sampler, self.parts = sampler, list(parts)
        self.labels = [_labels(d, weight=w) for d, w in zip(self.datasets, self.weights, strict=True)]
        self._ahead: Prefetched[Work] | None = None

    def start(self, position: Position) -> None:
        """As in :class:`Feed`."""
        self._ahead = Prefetched(lambda: self._work(position), depth=4)

    def __next__(self) -> Work:
        if self._ahead is None:
            raise RuntimeError("start() was not called")
        return next(self._ahead)

    def close(self) -> None:
        """As in :class:`Feed`."""
        if self._ahead is not None:
            self._ahead.close()

    def _work(self, position: Position) -> Iterator[Work]:
        for following, parts in self.sampler.stream(position):
            normalizers = torch.from_numpy(self._count(parts))
            rows = [parts[k] for k in self.parts]
            yield Work(following, rows, [self._batch(r, normalizers) for r in rows])

    def _batch(self, rows: NDArray[np.int64], normalizers: torch.Tensor) -> Batch:
        batch = Batch(*make_batch(rows, self.datasets, scales=self.scales, weights=self.weights, cutoff=self.cutoff))
        return batch._replace(targets=batch.targets._replace(normalizers=normalizers))

    def _count(self, parts: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
        """Labels of all parts of a global batch, ``(3,)``."""
        total = np.zeros(3)
        for rows in parts:
            for d in np.unique(rows[:, 0]).tolist():
                total += self.labels[d][rows[rows[:, 0] == d, 1]].sum(axis=0)
        return total


def _labels(data: PreparedDataset, *, weight: float) -> NDArray[np.float64]:
    """Labels of each structure that enter the loss, ``(n, 3)``: energies, atoms with forces, stresses."""
    if weight == 0.0:
        return np.zeros((len(data), 3))
    known = np.isfinite(data.forces).all(axis=1).astype(np.float64)
    atoms = np.add.reduceat(known, data.frames.offsets[:-1]) if len(data) else np.zeros(0)
    return np.stack([np.isfinite(data.energy), atoms, np.isfinite(data.strain).all(axis=(1, 2))], axis=1)
