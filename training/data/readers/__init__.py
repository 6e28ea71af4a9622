"""Published datasets: one streaming reader per layout, in eV, Å and eV/Å³.

:data:`FORMATS` lists them; :func:`format_of` tells a file's layout by its content; :func:`read_chunks` reads it in pieces
of bounded size, with the structures that could not be read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers.records import (
    LABELS,
    Chunk,
    Reader,
    ReaderOptions,
    Record,
    Reject,
    chunks,
    empty_frames,
    frames_of_rows,
)

__all__ = [
    "FORMATS",
    "LABELS",
    "Chunk",
    "Format",
    "ReaderOptions",
    "Record",
    "Reject",
    "check_options",
    "chunks",
    "empty_frames",
    "format_of",
    "frames_of_rows",
    "open_records",
    "read_chunks",
    "reader_of",
]


@dataclass(frozen=True)
class Format:
    """One layout of published data."""

    datasets: str
    """What is published in it."""
    function: str
    """Module and function of the reader; imported when it is needed."""
    energies: tuple[str, ...] = ("energy",)
    """Keys of energies that `ReaderOptions.energy` may name, the default first."""
    free_keys: bool = False
    """Whether `ReaderOptions.group` may name a key."""


_PACKAGE = "hydrapot.training.data.readers"

FORMATS = {
    "extxyz": Format("extended XYZ of any origin", "extxyz:read", ("energy", "free_energy"), free_keys=True),
    "ase-db": Format("ASE database (SQLite)", "asedb:read", ("energy", "free_energy"), free_keys=True),
    "schnetpack-db": Format("SchNetPack database with units", "asedb:read_schnetpack", free_keys=True),
    "nabla2dft": Format("∇²DFT energy databases", "asedb:read_nabla2dft", free_keys=True),
    "aselmdb": Format(
        "OC20, OC22, OC25, OMat24, OMol25, OMC25, ODAC23, OPoly26",
        "aselmdb:read",
        ("energy", "free_energy"),
        free_keys=True,
    ),
    "ani1x": Format("ANI-1x", "ani1x:read", ("wb97x_dz.energy", "wb97x_tz.energy", "ccsd(t)_cbs.energy")),
    "transition1x": Format(
        "Transition1x", "transition1x:read", ("wB97x_6-31G(d).energy", "wB97x_6-31G(d).atomization_energy")
    ),
    "qm7x": Format("QM7-X", "qm7x:read", ("ePBE0+MBD", "ePBE0")),
    "qcml": Format("QCML, dft_force_field", "qcml:read", ("pbe0_formation_energy", "pbe0_energy")),
    "mptrj": Format("MPtrj", "mptrj:read", ("uncorrected_total_energy", "corrected_total_energy")),
    "alexandria": Format("Alexandria, trajectories", "alexandria:read_trajectories"),
    "alexandria-entries": Format(
        "Alexandria, entries", "alexandria:read_entries", ("energy_total", "energy_corrected")
    ),
    "mlearn": Format("mlearn, maml, snap", "mlearn:read"),
    "vasp-xml": Format("VASP vasprun.xml", "vasp:read_xml", ("free_energy", "energy")),
    "vasp-outcar": Format("VASP OUTCAR", "vasp:read_outcar", ("free_energy", "energy")),
    "cp2k": Format("CP2K trajectories", "cp2k:read"),
}
"""Name → layout; docs/data.md has keys, units and signs."""


def format_of(path: Path) -> str:
    """Return the name of a file's layout, by its content.

    Raises
    ------
    DatasetError
        The file cannot be read, is nothing that is known, or leaves open what it is.
    """
    from hydrapot.training.data.readers.detection import candidates

    found = candidates(path)
    if not found:
        raise DatasetError(f"{path}: not a layout that is known ({', '.join(FORMATS)}); see docs/data.md")
    if len(found) > 1:
        raise DatasetError(f"{path}: may be {' or '.join(found)}, which differ in units: say which with --format")
    return found[0]


def open_records(
    path: Path, *, layout: str, start: int = 0, options: ReaderOptions | None = None
) -> Iterator[Record | Reject]:
    """Yield the structures of a file after the position ``start``.

    Raises
    ------
    ConfigurationError
        An option that the layout does not have.
    DatasetError
        The file is missing, truncated or corrupt.
    """
    options = options or ReaderOptions()
    check_options(layout, options)
    return reader_of(layout)(path, start=start, options=options)


def check_options(layout: str, options: ReaderOptions) -> None:
    """Raise `ConfigurationError` for a layout that does not exist, and for an option that it does not have."""
    found = FORMATS.get(layout)
    if found is None:
        raise ConfigurationError(f"format {layout!r}: there are {', '.join(FORMATS)}")
    # The metadata of a SchNetPack database name its energies; the reader asks them.
    if options.energy is not None and options.energy not in found.energies and layout != "schnetpack-db":
        raise ConfigurationError(f"energy {options.energy!r}: {layout} has {', '.join(found.energies)}")
    if options.group is not None and not found.free_keys:
        raise ConfigurationError(f"group {options.group!r}: the groups of {layout} are those of its layout")
    for label in options.labels:
        if label not in LABELS:
            raise ConfigurationError(f"label {label!r}: there are {', '.join(LABELS)}")


def reader_of(layout: str) -> Reader:
    """Return the reader of a layout."""
    module, _, function = FORMATS[layout].function.partition(":")
    return cast("Reader", getattr(import_module(f"{_PACKAGE}.{module}"), function))


def read_chunks(
    path: Path,
    *,
    layout: str,
    name: str,
    start: int = 0,
    options: ReaderOptions | None = None,
    size: int = 1024,
) -> Iterator[Chunk]:
    """Yield the structures of a file after the position ``start`` in chunks of at most ``size`` of them."""
    options = options or ReaderOptions()
    records = open_records(path, layout=layout, start=start, options=options)
    return chunks(records, name=name, labels=options.labels, size=size)
