"""From shards to one store: the index, written when all of them are complete."""

import hashlib
import importlib.metadata
import json
from pathlib import Path

from hydrapot.potential.container import write_atomically
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.store_layout import (
    INDEX,
    Chunk,
    Document,
    ShardJournal,
    SplitInfo,
    StoreAttributes,
    StoreIndex,
    journal_path,
    read_json,
    to_json,
)


def finish(path: str | Path) -> bool:
    """Write the index if all shards are complete; returns whether the store is there.

    Every writer calls it when it leaves, so that the last one makes the store visible. Two at the same moment write the
    same bytes.

    Raises
    ------
    DatasetError
        The shards differ in name, precision or attributes, or there is not a single structure.
    """
    path = Path(path)
    if read_if_there(path / INDEX, StoreIndex) is not None:
        return True
    first = read_if_there(next(iter(sorted(path.glob("shard-*.json"))), path / "none"), ShardJournal)
    if first is None:
        return False
    journals = []
    for shard in range(first.shards):
        journal = read_if_there(journal_path(path, shard), ShardJournal)
        if journal is None or not journal.complete:
            return read_if_there(path / INDEX, StoreIndex) is not None  # another shard may just have tidied up
        check_same(path, first, journal)
        journals.append(journal)
    chunks = [chunk for journal in journals for chunk in journal.chunks]
    if not chunks:
        raise DatasetError(f"{path}: not one structure was written: there is no store of nothing")
    sources = dict.fromkeys(source for journal in journals for source in journal.attributes.provenance)
    index = StoreIndex(
        name=first.name,
        precision=first.precision,
        hydrapot=importlib.metadata.version("hydrapot"),
        attributes=first.attributes.model_copy(update={"provenance": tuple(sources)}),
        content=_content(chunks),
        splits=_totals(chunks),
        chunks=tuple(chunks),
    )
    write_atomically(path / INDEX, to_json(index))
    for shard in range(first.shards):
        journal_path(path, shard).unlink(missing_ok=True)
    return True


def _content(chunks: list[Chunk]) -> str:
    rows = [[chunk.split, chunk.columns] for chunk in chunks]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _totals(chunks: list[Chunk]) -> dict[str, SplitInfo]:
    totals: dict[str, SplitInfo] = {}
    for chunk in chunks:
        other = totals.get(chunk.split)
        totals[chunk.split] = chunk.info if other is None else chunk.info + other
    return totals


def read_if_there(path: Path, kind: type[Document]) -> Document | None:
    """Journal or index at `path`, None if there is none; damaged ones raise as in `read_json`."""
    try:
        return read_json(path, kind)
    except FileNotFoundError:
        return None


def check_same(path: Path, wanted: ShardJournal, found: ShardJournal | StoreIndex) -> None:
    """Raise DatasetError where name, precision or attributes (but for the provenance) differ."""
    if wanted.name != found.name or wanted.precision != found.precision:
        raise DatasetError(
            f"{path} holds {found.name!r} in {found.precision}, not {wanted.name!r} in {wanted.precision}:"
            " choose another name, or remove it first"
        )
    for key in StoreAttributes.model_fields:
        if key != "provenance" and getattr(wanted.attributes, key) != getattr(found.attributes, key):
            raise DatasetError(
                f"{path} was begun with another {key} ({getattr(found.attributes, key)}): give the same, or remove it"
            )
