"""What remains of the labels for the network: less reference energies and short-range repulsion, in float64.

Neither holds a trainable parameter, so their share of energy, forces and stress is taken off the labels, instead of being
computed in every step. Every number depends on its own structure alone, to the last bit: whether a structure is met in a
file, in memory or in a batch with others makes no difference.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydrapot.potential.references import ReferenceEnergies
from hydrapot.training.data.compact import CompactEdges, ragged
from hydrapot.training.data.frames import Frames

#: Structures whose compositions are counted at a time.
_CHUNK = 8_192


class PairRepulsion(Protocol):
    """Short-range repulsion of a potential, pair by pair (:class:`~hydrapot.potential.repulsion.ZBLRepulsion`)."""

    def ranges(self, numbers: Tensor, edge_index: Tensor) -> Tensor:
        """Distance from which on each pair feels nothing: ``(E,)`` Å."""

    def pair_energies(self, numbers: Tensor, edge_index: Tensor, distances: Tensor) -> Tensor:
        """Half of the energy of each directed pair: ``(E,)`` eV."""


class Repulsion(NamedTuple):
    """Repulsion of ``n`` structures."""

    energy: NDArray[np.float64]  # (n,) eV
    forces: NDArray[np.float64]  # (atoms, 3) eV/Å
    strain: NDArray[np.float64]  # (n, 3, 3) eV: ∂E/∂strain


class Labels(NamedTuple):
    """Labels of ``n`` structures less references and repulsion; NaN where there is no label."""

    energy: NDArray[np.float64]  # (n,) eV
    forces: NDArray[np.float64]  # (atoms, 3) eV/Å
    strain: NDArray[np.float64]  # (n, 3, 3) eV: stress · volume
    reference_energy: NDArray[np.float64]  # (n,) eV
    repulsion: Repulsion


def interaction_labels(
    frames: Frames, edges: Sequence[CompactEdges], *, references: ReferenceEnergies, repulsion: PairRepulsion
) -> Labels:
    """Take references and repulsion off the labels of `frames`.

    Parameters
    ----------
    frames
        ``n`` structures.
    edges
        Neighbor list of each, with a cutoff that no pair's repulsion exceeds.
    references
        Reference energies of the dataset's head.
    repulsion
        Of the potential.
    """
    pushed = repulsive_part(frames, edges, repulsion=repulsion)
    reference = reference_energies(frames, references)
    volume = np.abs(np.linalg.det(frames.cells))
    return Labels(
        energy=frames.energy - reference - pushed.energy,
        forces=frames.forces - pushed.forces,
        strain=frames.stress * volume[:, None, None] - pushed.strain,
        reference_energy=reference,
        repulsion=pushed,
    )


def reference_energies(frames: Frames, references: ReferenceEnergies) -> NDArray[np.float64]:
    """Summed reference energies of each structure, ``(n,)`` eV; elements without one count zero."""
    values = np.nan_to_num(references.values)
    energies = np.zeros(len(frames))
    for start in range(0, len(frames), _CHUNK):
        some = frames.subset(np.arange(start, min(start + _CHUNK, len(frames))))
        # Summed by row: a matrix product adds in an order that depends on the number of rows.
        energies[start : start + len(some)] = (some.compositions() * values).sum(axis=1)
    return energies


def repulsive_part(frames: Frames, edges: Sequence[CompactEdges], *, repulsion: PairRepulsion) -> Repulsion:
    """Energy, forces and strain gradient of the repulsion; see :func:`interaction_labels`."""
    n, atoms = len(frames), len(frames.numbers)
    nothing = Repulsion(np.zeros(n), np.zeros((atoms, 3)), np.zeros((n, 3, 3)))
    if not n:
        return nothing
    pairs = ragged([frames.structure(i) for i in range(n)], edges)
    distances = np.sqrt((pairs.vectors * pairs.vectors).sum(axis=1))
    numbers = torch.from_numpy(frames.numbers.astype(np.int64))
    index = torch.from_numpy(np.stack([pairs.receivers, pairs.senders]))
    near = np.flatnonzero(distances < repulsion.ranges(numbers, index).numpy())
    if not len(near):
        return nothing
    leaf = torch.from_numpy(distances[near]).requires_grad_()
    energies = repulsion.pair_energies(numbers, index[:, torch.from_numpy(near)], leaf)
    (slope,) = torch.autograd.grad(energies.sum(), leaf)
    receivers, senders, vectors = pairs.receivers[near], pairs.senders[near], pairs.vectors[near]
    structure = np.repeat(np.arange(n), frames.counts)[receivers]
    gradient = slope.numpy()[:, None] * vectors / distances[near, None]

    def total(values: NDArray[np.float64], places: NDArray[np.int64], size: int) -> NDArray[np.float64]:
        # Adds one after the other in the order of the pairs, which is that of the structure's own list.
        return np.bincount(places, values, minlength=size).astype(np.float64, copy=False)

    forces = [total(g, receivers, atoms) - total(g, senders, atoms) for g in gradient.T]
    strain = np.zeros((n, 3, 3))
    for a in range(3):
        for b in range(a, 3):
            product = 0.5 * (gradient[:, a] * vectors[:, b] + gradient[:, b] * vectors[:, a])
            strain[:, a, b] = strain[:, b, a] = total(product, structure, n)
    return Repulsion(total(energies.detach().numpy(), structure, n), np.stack(forces, axis=1), strain)
