"""QCML (Ganscha et al., Sci. Data 12, 406 (2025)): the TFDS feature group ``dft_force_field``, read without TensorFlow.

Files ``qcml-full.tfrecord-00000-of-00011`` of ``gs://qcml-datasets/tfds/qcml/dft_force_field/1.0.0``: a TFRecord holds one
``tf.train.Example`` per structure with ``atomic_numbers`` (N), ``positions`` (3N, bohr), ``pbe0_energy`` and
``pbe0_formation_energy`` (hartree), ``pbe0_forces`` (3N, hartree/bohr), ``charge``, ``multiplicity``, ``is_outlier`` and
``key_hash``.

An Example has single precision only. A total energy of −2,400 hartree, the mean of the dataset, is rounded to 3 meV by it,
and one of bismuth to 50 meV; the formation energy, −1.75 hartree on average, to 3 µeV. It is therefore the default.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hydrapot.potential.constants import BOHR, HARTREE
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers.opening import open_binary, reading
from hydrapot.training.data.readers.records import MalformedError, ReaderOptions, Record, Reject, attempt

ENERGIES = ("pbe0_formation_energy", "pbe0_energy")


def read(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield all structures that are not marked as outliers; they are single molecules, without groups."""
    energy = options.energy or ENERGIES[0]
    for position, raw in enumerate(tfrecords(path), start=1):
        if position <= start:
            continue
        where = f"record {position - 1}"
        yield attempt(_record, raw, energy, where=where, position=position)


def _record(raw: bytes, energy: str, where: str, position: int) -> Record:
    features = example(raw)
    missing = [key for key in ("atomic_numbers", "positions", "charge", "multiplicity") if key not in features]
    if missing:
        raise MalformedError("malformed record", f"no {missing[0]!r}")
    if any(features.get("is_outlier", [0])):
        raise MalformedError("outlier", "marked as an outlier in the dataset itself")
    energies, forces = features.get(energy), features.get("pbe0_forces")
    return Record(
        position,
        where,
        features["atomic_numbers"],
        np.asarray(features["positions"], np.float64).reshape(-1, 3) * BOHR,
        energy=None if energies is None or not len(energies) else float(energies[0]) * HARTREE,
        forces=None if forces is None else np.asarray(forces, np.float64).reshape(-1, 3) * (HARTREE / BOHR),
        charge=features["charge"][0],
        spin=features["multiplicity"][0],
    )


# --- TFRecord: length (uint64), masked CRC-32C of it, data, masked CRC-32C of the data; all little-endian ---


def tfrecords(path: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file, with both checksums verified."""
    with reading(path), open_binary(path) as handle:
        number = 0
        while head := handle.read(12):
            if len(head) < 12 or masked_crc32c(head[:8]) != struct.unpack("<I", head[8:])[0]:
                raise DatasetError(f"{path}, record {number}: no TFRecord, or corrupt: fetch the file again")
            (size,) = struct.unpack("<Q", head[:8])
            data = handle.read(size)
            tail = handle.read(4)
            if len(data) < size or len(tail) < 4:
                raise DatasetError(f"{path}, record {number}: the file ends in the middle of it: fetch it again")
            if masked_crc32c(data) != struct.unpack("<I", tail)[0]:
                raise DatasetError(f"{path}, record {number}: corrupt (checksum differs): fetch the file again")
            yield data
            number += 1


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)  # Castagnoli's polynomial, reflected
        table.append(value)
    return table


_CRC = _crc_table()


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord does so that a checksum of a checksum is none."""
    crc = 0xFFFFFFFF
    table = _CRC
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


# --- tf.train.Example: protocol buffers, of which only these messages are needed ---


def example(data: bytes) -> dict[str, Any]:
    """Return the features of an Example: arrays of float32, lists of integers, or lists of bytes.

    Raises
    ------
    MalformedError
        The bytes are no Example.
    """
    features: dict[str, Any] = {}
    try:
        for field, body in _fields(data):
            if field != 1:
                continue
            for entry_field, entry in _fields(body):
                if entry_field != 1:
                    continue
                parts = dict(_fields(entry))
                features[bytes(parts[1]).decode("utf-8")] = _feature(parts.get(2, b""))
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise MalformedError("malformed record", f"no tf.train.Example ({type(error).__name__})") from None
    return features


def _feature(data: bytes) -> Any:
    for kind, body in _fields(data):
        if kind == 1:
            return [bytes(value) for field, value in _fields(body) if field == 1]
        if kind == 2:
            packed = [value for field, value in _fields(body) if field == 1]
            return np.frombuffer(b"".join(packed), "<f4")
        if kind == 3:
            return [_signed(n) for field, value in _fields(body) if field == 1 for n in _varints(value)]
    return []


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each field; a single varint is handed on as its bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            begin = at
            _, at = _varint(data, at)
        elif wire == 2:
            size, begin = _varint(data, at)
            at = begin + size
        elif wire in {1, 5}:
            begin, at = at, at + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if at > len(data):
            raise IndexError("ends early")
        yield key >> 3, data[begin:at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
