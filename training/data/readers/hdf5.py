"""What the readers of HDF5 layouts share: opening, and skipping what was read before."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.data.frames import DatasetError

SLICE = 4096
"""Conformations that are read at a time."""


@contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading.

    Raises
    ------
    ConfigurationError
        h5py is not installed.
    DatasetError
        The file cannot be read, or ends early.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigurationError("HDF5 needs h5py: pip install 'hydrapot[training]'") from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path}: truncated or corrupt HDF5 ({reason}): fetch the file again") from error


def conformations(
    numbers: NDArray[Any], datasets: dict[str, Any], *, position: int, start: int
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield (position, index, one row of every dataset) of conformations that share their atoms.

    Parameters
    ----------
    numbers
        (N,) atomic numbers; only for a message.
    datasets
        Name → HDF5 dataset whose first axis is the conformation.
    position, start
        Structures before these in the file, and how many of the file are to be left out.
    """
    sizes = {name: len(dataset) for name, dataset in datasets.items()}
    if len(set(sizes.values())) != 1:
        raise DatasetError(f"datasets of {len(numbers)} atoms differ in length: {sizes}")
    total = next(iter(sizes.values()))
    for begin in range(max(0, min(start - position, total)), total, SLICE):
        values = {name: np.asarray(dataset[begin : begin + SLICE]) for name, dataset in datasets.items()}
        for i in range(min(SLICE, total - begin)):
            yield position + begin + i + 1, begin + i, {name: value[i] for name, value in values.items()}


def scalar(value: Any) -> float:
    """Return the one number of an array of one element."""
    return float(np.asarray(value, np.float64).reshape(()) if np.size(value) == 1 else np.nan)
