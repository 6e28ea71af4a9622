"""Reading structures, in any format that ASE knows and mmCIF, with errors that name the file."""

import warnings
from collections.abc import Iterator
from pathlib import Path

from ase import Atoms
from ase.io import iread, read

from hydrapot.potential.errors import InvalidStructureError
from hydrapot.workflows.biomolecules import is_biomolecule, read_biomolecule


def read_structure(path: str | Path) -> Atoms:
    """The structure in a file; the last one if there are several, or the one asked for as ``name@index``.

    Raises
    ------
    InvalidStructureError
        A file that is missing, unreadable, of a format that ASE does not know, or without atoms.
    """
    _check_exists(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # readers warn of details of their formats
            atoms = _read(path)
    except InvalidStructureError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error
    if not isinstance(atoms, Atoms):
        raise InvalidStructureError(f"{path}: names several structures: choose one with name@index")
    if len(atoms) == 0:
        raise InvalidStructureError(f"{path}: a structure without atoms")
    return atoms


def iterate_structures(path: str | Path) -> Iterator[Atoms]:
    """All structures in a file one after the other, or those of a slice ``name@start:stop:step``.

    Raises
    ------
    InvalidStructureError
        As :func:`read_structure`; also in the middle of a file.
    """
    _check_exists(path)
    has_index = "@" in Path(path).name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from iread(str(path)) if has_index else iread(str(path), index=":")
    except Exception as error:
        raise _unreadable(path, error) from error


def _read(path: str | Path) -> Atoms | list[Atoms]:
    name, _, index = str(path).rpartition("@") if not Path(path).exists() else (str(path), "", "-1")
    if index.removeprefix("-").isdigit() and is_biomolecule(Path(name)):
        return read_biomolecule(Path(name), index=int(index))
    found: Atoms | list[Atoms] = read(str(path))
    return found


def _check_exists(path: str | Path) -> None:
    if Path(path).exists():
        return
    name, at, _ = str(path).rpartition("@")
    if not (at and Path(name).exists()):
        raise InvalidStructureError(f"{path}: no such file")


def _unreadable(path: str | Path, error: Exception) -> InvalidStructureError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InvalidStructureError(f"{path}: cannot be read as a structure ({type(error).__name__}: {reason[:200]})")
