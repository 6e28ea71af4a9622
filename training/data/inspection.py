"""What is in a dataset: counts, elements, labels, and the first structures that look wrong."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hydrapot.potential.constants import GPA
from hydrapot.training.data.datasets import Dataset
from hydrapot.training.data.frames import MAX_Z, Frames
from hydrapot.training.data.limits import Limits, left_out
from hydrapot.training.data.readers import Reject

PROBLEMS = 10
"""Structures that are named at most."""


@dataclass
class Range:
    """Smallest and largest of the values that were seen."""

    low: float = float("inf")
    high: float = float("-inf")

    def add(self, values: NDArray[np.float64]) -> None:
        """Widen the range; NaN is no value."""
        seen = values[~np.isnan(values)]
        if len(seen):
            self.low, self.high = min(self.low, float(seen.min())), max(self.high, float(seen.max()))

    @property
    def empty(self) -> bool:
        """Whether there was no value."""
        return self.low > self.high


@dataclass
class Inspection:
    """Findings; quantities in eV, Å and GPa."""

    name: str
    layout: str
    complete: bool = False
    """False: only the first structures were looked at."""
    structures: int = 0
    atoms: int = 0
    elements: dict[str, int] = field(default_factory=dict)
    """Symbol → structures that contain it."""
    labels: dict[str, int] = field(default_factory=dict)
    periodicity: Counter[str] = field(default_factory=Counter)
    charge_spin: Counter[tuple[int, int]] = field(default_factory=Counter)
    groups: set[str] = field(default_factory=set)
    isolated: int = 0
    sizes: Range = field(default_factory=Range)
    energy: Range = field(default_factory=Range)
    """eV per atom"""
    force: Range = field(default_factory=Range)
    """Norms, eV/Å"""
    pressure: Range = field(default_factory=Range)
    """GPa, positive under compression"""
    problems: Counter[str] = field(default_factory=Counter)
    examples: list[Reject] = field(default_factory=list)


def inspect(dataset: Dataset, *, limit: int | None = 1000, limits: Limits | None = None) -> Inspection:
    """Look at a dataset.

    Parameters
    ----------
    dataset
        A store or a file.
    limit
        Structures to look at, about; None for all.
    limits
        What counts as a problem.

    Raises
    ------
    DatasetError
        The file cannot be read.
    """
    found = Inspection(dataset.name, dataset.layout)
    limits = limits or Limits()
    present = np.zeros(MAX_Z + 1, np.int64)
    found.complete = True
    stream = dataset.chunks()
    for chunk in stream:
        frames = chunk.frames
        excluded = left_out(frames, limits)
        for reject in (
            *chunk.rejects,
            *(Reject(chunk.places[i], *why, position=0) for i, why in sorted(excluded.items())),
        ):
            found.problems[reject.reason] += 1
            if len(found.examples) < PROBLEMS:
                found.examples.append(reject)
        present += (frames.compositions() > 0).sum(axis=0)
        _add(found, frames)
        if limit is not None and found.structures >= limit:
            found.complete = not any(True for _ in islice(stream, 1))
            break
    found.elements = {chemical_symbols[z]: int(present[z]) for z in np.flatnonzero(present).tolist()}
    return found


def _add(found: Inspection, frames: Frames) -> None:
    if not len(frames):
        return
    found.structures += len(frames)
    found.atoms += int(frames.offsets[-1])
    for label, has in (
        ("energy", ~np.isnan(frames.energy)),
        ("forces", frames.has_forces),
        ("stress", frames.has_stress),
    ):
        found.labels[label] = found.labels.get(label, 0) + int(has.sum())
    found.periodicity.update("".join("T" if p else "F" for p in row) for row in frames.pbc.tolist())
    found.charge_spin.update(zip(frames.charge.tolist(), frames.spin.tolist(), strict=True))
    found.groups.update(frames.group.tolist())
    found.isolated += int(frames.isolated.sum())
    found.sizes.add(frames.counts.astype(np.float64))
    found.energy.add(frames.energy / frames.counts)
    found.force.add(np.linalg.norm(frames.forces, axis=1))
    found.pressure.add(-np.trace(frames.stress, axis1=1, axis2=2) / 3.0 * GPA)
