"""`Frames` as a store keeps them, and back: one table of float64 per structure, atoms at the store's precision.

The table (`hydrapot.training.data.store_layout.TABLE`) exists because a random read costs per array, not per byte: four
arrays are read three times as fast as the fourteen columns of `Frames`. Everything in it is exact in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.data.frames import MAX_Z, POSITION_GRID, DatasetError, Frames
from hydrapot.training.data.store_layout import DTYPES, TABLE, Precision, SplitInfo

WIDTH = len(TABLE)
ENERGY, CELL, STRESS = 0, slice(1, 10), slice(10, 19)
CHARGE, SPIN, FLAGS, GROUP, HASH = 19, 20, 21, 22, slice(23, 25)
_DECODED_BYTES = 1 << 20  # names that are worth holding as an array
_ISOLATED = 8  # flags: 1, 2 and 4 are the periodic directions

_DIGITS = np.full(256, 16, np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_PLACES = 16.0 ** np.arange(7, -1, -1)
_HEX = np.array([[ord(digit) for digit in f"{byte:02x}"] for byte in range(256)], np.uint32)


class Names:
    """Distinct strings in one block of UTF-8; many are decoded when asked for: a dataset may have a name per molecule.

    Parameters
    ----------
    text
        ``(bytes,)`` uint8, all names without separators.
    ends
        ``(n + 1,)`` int64; name ``i`` is ``text[ends[i]:ends[i + 1]]``.
    """

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text, self.ends = text, ends
        longest = int(np.diff(ends).max(initial=0))
        few = 4 * longest * (len(ends) - 1) <= _DECODED_BYTES
        self._array = np.array([self[i] for i in range(len(self))], np.str_) if few else None

    @classmethod
    def of(cls, names: Sequence[str]) -> "Names":
        """Pack strings."""
        encoded = [name.encode("utf-8", "surrogatepass") for name in names]
        ends = np.concatenate([[0], np.cumsum([len(name) for name in encoded])]).astype(np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.text.nbytes + self.ends.nbytes

    def __getitem__(self, index: int) -> str:
        return bytes(self.text[self.ends[index] : self.ends[index + 1]]).decode("utf-8", "surrogatepass")

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.str_]:
        """Names of `indices`, as an array of strings."""
        if self._array is None:
            return np.array([self[i] for i in indices.tolist()], np.str_)
        return self._array.take(indices)


@dataclass(frozen=True)
class Columns:
    """Structures as in a chunk: ``table (n, 25)``, ``counts (n,)`` and per atom ``numbers, positions, forces``."""

    counts: NDArray[np.int64]
    table: NDArray[np.float64]
    numbers: NDArray[np.int16]
    positions: NDArray[Any]
    forces: NDArray[Any]

    @classmethod
    def empty(cls, counts: NDArray[np.int64], *, precision: Precision) -> "Columns":
        """Arrays to be filled."""
        atoms = int(counts.sum())
        dtype = DTYPES[precision]
        return cls(
            counts=counts,
            table=np.empty((len(counts), WIDTH)),
            numbers=np.empty(atoms, np.int16),
            positions=np.empty((atoms, 3), dtype),
            forces=np.empty((atoms, 3), dtype),
        )

    def info(self) -> SplitInfo:
        """How many structures, atoms and labels there are."""
        first = np.cumsum(self.counts) - self.counts
        return SplitInfo(
            structures=len(self.counts),
            atoms=len(self.numbers),
            energies=int((~np.isnan(self.table[:, ENERGY])).sum()),
            forces=int((~np.isnan(self.forces[first, 0])).sum()),
            stresses=int((~np.isnan(self.table[:, STRESS.start])).sum()),
        )


def encode(frames: Frames, *, precision: Precision) -> tuple[Columns, list[str]]:
    """Columns of `frames`, and the names of the groups that its table counts.

    Raises
    ------
    DatasetError
        Columns that do not belong together, labels that are neither finite nor missing throughout, hashes that are not
        those of `structure_hash`, or positions that float32 would move by more than half the grid of the hashes.
    """
    _check(frames)
    groups, index = np.unique(frames.group, return_inverse=True)
    table = np.empty((len(frames), WIDTH))
    table[:, ENERGY] = frames.energy
    table[:, CELL] = frames.cells.reshape(-1, 9)
    table[:, STRESS] = frames.stress.reshape(-1, 9)
    table[:, CHARGE], table[:, SPIN] = frames.charge, frames.spin
    table[:, FLAGS] = frames.pbc @ np.array([1, 2, 4]) + _ISOLATED * frames.isolated
    table[:, GROUP] = index.reshape(-1)
    table[:, HASH] = _hash_halves(frames)
    dtype = DTYPES[precision]
    columns = Columns(
        counts=frames.counts,
        table=table,
        numbers=np.ascontiguousarray(frames.numbers, np.int16),
        positions=_rounded(frames, "positions", dtype),
        forces=_rounded(frames, "forces", dtype),
    )
    return columns, [str(group) for group in groups]


def decode(columns: Columns, *, name: str, group: NDArray[np.str_]) -> Frames:
    """Inverse of `encode`; `group` ``(n,)`` are the names of the groups, looked up by the caller."""
    table, n = columns.table, len(columns.counts)
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(columns.counts, out=offsets[1:])
    flags = table[:, FLAGS].astype(np.uint8)
    halves = table[:, HASH].astype(">u4").view(np.uint8)
    return Frames(
        name=name,
        numbers=columns.numbers,
        positions=columns.positions.astype(np.float64, copy=False),
        forces=columns.forces.astype(np.float64, copy=False),
        offsets=offsets,
        cells=table[:, CELL].reshape(n, 3, 3),
        pbc=(flags[:, None] & np.array([1, 2, 4], np.uint8)).astype(bool),
        energy=table[:, ENERGY].copy(),
        stress=table[:, STRESS].reshape(n, 3, 3),
        charge=table[:, CHARGE].astype(np.int16),
        spin=table[:, SPIN].astype(np.int16),
        isolated=(flags & _ISOLATED).astype(bool),
        group=group,
        hashes=_HEX[halves].reshape(n, 16).view("<U16").reshape(n) if n else np.empty(0, "<U16"),
    )


def join(parts: Sequence[tuple[Columns, list[str]]]) -> tuple[Columns, list[str]]:
    """Several results of `encode` as one; groups of one name become one."""
    if len(parts) == 1:
        return parts[0]
    index: dict[str, int] = {}
    tables = []
    for columns, groups in parts:
        renumber = np.array([index.setdefault(group, len(index)) for group in groups], np.float64)
        table = columns.table.copy()
        table[:, GROUP] = renumber[table[:, GROUP].astype(np.int64)]
        tables.append(table)
    joined = {
        key: np.concatenate([getattr(columns, key) for columns, _ in parts])
        for key in ("counts", "numbers", "positions", "forces")
    }
    return Columns(table=np.concatenate(tables), **joined), list(index)


def _check(frames: Frames) -> None:
    n, atoms = len(frames), len(frames.numbers)
    shapes = {
        "positions": (atoms, 3),
        "forces": (atoms, 3),
        "cells": (n, 3, 3),
        "pbc": (n, 3),
        "stress": (n, 3, 3),
        **dict.fromkeys(("energy", "charge", "spin", "isolated", "group", "hashes"), (n,)),
    }
    for column, shape in shapes.items():
        if getattr(frames, column).shape != shape:
            found = getattr(frames, column).shape
            raise DatasetError(f"dataset {frames.name!r}: {column} has shape {found}, expected {shape}")
    if frames.offsets[0] != 0 or frames.offsets[-1] != atoms or (n and frames.counts.min() < 1):
        raise DatasetError(f"dataset {frames.name!r}: offsets must rise from 0 to the number of atoms, {atoms}")
    if atoms and (frames.numbers.min() < 1 or frames.numbers.max() > MAX_Z):
        raise DatasetError(f"dataset {frames.name!r}: atomic numbers outside 1…{MAX_Z}")
    atom_of = np.repeat(np.arange(n), frames.counts)
    for column, per_atom, may_miss in (
        ("positions", True, False),
        ("cells", False, False),
        ("energy", False, True),
        ("stress", False, True),
        ("forces", True, True),
    ):
        values = getattr(frames, column).reshape(atoms if per_atom else n, -1)
        finite, missing = np.isfinite(values).all(axis=1), np.isnan(values).all(axis=1)
        if per_atom:  # a structure has forces on all of its atoms or on none
            all_finite = np.bincount(atom_of, ~finite, minlength=n) == 0
            all_missing = np.bincount(atom_of, ~missing, minlength=n) == 0
        else:
            all_finite, all_missing = finite, missing
        good = all_finite | all_missing if may_miss else all_finite
        if not good.all():
            what = "neither finite nor missing (NaN throughout)" if may_miss else "not finite"
            raise DatasetError(f"dataset {frames.name!r}, structure {int(np.argmin(good))}: {column} {what}")


def _hash_halves(frames: Frames) -> NDArray[np.float64]:
    text = frames.hashes.astype("<U16")
    codes = text.view(np.uint32).reshape(-1, 16) if len(text) else np.empty((0, 16), np.uint32)
    digits = _DIGITS[np.minimum(codes, 255)]
    whole = (digits < 16).all(axis=1) & (np.char.str_len(frames.hashes) == 16)
    if not whole.all():
        bad = str(frames.hashes[~whole][0])
        raise DatasetError(f"dataset {frames.name!r}: {bad!r} is no structure hash (16 hexadecimal digits)")
    return digits.reshape(-1, 2, 8) @ _PLACES


def _rounded(frames: Frames, column: str, dtype: Any) -> NDArray[Any]:
    exact = getattr(frames, column)
    with np.errstate(over="ignore"):  # shown by the check below
        stored = np.ascontiguousarray(exact, dtype)
    if dtype == np.float32:
        lost = np.abs(stored - exact) > POSITION_GRID / 2 if column == "positions" else np.isinf(stored)
        bad = lost.any(axis=1)
        if bad.any():
            atom = int(np.argmax(bad))
            at = int(np.searchsorted(frames.offsets, atom, side="right")) - 1
            raise DatasetError(
                f"dataset {frames.name!r}, structure {at}: float32 cannot hold its {column}"
                f" ({np.abs(exact[atom]).max():.6g}): wrap the positions into the cell, or use precision float64"
            )
    return stored
