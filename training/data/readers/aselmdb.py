"""fairchem's ``.aselmdb``: OC20, OC22, OC25, OMat24, OMol25, OMC25, ODAC23 and OPoly26.

An LMDB file without subfolder. The keys ``1`` … ``N`` hold rows of an ASE database as zlib-compressed JSON; ``nextid``,
``deleted_ids`` and ``metadata`` are reserved. Arrays stand as lists, or in ASE's older form ``{"__ndarray__": [shape,
dtype, values]}``. A row has ``numbers``, ``positions`` (Å), ``cell`` (Å), ``pbc`` and, as computed, ``energy`` (eV),
``forces`` (eV/Å) and ``stress`` (eV/Å³, ASE's sign, Voigt or 3×3). OMol25 keeps ``charge`` and ``spin`` (the multiplicity) in
``data``, together with ``source`` and the like.

Forces are those of the row, also on atoms that a constraint held fixed.
"""

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers.records import MalformedError, ReaderOptions, Record, Reject, attempt, full_stress

RESERVED = ("nextid", "deleted_ids", "metadata")
ENERGIES = ("energy", "free_energy")
GROUP_KEYS = ("group", "sid", "trajectory", "traj_id")
"""Keys that name a trajectory, in this order; `ReaderOptions.group` asks for another."""


@contextmanager
def lmdb_rows(path: Path) -> Iterator[Any]:
    """Open an LMDB file for reading, without writing a lock file beside it."""
    try:
        import lmdb
    except ImportError as error:
        raise ConfigurationError("LMDB needs the package lmdb: pip install 'hydrapot[training]'") from error
    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=True, meminit=False)
        try:
            with environment.begin() as transaction:
                yield transaction
        finally:
            environment.close()
    except lmdb.Error as error:
        raise DatasetError(f"{path}: truncated or corrupt LMDB ({error}): fetch the file again") from error


def decode(raw: bytes) -> Any:
    """Return the document in a value.

    Raises
    ------
    MalformedError
        Not zlib-compressed JSON.
    """
    try:
        return json.loads(zlib.decompress(raw), object_hook=_array)
    except (zlib.error, ValueError) as error:
        raise MalformedError("unreadable row", str(error)) from None


def read(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield all rows in the order of their ids; positions are ids, so that going on costs nothing."""
    with lmdb_rows(path) as rows:
        last = rows.get(b"nextid")
        deleted = rows.get(b"deleted_ids")
        # Rows have the ids 1 … nextid − 1, less those that were deleted.
        end = int(decode(last)) if last is not None else rows.stat()["entries"] + 1
        gone = {int(i) for i in decode(deleted)} if deleted is not None else set()
        for i in range(start + 1, end):
            if i in gone:
                continue
            raw = rows.get(str(i).encode("ascii"))
            where = f"row {i}"
            if raw is None:
                yield Reject(where, "missing row", f"the file announces rows up to {end - 1}", i)
                continue
            yield attempt(_record, raw, options, where=where, position=i)


def _record(raw: bytes, options: ReaderOptions, where: str, position: int) -> Record:
    row = decode(raw)
    if not isinstance(row, dict) or "numbers" not in row or "positions" not in row:
        raise MalformedError("malformed row", "no numbers or no positions")
    free = {**row.get("key_value_pairs", {}), **(row["data"] if isinstance(row.get("data"), dict) else {})}
    stress = row.get("stress")
    cell = row.get("cell")
    return Record(
        position,
        where,
        row["numbers"],
        row["positions"],
        cell=None if cell is None else np.asarray(cell, np.float64),
        pbc=row.get("pbc", False),
        energy=row.get(options.energy or ENERGIES[0]),
        forces=row.get("forces"),
        stress=None if stress is None else full_stress(stress),
        charge=free.get("charge", 0),
        spin=free.get("spin", 0),
        group=group_of(free, options),
    )


def group_of(free: dict[str, Any], options: ReaderOptions) -> str:
    """Return the trajectory that a row names, '' if it names none."""
    if options.group is not None:
        if options.group not in free:
            raise MalformedError("no group", f"no key {options.group!r}")
        return str(free[options.group])
    return next((str(free[key]) for key in GROUP_KEYS if key in free), "")


def _array(value: dict[str, Any]) -> Any:
    if "__ndarray__" in value:
        shape, dtype, values = value["__ndarray__"]
        return np.array(values, dtype=dtype).reshape(shape)
    return value
