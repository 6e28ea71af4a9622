"""Batches whose gradient was not finite, kept for inspection: structures as extended XYZ, and what happened as JSON.

A process looks only at its own parts, once the sum over all has shown that something is wrong: it computes each again by
itself and keeps those that are not finite.
"""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from numpy.typing import NDArray

from hydrapot.training.data.frames import Structure
from hydrapot.training.layout import Layout
from hydrapot.training.step import Batch, Step

logger = logging.getLogger(__name__)


def keep_culprits(
    step: Step,
    batches: Sequence[Batch],
    *,
    layout: Layout,
    structures: Sequence[Sequence[Structure]],
    rows: Sequence[NDArray[np.int64]],
    datasets: Sequence[str],
    number: int,
    folder: Path,
) -> list[Path]:
    """Write the parts of this process that are to blame; all processes call this together.

    Parameters
    ----------
    step
        Loss and gradients of one batch.
    batches, structures, rows
        The parts of this process: as they were computed, their structures, and ``(B, 2)`` dataset and number of each.
    layout
        What this process holds.
    datasets
        Names.
    number
        Of the optimizer step.
    folder
        Is made if there is something to write.

    Returns
    -------
    The JSON files, one for each part; nothing if every part by itself is finite (then their sum was not).
    """
    found: list[Path] = []
    with layout.whole():
        outcomes = [step(batch) for batch in batches]
        names = [name for name, p in layout.potential.named_parameters() if p.requires_grad]
    for part, (losses, gradients) in enumerate(outcomes):
        bad = [n for n, g in zip(names, gradients, strict=True) if not bool(torch.isfinite(g).all())]
        if not bad and bool(torch.isfinite(losses.total)):
            continue
        stem = f"step{number:08d}-process{layout.rank}-part{part}"
        folder.mkdir(parents=True, exist_ok=True)
        write_structures(folder / f"{stem}.extxyz", structures[part], rows[part], datasets)
        document = {
            "step": number,
            "process": layout.rank,
            "structures": [{"dataset": datasets[d], "number": i} for d, i in rows[part].tolist()],
            "losses": {name: _plain(float(x)) for name, x in losses._asdict().items()},
            "parameters_without_finite_gradient": bad,
        }
        found.append(folder / f"{stem}.json")
        _replace(found[-1], json.dumps(document, indent=1, allow_nan=False) + "\n")
    return found


def write_structures(
    path: Path, structures: Sequence[Structure], rows: NDArray[np.int64], datasets: Sequence[str]
) -> None:
    """Structures with their labels, as far as they have any, in extended XYZ."""
    frames = []
    for structure, (d, i) in zip(structures, rows.tolist(), strict=True):
        atoms = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
        labels: dict[str, Any] = {"energy": structure.energy, "forces": structure.forces, "stress": structure.stress}
        known = {name: value for name, value in labels.items() if np.isfinite(value).all()}
        if "stress" in known:
            known["stress"] = np.asarray(known["stress"])[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        atoms.calc = SinglePointCalculator(atoms, **known)
        atoms.info |= {"dataset": datasets[d], "number": i, "charge": structure.charge, "spin": structure.spin}
        frames.append(atoms)
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary, frames, format="extxyz")
    temporary.replace(path)


def _plain(value: float) -> float | str:
    """JSON has no NaN."""
    return value if math.isfinite(value) else str(value)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
