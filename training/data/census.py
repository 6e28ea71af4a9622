"""Sizes of all structures of a dataset under one cutoff: what the sampler and the loss need to know before any is read.

Counting neighbors needs every neighbor list once, which takes a tenth of a millisecond to a millisecond a structure. The
result is kept in a folder beside the dataset, never within it: another cutoff has other neighbors. It is written in pieces,
each renamed into its place, so that processes share the work by leaving out what is there, and an interrupted count goes on.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hydrapot.training.data.compact import CompactEdges, compact_edges, naming
from hydrapot.training.data.contents import Contents, contents_of, merged
from hydrapot.training.data.frames import Frames
from hydrapot.training.data.source import Source

logger = logging.getLogger(__name__)

#: Structures of one file.
PIECE = 1 << 17
#: Structures that are read and searched at a time.
_READ = 1_024
#: Columns: atoms, largest number of neighbors, directed edges, labelled energies (0 or 1), atoms with forces, labelled
#: stresses (0 or 1).
COLUMNS = 6
_VERSION = 2


class Column:
    """One column of a census in pieces, which are read from memory-mapped files when they are asked for.

    ``column[indices]`` for an array of indices is all that it offers besides its length.
    """

    def __init__(self, pieces: Sequence[NDArray[np.int32]], column: int) -> None:
        self._pieces = [piece[:, column] for piece in pieces]
        self._bounds = np.cumsum([0, *map(len, pieces)])

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __getitem__(self, indices: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        chosen = np.asarray(indices)
        if len(self._pieces) == 1:
            return self._pieces[0][chosen].astype(np.int64)
        values = np.empty(len(chosen), dtype=np.int64)
        order = np.argsort(chosen, kind="stable")
        cuts = np.searchsorted(chosen[order], self._bounds)
        for piece, start, (low, high) in zip(self._pieces, self._bounds, pairwise(cuts.tolist()), strict=False):
            if high > low:
                values[order[low:high]] = piece[chosen[order[low:high]] - start]
        return values

    def all(self) -> NDArray[np.int64]:
        """Every value, in memory."""
        return np.concatenate([np.asarray(piece, dtype=np.int64) for piece in self._pieces])


class Census:
    """Sizes of ``n`` structures.

    Parameters
    ----------
    pieces
        ``(m, COLUMNS)`` int32 each, one after the other.
    contents
        Of all structures together.
    """

    def __init__(self, pieces: Sequence[NDArray[np.int32]], contents: Contents) -> None:
        self.contents = contents
        pieces = list(pieces) or [np.zeros((0, COLUMNS), dtype=np.int32)]
        #: Atoms, largest number of neighbors, and directed edges of each structure.
        self.atoms, self.degrees, self.edges = (Column(pieces, k) for k in range(3))
        #: Labelled energies, atoms with forces, and labelled stresses of each structure.
        self.labels = tuple(Column(pieces, k) for k in range(3, 6))
        self.total_edges = int(sum(int(piece[:, 2].sum(dtype=np.int64)) for piece in pieces))
        self.total_atoms = int(sum(int(piece[:, 0].sum(dtype=np.int64)) for piece in pieces))

    def __len__(self) -> int:
        return len(self.atoms)


def count(frames: Frames, edges: Sequence[CompactEdges]) -> NDArray[np.int32]:
    """Census of structures whose neighbor lists are there: ``(n, COLUMNS)``."""
    table = np.zeros((len(frames), COLUMNS), dtype=np.int32)
    if not len(frames):
        return table
    table[:, 0] = frames.counts
    table[:, 1] = [e.counts.max(initial=0) for e in edges]
    table[:, 2] = [len(e.senders) for e in edges]
    table[:, 3] = np.isfinite(frames.energy)
    table[:, 4] = np.add.reduceat(np.isfinite(frames.forces).all(axis=1).astype(np.int64), frames.offsets[:-1])
    table[:, 5] = np.isfinite(frames.stress).all(axis=(1, 2))
    return table


def take_census(
    source: Source,
    *,
    cutoff: float,
    folder: Path | None,
    key: str = "",
    workers: int = 1,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int], None] | None = None,
) -> Census:
    """Count atoms, neighbors and labels of every structure, or read what was counted before.

    Parameters
    ----------
    source
        The dataset.
    cutoff
        Å.
    folder
        Where the counts are kept; None keeps nothing.
    key
        Names the content of the dataset; counts of another content are not taken for its own.
    workers
        Threads; the search for neighbors runs outside Python's lock.
    share
        Rank and number of the processes that count the same dataset: each begins in another place.
    progress
        Called with the number of structures counted since the last call.

    Raises
    ------
    DatasetError
        A structure cannot be read, or has no neighbor list.
    """
    bounds = [*range(0, len(source), PIECE), len(source)] if len(source) else [0]
    spans = list(pairwise(bounds))
    own = None if folder is None else folder / f"{key or source.name}-{cutoff:.6f}-{len(source)}.v{_VERSION}"
    pieces: dict[int, tuple[NDArray[np.int32], Contents]] = {}
    first = len(spans) * share[0] // share[1]
    with ThreadPoolExecutor(workers, thread_name_prefix="census") as pool:
        for k in (*range(first, len(spans)), *range(first)):
            file = None if own is None else own / f"{k:06d}.npy"
            piece = _load(file, spans[k])
            if piece is not None:
                pieces[k] = piece
                if progress is not None:
                    progress(len(piece[0]))
                continue
            pieces[k] = _count_span(source, spans[k], cutoff=cutoff, pool=pool, progress=progress)
            if file is not None and _save(file, *pieces[k]):
                pieces[k] = _load(file, spans[k]) or pieces[k]
    ordered = [pieces[k] for k in sorted(pieces)]
    return Census([table for table, _ in ordered], merged(contents for _, contents in ordered))


def _count_span(
    source: Source,
    span: tuple[int, int],
    *,
    cutoff: float,
    pool: ThreadPoolExecutor,
    progress: Callable[[int], None] | None,
) -> tuple[NDArray[np.int32], Contents]:
    def read_and_count(start: int) -> tuple[NDArray[np.int32], Contents]:
        frames = source.read(np.arange(start, min(start + _READ, span[1])))
        edges = []
        for i in range(len(frames)):
            with naming(frames, i, number=start + i):
                edges.append(compact_edges(frames.structure(i), cutoff=cutoff))
        return count(frames, edges), contents_of(frames, first=start)

    tables, parts = [], []
    for table, contents in pool.map(read_and_count, range(*span, _READ)):
        tables.append(table)
        parts.append(contents)
        if progress is not None:
            progress(len(table))
    return np.concatenate(tables), merged(parts)


def _load(file: Path | None, span: tuple[int, int]) -> tuple[NDArray[np.int32], Contents] | None:
    if file is None:
        return None
    try:
        piece = _mapped(file)
        contents = Contents.from_json(file.with_suffix(".json").read_bytes())
        if piece.shape != (span[1] - span[0], COLUMNS) or piece.dtype != np.int32 or contents.structures != len(piece):
            raise ValueError("of other structures")
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError) as error:
        logger.warning("ignoring the damaged count %s (%s); counting again", file, error)
        return None
    return piece, contents


def _mapped(file: Path) -> NDArray[np.int32]:
    """An array in a file, mapped into memory; the file itself is closed, since large datasets have thousands of them."""
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.int32 or not isinstance(array, np.memmap) or not array.flags.c_contiguous:
        raise ValueError("no table of integers")
    head = array.offset // array.itemsize
    # Python's own mapping keeps the file open as long as it lives.
    numbers = torch.from_file(str(file), shared=False, size=head + array.size, dtype=torch.int32).numpy()
    mapped: NDArray[np.int32] = numbers[head:].reshape(array.shape)
    mapped.flags.writeable = False
    return mapped


def _save(file: Path, piece: NDArray[np.int32], contents: Contents) -> bool:
    """Write, atomically; a folder that cannot be written is logged and costs only time."""
    text = contents.to_json().encode()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # The table last: where it is, the summary is too.
        _write(file.with_suffix(".json"), lambda out: out.write(text))
        _write(file, lambda out: np.save(out, piece))
    except OSError as error:
        logger.warning("cannot keep the count %s (%s): it is made again next time", file, error)
        return False
    return True


def _write(file: Path, write: Callable[[IO[bytes]], object]) -> None:
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            write(out)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
