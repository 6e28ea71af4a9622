"""MPtrj: relaxation trajectories of the Materials Project (Deng et al., Nat. Mach. Intell. 5, 1031 (2023)).

One JSON object: material id → frame id → ``structure`` (pymatgen), ``uncorrected_total_energy`` and
``corrected_total_energy`` (eV), ``force`` (eV/Å), ``stress`` (kbar, VASP's sign: positive under compression, 3×3),
``magmom``, ``mp_id``. The sign and unit of the stress: the converter of matbench-discovery multiplies by −0.1 GPa.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hydrapot.training.data.readers.jsonstream import JsonStream
from hydrapot.training.data.readers.opening import open_binary, reading
from hydrapot.training.data.readers.pymatgen import structure_of
from hydrapot.training.data.readers.records import MalformedError, ReaderOptions, Record, Reject, attempt
from hydrapot.training.data.readers.units import KBAR

ENERGIES = ("uncorrected_total_energy", "corrected_total_energy")


def read(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield all frames of all materials; the group is the material."""
    energy = options.energy or ENERGIES[0]
    position = 0
    with reading(path), open_binary(path) as handle:
        stream = JsonStream(handle, path)
        for material in stream.members():
            for frame in stream.members():
                content = stream.value()
                position += 1
                if position <= start:
                    continue
                where = f"{material}/{frame}"
                yield attempt(_record, content, material, energy, where=where, position=position)


def _record(content: Any, material: str, energy: str, where: str, position: int) -> Record:
    if not isinstance(content, dict) or "structure" not in content:
        raise MalformedError("malformed structure", "no key 'structure'")
    stress = content.get("stress")
    return Record(
        position,
        where,
        **structure_of(content["structure"]),
        energy=content.get(energy),
        forces=content.get("force"),
        stress=None if stress is None else -KBAR * np.asarray(stress, np.float64),
        group=material,
    )
