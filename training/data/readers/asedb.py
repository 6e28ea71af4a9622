"""ASE databases in SQLite (``.db``): labels that ASE knows, or in ``data`` as SchNetPack and ∇²DFT write them.

ase-db
    ``energy`` (eV), ``forces`` (eV/Å), ``stress`` (eV/Å³, ASE's sign) of each row; ``charge`` and ``spin`` (the
    multiplicity) among the key-value pairs or in ``data``.
schnetpack-db
    ``data["energy"]`` and ``data["forces"]`` of each row, in the units that the database's metadata state under
    ``_property_unit_dict`` and ``_distance_unit`` (Schütt et al., J. Chem. Phys. 158, 144801 (2023)).
nabla2dft
    The energy databases of ∇²DFT (Khrabrov et al., arXiv:2406.14347): the same keys without metadata; energies in
    hartree, forces in hartree/Å, positions in Å, as its package states. Molecules are neutral.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase.db import connect

from hydrapot.potential.constants import HARTREE
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers.aselmdb import group_of
from hydrapot.training.data.readers.hdf5 import scalar
from hydrapot.training.data.readers.records import ReaderOptions, Record, Reject, attempt, full_stress
from hydrapot.training.data.readers.units import ENERGY_UNITS, LENGTH_UNITS, force_unit

PAGE = 500
"""Rows that are asked for at a time."""
ENERGIES = ("energy", "free_energy")


def read(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield the rows of a database whose labels are ASE's own."""
    for row in _rows(path, start):
        where = f"row {row.id}"
        yield attempt(_ase_record, row, options, where=where, position=row.id)


def read_schnetpack(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield the rows of a database that states its units in its metadata."""
    metadata = metadata_of(path)
    properties = metadata.get("_property_unit_dict") or {}
    energy = options.energy or "energy"
    energy_unit = ENERGY_UNITS.get(str(properties.get(energy, "")).lower())
    if energy_unit is None:
        raise DatasetError(f"{path}: its metadata state no known unit of {energy!r} ({properties.get(energy)})")
    forces = force_unit(str(properties.get("forces", "")))
    if "forces" in properties and forces is None:
        raise DatasetError(f"{path}: unknown unit of forces: {properties['forces']}")
    length = LENGTH_UNITS.get(str(metadata.get("_distance_unit", "")).lower())
    if length is None:
        raise DatasetError(f"{path}: its metadata state no known unit of length ({metadata.get('_distance_unit')})")
    yield from _data_records(path, start, options, energy=energy, units=(energy_unit, forces, length))


def read_nabla2dft(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield the rows of an energy database of ∇²DFT."""
    yield from _data_records(path, start, options, energy=options.energy or "energy", units=(HARTREE, HARTREE, 1.0))


def metadata_of(path: Path) -> dict[str, Any]:
    """Return the metadata of a database."""
    with _database(path) as database:
        found: dict[str, Any] = database.metadata
        return found


def first_row(path: Path) -> Any:
    """Return the first row of a database, or None."""
    return next(_rows(path, 0), None)


@contextmanager
def _database(path: Path) -> Iterator[Any]:
    """A connection; ASE touches the file only when it reads."""
    try:
        yield connect(str(path), type="db", use_lock_file=False)
    except (sqlite3.Error, OSError) as error:
        raise DatasetError(f"{path}: no ASE database, or corrupt ({error}): fetch the file again") from error


def _rows(path: Path, start: int) -> Iterator[Any]:
    """Yield rows by ascending id, after ``start``, a page at a time."""
    with _database(path) as database:
        while True:
            page = list(database.select(f"id>{start}", sort="id", limit=PAGE))
            yield from page
            if len(page) < PAGE:
                return
            start = page[-1].id


def _ase_record(row: Any, options: ReaderOptions, where: str, position: int) -> Record:
    free = _free(row)
    stress = row.get("stress")
    return Record(
        position,
        where,
        row.numbers,
        row.positions,
        cell=row.cell,
        pbc=row.pbc,
        energy=row.get(options.energy or ENERGIES[0]),
        forces=row.get("forces"),
        stress=None if stress is None else full_stress(stress),
        charge=free.get("charge", 0),
        spin=free.get("spin", 0),
        group=group_of(free, options),
    )


def _data_records(
    path: Path, start: int, options: ReaderOptions, *, energy: str, units: tuple[float, float | None, float]
) -> Iterator[Record | Reject]:
    for row in _rows(path, start):
        yield attempt(_data_record, row, options, energy, units, where=f"row {row.id}", position=row.id)


def _data_record(
    row: Any,
    options: ReaderOptions,
    energy: str,
    units: tuple[float, float | None, float],
    where: str,
    position: int,
) -> Record:
    energy_unit, unit, length_unit = units
    free = _free(row)
    value, forces = free.get(energy), free.get("forces")
    return Record(
        position,
        where,
        row.numbers,
        row.positions * length_unit,
        cell=row.cell * length_unit,
        pbc=row.pbc,
        energy=None if value is None else scalar(value) * energy_unit,
        forces=None if forces is None or unit is None else np.asarray(forces, np.float64) * unit,
        charge=free.get("charge", 0),
        spin=free.get("spin", 0),
        group=group_of(free, options),
    )


def _free(row: Any) -> dict[str, Any]:
    # Not the values of `key_value_pairs`: ASE has a property `charge` (the sum of initial charges) that hides a pair of
    # that name.
    stored = vars(row)
    return {**{key: stored[key] for key in row.key_value_pairs}, **dict(row.data)}
