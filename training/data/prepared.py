"""A dataset made ready for training: neighbor lists, interaction labels, scales, and batches of it.

Reference energies and short-range repulsion hold no trainable parameter, so their share of energy, forces and stress is
taken off the labels once, in float64, instead of being computed in every step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hydrapot.potential.derivatives import forces_from_edge_gradient, strain_gradient
from hydrapot.potential.graph import Graph
from hydrapot.potential.references import ReferenceEnergies
from hydrapot.training.data.compact import CompactEdges, assemble, compact_edges
from hydrapot.training.data.frames import Frames
from hydrapot.training.objective import Targets

#: Smallest scales: datasets of relaxed structures have forces near zero, which noise would dominate.
MINIMUM_FORCE_SCALE = 0.2  # eV/Å
MINIMUM_ENERGY_SCALE = 0.04  # eV per atom
MINIMUM_STRAIN_SCALE = 0.1  # eV per atom
#: Atoms per call of the repulsion while labels are prepared.
_CHUNK = 2_000


@dataclass(frozen=True)
class Scales:
    """What errors of one dataset are measured in."""

    energy: float  # eV per atom
    forces: float  # eV/Å
    strain: float  # eV per atom


@dataclass(frozen=True)
class PreparedDataset:
    """Frames with their neighbor lists and the labels that remain for the network.

    Attributes
    ----------
    frames
        ``n`` structures.
    edges
        Neighbor list of each.
    energy, forces, strain
        ``(n,)`` eV, ``(atoms, 3)`` eV/Å and ``(n, 3, 3)`` eV (stress · volume): labels less references and repulsion;
        NaN where there is no label.
    repulsion_energy, repulsion_forces, repulsion_strain
        What was taken off for short-range repulsion, same shapes.
    reference_energy
        ``(n,)`` eV.
    """

    frames: Frames
    edges: list[CompactEdges] = field(repr=False)
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
    def degrees(self) -> NDArray[np.int64]:
        """Largest number of neighbors in each structure, ``(n,)``."""
        return np.array([e.counts.max(initial=0) for e in self.edges], dtype=np.int64)

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
    repulsion: nn.Module,
    cutoff: float,
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
        ``repulsion(graph) -> (N,)`` eV.
    cutoff
        Å.
    progress
        Called with the number of structures finished since the last call.
    """
    structures = [frames.structure(i) for i in range(len(frames))]
    edges = []
    repulsion_energy = np.zeros(len(frames))
    repulsion_forces = np.zeros_like(frames.forces)
    repulsion_strain = np.zeros((len(frames), 3, 3))
    start = 0
    while start < len(frames):
        stop = start
        while stop < len(frames) and (stop == start or frames.offsets[stop + 1] - frames.offsets[start] <= _CHUNK):
            edges.append(compact_edges(structures[stop], cutoff=cutoff))
            stop += 1
        graph = assemble(structures[start:stop], edges[start:stop], cutoff=cutoff)
        e, f, w = _differentiate(repulsion, graph)
        repulsion_energy[start:stop] = e
        repulsion_forces[frames.offsets[start] : frames.offsets[stop]] = f
        repulsion_strain[start:stop] = w
        if progress is not None:
            progress(stop - start)
        start = stop
    reference = frames.compositions().astype(np.float64) @ np.nan_to_num(references.values)
    volume = np.abs(np.linalg.det(frames.cells))
    return PreparedDataset(
        frames=frames,
        edges=edges,
        energy=frames.energy - reference - repulsion_energy,
        forces=frames.forces - repulsion_forces,
        strain=frames.stress * volume[:, None, None] - repulsion_strain,
        reference_energy=reference,
        repulsion_energy=repulsion_energy,
        repulsion_forces=repulsion_forces,
        repulsion_strain=repulsion_strain,
    )


def _differentiate(
    repulsion: nn.Module, graph: Graph
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    leaf = graph.edge_vectors.detach().requires_grad_()
    leafed = graph.with_edge_vectors(leaf)
    atomic = repulsion(leafed)
    energy = atomic.new_zeros(graph.n_graphs).index_add(0, graph.batch, atomic)
    if not energy.requires_grad:
        return energy.numpy(), np.zeros((graph.n_atoms, 3)), np.zeros((graph.n_graphs, 3, 3))
    (gradient,) = torch.autograd.grad(energy.sum(), leaf)
    forces = forces_from_edge_gradient(gradient, graph)
    return energy.detach().numpy(), forces.numpy(), strain_gradient(gradient, graph).numpy()


def make_batch(
    rows: NDArray[np.int64],
    datasets: Sequence[PreparedDataset],
    *,
    scales: Sequence[Scales],
    weights: Sequence[float],
    cutoff: float,
) -> tuple[Graph, torch.Tensor, Targets]:
    """Graph, head of each structure and labels for ``rows`` ``(B, 2)`` = (dataset, structure)."""
    pairs = rows.tolist()
    graph = assemble(
        [datasets[d].frames.structure(i) for d, i in pairs],
        [datasets[d].edges[i] for d, i in pairs],
        cutoff=cutoff,
    )
    energy = np.array([datasets[d].energy[i] for d, i in pairs])
    forces = np.concatenate(
        [datasets[d].forces[datasets[d].frames.offsets[i] : datasets[d].frames.offsets[i + 1]] for d, i in pairs]
    )
    strain = np.stack([datasets[d].strain[i] for d, i in pairs])
    weight = np.array([weights[d] for d, _ in pairs])
    atoms = np.bincount(graph.batch.numpy(), minlength=len(pairs)).astype(np.float64)

    def labelled(values: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
        known = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        return torch.from_numpy(np.nan_to_num(values)), torch.from_numpy(np.where(known, weight, 0.0))

    e, ew = labelled(energy, weight)
    f, fw = labelled(forces, weight[graph.batch.numpy()])
    w, ww = labelled(strain, weight)

    def of_head(values: list[float]) -> torch.Tensor:
        return torch.tensor([values[d] for d, _ in pairs], dtype=torch.float64)

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
        normalizers=torch.tensor([int((x > 0).sum()) for x in (ew, fw, ww)], dtype=torch.float64),
    )
    return graph, torch.from_numpy(rows[:, 0].copy()), targets
