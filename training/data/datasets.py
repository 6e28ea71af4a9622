"""A dataset to look at, whether it is a store or a file in any layout that is known."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from hydrapot.training.data.extxyz import read_extxyz
from hydrapot.training.data.frames import DatasetError, Frames
from hydrapot.training.data.names import dataset_name
from hydrapot.training.data.readers import Chunk, ReaderOptions, empty_frames, format_of, read_chunks
from hydrapot.training.data.store import Store, is_store
from hydrapot.training.data.store_layout import StoreAttributes

PIECE = 4096
"""Structures that are read at a time."""


class Dataset:
    """A store or a file.

    Parameters
    ----------
    path
        ``NAME.store``, or a file.
    layout, options
        Of a file, as in `readers.read_chunks`.

    Attributes
    ----------
    name
        That of the store, or the file's without its suffixes.
    attributes
        What a store knows about its level of theory and origin; None for a file, which says nothing.
    """

    def __init__(self, path: Path, *, layout: str | None = None, options: ReaderOptions | None = None) -> None:
        self.path = path
        self.store = Store(path) if is_store(path) else None
        self.options = options or ReaderOptions()
        if self.store is not None:
            self.name, self.layout = self.store.name, "store"
            self.attributes: StoreAttributes | None = self.store.attributes
        else:
            self.name, self.layout = dataset_name(path), layout or format_of(path)
            self.attributes = None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the structures in pieces, with those that could not be read."""
        if self.store is None:
            yield from read_chunks(self.path, layout=self.layout, name=self.name, options=self.options)
            return
        number = 0
        for split in self.store.splits:
            for frames in self.store.iterate(split=split, structures=PIECE):
                places = [f"{split} {number + i}" for i in range(len(frames))]
                number += len(frames)
                yield Chunk(frames, [], places, number)

    def frames(self) -> Frames:
        """Return all structures at once.

        Raises
        ------
        DatasetError
            Some structure of a file makes no sense: what is split or fitted has to be what is trained on.
        """
        if self.layout == "extxyz" and self.options == ReaderOptions():
            return read_extxyz(self.path)
        pieces = []
        for chunk in self.chunks():
            if chunk.rejects:
                first = chunk.rejects[0]
                raise DatasetError(
                    f"{self.path}, {first.where}: {first.reason} ({first.detail}): import the file into a store, which"
                    " leaves such structures out and reports them"
                )
            pieces.append(chunk.frames)
        return concatenate(pieces, name=self.name)

    def sample(self, size: int) -> Frames:
        """Return at most ``size`` structures: evenly spaced ones of a store, the first ones of a file."""
        if self.store is None:
            pieces, missing = [], size
            for chunk in self.chunks():
                pieces.append(chunk.frames.subset(np.arange(min(missing, len(chunk.frames)))))
                missing -= len(pieces[-1])
                if missing <= 0:
                    break
            return concatenate(pieces, name=self.name)
        total = len(self.store)
        chosen = np.unique(np.linspace(0, total - 1, min(size, total)).astype(np.int64))
        pieces, first = [], 0
        for split, info in self.store.splits.items():
            here = chosen[(chosen >= first) & (chosen < first + info.structures)] - first
            pieces.append(self.store.read(here, split=split))
            first += info.structures
        return concatenate(pieces, name=self.name)


def concatenate(pieces: list[Frames], *, name: str) -> Frames:
    """Put the structures of several `Frames` one after the other."""
    if not pieces:
        return empty_frames(name)
    columns = {
        field.name: np.concatenate([getattr(piece, field.name) for piece in pieces])
        for field in fields(Frames)
        if field.name not in {"name", "offsets"}
    }
    counts = np.concatenate([piece.counts for piece in pieces])
    return Frames(name=name, offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), **columns)
