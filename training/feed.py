"""What the loop consumes: for every step, this process's parts of the global batch."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.config import TrainConfig
from hydrapot.training.data.frames import Structure
from hydrapot.training.data.prepared import make_batch, normalizers
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

    @property
    def waited(self) -> float:
        """Seconds that this process has waited for work in all."""

    def start(self, position: Position) -> None:
        """Begin at `position`; asked for once, before the first work."""

    def __next__(self) -> Work:
        """The next step's work; waits until it is ready."""

    def structures(self, rows: NDArray[np.int64]) -> list[Structure]:
        """The structures of a part, with their labels as they were read."""

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
    censuses = [d.census for d in setup.training.values()]
    sampling = [d.sampling for d in config.datasets]
    return GlobalSampler(
        [c.atoms for c in censuses],
        [c.degrees for c in censuses],
        [c.edges for c in censuses],
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
    """Batches made in threads while the model computes.

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
        self.targets = [(d.targets.energy, d.targets.forces, d.targets.stress) for d in config.datasets]
        self.cutoff, self.config = config.model.cutoff, config.data
        self.sampler, self.parts = sampler, list(parts)
        self._ahead: Prefetched[tuple[Position, list[NDArray[np.int64]]], Work] | None = None

    @property
    def waited(self) -> float:
        """As in :class:`Feed`."""
        return 0.0 if self._ahead is None else self._ahead.waited

    def start(self, position: Position) -> None:
        """As in :class:`Feed`."""

        def batches() -> Iterator[tuple[Position, list[NDArray[np.int64]]]]:
            return self.sampler.stream(position)

        self._ahead = Prefetched(batches, self._work, depth=self.config.prefetch, workers=self.config.workers)

    def __next__(self) -> Work:
        if self._ahead is None:
            raise RuntimeError("start() was not called")
        return next(self._ahead)

    def structures(self, rows: NDArray[np.int64]) -> list[Structure]:
        """As in :class:`Feed`."""
        return [self.datasets[d].take(np.array([i])).structures[0] for d, i in rows.tolist()]

    def close(self) -> None:
        """As in :class:`Feed`."""
        if self._ahead is not None:
            self._ahead.close()

    def _work(self, item: tuple[Position, list[NDArray[np.int64]]]) -> Work:
        following, parts = item
        # Those of all parts, also of other processes', so that the gradients of all processes add up.
        normalized = normalizers(parts, self.datasets, weights=self.weights, targets=self.targets)
        rows = [parts[k] for k in self.parts]
        made = [
            make_batch(
                r,
                self.datasets,
                scales=self.scales,
                weights=self.weights,
                cutoff=self.cutoff,
                normalized=normalized,
            )
            for r in rows
        ]
        return Work(following, rows, [Batch(*batch) for batch in made])
