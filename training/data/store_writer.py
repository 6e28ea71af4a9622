"""Writing a store so that it is whole or not there, also when the writer is killed.

What counts is only ever a file that is renamed into its place: the journal of a shard names the chunks that belong to
it, and the index names all of them. A chunk that no journal names does not exist: it is what a killed writer left, and
the next one removes it.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from hydrapot.potential.container import write_atomically
from hydrapot.training.data.frames import DatasetError, Frames
from hydrapot.training.data.store_chunk import load_adios2, write_chunk
from hydrapot.training.data.store_columns import WIDTH, Columns, encode, join
from hydrapot.training.data.store_index import check_same, finish, read_if_there
from hydrapot.training.data.store_layout import (
    DTYPES,
    INDEX,
    Chunk,
    Precision,
    ShardJournal,
    SourceFile,
    StoreAttributes,
    StoreIndex,
    journal_path,
    shard_folder,
    to_json,
)

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024 * 1024


class StoreWriter:
    """Writes one shard of a store; the last shard to finish writes the index, which makes the store visible.

    Resumable use::

        with StoreWriter(path, name="water", attributes=attributes, resume=True) as writer:
            if writer.finished:                               # all done in an earlier run
                return
            position = (writer.cursor or {}).get("line", 0)   # cursor of the last commit, None at the beginning
            for frames, line in batches(from_=position):
                writer.append(frames, split="train")
                if writer.due:                                # about `chunk_bytes` are waiting
                    writer.commit({"line": line})             # everything appended so far, and the cursor, in one go

    After a kill at any moment the same code continues from the last commit, without loss or duplication. Leaving the
    block by an exception keeps what was committed, for the next run; without any commit nothing is left. Either way
    there is no store to be seen before the index is written.

    Parameters
    ----------
    path
        Folder, by convention ``NAME.store``; made if it does not exist.
    name
        Of the dataset (and of its head). The names of the frames that are appended do not matter.
    attributes, precision
        Equal for all shards, but for the provenance: the store lists the source files of all of them.
    shard, shards
        This writer is number ``shard`` of ``shards``; each shard is written by one process.
    chunk_bytes
        Size of the files, and about half of what is buffered at most.
    resume
        Continue what a writer before has committed; begins anew if there is nothing.

    Raises
    ------
    DatasetError
        A store, or an unfinished one, is there already (without ``resume``), or differs from what is asked for; another
        process writes the shard; the folder cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str,
        attributes: StoreAttributes,
        precision: Precision = "float32",
        shard: int = 0,
        shards: int = 1,
        chunk_bytes: int = CHUNK_BYTES,
        resume: bool = False,
    ) -> None:
        load_adios2()
        if not 0 <= shard < shards:
            raise DatasetError(f"shard {shard} of {shards}: shards are numbered from 0")
        if precision not in DTYPES:
            raise DatasetError(f"precision {precision!r}: choose one of {', '.join(DTYPES)}")
        if not name:
            raise DatasetError(f"{path}: a dataset needs a name")
        self.path, self.shard = Path(path), shard
        self._chunk_bytes = chunk_bytes
        self._folder = shard_folder(self.path, shard)
        self._journal_file = journal_path(self.path, shard)
        self._waiting: dict[str, list[tuple[Columns, list[str]]]] = {}
        self._written: list[Chunk] = []  # on the disk, not yet in the journal
        self._cursor: dict[str, Any] | None = None
        journal = ShardJournal(name=name, precision=precision, shard=shard, shards=shards, attributes=attributes)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self._journal_file.with_suffix(".lock"))
        except OSError as error:
            raise DatasetError(f"cannot write the store {self.path}: {error.strerror}") from error
        try:
            self._journal, self._finished = self._begin(journal, resume=resume)
        except BaseException:
            self._unlock()
            raise
        self._cursor = self._journal.cursor

    def _begin(self, journal: ShardJournal, *, resume: bool) -> tuple[ShardJournal, bool]:
        """State to start from, and whether the shard is finished."""
        index = read_if_there(self.path / INDEX, StoreIndex)
        if index is not None:
            if not resume:
                raise DatasetError(f"{self.path} exists: choose another name, or remove it first")
            check_same(self.path, journal, index)
            return journal, True
        before = read_if_there(self._journal_file, ShardJournal)
        if before is not None:
            if not resume:
                raise DatasetError(f"{self.path}: an unfinished import is there: resume it, or remove the folder first")
            check_same(self.path, journal, before)
            if before.shards != journal.shards:
                raise DatasetError(f"{self.path}: begun with {before.shards} shards, not {journal.shards}")
            journal = before
        self._sweep(journal)
        return journal, journal.complete

    def _sweep(self, journal: ShardJournal) -> None:
        """Remove chunks that the journal does not name, and what killed writers were about to rename."""
        for leftover in self.path.glob(f".{self._journal_file.name}.*.tmp"):
            leftover.unlink()
        if journal.shards == 1:  # otherwise another shard may be writing the index just now
            for leftover in self.path.glob(f".{INDEX}.*.tmp"):
                leftover.unlink()
        known = {chunk.file for chunk in journal.chunks}
        for leftover in self._folder.glob("*"):
            if str(leftover.relative_to(self.path)) not in known:
                log.info("removing %s, which was not committed", leftover)
                shutil.rmtree(leftover)

    @property
    def cursor(self) -> dict[str, Any] | None:
        """What was given to the last commit; None before the first."""
        return self._cursor

    @property
    def finished(self) -> bool:
        """Whether this shard had been finished before (when resuming): nothing is left to append."""
        return self._finished

    @property
    def due(self) -> bool:
        """Whether a commit is worth a file: `chunk_bytes` have been appended since the last."""
        return bool(self._written) or sum(map(_bytes, self._waiting.values())) >= self._chunk_bytes

    def add_source(self, source: SourceFile, *, instead_of: SourceFile | None = None) -> None:
        """Note a file that structures come from, perhaps in the place of one it continues; written with the next commit."""
        provenance = tuple(s for s in self._journal.attributes.provenance if s == source or s != instead_of)
        if source not in provenance:
            attributes = self._journal.attributes.model_copy(update={"provenance": (*provenance, source)})
            self._journal = self._journal.model_copy(update={"attributes": attributes})

    def append(self, frames: Frames, *, split: str = "all") -> None:
        """Add structures to a split; memory stays bounded without commits too.

        Raises
        ------
        DatasetError
            Columns or labels that a store cannot hold (`store_columns.encode`), or a finished shard.
        """
        if self._finished:
            raise DatasetError(f"{self.path}: shard {self.shard} is finished: nothing can be appended")
        if not split.isidentifier():
            raise DatasetError(f"split {split!r}: a name of letters, digits and underscores")
        for piece in self._pieces(frames):
            encoded = encode(piece, precision=self._journal.precision)
            waiting = self._waiting.setdefault(split, [])
            waiting.append(encoded)
            # Commits come at one chunk: what is twice as long was not waited for.
            if _bytes(waiting) >= 2 * self._chunk_bytes:
                self._write(split)

    def _pieces(self, frames: Frames) -> Iterator[Frames]:
        atom, structure = _sizes(self._journal.precision)
        last = frames.offsets[1:] * atom + np.arange(1, len(frames) + 1) * structure
        start = 0
        while start < len(frames):
            begin = last[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(last, begin + self._chunk_bytes, side="right")))
            yield frames if stop - start == len(frames) else frames.subset(np.arange(start, stop))
            start = stop

    def _write(self, split: str) -> None:
        parts = self._waiting.pop(split, [])
        if not parts:
            return
        columns, groups = join(parts)
        number = len(self._journal.chunks) + len(self._written)
        file = f"{self._folder.name}/{split}-{number:06d}.bp"
        chunk = write_chunk(
            self.path, file, split=split, columns=columns, groups=groups, attributes=self._journal.attributes
        )
        self._written.append(chunk)

    def commit(self, cursor: dict[str, Any] | None = None) -> None:
        """Put on the disk all that was appended; from here a writer with ``resume=True`` goes on.

        Parameters
        ----------
        cursor
            JSON types; how far the source has been read, for the importer that resumes.
        """
        self._commit(cursor, complete=False)

    def _commit(self, cursor: dict[str, Any] | None, *, complete: bool) -> None:
        for split in list(self._waiting):
            self._write(split)
        update = {"chunks": (*self._journal.chunks, *self._written), "cursor": cursor, "complete": complete}
        journal = self._journal.model_copy(update=update)
        try:
            write_atomically(self._journal_file, to_json(journal))
        except OSError as error:
            raise DatasetError(f"{self._journal_file}: cannot be written ({error.strerror})") from error
        self._journal, self._written, self._cursor = journal, [], cursor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the shard, or take back what was not committed."""
        try:
            if kind is None and not self._finished:
                self._commit(self._cursor, complete=True)
                self._finished = True
            if kind is None:
                finish(self.path)
        finally:
            if not self._finished:
                self._sweep(self._journal)
                if not self._journal_file.exists():
                    shutil.rmtree(self._folder, ignore_errors=True)
            self._unlock()

    def _unlock(self) -> None:
        self._journal_file.with_suffix(".lock").unlink(missing_ok=True)
        os.close(self._lock)
        if not any(self.path.iterdir()):
            self.path.rmdir()


def _sizes(precision: Precision) -> tuple[int, int]:
    """Bytes of one atom and of one structure."""
    return 6 * np.dtype(DTYPES[precision]).itemsize + 2, 8 * WIDTH + 8


def _bytes(parts: list[tuple[Columns, list[str]]]) -> int:
    return sum(
        c.table.nbytes + c.counts.nbytes + c.numbers.nbytes + c.positions.nbytes + c.forces.nbytes for c, _ in parts
    )


def _lock(path: Path) -> int:
    """Lock a file until it is closed; the system releases it when the process dies, however it dies."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise DatasetError(f"{path}: another process is writing this shard") from None
    except OSError as error:  # some network file systems have no locks
        log.warning("%s cannot be locked (%s): make sure that one process writes this shard", path, error.strerror)
    if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):  # its owner finished just now
        os.close(handle)
        raise DatasetError(f"{path}: another process is writing this shard")
    return handle
