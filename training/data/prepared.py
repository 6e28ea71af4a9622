"""Datasets made ready for training: neighbor lists, labels that remain for the network, scales, and batches of them.

Two kinds give the same numbers, to the last bit. A *prepared* dataset lies in memory with its labels; a *streamed* one is
read when a batch needs it, and neighbor lists and labels are made on the spot. What has to be known about every structure
beforehand (its size and number of neighbors) is in the census of either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hydrapot.potential.graph import Graph
from hydrapot.potential.references import ReferenceEnergies
from hydrapot.training.data.census import Census, count
from hydrapot.training.data.compact import CompactEdges, assemble, naming
from hydrapot.training.data.contents import contents_of
from hydrapot.training.data.frames import Frames, Structure
from hydrapot.training.data.labels import PairRepulsion, interaction_labels
from hydrapot.training.data.neighborhoods import Budget, Neighborhoods
from hydrapot.training.data.source import Source
from hydrapot.training.objective import Targets

#: Smallest scales: datasets of relaxed structures have forces near zero, which noise would dominate.
MINIMUM_FORCE_SCALE = 0.2  # eV/Å
MINIMUM_ENERGY_SCALE = 0.04  # eV per atom
MINIMUM_STRAIN_SCALE = 0.1  # eV per atom
#: Structures whose labels are prepared at a time.
_CHUNK = 256


@dataclass(frozen=True)
class Scales:
    """What errors of one dataset are measured in."""

    energy: float  # eV per atom
    forces: float  # eV/Å
    strain: float  # eV per atom


class Examples(NamedTuple):
    """``k`` structures with what a batch needs of them."""

    structures: list[Structure]
    edges: list[CompactEdges]
    energy: NDArray[np.float64]  # (k,) eV, less references and repulsion
    forces: list[NDArray[np.float64]]  # (N, 3) eV/Å of each
    strain: NDArray[np.float64]  # (k, 3, 3) eV


class TrainingSet(Protocol):
    """A dataset that batches can be made of."""

    @property
    def census(self) -> Census:
        """Sizes of all structures."""

    @property
    def sample(self) -> "PreparedDataset":
        """Structures that stand for all when statistics are taken; all of them if there are few."""

    def __len__(self) -> int:
        """Return the number of structures."""

    def take(self, indices: NDArray[np.int64]) -> Examples:
        """Structures `indices`, in that order; thread safe."""


@dataclass(frozen=True)
class PreparedDataset:
    """Frames in memory with the labels that remain for the network.

    Attributes
    ----------
    frames
        ``n`` structures.
    census
        Their sizes.
    lists
        Their neighbor lists.
    energy, forces, strain
        ``(n,)`` eV, ``(atoms, 3)`` eV/Å and ``(n, 3, 3)`` eV (stress · volume): labels less references and repulsion;
        NaN where there is no label.
    repulsion_energy, repulsion_forces, repulsion_strain
        What was taken off for short-range repulsion, same shapes.
    reference_energy
        ``(n,)`` eV.
    """

    frames: Frames
    census: Census
    lists: Neighborhoods
    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    strain: NDArray[np.float64]
    reference_energy: NDArray[np.float64]
    repulsion_energy: NDArray[np.float64]
    repulsion_forces: NDArray[np.float64]
    repulsion_strain: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def sample(self) -> "PreparedDataset":
        """The dataset itself."""
        return self

    @property
    def degrees(self) -> NDArray[np.int64]:
        """Largest number of neighbors in each structure, ``(n,)``."""
        return self.census.degrees.all()

    def take(self, indices: NDArray[np.int64]) -> Examples:
        """Structures `indices`; see :class:`TrainingSet`."""
        chosen = indices.tolist()
        structures = [self.frames.structure(i) for i in chosen]
        offsets = self.frames.offsets
        return Examples(
            structures=structures,
            edges=[self.lists.get(i, s) for i, s in zip(chosen, structures, strict=True)],
            energy=self.energy[indices],
            forces=[self.forces[offsets[i] : offsets[i + 1]] for i in chosen],
            strain=self.strain[indices],
        )

    def scales(self) -> Scales:
        """Spread of the labels of this dataset, bounded from below."""
        per_atom = self.energy / self.frames.counts
        norms = np.linalg.norm(self.frames.forces, axis=1)
        virial = np.abs(self.strain / self.frames.counts[:, None, None])
        # float32 values, so that a model and its float32 checkpoint share them to the last digit.
        return Scales(
            energy=float(np.float32(max(_spread(per_atom), MINIMUM_ENERGY_SCALE))),
            forces=float(np.float32(max(_mean(norms), MINIMUM_FORCE_SCALE))),
            strain=float(np.float32(max(_mean(virial[:, [0, 1, 2], [0, 1, 2]].ravel()), MINIMUM_STRAIN_SCALE))),
        )


class StreamedDataset:
    """Structures that are read when a batch needs them.

    Parameters
    ----------
    source
        Where they are.
    census
        Their sizes, with the cutoff of `lists`.
    sample
        Structures of the source that stand for all when statistics are taken.
    lists
        Their neighbor lists.
    references, repulsion
        As for :func:`prepare`.
    """

    def __init__(
        self,
        source: Source,
        *,
        census: Census,
        sample: PreparedDataset,
        lists: Neighborhoods,
        references: ReferenceEnergies,
        repulsion: PairRepulsion,
    ) -> None:
        self.source, self.census, self.sample, self.lists = source, census, sample, lists
        self._references, self._repulsion = references, repulsion

    def __len__(self) -> int:
        return len(self.source)

    def take(self, indices: NDArray[np.int64]) -> Examples:
        """Structures `indices`; see :class:`TrainingSet`."""
        frames = self.source.read(indices)
        structures = [frames.structure(k) for k in range(len(frames))]
        edges = [self.lists.get(i, s) for i, s in zip(indices.tolist(), structures, strict=True)]
        labels = interaction_labels(frames, edges, references=self._references, repulsion=self._repulsion)
        forces = np.split(labels.forces, frames.offsets[1:-1])
        return Examples(structures, edges, labels.energy, forces, labels.strain)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else 0.0


def _spread(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.abs(known - np.median(known)).mean()) if len(known) else 0.0


def prepare(
    frames: Frames,
    *,
    references: ReferenceEnergies,
    repulsion: PairRepulsion,
    cutoff: float,
    budget: Budget | None = None,
    progress: Callable[[int], None] | None = None,
) -> PreparedDataset:
    """Build neighbor lists and take references and repulsion off the labels.

    Parameters
    ----------
    frames
        Structures; isolated reference atoms should have been left out.
    references
        Reference energies of the dataset's head.
    repulsion
        Of the potential.
    cutoff
        Å.
    budget
        Memory for neighbor lists that are kept; without a limit if not given.
    progress
        Called with the number of structures finished since the last call.

    Raises
    ------
    DatasetError
        Names a structure without a neighbor list.
    """
    lists = Neighborhoods(cutoff=cutoff, budget=budget or Budget(float("inf")))
    tables, parts = [], []
    for start in range(0, len(frames), _CHUNK):
        some = frames.subset(np.arange(start, min(start + _CHUNK, len(frames))))
        edges = []
        for k in range(len(some)):
            with naming(some, k, number=start + k):
                edges.append(lists.get(start + k, some.structure(k)))
        tables.append(count(some, edges))
        parts.append(interaction_labels(some, edges, references=references, repulsion=repulsion))
        if progress is not None:
            progress(len(some))

    def joined(arrays: list[NDArray[np.float64]], *shape: int) -> NDArray[np.float64]:
        return np.concatenate(arrays) if arrays else np.zeros((0, *shape))

    return PreparedDataset(
        frames=frames,
        census=Census(tables, contents_of(frames)),
        lists=lists,
        energy=joined([p.energy for p in parts]),
        forces=joined([p.forces for p in parts], 3),
        strain=joined([p.strain for p in parts], 3, 3),
        reference_energy=joined([p.reference_energy for p in parts]),
        repulsion_energy=joined([p.repulsion.energy for p in parts]),
        repulsion_forces=joined([p.repulsion.forces for p in parts], 3),
        repulsion_strain=joined([p.repulsion.strain for p in parts], 3, 3),
    )


def normalizers(
    parts: Sequence[NDArray[np.int64]],
    datasets: Sequence[TrainingSet],
    *,
    weights: Sequence[float],
    targets: Sequence[Sequence[float]] | None = None,
) -> NDArray[np.float64]:
    """Labelled energies, atoms with forces, and labelled stresses of a batch, ``(3,)``: what its means are taken over.

    Parameters
    ----------
    parts
        ``(B, 2)`` = (dataset, structure) of every part of the batch, those of other processes included.
    datasets, weights
        As for :func:`make_batch`; labels of a dataset of weight 0 do not count.
    targets
        Factors on the errors of energy, forces and stress of every dataset; labels of factor 0 do not count either. 1 if not
        given.
    """
    rows = np.concatenate(parts)
    total = np.zeros(3)
    for d in np.unique(rows[:, 0]).tolist():
        factors = (1.0, 1.0, 1.0) if targets is None else targets[d]
        chosen = rows[rows[:, 0] == d, 1]
        for k, column in enumerate(datasets[d].census.labels):
            if weights[d] * factors[k] > 0:
                total[k] += int(column[chosen].sum())
    return total


def make_batch(
    rows: NDArray[np.int64],
    datasets: Sequence[TrainingSet],
    *,
    scales: Sequence[Scales],
    weights: Sequence[float],
    cutoff: float,
    normalized: NDArray[np.float64] | None = None,
) -> tuple[Graph, torch.Tensor, Targets]:
    """Graph, head of each structure and labels for ``rows`` ``(B, 2)`` = (dataset, structure).

    Parameters
    ----------
    rows
        What to take, in that order.
    datasets, scales, weights
        Data, scales of errors and weight in the objective of every dataset.
    cutoff
        Å.
    normalized
        :func:`normalizers` of the batch that these rows are a part of; if not given they are a whole one.
    """
    size = len(rows)
    structures: list[Structure] = [None] * size  # type: ignore[list-item]
    edges: list[CompactEdges] = [None] * size  # type: ignore[list-item]
    forces: list[NDArray[np.float64]] = [None] * size  # type: ignore[list-item]
    energy, strain = np.empty(size), np.empty((size, 3, 3))
    for d in np.unique(rows[:, 0]).tolist():
        places = np.flatnonzero(rows[:, 0] == d)
        taken = datasets[d].take(rows[places, 1])
        energy[places], strain[places] = taken.energy, taken.strain
        for k, place in enumerate(places.tolist()):
            structures[place], edges[place], forces[place] = taken.structures[k], taken.edges[k], taken.forces[k]
    graph = assemble(structures, edges, cutoff=cutoff)
    heads = rows[:, 0].tolist()
    weight = np.array([weights[d] for d in heads])
    atoms = np.array([len(s.numbers) for s in structures], dtype=np.float64)

    def labelled(values: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
        known = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        return torch.from_numpy(np.nan_to_num(values)), torch.from_numpy(np.where(known, weight, 0.0))

    e, ew = labelled(energy, weight)
    f, fw = labelled(np.concatenate(forces), weight[graph.batch.numpy()])
    w, ww = labelled(strain, weight)

    def of_head(values: list[float]) -> torch.Tensor:
        return torch.tensor([values[d] for d in heads], dtype=torch.float64)

    counted = normalizers([rows], datasets, weights=weights) if normalized is None else normalized
    targets = Targets(
        energy=e,
        forces=f,
        strain_gradient=w,
        energy_weight=ew,
        force_weight=fw,
        strain_weight=ww,
        energy_scale=of_head([s.energy for s in scales]),
        force_scale=of_head([s.forces for s in scales]),
        strain_scale=of_head([s.strain for s in scales]),
        atoms=torch.from_numpy(atoms),
        normalizers=torch.from_numpy(counted),
        noise=torch.zeros(size, 3, dtype=torch.float64),
    )
    return graph, torch.from_numpy(rows[:, 0].copy()), targets
