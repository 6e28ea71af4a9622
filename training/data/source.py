"""Where structures come from during training: anything that reads some of them by number.

A dataset that fits into memory, a view of a store on disk and a shard of a distributed store look alike to the sampler,
which needs the sizes of all structures, and to the batches, which need a few of them in full.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.data.frames import DatasetError, Frames


@runtime_checkable
class Source(Protocol):
    """A numbered collection of structures.

    Several threads read at once: an implementation whose reader is not thread safe takes a lock of its own.
    """

    @property
    def name(self) -> str:
        """Name of the dataset, which becomes that of its head."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of atoms of each structure, ``(n,)``; may be memory-mapped, is never written to."""

    def __len__(self) -> int:
        """Return the number of structures."""

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Structures `indices` ``(k,)``, in that order; an index may occur more than once.

        Raises
        ------
        DatasetError
            An index is out of range, or the data cannot be read.
        """


class FramesSource:
    """Structures held in memory.

    Parameters
    ----------
    frames
        All of them; not copied.
    """

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self._counts = frames.counts

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.frames.name

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of atoms of each structure, ``(n,)``."""
        return self._counts

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Structures `indices`, in that order; see :meth:`Source.read`."""
        return self.frames.subset(_checked(indices, self))


class SelectedSource:
    """Some structures of another source, numbered anew: one side of a split.

    Parameters
    ----------
    source
        Where they are.
    indices
        ``(n,)``, their numbers there.
    """

    def __init__(self, source: Source, indices: NDArray[np.integer[Any]]) -> None:
        self.source = source
        self.indices = _checked(indices, source)
        self._counts = source.counts[self.indices]

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.source.name

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of atoms of each structure, ``(n,)``."""
        return self._counts

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Structures `indices`, in that order; see :meth:`Source.read`."""
        return self.source.read(self.indices[_checked(indices, self)])


def _checked(indices: NDArray[np.integer[Any]], source: Source) -> NDArray[np.int64]:
    chosen = np.asarray(indices, dtype=np.int64)
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(source)):
        bad = int(chosen[(chosen < 0) | (chosen >= len(source))][0])
        raise DatasetError(f"dataset {source.name!r} has no structure {bad}: it holds {len(source)}")
    return chosen


def read_all(source: Source, *, chunk: int = 65_536) -> Frames:
    """Every structure of `source`, read in pieces of `chunk`.

    Sources in memory give their own columns without a copy.
    """
    if isinstance(source, FramesSource):
        return source.frames
    numbers = np.arange(len(source))
    pieces = [source.read(numbers[start : start + chunk]) for start in range(0, len(source), chunk)]
    return concatenate(pieces) if pieces else source.read(numbers)


def concatenate(pieces: list[Frames]) -> Frames:
    """One dataset of several pieces of it, in order; at least one."""
    if len(pieces) == 1:
        return pieces[0]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([p.counts for p in pieces]))]).astype(np.int64)
    columns: dict[str, Any] = {
        column: np.concatenate([getattr(p, column) for p in pieces])
        for column in Frames.__dataclass_fields__
        if column not in {"name", "offsets"}
    }
    return Frames(name=pieces[0].name, offsets=offsets, **columns)
