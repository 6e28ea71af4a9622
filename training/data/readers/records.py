"""What every reader yields, one structure at a time, and how it becomes `Frames`.

A reader knows one published layout: where its numbers stand, in which unit and with which sign. It hands on a `Record`
in eV, Å and eV/Å³, or a `Reject` for a structure that it cannot make sense of. Everything that does not depend on the
layout is checked here, once: shapes, finite numbers, elements, cells, charge and spin.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import ArrayLike, NDArray

from hydrapot.training.data.frames import MAX_Z, PER_ATOM, DatasetError, Frames, structure_hash

FULL_STRESS_VOIGT = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
"""Component of a Voigt vector xx, yy, zz, yz, xz, xy at each place of the 3×3 tensor."""
CHARGE_LIMIT = 1000
LABELS = ("energy", "forces", "stress")


class Reject(NamedTuple):
    """A structure that was left out."""

    where: str
    """Place in the file: number of the frame, key of the row."""
    reason: str
    """A word or two, the same for all structures of one kind of trouble: what reports count by."""
    detail: str
    """One line: the number that was found, or the missing key."""
    position: int
    """Like `Record.position`."""


@dataclass(frozen=True)
class Record:
    """One structure with its labels in eV, Å and eV/Å³; what is missing is None."""

    position: int
    """Where the reader goes on after this record: the value of ``start`` that makes it skip all up to here."""
    where: str
    numbers: ArrayLike
    positions: ArrayLike
    cell: ArrayLike | None = None
    """(3, 3), rows are the vectors; None is a structure in empty space."""
    pbc: ArrayLike | None = None
    """(3,); by default all true where there is a cell and all false where there is none."""
    energy: float | None = None
    forces: ArrayLike | None = None
    stress: ArrayLike | None = None
    """(3, 3), ASE's sign: (dE/dε)/V, positive under tension."""
    charge: float = 0
    spin: float = 0
    """Multiplicity 2S+1; 0 is not given."""
    group: str = ""
    """Trajectory or molecule that the frame comes from; frames of one group are split together."""
    isolated: bool = False


@dataclass(frozen=True)
class ReaderOptions:
    """Choices that a layout leaves open."""

    energy: str | None = None
    """Key of the energy, where a file has several; None is the one that the table in docs/data.md names."""
    group: str | None = None
    """Key of the trajectory, in layouts with free keys (ASE databases, aselmdb, extended XYZ)."""
    cell: tuple[float, ...] | None = None
    """Nine numbers (Å) for layouts that do not tell the cell; an empty tuple is empty space."""
    labels: tuple[str, ...] = LABELS
    """Which labels to read; the others stay missing, however many the file has."""


class Reader(Protocol):
    """A streaming reader of one layout."""

    def __call__(self, path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
        """Yield the structures of a file in its order, after those up to the position ``start`` (0: all)."""


class MalformedError(DatasetError):
    """A structure that cannot be read; becomes a `Reject`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = " ".join(detail.split())


def attempt(make: Callable[..., Record], *arguments: Any, where: str, position: int) -> Record | Reject:
    """Return ``make(*arguments, where, position)``, or the reject that says why there is no such record.

    Published files hold all kinds of accidents: whatever is missing or has the wrong type concerns its structure only.
    """
    try:
        return make(*arguments, where, position)
    except MalformedError as error:
        return Reject(where, error.reason, error.detail, position)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        return Reject(where, "malformed structure", " ".join(f"{type(error).__name__}: {error}".split()), position)


def full_stress(stress: ArrayLike) -> NDArray[np.float64]:
    """Return the (3, 3) tensor of a Voigt vector (xx, yy, zz, yz, xz, xy), of nine numbers, or of a tensor."""
    try:
        values = np.asarray(stress, np.float64)
    except (TypeError, ValueError):
        raise MalformedError("malformed stress", "not numbers") from None
    if values.shape == (6,):
        full: NDArray[np.float64] = values[np.array(FULL_STRESS_VOIGT)]
        return full
    if values.shape in {(9,), (3, 3)}:
        return values.reshape(3, 3)
    raise MalformedError("malformed stress", f"shape {values.shape}, expected 6, 9 or 3×3 numbers")


def number_of(symbol: str) -> int:
    """Return the atomic number of an element symbol."""
    z = atomic_numbers.get(symbol, 0)
    if z == 0:
        raise MalformedError("unknown element", repr(symbol))
    return int(z)


def row_of(record: Record, labels: tuple[str, ...] = LABELS) -> dict[str, Any]:
    """Check one record and return its entry in every column of `Frames`.

    Raises
    ------
    MalformedError
        Numbers that are not finite, of the wrong shape, or make no structure.
    """
    numbers = _array(record.numbers, "atomic numbers", None, integer=True)
    if numbers.ndim != 1 or not len(numbers):
        raise MalformedError("no atoms", f"atomic numbers of shape {numbers.shape}")
    if numbers.min() < 1 or numbers.max() > MAX_Z:
        raise MalformedError(
            "unknown element", f"atomic number {numbers.min() if numbers.min() < 1 else numbers.max()}"
        )
    n = len(numbers)
    positions = _finite(record.positions, "positions", (n, 3))
    cell = np.zeros((3, 3)) if record.cell is None else _finite(record.cell, "cell", (3, 3))
    pbc = np.full(3, cell.any()) if record.pbc is None else _periodicity(record.pbc)
    periodic = cell[pbc]
    if len(periodic) and np.linalg.matrix_rank(periodic, tol=1e-6) < len(periodic):
        raise MalformedError("degenerate cell", "periodic directions without independent cell vectors")

    energy = np.nan
    if record.energy is not None and "energy" in labels:
        energy = float(_finite(record.energy, "energy", ()))
    forces = np.full((n, 3), np.nan)
    if record.forces is not None and "forces" in labels:
        forces = _finite(record.forces, "forces", (n, 3))
    stress = np.full((3, 3), np.nan)
    if record.stress is not None and "stress" in labels:
        stress = _finite(record.stress, "stress", (3, 3))
        if not pbc.all():
            raise MalformedError("stress without a volume", "a stress needs three periodic directions")
    charge, spin = _whole(record.charge, "charge"), _whole(record.spin, "spin")
    if spin < 0:
        raise MalformedError("charge or spin", f"spin {spin}; it is the multiplicity 2S+1, at least 1")
    if record.isolated and (n != 1 or np.isnan(energy)):
        raise MalformedError("isolated atom", f"marked as an isolated atom, but has {n} atoms and energy {energy}")
    return {
        "numbers": numbers.astype(np.int16),
        "positions": positions,
        "forces": forces,
        "cells": cell,
        "pbc": pbc,
        "energy": energy,
        "stress": stress,
        "charge": np.int16(charge),
        "spin": np.int16(spin),
        "isolated": bool(record.isolated),
        "group": record.group,
        "hashes": structure_hash(numbers, positions, cell, pbc),
    }


def frames_of_rows(rows: list[dict[str, Any]], name: str) -> Frames:
    """Gather the rows of `row_of` into columns."""
    counts = [len(row["numbers"]) for row in rows]
    columns: dict[str, Any] = {}
    for column in rows[0] if rows else ():
        values = [row[column] for row in rows]
        columns[column] = np.concatenate(values) if column in PER_ATOM else np.array(values)
    if not rows:
        return empty_frames(name)
    return Frames(name=name, offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), **columns)


def empty_frames(name: str) -> Frames:
    """Return a dataset without structures."""
    atoms, cells, one = np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros(0, np.int16)
    text = np.zeros(0, "U1")
    flags = np.zeros(0, bool)
    return Frames(
        name=name,
        numbers=one,
        positions=atoms,
        forces=atoms,
        offsets=np.zeros(1, np.int64),
        cells=cells,
        pbc=np.zeros((0, 3), bool),
        energy=np.zeros(0),
        stress=cells,
        charge=one,
        spin=one,
        isolated=flags,
        group=text,
        hashes=text,
    )


class Chunk(NamedTuple):
    """Some structures of a file, one after the other."""

    frames: Frames
    rejects: list[Reject]
    places: list[str]
    """`Record.where` of each structure of ``frames``."""
    position: int
    """Where the next chunk starts."""


def chunks(
    records: Iterable[Record | Reject],
    *,
    name: str,
    labels: tuple[str, ...] = LABELS,
    size: int = 1024,
    atoms: int = 100_000,
) -> Iterator[Chunk]:
    """Gather records into chunks of at most ``size`` structures or about ``atoms`` atoms, so that memory is bounded.

    The chunks depend on the records alone: reading the file once more gives the same ones.
    """
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    places: list[str] = []
    total = position = 0
    for record in records:
        position = record.position
        if isinstance(record, Reject):
            rejects.append(record)
        else:
            try:
                row = row_of(record, labels)
            except MalformedError as error:
                rejects.append(Reject(record.where, error.reason, error.detail, record.position))
            else:
                rows.append(row)
                places.append(record.where)
                total += len(row["numbers"])
        if len(rows) + len(rejects) >= size or total >= atoms:
            yield Chunk(frames_of_rows(rows, name), rejects, places, position)
            rows, rejects, places, total = [], [], [], 0
    if rows or rejects:
        yield Chunk(frames_of_rows(rows, name), rejects, places, position)


def _array(values: ArrayLike, what: str, shape: tuple[int, ...] | None, *, integer: bool = False) -> NDArray[Any]:
    try:
        array = np.asarray(values, np.int64 if integer else np.float64)
    except (TypeError, ValueError, OverflowError):
        raise MalformedError(f"malformed {what}", "not numbers") from None
    if shape is not None and array.shape != shape:
        raise MalformedError(f"malformed {what}", f"shape {array.shape}, expected {shape}")
    return array


def _finite(values: ArrayLike, what: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array: NDArray[np.float64] = _array(values, what, shape)
    if not np.isfinite(array).all():
        raise MalformedError(f"{what} not finite", f"{int((~np.isfinite(array)).sum())} of {array.size} numbers")
    return array


def _periodicity(values: ArrayLike) -> NDArray[np.bool_]:
    try:
        array = np.asarray(values)
    except ValueError:
        raise MalformedError("malformed pbc", "not three values") from None
    if array.shape not in {(), (3,)} or array.dtype.kind not in "biuf":  # any text would be true
        raise MalformedError("malformed pbc", f"{values!r}")
    return np.array(np.broadcast_to(array, 3), bool)


def _whole(value: float, what: str) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not (number.is_integer() and abs(number) <= CHARGE_LIMIT):
        raise MalformedError("charge or spin", f"{what}={value} is not a (small) whole number")
    return int(number)
