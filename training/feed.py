"""What the loop consumes: for every step, this process's parts of the global batch."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.config import TrainConfig
from hydrapot.training.data.prepared import make_batch
from hydrapot.training.data.sampler import BalancedSampler, Position
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


class PreparedFeed:
    """Batches of datasets held in memory, one part a step, made in a thread.

    Parameters
    ----------
    setup, config
        The run.
    """

    def __init__(self, setup: Setup, config: TrainConfig) -> None:
        self.datasets = list(setup.training.values())
        self.scales = list(setup.scales.values())
        self.weights = [d.weight for d in config.datasets]
        self.cutoff = config.model.cutoff
        self.sampler = BalancedSampler(
            [d.frames.counts for d in self.datasets],
            [d.degrees for d in self.datasets],
            temperature=config.sampler.temperature,
            edge_slots=config.sampler.edge_slots,
            max_structures=config.sampler.max_structures,
            seed=config.run.seed,
        )
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
        for following, rows in self.sampler.stream(position):
            batch = make_batch(rows, self.datasets, scales=self.scales, weights=self.weights, cutoff=self.cutoff)
            yield Work(following, [rows], [Batch(*batch)])
