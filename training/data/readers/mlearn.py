"""mlearn and its relatives of the Materials Virtual Lab (Zuo et al., J. Phys. Chem. A 124, 731 (2020)).

One JSON array of structures. mlearn: ``structure`` (pymatgen), ``outputs`` with ``energy`` (eV), ``forces`` (eV/Å) and
``virial_stress``, ``group`` such as "AIMD-NVT". maml: the stress is called ``stress``. snap: ``data`` with
``energy_per_atom`` (eV), ``forces`` and ``virial_stress``.

The stress is six numbers as VASP prints them: kbar, order xx, yy, zz, xy, yz, zx, positive under compression. Shown by
the correlation of its trace with the volume at −0.96, and by finite differences, over the 1,041 structures of mlearn.
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

VASP_ORDER = [[0, 3, 5], [3, 1, 4], [5, 4, 2]]
"""Component of xx, yy, zz, xy, yz, zx at each place of the 3×3 tensor."""


def read(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield all structures; the group is the file's own (a kind of simulation)."""
    del options
    position = 0
    with reading(path), open_binary(path) as handle:
        stream = JsonStream(handle, path)
        for _ in stream.elements():
            content = stream.value()
            position += 1
            if position <= start:
                continue
            where = f"structure {position - 1}"
            yield attempt(_record, content, where=where, position=position)


def _record(content: Any, where: str, position: int) -> Record:
    if not isinstance(content, dict) or "structure" not in content:
        raise MalformedError("malformed structure", "no key 'structure'")
    structure = structure_of(content["structure"])
    labels = content.get("outputs") or content.get("data") or {}
    energy = labels.get("energy")
    if energy is None and labels.get("energy_per_atom") is not None:
        energy = float(labels["energy_per_atom"]) * len(structure["numbers"])
    stress = labels.get("virial_stress", labels.get("stress"))
    return Record(
        position,
        where,
        **structure,
        energy=energy,
        forces=labels.get("forces"),
        stress=None if stress is None or not len(stress) else -KBAR * _tensor(stress),
        group=str(content.get("group", "")),
    )


def _tensor(stress: Any) -> Any:
    values = np.asarray(stress, np.float64)
    if values.shape != (6,):
        raise MalformedError("malformed stress", f"shape {values.shape}, expected six numbers")
    return values[np.array(VASP_ORDER)]
