"""One chunk of a store: an ADIOS2 BP5 file whose columns are one block each.

One block a column, because BP5 looks through all blocks at every read. The low-level bindings are used: the high-level
reader needs ten times as long per read.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.store_columns import WIDTH, Columns, Names
from hydrapot.training.data.store_layout import DTYPES, TABLE, UNITS, Chunk, Precision, StoreAttributes

#: What ADIOS2 reads before any column. Its parser does not expect damage, so that these are checked by us, whole.
DATA_FILE = "data.0"
_SPARE = 1 << 20  # metadata, journal and index
_COLORS = re.compile(r"\x1b\[[0-9;]*m")  # ADIOS2 paints its messages
_LEAD = b"\n"  # ADIOS2 has no empty arrays, and all names may be empty


def load_adios2() -> Any:
    """ADIOS2's bindings.

    Raises
    ------
    DatasetError
        They are not installed.
    """
    try:
        import adios2.bindings
    except ImportError as error:
        raise DatasetError(f"dataset stores need ADIOS2 ({error}): pip install 'hydrapot[training]'") from error
    return adios2.bindings


def write_chunk(
    store: Path, file: str, *, split: str, columns: Columns, groups: list[str], attributes: StoreAttributes
) -> Chunk:
    """Write one chunk and flush it to the disk; returns its entry in the index.

    Raises
    ------
    DatasetError
        The disk is full or the folder cannot be written.
    """
    adios2 = load_adios2()
    names = Names.of(groups)
    arrays: dict[str, NDArray[Any]] = {
        "offsets": np.concatenate([[0], np.cumsum(columns.counts)]).astype(np.int64),
        "structures": columns.table,
        "numbers": columns.numbers,
        "positions": columns.positions,
        "forces": columns.forces,
        "group_ends": names.ends,
        "group_names": np.concatenate([np.frombuffer(_LEAD, np.uint8), names.text]),
    }
    path = store / file
    needed = sum(array.nbytes for array in arrays.values())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < needed + _SPARE:
            raise OSError(f"{needed + _SPARE:,} bytes needed, {free:,} free")
        _put(adios2, path, arrays, attributes)
        sizes = {}
        for part in sorted(path.iterdir()):
            _flush(part)
            sizes[part.name] = part.stat().st_size
        if sizes.get(DATA_FILE, 0) < needed:
            raise OSError(f"{sizes.get(DATA_FILE, 0):,} of {needed:,} bytes arrived on the disk")
        _flush(path)
        _flush(path.parent)
    except (OSError, RuntimeError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be written ({_one_line(error)})") from error
    return Chunk(
        file=file,
        split=split,
        info=columns.info(),
        sizes=sizes,
        metadata={part: hashlib.sha256((path / part).read_bytes()).hexdigest() for part in sizes if part != DATA_FILE},
        columns={name: digest(array) for name, array in arrays.items()},
    )


def _put(adios2: Any, path: Path, arrays: dict[str, NDArray[Any]], attributes: StoreAttributes) -> None:
    adios = adios2.ADIOS()  # owns everything below, and has to outlive it
    io = adios.DeclareIO("chunk")
    io.SetEngine("BP5")
    io.SetParameters({"Profile": "Off", "StatsLevel": "0", "AsyncWrite": "Off"})
    variables = {}
    for name, array in arrays.items():
        shape = list(array.shape)
        variables[name] = io.DefineVariable(name, array, shape, [0] * len(shape), shape)
    for name, unit in (("positions", UNITS["length"]), ("forces", UNITS["force"])):
        io.DefineAttribute("unit", unit, name)
    io.DefineAttribute("columns", list(TABLE), "structures")
    for quantity, unit in UNITS.items():
        io.DefineAttribute(f"unit_{quantity}", unit, "structures")
    for key, value in attributes.model_dump(mode="json", exclude={"provenance", "units"}).items():
        io.DefineAttribute(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    engine = io.Open(str(path), adios2.Mode.Write)
    try:
        engine.BeginStep()
        for name, array in arrays.items():
            # Deferred: the arrays live until the step ends, and are not copied.
            engine.Put(variables[name], array, adios2.Mode.Deferred)
        engine.EndStep()
        engine.Close()
    except BaseException:
        # An engine that is not closed writes again when it is destroyed, and ends the process if the disk is still full.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            os.truncate(path / DATA_FILE, 0)
            engine.Close()
        raise


def digest(array: NDArray[Any]) -> str:
    """SHA-256 of the bytes of a contiguous array."""
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _one_line(error: Exception) -> str:
    return " ".join(_COLORS.sub("", str(error)).split())


def check_sizes(store: Path, chunk: Chunk) -> None:
    """Compare the sizes of a chunk's files with the index: finds what was truncated or lost, in microseconds.

    Raises
    ------
    DatasetError
        Names the file.
    """
    for part, expected in chunk.sizes.items():
        file = store / chunk.file / part
        try:
            size = file.stat().st_size
        except OSError as error:
            raise DatasetError(f"{file}: {error.strerror}: the store is damaged, import the dataset again") from error
        if size != expected:
            raise DatasetError(
                f"{file}: truncated or altered ({size:,} bytes, {expected:,} written): import the dataset again"
            )


class ChunkReader:
    """A chunk open for reading; not thread safe.

    Parameters
    ----------
    adios
        ADIOS2's top-level object.
    store, chunk, precision
        From the index.
    threads
        Threads that ADIOS2 reads with. More than one hides the latency of a parallel file system, and costs their start
        at every batch.

    Raises
    ------
    DatasetError
        A file is missing, truncated, or its metadata or offsets are not those that were written.
    """

    def __init__(self, adios: Any, store: Path, chunk: Chunk, *, precision: Precision, threads: int = 1) -> None:
        adios2 = load_adios2()
        self.chunk, self.path = chunk, store / chunk.file
        check_sizes(store, chunk)
        for part, expected in chunk.metadata.items():
            if hashlib.sha256((self.path / part).read_bytes()).hexdigest() != expected:
                raise DatasetError(f"{self.path / part}: altered since it was written: import the dataset again")
        self._dtype = DTYPES[precision]
        self._deferred, self._sync = adios2.Mode.Deferred, adios2.Mode.Sync
        self._adios, self._io_name = adios, f"{self.path}#{id(self)}"
        io = adios.DeclareIO(self._io_name)
        io.SetEngine("BP5")
        io.SetParameters({"Threads": str(threads)})
        self._io = io
        try:
            self._engine = io.Open(str(self.path), adios2.Mode.ReadRandomAccess)
            self._variables = {name: io.InquireVariable(name) for name in chunk.columns}
            self.offsets = self._whole("offsets", (chunk.info.structures + 1,), np.int64)
            ends = self._whole("group_ends", None, np.int64)
            text = self._whole("group_names", None, np.uint8)
        except (RuntimeError, ValueError) as error:
            raise DatasetError(f"{self.path}: ADIOS2 cannot read it ({_one_line(error)})") from error
        self.names = Names(text[len(_LEAD) :], ends)

    def _whole(self, name: str, shape: tuple[int, ...] | None, dtype: Any) -> NDArray[Any]:
        """A column that is held in memory, and therefore always compared with its checksum."""
        variable = self._variables[name]
        found = tuple(variable.Shape())
        if shape is not None and found != shape:
            raise DatasetError(f"{self.path}: {name} has shape {found}, expected {shape}")
        array = np.empty(found, dtype)
        self._engine.Get(variable, array, self._sync)
        if digest(array) != self.chunk.columns[name]:
            raise DatasetError(f"{self.path}: column {name} altered since it was written: import the dataset again")
        return array

    def read_into(
        self,
        out: Columns,
        rows: NDArray[np.int64],
        slots: NDArray[np.int64],
        atoms: NDArray[np.int64],
        *,
        deferred: bool = True,
    ) -> None:
        """Read the structures `rows` ``(k,)`` of this chunk.

        Parameters
        ----------
        out
            Where they go.
        rows
            Rows within the chunk.
        slots, atoms
            ``(k,)``; row and first atom of each in `out`.
        deferred
            Let ADIOS2 collect the reads and do them together.
        """
        first, last = rows, rows + 1
        if len(rows) > 1:
            # Neighbors that stay neighbors are one read.
            new = np.flatnonzero((np.diff(rows) != 1) | (np.diff(slots) != 1)) + 1
            begins = np.concatenate([[0], new])
            first, last = rows[begins], rows[np.concatenate([new, [len(rows)]]) - 1] + 1
            order = np.argsort(first, kind="stable")  # forward through the file
            first, last, slots, atoms = first[order], last[order], slots[begins][order], atoms[begins][order]
        start = self.offsets[first]
        count = self.offsets[last] - start
        mode = self._deferred if deferred else self._sync
        get = self._engine.Get
        numbers, positions, forces, table = (
            self._variables[name] for name in ("numbers", "positions", "forces", "structures")
        )
        out_numbers, out_positions, out_forces, out_table = out.numbers, out.positions, out.forces, out.table
        try:
            for i, n, to in zip(start.tolist(), count.tolist(), atoms.tolist(), strict=True):
                selection = ([i, 0], [n, 3])
                positions.SetSelection(selection)
                get(positions, out_positions[to : to + n], mode)
                forces.SetSelection(selection)
                get(forces, out_forces[to : to + n], mode)
                numbers.SetSelection(([i], [n]))
                get(numbers, out_numbers[to : to + n], mode)
            for i, n, to in zip(first.tolist(), (last - first).tolist(), slots.tolist(), strict=True):
                table.SetSelection(([i, 0], [n, WIDTH]))
                get(table, out_table[to : to + n], mode)
            if deferred:
                self._engine.PerformGets()
        except (RuntimeError, ValueError) as error:
            raise DatasetError(f"{self.path}: ADIOS2 cannot read it ({_one_line(error)})") from error

    def verify(self, *, block_bytes: int = 64 * 1024 * 1024) -> None:
        """Read every column and compare it with its checksum, in blocks.

        Raises
        ------
        DatasetError
            Names file and column.
        """
        dtypes = {
            "offsets": np.int64,
            "structures": np.float64,
            "numbers": np.int16,
            "positions": self._dtype,
            "forces": self._dtype,
            "group_ends": np.int64,
            "group_names": np.uint8,
        }
        for name, expected in self.chunk.columns.items():
            variable, content = self._variables[name], hashlib.sha256()
            shape = list(variable.Shape())
            dtype = np.dtype(dtypes[name])
            step = max(1, block_bytes // (dtype.itemsize * int(np.prod(shape[1:]))))
            for start in range(0, shape[0], step):
                count = [min(step, shape[0] - start), *shape[1:]]
                block = np.empty(count, dtype)
                variable.SetSelection(([start] + [0] * (len(shape) - 1), count))
                self._engine.Get(variable, block, self._sync)
                content.update(block.reshape(-1).view(np.uint8).data)
            if content.hexdigest() != expected:
                raise DatasetError(f"{self.path}: column {name} is damaged: import the dataset again")

    def close(self) -> None:
        """Close the file."""
        self._engine.Close()
        self._variables = {}
        self._adios.RemoveIO(self._io_name)
