"""A dataset on disk: random access to single structures, and bulk reads, of what `StoreWriter` wrote."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.data.frames import DatasetError, Frames
from hydrapot.training.data.store_chunk import ChunkReader, check_sizes, load_adios2
from hydrapot.training.data.store_columns import GROUP, Columns, decode
from hydrapot.training.data.store_layout import (
    INDEX,
    SUFFIX,
    Chunk,
    Precision,
    ShardJournal,
    SplitInfo,
    StoreAttributes,
    StoreIndex,
    read_json,
)

OPEN_CHUNKS = 256


def is_store(path: str | Path) -> bool:
    """Whether `path` is meant to be a store: by its suffix, or because there is an index in it."""
    path = Path(path)
    return path.suffix == SUFFIX or (path / INDEX).exists()


class Store:
    """A finished store, open for reading. Thread safe; survives `fork`, and `pickle` into another process.

    Parameters
    ----------
    path
        The folder that `StoreWriter` wrote.
    deferred
        Let ADIOS2 collect the reads of a batch and do them together.
    threads
        Threads that ADIOS2 reads a batch with. More than one hides the latency of a parallel file system; on a local disk
        starting them costs more than they gain.
    open_chunks
        Files kept open between reads at most; each costs one file handle, and 8 bytes of memory per structure in it.

    Attributes
    ----------
    name, precision, attributes
        As written. Energies, stresses and cells are float64 always; ``precision`` is that of positions and forces.
    content
        Hash that names exactly these numbers in this order.
    splits
        Size of each split, by name.

    Raises
    ------
    DatasetError
        No store, an unfinished one, a damaged one (also of a single file truncated since), one of another version or in
        other units. The message names the file.
    """

    def __init__(
        self, path: str | Path, *, deferred: bool = True, threads: int = 1, open_chunks: int = OPEN_CHUNKS
    ) -> None:
        self.path = Path(path)
        self._options = {"deferred": deferred, "threads": threads, "open_chunks": open_chunks}
        self._deferred, self._threads, self._open_chunks = deferred, threads, open_chunks
        index = _read_index(self.path)
        self.name: str = index.name
        self.precision: Precision = index.precision
        self.attributes: StoreAttributes = index.attributes
        self.content: str = index.content
        self.hydrapot: str = index.hydrapot
        self.splits: dict[str, SplitInfo] = dict(index.splits)
        self._chunks: dict[str, list[Chunk]] = {split: [] for split in index.splits}
        for chunk in index.chunks:
            check_sizes(self.path, chunk)
            self._chunks[chunk.split].append(chunk)
        self._firsts = {
            split: np.concatenate([[0], np.cumsum([chunk.info.structures for chunk in chunks])]).astype(np.int64)
            for split, chunks in self._chunks.items()
        }
        self._counts: dict[str, NDArray[np.int64]] = {}
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._adios: Any = load_adios2().ADIOS()
        self._readers: OrderedDict[str, ChunkReader] = OrderedDict()

    def __len__(self) -> int:
        """Structures in all splits."""
        return sum(info.structures for info in self.splits.values())

    def counts(self, split: str) -> NDArray[np.int64]:
        """Number of atoms of each structure of a split, (n,), read-only."""
        self._info(split)
        with self._locked():
            if split not in self._counts:
                counts = np.empty(self._firsts[split][-1], np.int64)
                for chunk, first in zip(self._chunks[split], self._firsts[split][:-1], strict=True):
                    counts[first : first + chunk.info.structures] = np.diff(self._reader(chunk).offsets)
                counts.flags.writeable = False
                self._counts[split] = counts
            return self._counts[split]

    def read(self, indices: NDArray[np.integer[Any]], *, split: str) -> Frames:
        """Return the structures ``indices`` (k,) of a split, in that order; each may occur more than once.

        Raises
        ------
        DatasetError
            No such split or structure, or a file is damaged.
        """
        chosen = np.asarray(indices, np.int64).reshape(-1)
        n = self._info(split).structures
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= n):
            bad = int(chosen[(chosen < 0) | (chosen >= n)][0])
            raise DatasetError(f"{self.path}, split {split!r}: no structure {bad}: it holds {n}")
        columns, group = self.read_columns(chosen, split=split)
        return decode(columns, name=self.name, group=group)

    def read_range(self, start: int, stop: int, *, split: str) -> Frames:
        """Return the structures ``start:stop`` of a split; few large reads."""
        return self.read(np.arange(start, stop), split=split)

    def iterate(self, *, split: str, structures: int = 65_536) -> Iterator[Frames]:
        """Yield a split from beginning to end, `structures` at a time."""
        n = self._info(split).structures
        for start in range(0, n, structures):
            yield self.read_range(start, min(start + structures, n), split=split)

    def read_columns(self, chosen: NDArray[np.int64], *, split: str) -> tuple[Columns, NDArray[np.str_]]:
        """Like `read`, as they are stored, with the names of their groups; `chosen` has to be valid."""
        chunks, firsts = self._chunks[split], self._firsts[split]
        with self._locked():
            # Each chunk is asked for when its turn comes, twice: a sample of a whole dataset meets more chunks than files
            # can be open.
            parts = [(chunks[k], slots, chosen[slots] - firsts[k]) for k, slots in _by_chunk(chosen, firsts)]
            counts = np.empty(len(chosen), np.int64)
            for chunk, slots, rows in parts:
                offsets = self._reader(chunk).offsets
                counts[slots] = offsets[rows + 1] - offsets[rows]
            columns = Columns.empty(counts, precision=self.precision)
            starts = np.cumsum(counts) - counts
            names = []
            for chunk, slots, rows in parts:
                reader = self._reader(chunk)
                reader.read_into(columns, rows, slots, starts[slots], deferred=self._deferred)
                names.append(reader.names.take(columns.table[slots, GROUP].astype(np.int64)))
            if len(parts) == 1:
                return columns, names[0]
            group = np.empty(len(chosen), np.result_type(np.str_, *names))
            for (_, slots, _), part in zip(parts, names, strict=True):
                group[slots] = part
            return columns, group

    def view(self, split: str) -> "StoreView":
        """One split as a `hydrapot.training.data.source.Source`."""
        return StoreView(self, split)

    def verify(self) -> None:
        """Read everything and compare it with the checksums.

        Raises
        ------
        DatasetError
            Names file and column of the first damage.
        """
        for chunks in self._chunks.values():
            for chunk in chunks:
                with self._locked():
                    self._reader(chunk).verify()

    def close(self) -> None:
        """Close the files; a closed store opens them again when it is read."""
        with self._locked():
            while self._readers:
                self._readers.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.path, self._options)

    def _info(self, split: str) -> SplitInfo:
        if split not in self.splits:
            raise DatasetError(f"{self.path} has no split {split!r}: it has {', '.join(sorted(self.splits))}")
        return self.splits[split]

    def _locked(self) -> threading.RLock:
        if os.getpid() != self._process:
            # After a fork the file handles, and with them the place in the file, are shared with the parent.
            self._begin()
        return self._lock

    def _reader(self, chunk: Chunk) -> ChunkReader:
        """Reader of a chunk, open until `open_chunks` others have been asked for."""
        reader = self._readers.get(chunk.file)
        if reader is None:
            while len(self._readers) >= max(self._open_chunks, 1):
                self._readers.popitem(last=False)[1].close()
            reader = ChunkReader(self._adios, self.path, chunk, precision=self.precision, threads=self._threads)
            self._readers[chunk.file] = reader
        self._readers.move_to_end(chunk.file)
        return reader


class StoreView:
    """One split of a store, as a `hydrapot.training.data.source.Source`; thread safe and picklable."""

    def __init__(self, store: Store, split: str) -> None:
        self.store, self.split = store, split
        self._length = store._info(split).structures  # noqa: SLF001 (raises for an unknown split)

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.store.name

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of atoms of each structure, (n,)."""
        return self.store.counts(self.split)

    def __len__(self) -> int:
        return self._length

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Return the structures ``indices`` (k,), in that order; see `Store.read`."""
        return self.store.read(indices, split=self.split)


def _by_chunk(chosen: NDArray[np.int64], firsts: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    """Chunks that hold some of `chosen`, and which of them."""
    if len(firsts) == 2 and len(chosen):
        return [(0, np.arange(len(chosen)))]
    chunk = np.searchsorted(firsts, chosen, side="right") - 1
    return [(int(k), np.flatnonzero(chunk == k)) for k in np.unique(chunk)]


def _open(path: Path, options: dict[str, Any]) -> Store:
    return Store(path, **options)


def _read_index(path: Path) -> StoreIndex:
    try:
        return read_json(path / INDEX, StoreIndex)
    except FileNotFoundError:
        pass
    if not path.exists():
        raise DatasetError(f"{path}: no such store")
    journals = sorted(path.glob("shard-*.json"))
    if not journals and not any(path.glob("shard-*")):
        raise DatasetError(f"{path}: not a dataset store (no {INDEX} in it)")
    complete, shards = 0, 0
    for file in journals:
        journal = read_json(file, ShardJournal)
        complete, shards = complete + journal.complete, journal.shards
    what = f"{complete} of {shards} shards are complete" if shards else "nothing is committed"
    raise DatasetError(f"{path}: unfinished ({what}): run the import again to go on with it")
