"""The same structures in the formats that `store_reads.py` compares, each written and read the way that suits it best.

All but the text give `Frames`. HDF5 holds the same columns as the store, without compression, and keeps the offsets in
memory; LMDB holds one packed record a structure, whose batches are unpacked in one go; the text has an index of frames.
"""

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ase.io.extxyz
import h5py
import lmdb
import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hydrapot.potential.metadata import LevelOfTheory
from hydrapot.training.data.frames import Frames
from hydrapot.training.data.records import pack, record_sizes, unpack
from hydrapot.training.data.store import Store
from hydrapot.training.data.store_columns import GROUP, Columns, Names, decode, encode
from hydrapot.training.data.store_layout import StoreAttributes
from hydrapot.training.data.store_writer import StoreWriter

PRECISION = "float32"


class Format(Protocol):
    """One way to keep structures on disk."""

    def read(self, indices: NDArray[np.int64]) -> Any:
        """Structures of `indices`, in that order."""


class StoreFormat:
    """hydrapot's store."""

    def __init__(self, path: Path, *, deferred: bool) -> None:
        self.store = Store(path, deferred=deferred)

    @staticmethod
    def write(path: Path, frames: Frames) -> None:
        """In one shard."""
        attributes = StoreAttributes(
            level_of_theory=LevelOfTheory(functional="none"), licence="none", attribution="benchmark"
        )
        with StoreWriter(path, name=frames.name, attributes=attributes, precision=PRECISION) as writer:
            writer.append(frames)

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Structures of `indices`."""
        return self.store.read(indices, split="all")


class Hdf5Format:
    """Columns in one HDF5 file."""

    def __init__(self, path: Path) -> None:
        self.file = h5py.File(path, "r")
        self.columns = {key: self.file[key] for key in ("numbers", "positions", "forces", "table")}
        self.offsets = self.file["offsets"][:]
        self.names = Names.of([name.decode() for name in self.file["groups"][:]])

    @staticmethod
    def write(path: Path, frames: Frames) -> None:
        """Contiguous datasets."""
        columns, groups = encode(frames, precision=PRECISION)
        with h5py.File(path, "w") as file:
            for key in ("numbers", "positions", "forces", "table"):
                file[key] = getattr(columns, key)
            file["offsets"], file["groups"] = frames.offsets, groups

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Structures of `indices`; neighbors in one piece."""
        columns = Columns.empty(self.offsets[indices + 1] - self.offsets[indices], precision=PRECISION)
        ends = np.flatnonzero(np.diff(indices) != 1) + 1
        at = slot = 0
        for run in np.split(indices, ends):
            first, last = int(run[0]), int(run[-1]) + 1
            a, b = int(self.offsets[first]), int(self.offsets[last])
            here, rows = slice(at, at + b - a), slice(slot, slot + last - first)
            for key in ("numbers", "positions", "forces"):
                self.columns[key].read_direct(getattr(columns, key), np.s_[a:b], here)
            self.columns["table"].read_direct(columns.table, np.s_[first:last], rows)
            at, slot = here.stop, rows.stop
        group = self.names.take(columns.table[:, GROUP].astype(np.int64))
        return decode(columns, name="benchmark", group=group)


class LmdbFormat:
    """One record a structure in LMDB."""

    def __init__(self, path: Path) -> None:
        self.environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
        self.transaction = self.environment.begin(buffers=True)
        self.counts = np.frombuffer(self.transaction.get(b"counts"), np.int64)
        self.names = Names.of(bytes(self.transaction.get(b"groups")).decode().split("\n"))

    @staticmethod
    def write(path: Path, frames: Frames) -> None:
        """In order."""
        columns, groups = encode(frames, precision=PRECISION)
        sizes = record_sizes(columns.counts, precision=PRECISION)
        starts = np.cumsum(sizes) - sizes
        memory = np.zeros(int(sizes.sum()) // 8).view(np.uint8)
        pack(columns, memory, starts, precision=PRECISION)
        with lmdb.open(str(path), subdir=False, map_size=8 << 30, sync=False) as environment:
            with environment.begin(write=True) as transaction:
                for i, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
                    transaction.put(i.to_bytes(8, "big"), memory[start : start + size].data, append=True)
                transaction.put(b"counts", columns.counts.tobytes())
                transaction.put(b"groups", "\n".join(groups).encode())
            environment.sync(True)  # noqa: FBT003 (no keyword)

    def read(self, indices: NDArray[np.int64]) -> Frames:
        """Structures of `indices`, copied out of the map and unpacked together; a range by a cursor."""
        counts = self.counts[indices]
        if len(indices) > 1 and indices[-1] - indices[0] == len(indices) - 1 and (np.diff(indices) == 1).all():
            cursor = self.transaction.cursor()
            cursor.set_key(int(indices[0]).to_bytes(8, "big"))
            content = b"".join(itertools.islice(cursor.iternext(keys=False), len(indices)))
        else:
            get = self.transaction.get
            content = b"".join([get(i.to_bytes(8, "big")) for i in indices.tolist()])
        sizes = record_sizes(counts, precision=PRECISION)
        columns = unpack(np.frombuffer(content, np.uint8), np.cumsum(sizes) - sizes, counts, precision=PRECISION)
        group = self.names.take(columns.table[:, GROUP].astype(np.int64))
        return decode(columns, name="benchmark", group=group)


class ExtxyzFormat:
    """Extended XYZ, parsed by ASE, with the place of every frame in the file."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        self.places = np.load(path.with_suffix(".npy"))

    @staticmethod
    def write(path: Path, frames: Frames) -> None:
        """Eight decimals."""
        places = [0]
        symbols = np.array(chemical_symbols)[frames.numbers]
        with path.open("wb") as file:
            for i in range(len(frames)):
                s, atoms = frames.structure(i), slice(frames.offsets[i], frames.offsets[i + 1])
                lattice = " ".join(map(str, s.cell.ravel()))
                stress = " ".join(map(str, s.stress.ravel()))
                header = (
                    f'Lattice="{lattice}" Properties=species:S:1:pos:R:3:forces:R:3 energy={s.energy!r}'
                    f' stress="{stress}" group={frames.group[i]} pbc="T T T"'
                )
                rows = zip(symbols[atoms], np.hstack([s.positions, s.forces]).tolist(), strict=True)
                body = (symbol + "".join([f" {value:.8f}" for value in row]) for symbol, row in rows)
                lines = [str(len(s.numbers)), header, *body]
                file.write(("\n".join(lines) + "\n").encode())
                places.append(file.tell())
        np.save(path.with_suffix(".npy"), np.array(places))

    def read(self, indices: NDArray[np.int64]) -> list[Any]:
        """ASE's `Atoms` of `indices`."""
        found = []
        for i in indices.tolist():
            self.file.seek(self.places[i])
            text = self.file.read(int(self.places[i + 1] - self.places[i])).decode()
            found.extend(ase.io.extxyz.read_xyz(io.StringIO(text), index=slice(None)))
        return found


WRITERS: dict[str, tuple[str, Callable[[Path, Frames], None]]] = {
    "store": ("set.store", StoreFormat.write),
    "HDF5": ("set.h5", Hdf5Format.write),
    "LMDB": ("set.lmdb", LmdbFormat.write),
    "extended XYZ": ("set.extxyz", ExtxyzFormat.write),
}


def readers(folder: Path) -> dict[str, tuple[str, Format]]:
    """Name of what is measured: its files, and a reader."""
    return {
        "store, deferred": ("set.store", StoreFormat(folder / "set.store", deferred=True)),
        "store, synchronous": ("set.store", StoreFormat(folder / "set.store", deferred=False)),
        "LMDB": ("set.lmdb", LmdbFormat(folder / "set.lmdb")),
        "HDF5": ("set.h5", Hdf5Format(folder / "set.h5")),
        "extended XYZ": ("set.extxyz", ExtxyzFormat(folder / "set.extxyz")),
    }
