"""Writing a store so that it is whole or not there, also when the writer is killed."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hydrapot.training.data.frames import Frames
from hydrapot.training.data.store_layout import Precision, StoreAttributes

CHUNK_BYTES = 256 * 1024 * 1024


class StoreWriter:
    """Writes one shard of a store; the last shard to finish writes the index, which makes the store visible.

    Resumable use::

        with StoreWriter(path, name="water", attributes=attributes, resume=True) as writer:
            position = (writer.cursor or {}).get("line", 0)   # cursor of the last commit, None at the beginning
            for frames, line in batches(from_=position):
                writer.append(frames, split="train")
                if writer.due:                                # about `chunk_bytes` are waiting
                    writer.commit({"line": line})             # everything appended so far, and the cursor, in one go

    After a kill at any moment the same code continues from the last commit, without loss or duplication.

    Parameters
    ----------
    path
        Folder ``NAME.store``, made if it does not exist.
    name
        Of the dataset (and of its head). The names of the frames that are appended do not matter.
    attributes, precision
        Equal for all shards.
    shard, shards
        This writer is number ``shard`` of ``shards``; each shard is written by one process.
    chunk_bytes
        Size of the files (and of what is buffered).
    resume
        Continue what a writer before has committed; begins anew if there is nothing.
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
        raise NotImplementedError

    @property
    def cursor(self) -> dict[str, Any] | None:
        """What was given to the last commit; None before the first."""
        raise NotImplementedError

    @property
    def finished(self) -> bool:
        """Whether this shard had been finished before (when resuming): nothing is left to append."""
        raise NotImplementedError

    @property
    def due(self) -> bool:
        """Whether a commit would fill a chunk."""
        raise NotImplementedError

    def append(self, frames: Frames, *, split: str = "all") -> None:
        """Add structures; memory stays bounded without commits too."""
        raise NotImplementedError

    def commit(self, cursor: dict[str, Any] | None = None) -> None:
        """Put on disk all that was appended; from here a writer with ``resume=True`` goes on."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the shard; after an exception what was committed stays, invisible, for `resume`."""
        raise NotImplementedError


def finish(path: str | Path) -> bool:
    """Write the index if all shards are complete; returns whether they are."""
    raise NotImplementedError
