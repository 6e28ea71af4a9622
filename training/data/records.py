"""Structures packed one behind the other in plain memory, each in one piece, so that one message fetches it.

A record of a structure of N atoms, at p = 4 or 8 bytes a number::

    table      27 × 8 bytes   the 25 columns of `hydrapot.training.data.store_layout.TABLE`, and two that are unused
    positions  3 N × p
    forces     3 N × p
    numbers    N × 2
    (padding to a multiple of 24)

Every part begins at a multiple of a vector of three numbers, so that whole vectors are gathered rather than numbers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.data.store_columns import WIDTH, Columns
from hydrapot.training.data.store_layout import DTYPES, Precision

UNIT = 24
_TABLE_ROWS = 9  # of 24 bytes
_HEAD = UNIT * _TABLE_ROWS


def record_sizes(counts: NDArray[np.int64], *, precision: Precision) -> NDArray[np.int64]:
    """Bytes of the record of each structure, (n,)."""
    vector = 3 * np.dtype(DTYPES[precision]).itemsize
    units: NDArray[np.int64] = (_HEAD + counts * (2 * vector + 2) + UNIT - 1) // UNIT
    return units * UNIT


def pack(columns: Columns, memory: NDArray[np.uint8], starts: NDArray[np.int64], *, precision: Precision) -> None:
    """Write records.

    Parameters
    ----------
    columns
        k structures.
    memory
        Bytes, aligned for float64; its length is a multiple of 24.
    starts
        (k,) bytes; where each record begins, multiples of 24.
    precision
        Of positions and forces.
    """
    views = _Views(memory, precision)
    table = np.zeros((len(columns.counts), 3 * _TABLE_ROWS))
    table[:, :WIDTH] = columns.table
    views.table[starts[:, None] // UNIT + np.arange(_TABLE_ROWS)] = table.reshape(-1, _TABLE_ROWS, 3)
    positions, forces, numbers = _rows(columns.counts, starts, views.vector)
    views.vectors[positions] = columns.positions
    views.vectors[forces] = columns.forces
    views.numbers[numbers] = columns.numbers


def unpack(
    memory: NDArray[np.uint8], starts: NDArray[np.int64], counts: NDArray[np.int64], *, precision: Precision
) -> Columns:
    """Inverse of `pack`, for the structures that begin at `starts` and have `counts` atoms, in that order."""
    views = _Views(memory, precision)
    table = views.table.take(starts[:, None] // UNIT + np.arange(_TABLE_ROWS), axis=0).reshape(-1, 3 * _TABLE_ROWS)
    positions, forces, numbers = _rows(counts, starts, views.vector)
    return Columns(
        counts=counts,
        table=table[:, :WIDTH],
        numbers=views.numbers.take(numbers),
        positions=views.vectors.take(positions, axis=0),
        forces=views.vectors.take(forces, axis=0),
    )


class _Views:
    """The same memory as rows of the table, as vectors and as atomic numbers."""

    def __init__(self, memory: NDArray[np.uint8], precision: Precision) -> None:
        dtype: Any = np.dtype(DTYPES[precision])
        self.table = memory.view(np.float64).reshape(-1, 3)
        self.vectors = memory.view(dtype).reshape(-1, 3)
        self.numbers = memory.view(np.int16)
        self.vector = 3 * dtype.itemsize


def _rows(
    counts: NDArray[np.int64], starts: NDArray[np.int64], vector: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows of positions, of forces, and places of numbers of all atoms."""
    first = np.cumsum(counts) - counts
    begin = (starts + _HEAD) // vector
    shifts = np.stack([begin - first, begin + counts - first, (starts + _HEAD + 2 * vector * counts) // 2 - first])
    atoms = np.arange(int(counts.sum()))
    positions, forces, numbers = np.repeat(shifts, counts, axis=1) + atoms
    return positions, forces, numbers
