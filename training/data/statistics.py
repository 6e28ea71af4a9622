"""Distributions of a dataset: sizes, energies, forces, pressures, distances and neighbors, as numbers and as figures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydrapot.potential.constants import GPA
from hydrapot.potential.errors import HydrapotError
from hydrapot.potential.neighbors import neighbor_list
from hydrapot.potential.references import ReferenceEnergies, fit_references
from hydrapot.training.data.datasets import Dataset
from hydrapot.training.data.frames import DatasetError, Frames

SAMPLE = 20_000
LISTS = 500
"""Structures whose neighbors are counted."""
CUTOFF = 5.0
"""Å"""
QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)


@dataclass(frozen=True)
class Distribution:
    """Values of one quantity."""

    name: str
    unit: str
    values: NDArray[np.float64]

    @property
    def label(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def quantiles(self) -> tuple[float, ...]:
        """Smallest value, 1 %, median, 99 % and largest."""
        return tuple(float(q) for q in np.quantile(self.values, QUANTILES)) if len(self.values) else ()


@dataclass(frozen=True)
class Statistics:
    """Distributions of one dataset.

    Attributes
    ----------
    structures, sampled
        In the dataset (None where a file was not read to its end), and of them used here.
    distributions
        ``atoms``, ``energy``, ``force``, ``pressure``, ``distance``, ``neighbors``; a label that is not there is empty.
    references
        What was taken off the energies: a robust fit to the sample, for these figures only.
    """

    name: str
    structures: int | None
    sampled: int
    distributions: dict[str, Distribution]
    references: ReferenceEnergies | None


def statistics(dataset: Dataset, *, sample: int = SAMPLE, cutoff: float = CUTOFF) -> Statistics:
    """Return the distributions of a dataset.

    Parameters
    ----------
    dataset
        A store (of which evenly spaced structures are taken) or a file (the first ones).
    sample
        Structures to use.
    cutoff
        Å, of the neighbors.

    Raises
    ------
    DatasetError
        The dataset is empty, or cannot be read.
    """
    frames = dataset.sample(sample)
    if not len(frames):
        raise DatasetError(f"{dataset.path}: not one structure in it that makes sense")
    total: int | None = len(dataset.store) if dataset.store is not None else len(frames)
    if dataset.store is None and len(frames) >= sample:
        total = None
    relative, references = _relative(frames)
    nearest, neighbors = _surroundings(frames, cutoff)
    forces = np.linalg.norm(frames.forces, axis=1)
    stress = frames.stress[frames.has_stress]
    found = {
        "atoms": Distribution("atoms", "", frames.counts.astype(np.float64)),
        "energy": Distribution("energy less reference", "eV/atom", relative),
        "force": Distribution("force", "eV/Å", forces[~np.isnan(forces)]),
        "pressure": Distribution("pressure", "GPa", -np.trace(stress, axis1=1, axis2=2) / 3.0 * GPA),
        "distance": Distribution("nearest neighbor", "Å", nearest),
        "neighbors": Distribution(f"neighbors within {cutoff:g} Å", "", neighbors),
    }
    return Statistics(dataset.name, total, len(frames), found, references)


def _relative(frames: Frames) -> tuple[NDArray[np.float64], ReferenceEnergies | None]:
    bulk = frames.subset(~frames.isolated)
    labelled = bulk.subset(~np.isnan(bulk.energy))
    if not len(labelled):
        return np.zeros(0), None
    compositions = labelled.compositions()
    references = fit_references(compositions, labelled.energy)
    off = compositions @ np.nan_to_num(references.values)
    return (labelled.energy - off) / labelled.counts, references


def _surroundings(frames: Frames, cutoff: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance to the nearest neighbor, and number of neighbors, of each atom of some evenly spaced structures."""
    nearest, neighbors = [np.zeros(0)], [np.zeros(0)]
    for i in np.unique(np.linspace(0, len(frames) - 1, min(LISTS, len(frames))).astype(int)):
        s = frames.structure(int(i))
        try:
            edges = neighbor_list(s.positions, s.cell, s.pbc, cutoff=cutoff)
        except HydrapotError:
            continue  # `hydrapot data inspect` names it
        receivers, senders = edges.edge_index
        lengths = np.linalg.norm(s.positions[senders] - s.positions[receivers] + edges.shifts @ s.cell, axis=1)
        smallest = np.full(len(s.numbers), np.inf)
        np.minimum.at(smallest, receivers, lengths)
        nearest.append(smallest[np.isfinite(smallest)])
        neighbors.append(np.bincount(receivers, minlength=len(s.numbers)).astype(np.float64))
    return np.concatenate(nearest), np.concatenate(neighbors)


def draw(found: Statistics, path: Path) -> None:
    """Draw the six histograms of a dataset into a PNG.

    The axes span the central 99.8 % of the values; what lies beyond is counted in the outermost bars.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    of = "" if found.structures == found.sampled else f", {found.sampled:,} of them drawn"
    number = "first structures" if found.structures is None else f"{found.structures:,} structures"
    figure.suptitle(f"{found.name}: {number}{of}\n", fontsize="large")
    figure.text(0.5, 0.945, "line: median; the outermost bars hold all that lies beyond", ha="center", color="0.4")
    for axes, (key, distribution) in zip(figure.subplots(2, 3).flat, found.distributions.items(), strict=True):
        _histogram(axes, distribution, whole=key in {"atoms", "neighbors"}, log=key in {"force", "energy"})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    figure.savefig(temporary, format="png", dpi=110)
    temporary.replace(path)


def _histogram(axes: Any, distribution: Distribution, *, whole: bool, log: bool) -> None:
    axes.set_xlabel(distribution.label)
    values = distribution.values
    if not len(values):
        axes.text(0.5, 0.5, "no labels", ha="center", va="center", transform=axes.transAxes, color="0.5")
        axes.set_xticks([])
        axes.set_yticks([])
        return
    low, high = np.quantile(values, (0.001, 0.999))
    if whole:
        low, high = np.floor(low) - 0.5, np.ceil(high) + 0.5
        step = max(1.0, np.ceil((high - low) / 60))
        edges = np.arange(low, high + step, step)
    else:
        margin = 0.02 * (high - low) or max(abs(low) * 1e-3, 1e-3)
        edges = np.linspace(low - margin, high + margin, 61)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    axes.stairs(counts, edges, fill=True, color="#4477aa")
    axes.set_ylabel("structures" if distribution.name in {"atoms", "pressure", "energy less reference"} else "atoms")
    if log:
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.8)
    axes.axvline(float(np.median(values)), color="#cc6677", lw=1.0)
    axes.spines[["top", "right"]].set_visible(False)


def as_json(found: Sequence[Statistics]) -> bytes:
    """Return the quantiles of several datasets as a JSON document."""
    documents = [
        {
            "name": s.name,
            "structures": s.structures,
            "sampled": s.sampled,
            "quantiles": list(QUANTILES),
            **{
                key: {"unit": d.unit, "count": len(d.values), "values": list(d.quantiles())}
                for key, d in s.distributions.items()
            },
        }
        for s in found
    ]
    return (json.dumps(documents, indent=1, ensure_ascii=False) + "\n").encode()
