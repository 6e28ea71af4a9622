"""Which structures a round of training sees: datasets by temperature and weight, structures by endless shuffled passes.

Everything is a function of (seed, round), computed for the round alone: datasets of hundreds of millions of structures are
never permuted as a whole.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hydrapot.potential.errors import ConfigurationError

#: Datasets up to this size are shuffled as a whole; larger ones through a permutation that is computed where it is needed.
SHUFFLED_WHOLE = 1 << 20
_FEISTEL_ROUNDS = 6


def shares(
    sizes: Sequence[int], *, temperature: float, weights: Sequence[float] | None = None, total: int
) -> NDArray[np.float64]:
    """How many of `total` draws fall to each dataset, in proportion to weight · size^temperature.

    Parameters
    ----------
    sizes
        Structures of each dataset; an empty one is never drawn.
    temperature
        0 = all datasets alike, 1 = all structures alike.
    weights
        Factor of each dataset; 1 if not given, 0 leaves a dataset out.
    total
        Draws of a round.

    Raises
    ------
    ConfigurationError
        Nothing is left to draw from.
    """
    n = np.array(sizes, dtype=np.float64)
    factor = np.ones(len(n)) if weights is None else np.array(weights, dtype=np.float64)
    share = np.where(n > 0, np.maximum(n, 1.0) ** temperature, 0.0) * factor
    if not share.sum() > 0:
        raise ConfigurationError("no dataset is drawn from: all are empty or have the sampling weight 0")
    drawn: NDArray[np.float64] = share / share.sum() * total
    return drawn


class Draws:
    """Endless rounds of (dataset, structure) pairs.

    Each dataset is walked through in shuffled passes, so that no structure is drawn again before all others of its dataset
    were drawn; rounds are consecutive stretches of these walks.

    Parameters
    ----------
    sizes
        Structures of each dataset.
    datasets
        Number that each of them goes by.
    temperature, weights
        As for :func:`shares`.
    length
        Structures of a round. Where it is the size of all datasets together, every dataset that is drawn from gives a
        whole number of structures to every round; else on average over rounds.
    seed
        Of all shuffles.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        datasets: Sequence[int],
        temperature: float,
        weights: Sequence[float] | None,
        length: int,
        seed: int,
    ) -> None:
        self.sizes, self.datasets, self.seed = list(sizes), list(datasets), seed
        drawn = shares(self.sizes, temperature=temperature, weights=weights, total=length)
        if length == sum(self.sizes):
            # Whole numbers, and at least one structure of every dataset that is drawn from.
            drawn = np.maximum(np.rint(drawn), drawn > 0)
        #: Structures of each dataset in one round, on average over rounds.
        self.shares = drawn

    def counts(self, index: int) -> NDArray[np.int64]:
        """Structures of each dataset in round `index`, ``(datasets,)``."""
        return self._firsts(index + 1) - self._firsts(index)

    def _firsts(self, index: int) -> NDArray[np.int64]:
        return np.floor(index * self.shares).astype(np.int64)

    def round(self, index: int) -> NDArray[np.int64]:
        """Structures of round `index`: ``(n, 2)``, dataset and structure, one dataset after the other."""
        rows = [
            np.stack([np.full(n, d), self._walk(k, first=first, count=n)], axis=1)
            for k, (d, first, n) in enumerate(
                zip(self.datasets, self._firsts(index).tolist(), self.counts(index).tolist(), strict=True)
            )
            if n
        ]
        return np.concatenate(rows) if rows else np.zeros((0, 2), dtype=np.int64)

    def _walk(self, k: int, *, first: int, count: int) -> NDArray[np.int64]:
        """Elements first … first+count of the endless sequence of shuffled passes through dataset `k`."""
        size = self.sizes[k]
        pieces = []
        while count > 0:
            number, start = divmod(first, size)
            stop = min(start + count, size)
            pieces.append(self._pass(k, number, start=start, stop=stop))
            first, count = first + stop - start, count - (stop - start)
        return np.concatenate(pieces)

    def _pass(self, k: int, number: int, *, start: int, stop: int) -> NDArray[np.int64]:
        size = self.sizes[k]
        rng = np.random.default_rng([self.seed, 0, self.datasets[k], number])
        if size <= SHUFFLED_WHOLE:
            return rng.permutation(size)[start:stop]
        return permuted(np.arange(start, stop), size=size, keys=rng.integers(0, 2**64, _FEISTEL_ROUNDS, np.uint64))


def permuted(values: NDArray[np.int64], *, size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Images of `values` under a pseudo-random permutation of 0 … size−1, in constant memory.

    A Feistel network over an even number of bits permutes a power of four; what falls outside the range is sent through
    again until it falls inside (cycle walking: Black & Rogaway, *Ciphers with arbitrary finite domains*, CT-RSA 2002,
    section 4).

    Parameters
    ----------
    values
        ``(n,)``, each in 0 … size−1.
    size
        Of the range.
    keys
        ``(rounds,)``; they choose the permutation.
    """
    half = np.uint64(max((int(size - 1).bit_length() + 1) // 2, 1))
    mask = (np.uint64(1) << half) - np.uint64(1)
    result = _feistel(values.astype(np.uint64), half=half, mask=mask, keys=keys)
    outside = np.flatnonzero(result >= size)
    while len(outside):
        result[outside] = _feistel(result[outside], half=half, mask=mask, keys=keys)
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def _feistel(
    values: NDArray[np.uint64], *, half: np.uint64, mask: np.uint64, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    left, right = values >> half, values & mask
    for key in keys:
        # Finalizer of splitmix64 (Steele, Lea & Flood, OOPSLA 2014): every input bit reaches every output bit.
        mixed = right + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & mask)
    return (left << half) | right
