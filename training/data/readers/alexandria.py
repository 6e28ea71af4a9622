"""Alexandria (Schmidt et al., Mater. Today Phys. 48, 101560 (2024)): relaxation trajectories and relaxed entries.

Trajectories (``alex_go_*.json.bz2``) are one JSON object: material id → list of calculations → ``steps`` → ``structure``
(pymatgen), ``energy`` (eV), ``forces`` (eV/Å) and ``stress`` (kbar, VASP's sign: positive under compression, 3×3;
public converters multiply by −0.1 GPa).

Entries (``alexandria_*.json.bz2``) are one JSON object with the list ``entries`` of ``ComputedStructureEntry``:
``structure`` with the site property ``forces`` (eV/Å), and ``data`` with ``mat_id`` and ``energy_total`` (eV, of the
cell, without corrections). Their ``data.stress`` is left out: no source that states its unit was found.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hydrapot.training.data.readers.jsonstream import JsonStream
from hydrapot.training.data.readers.opening import open_binary, reading
from hydrapot.training.data.readers.pymatgen import site_property, structure_of
from hydrapot.training.data.readers.records import MalformedError, ReaderOptions, Record, Reject, attempt
from hydrapot.training.data.readers.units import KBAR

ENTRY_ENERGIES = ("energy_total", "energy_corrected")


def read_trajectories(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield all steps of all calculations; the group is the material."""
    del options
    position = 0
    with reading(path), open_binary(path) as handle:
        stream = JsonStream(handle, path)
        for material in stream.members():
            # A material is some hundred steps: its calculations are decoded at once.
            for c, calculation in enumerate(_list(stream.value())):
                steps = _list(calculation.get("steps") if isinstance(calculation, dict) else None)
                for s, step in enumerate(steps):
                    position += 1
                    if position <= start:
                        continue
                    where = f"{material}/{c}/{s}"
                    yield attempt(_step, step, material, where=where, position=position)


def read_entries(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield all entries; each material is a group of its own."""
    energy = options.energy or ENTRY_ENERGIES[0]
    position = 0
    with reading(path), open_binary(path) as handle:
        stream = JsonStream(handle, path)
        for key in stream.members():
            if key != "entries":
                stream.value()
                continue
            for _ in stream.elements():
                entry = stream.value()
                position += 1
                if position <= start:
                    continue
                where = f"entry {position - 1}"
                yield attempt(_entry, entry, energy, where=where, position=position)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _step(step: Any, material: str, where: str, position: int) -> Record:
    if not isinstance(step, dict) or "structure" not in step:
        raise MalformedError("malformed structure", "no key 'structure'")
    stress = step.get("stress")
    return Record(
        position,
        where,
        **structure_of(step["structure"]),
        energy=step.get("energy"),
        forces=step.get("forces"),
        stress=None if stress is None else -KBAR * np.asarray(stress, np.float64),
        group=material,
    )


def _entry(entry: Any, energy: str, where: str, position: int) -> Record:
    if not isinstance(entry, dict) or "structure" not in entry:
        raise MalformedError("malformed structure", "no key 'structure'")
    data = entry.get("data") or {}
    return Record(
        position,
        where,
        **structure_of(entry["structure"]),
        energy=data.get(energy),
        forces=site_property(entry["structure"], "forces"),
        group=str(data.get("mat_id", "")),
    )
