"""Which structures are drawn, in which order, in which batches: a pure function of seed and position.

Rounds of draws follow one another. In each, dataset d contributes in proportion to n_d^temperature, walking through its
own endless sequence of shuffled passes, so that no structure is repeated before all others of its dataset were seen.
The round's structures are sorted by their largest number of neighbors, with jitter, and packed so that rows of edges in
a batch have similar length (padding is what a batch wastes); the batches are then shuffled. Nothing but (seed, round,
batch) is state.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Relative jitter of the neighbor count before sorting: mixes datasets in a batch at a few percent of padding.
JITTER = 0.15


@dataclass(frozen=True)
class Position:
    """Where a run stands in the stream of batches."""

    round: int = 0
    batch: int = 0


class BalancedSampler:
    """Endless, reproducible stream of batches of (dataset, structure) pairs.

    Parameters
    ----------
    atoms, degrees
        Per dataset, ``(n_d,)``: number of atoms, and largest number of neighbors, of each training structure.
    temperature
        Exponent of the dataset size, 0 = all datasets alike, 1 = all structures alike.
    edge_slots, max_structures
        Limits of a batch: atoms × largest neighbor count, and atoms. A single structure above them is a batch of its
        own.
    seed
        Of all shuffles.
    """

    def __init__(
        self,
        atoms: Sequence[NDArray[np.integer]],
        degrees: Sequence[NDArray[np.integer]],
        *,
        temperature: float,
        edge_slots: int,
        max_structures: int,
        seed: int,
    ) -> None:
        self.atoms = [np.asarray(a, dtype=np.int64) for a in atoms]
        self.degrees = [np.maximum(np.asarray(d, dtype=np.int64), 1) for d in degrees]
        self.edge_slots, self.max_structures, self.seed = edge_slots, max_structures, seed
        sizes = np.array([len(a) for a in self.atoms], dtype=np.float64)
        share = np.where(sizes > 0, np.maximum(sizes, 1.0) ** temperature, 0.0)
        #: Structures of each dataset in one round; a round is as long as one pass over all data.
        self.draws = np.maximum(np.rint(share / share.sum() * sizes.sum()), sizes > 0).astype(np.int64)

    def round(self, index: int) -> list[NDArray[np.int64]]:
        """The batches of round `index`, each ``(B, 2)``: dataset, structure."""
        chosen = [
            np.stack([np.full(n, d), self._walk(d, first=index * n, count=n)], axis=1)
            for d, n in enumerate(self.draws.tolist())
            if n
        ]
        rows = np.concatenate(chosen)
        rng = np.random.default_rng([self.seed, 1, index])
        atoms = np.concatenate([self.atoms[c[0, 0]][c[:, 1]] for c in chosen])
        degrees = np.concatenate([self.degrees[c[0, 0]][c[:, 1]] for c in chosen])
        # The random number breaks ties as well: structures of equal degree come in random order.
        order = np.argsort(degrees * (1.0 + JITTER * rng.random(len(rows))), kind="stable")
        batches = self._pack(order, atoms, degrees)
        return [rows[batches[k]] for k in rng.permutation(len(batches))]

    def _walk(self, dataset: int, *, first: int, count: int) -> NDArray[np.int64]:
        """Elements first … first+count of the dataset's endless sequence of shuffled passes."""
        size = len(self.atoms[dataset])
        passes = range(first // size, (first + count - 1) // size + 1)
        sequence = np.concatenate([np.random.default_rng([self.seed, 0, dataset, p]).permutation(size) for p in passes])
        start = first - passes[0] * size
        return sequence[start : start + count]

    def _pack(
        self, order: NDArray[np.int64], atoms: NDArray[np.int64], degrees: NDArray[np.int64]
    ) -> list[NDArray[np.int64]]:
        batches: list[NDArray[np.int64]] = []
        current: list[int] = []
        n, widest = 0, 0
        for k in order.tolist():
            wider = max(widest, int(degrees[k]))
            more = n + int(atoms[k])
            if current and (more * wider > self.edge_slots or len(current) == self.max_structures):
                batches.append(np.array(current))
                current, more, wider = [], int(atoms[k]), int(degrees[k])
            current.append(k)
            n, widest = more, wider
        batches.append(np.array(current))
        return batches

    def stream(self, start: Position) -> Iterator[tuple[Position, NDArray[np.int64]]]:
        """Batches from `start` on, each with the position that follows it (from which a resumed run continues)."""
        index = start.round
        skip = start.batch
        while True:
            batches = self.round(index)
            for k, batch in enumerate(batches[skip:], start=skip):
                last = k + 1 == len(batches)
                yield (Position(index + 1, 0) if last else Position(index, k + 1)), batch
            index, skip = index + 1, 0
