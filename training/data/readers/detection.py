"""Which layout a file has, by what is in it. Names decide nothing, except between the files of one CP2K run."""

import re
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers import asedb, cp2k, qcml
from hydrapot.training.data.readers.aselmdb import decode, lmdb_rows
from hydrapot.training.data.readers.hdf5 import hdf5
from hydrapot.training.data.readers.opening import first_bytes, reading
from hydrapot.training.data.readers.records import MalformedError

HEAD = 1 << 20
"""Bytes that are looked at: more than a structure of MPtrj takes."""
SQLITE, HDF5_MAGIC, LMDB_MAGIC = b"SQLite format 3\x00", b"\x89HDF\r\n\x1a\n", b"\xde\xc0\xef\xbe"
KEY_VALUE = re.compile(r"(Properties|Lattice)\s*=|(^|\s)(energy|pbc)\s*=", re.IGNORECASE)

STRING = r'"(?:[^"\\]|\\.)*"'
MPTRJ = re.compile(rf"\s*\{{\s*{STRING}\s*:\s*\{{\s*{STRING}\s*:\s*\{{")
ALEXANDRIA = re.compile(rf"\s*\{{\s*{STRING}\s*:\s*\[\s*\{{")


def candidates(path: Path) -> list[str]:
    """Return the names of the layouts that a file may have: usually one, none if it is nothing that is known.

    Raises
    ------
    DatasetError
        The file cannot be read.
    """
    with reading(path), path.open("rb") as handle:
        magic = handle.read(32)
    if magic.startswith(SQLITE):
        return _sqlite(path)
    if magic.startswith(HDF5_MAGIC):
        return _hdf5(path)
    if magic[16:20] == LMDB_MAGIC:
        return _lmdb(path)
    head = first_bytes(path, HEAD)
    if _is_tfrecord(head):
        return _tfrecord(path)
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < HEAD else "ignore")
    except UnicodeDecodeError:
        return []
    found: list[str] = []
    for test in (_json, _vasp, _xyz):
        found += test(path, text)
    return found


def _sqlite(path: Path) -> list[str]:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    except sqlite3.Error as error:
        raise DatasetError(f"{path}: truncated or corrupt SQLite ({error}): fetch the file again") from error
    if not {"systems", "keys"} <= tables:
        return []
    row = asedb.first_row(path)
    if row is None:
        raise DatasetError(f"{path}: an ASE database without rows")
    if any(row.get(label) is not None for label in ("energy", "forces", "stress")):
        return ["ase-db"]
    if "energy" in row.data:
        # The unit of labels in `data` is what the metadata say; without them, nobody knows.
        return (
            ["schnetpack-db"] if asedb.metadata_of(path).get("_property_unit_dict") else ["nabla2dft", "schnetpack-db"]
        )
    return ["ase-db"]


def _hdf5(path: Path) -> list[str]:
    import h5py

    with hdf5(path) as file:
        found = []
        first = _first(file)
        if isinstance(first, h5py.Group):
            if "coordinates" in first and "atomic_numbers" in first:
                found.append("ani1x")
            second = _first(first)
            if isinstance(second, h5py.Group) and "atXYZ" in second and "atNUM" in second:
                found.append("qm7x")
        paths = file.get("data")
        reaction = _first(_first(paths)) if isinstance(paths, h5py.Group) else None
        if isinstance(reaction, h5py.Group) and "positions" in reaction and "reactant" in reaction:
            found.append("transition1x")
        return found


def _first(group: Any) -> Any:
    return group[next(iter(group))] if hasattr(group, "keys") and len(group) else None


def _lmdb(path: Path) -> list[str]:
    with lmdb_rows(path) as rows:
        for key, value in rows.cursor():
            if not key.isdigit():
                continue
            if value[:1] == b"\x80":
                raise DatasetError(
                    f"{path}: an LMDB of pickled objects, which hydrapot does not open; fairchem publishes the same data"
                    " as .aselmdb"
                )
            try:
                row = decode(value)
            except MalformedError:
                return []
            return ["aselmdb"] if isinstance(row, dict) and "numbers" in row else []
    return []


def _is_tfrecord(head: bytes) -> bool:
    return len(head) > 16 and qcml.masked_crc32c(head[:8]) == struct.unpack("<I", head[8:12])[0]


def _tfrecord(path: Path) -> list[str]:
    try:
        features = qcml.example(next(qcml.tfrecords(path)))
    except MalformedError:
        return []
    if "pbe0_forces" in features and "positions" in features:
        return ["qcml"]
    if "key_hash" in features:
        raise DatasetError(f"{path}: a feature group of QCML without forces: dft_force_field is the one to import")
    return []


def _json(path: Path, text: str) -> list[str]:
    del path
    start = text.lstrip()[:1]
    if start == "[":
        labels = re.search(r'"(outputs|data)"\s*:\s*\{', text) and re.search(r'"(virial_stress|forces)"\s*:', text)
        return ["mlearn"] if labels and '"structure"' in text else []
    if start != "{":
        return []
    found = []
    if MPTRJ.match(text) and '"structure"' in text and re.search(r'"(un)?corrected_total_energy"', text):
        found.append("mptrj")
    if ALEXANDRIA.match(text):
        # The head of a file of entries has the form of a trajectory's; what is in the list tells them apart.
        if re.search(r'"entries"\s*:\s*\[', text) and "ComputedStructureEntry" in text:
            found.append("alexandria-entries")
        elif re.search(r'"steps"\s*:\s*\[', text):
            found.append("alexandria")
    elif re.search(r'"entries"\s*:\s*\[', text) and "ComputedStructureEntry" in text:
        found.append("alexandria-entries")
    return found


def _vasp(path: Path, text: str) -> list[str]:
    del path
    if re.search(r"<modeling>", text[:1000]):
        return ["vasp-xml"]
    first = text.lstrip("\n ")[:200]
    return ["vasp-outcar"] if re.match(r"vasp\.\d", first) and "executed on" in text[:2000] else []


def _xyz(path: Path, text: str) -> list[str]:
    lines = text.split("\n", 2)
    if len(lines) < 3 or not lines[0].strip().isdigit():
        return []
    if cp2k.COMMENT.match(lines[1]):
        return ["cp2k"] if "-pos-" in path.name else []
    return ["extxyz"] if KEY_VALUE.search(lines[1]) else []
