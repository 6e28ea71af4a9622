"""A dataset on disk: random access to single structures, and bulk reads, of what `StoreWriter` wrote."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.data.frames import Frames
from hydrapot.training.data.store_layout import SplitInfo, StoreAttributes


class Store:
    """A finished store, open for reading.

    Attributes
    ----------
    name, precision, attributes, content
        As written; ``content`` is a hash that names exactly these numbers in this order.
    splits
        Size of each split.
    """

    name: str
    precision: str
    attributes: StoreAttributes
    content: str
    splits: dict[str, SplitInfo]

    def __init__(self, path: str | Path) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        """Structures in all splits."""
        raise NotImplementedError

    def counts(self, split: str) -> NDArray[np.int64]:
        """Number of atoms of each structure of a split, (n,)."""
        raise NotImplementedError

    def read(self, indices: NDArray[np.int64], *, split: str) -> Frames:
        """Return the structures ``indices`` of a split, in that order."""
        raise NotImplementedError

    def read_range(self, start: int, stop: int, *, split: str) -> Frames:
        """Return the structures ``start:stop`` of a split."""
        raise NotImplementedError

    def view(self, split: str) -> "StoreView":
        """One split as a `Source`."""
        raise NotImplementedError

    def verify(self) -> None:
        """Read everything and compare with the checksums."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the files."""
        raise NotImplementedError


class StoreView:
    """One split of a store (`hydrapot.training.data.source.Source`); picklable, thread safe."""

    name: str
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Return the structures ``indices``, in that order."""
        raise NotImplementedError
