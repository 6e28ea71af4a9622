"""One process of an import: it reads some files after each other and writes one shard of the store.

The journal of the shard commits structures, position in the file and tally at once, so that an import that is killed at
any moment goes on from the last commit with nothing lost and nothing twice.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter

from hydrapot.potential.container import write_atomically
from hydrapot.training.data.frames import POSITION_GRID, DatasetError, Frames
from hydrapot.training.data.import_report import FileTally
from hydrapot.training.data.limits import Limits, left_out
from hydrapot.training.data.readers import Chunk, ReaderOptions, Reject, read_chunks
from hydrapot.training.data.readers.opening import reading
from hydrapot.training.data.store_layout import Precision, SourceFile, StoreAttributes
from hydrapot.training.data.store_writer import StoreWriter

CHUNK_BYTES = 64 * 1024 * 1024
"""Size of the files of the store; a process holds about twice as much."""
CHUNK = 1024
"""Structures that are handed on at a time."""
TALLIES = TypeAdapter(list[FileTally])

Progress = Callable[[int, int, int], None]
"""Called with files, structures and rejects that were added since the last call."""


class PlannedFile(NamedTuple):
    """A file of the import."""

    path: Path
    name: str
    """Relative to the folder that was asked for; what provenance and reports call it."""
    layout: str


class ShardTask(NamedTuple):
    """Everything a process needs."""

    store: Path
    name: str
    attributes: StoreAttributes
    precision: Precision
    shard: int
    shards: int
    files: tuple[PlannedFile, ...]
    options: ReaderOptions
    limits: Limits
    split: str
    commit_every: int
    chunk_bytes: int = CHUNK_BYTES


def tally_path(store: Path, shard: int) -> Path:
    """Where a finished shard leaves its tally until the report is written."""
    return store / f"import-{shard:05d}.json"


def import_shard(task: ShardTask, progress: Progress) -> None:
    """Write one shard, from the last commit on if there is one.

    Raises
    ------
    DatasetError
        A file is missing, truncated or corrupt, or the store cannot be written.
    """
    with StoreWriter(
        task.store,
        name=task.name,
        attributes=task.attributes,
        precision=task.precision,
        shard=task.shard,
        shards=task.shards,
        chunk_bytes=task.chunk_bytes,
        resume=True,
    ) as writer:
        if writer.finished:
            return
        cursor = writer.cursor or {"file": 0, "position": 0, "tally": []}
        tallies = TALLIES.validate_python(cursor["tally"])
        progress(
            int(cursor["file"]),
            sum(tally.structures for tally in tallies),
            sum(sum(tally.rejected.values()) for tally in tallies),
        )
        since = 0
        for f in range(int(cursor["file"]), len(task.files)):
            file = task.files[f]
            begin = int(cursor["position"]) if f == cursor["file"] else 0
            if len(tallies) == f:
                tallies.append(FileTally(name=file.name, layout=file.layout))
            size = file.path.stat().st_size
            source = SourceFile(name=file.name, sha256=_sha256(file.path, size))
            before = SourceFile(name=file.name, sha256=cursor["sha256"]) if begin else source
            # A truncated file may have been replaced by the whole one; what was read of it must be in that, too.
            if source != before and _sha256(file.path, int(cursor["size"])) != before.sha256:
                raise DatasetError(
                    f"{file.path} is another file than the one that {task.store} holds the beginning of: bring that one"
                    " back, or remove the folder of the store and begin again"
                )
            writer.add_source(source, instead_of=before)
            chunks = read_chunks(
                file.path,
                layout=file.layout,
                name=task.name,
                start=begin,
                options=task.options,
                size=min(CHUNK, task.commit_every),
            )
            for chunk in chunks:
                frames, rejects = _sound(chunk, task.limits, task.precision)
                if len(frames):
                    writer.append(frames, split=task.split)
                tallies[f].add(frames, rejects)
                progress(0, len(frames), len(rejects))
                since += len(frames) + len(rejects)
                if writer.due or since >= task.commit_every:
                    writer.commit(
                        {
                            "file": f,
                            "position": chunk.position,
                            "size": size,
                            "sha256": source.sha256,
                            "tally": TALLIES.dump_python(tallies),
                        }
                    )
                    since = 0
            progress(1, 0, 0)
        # Before the shard is finished: the last shard to finish removes the journals.
        write_atomically(tally_path(task.store, task.shard), TALLIES.dump_json(tallies))


def _sound(chunk: Chunk, limits: Limits, precision: Precision) -> tuple[Frames, list[Reject]]:
    """Leave out what the limits exclude, and what the store could not hold."""
    excluded = left_out(chunk.frames, limits)
    if precision == "float32" and len(chunk.frames):
        positions = chunk.frames.positions
        moved = np.abs(positions.astype(np.float32) - positions).max(axis=1)
        lost = np.maximum.reduceat(moved, chunk.frames.offsets[:-1]) > POSITION_GRID / 2
        for i in np.flatnonzero(lost).tolist():
            excluded.setdefault(i, ("positions beyond float32", "wrap them into the cell, or import with float64"))
    if not excluded:
        return chunk.frames, chunk.rejects
    rejects = [Reject(chunk.places[i], *excluded[i], position=0) for i in sorted(excluded)]
    return chunk.frames.subset([i for i in range(len(chunk.frames)) if i not in excluded]), chunk.rejects + rejects


def _sha256(path: Path, size: int) -> str:
    """SHA-256 of the first `size` bytes of a file, or of all if it has fewer."""
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as handle:
        while block := handle.read(min(1 << 20, size)):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


# --- as a process of its own ---

_queue: Any = None
_stop: Any = None


def start_worker(queue: Any, stop: Any) -> None:
    """Prepare a process of the pool.

    Parameters
    ----------
    queue
        Where it reports to.
    stop
        An event; once it is set, the process ends its task with what is committed.
    """
    global _queue, _stop
    _queue, _stop = queue, stop
    queue.cancel_join_thread()  # nobody may read the last reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one tells the others
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A killed parent would leave the shards locked, and the next run waiting for nobody.
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def run_task(task: ShardTask) -> None:
    """Import a shard in a process of the pool."""
    try:
        import_shard(task, _report)
    except DatasetError as error:
        # Subclasses with arguments of their own would not survive the way between processes.
        raise DatasetError(str(error)) from None


def _report(*added: int) -> None:
    _queue.put(added)
    if _stop.is_set():
        raise DatasetError("stopped")
