"""Neighbor lists of many structures held compactly, and their assembly into padded batches.

A list costs as much to build as to store is cheap: 11 bytes an edge once senders, shifts and reverses are small
integers. It is built on first use and kept; only edge *vectors*, in float64, are computed anew for every batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hydrapot.potential.errors import InvalidStructureError
from hydrapot.potential.graph import Graph
from hydrapot.potential.neighbors import neighbor_list
from hydrapot.training.data.frames import DatasetError, Frames, Structure


class CompactEdges(NamedTuple):
    """Receiver-sorted edges of one structure of N atoms and E edges."""

    counts: NDArray[np.int32]  # (N,) neighbors of each atom
    senders: NDArray[np.int32]  # (E,)
    shifts: NDArray[np.int8]  # (E, 3)
    reverse: NDArray[np.int32]  # (E,) the same pair from the other side


def compact_edges(structure: Structure, *, cutoff: float) -> CompactEdges:
    """Build the list of one structure.

    Raises
    ------
    InvalidStructureError
        No neighbor list exists for the structure.
    """
    n_atoms = len(structure.numbers)
    edges = neighbor_list(structure.positions, structure.cell, structure.pbc, cutoff=cutoff)
    receivers, senders = edges.edge_index
    s = edges.shifts
    if len(s) and np.abs(s).max() > np.iinfo(np.int8).max:
        # Silently wrapping the integer would be wrong.
        raise InvalidStructureError("atoms lie more than 127 cells apart: wrap the positions into the cell first")
    forward = np.lexsort((s[:, 2], s[:, 1], s[:, 0], senders, receivers))
    backward = np.lexsort((-s[:, 2], -s[:, 1], -s[:, 0], receivers, senders))
    reverse = np.empty(len(senders), dtype=np.int32)
    reverse[forward] = backward
    return CompactEdges(
        np.bincount(receivers, minlength=n_atoms).astype(np.int32),
        senders.astype(np.int32),
        s.astype(np.int8),
        reverse,
    )


@contextmanager
def naming(frames: Frames, i: int, *, number: int) -> Iterator[None]:
    """Say which structure has no neighbor list: the `i`-th of `frames`, which is `number` of those that are read.

    Raises
    ------
    DatasetError
        In the place of InvalidStructureError. The hash is that of the split manifest, whatever is numbered how.
    """
    try:
        yield
    except InvalidStructureError as error:
        raise DatasetError(f"dataset {frames.name!r}, structure {number} (hash {frames.hashes[i]}): {error}") from error


class Ragged(NamedTuple):
    """Edges of several structures one after the other; atoms are numbered through."""

    counts: NDArray[np.int64]  # (N,) neighbors of each atom
    receivers: NDArray[np.int64]  # (E,)
    senders: NDArray[np.int64]  # (E,)
    shifts: NDArray[np.float64]  # (E, 3)
    reverse: NDArray[np.int64]  # (E,)
    vectors: NDArray[np.float64]  # (E, 3) Å, from receiver to sender


def ragged(structures: Sequence[Structure], edges: Sequence[CompactEdges]) -> Ragged:
    """Concatenate neighbor lists and compute the edge vectors."""
    n_atoms = np.array([len(s.numbers) for s in structures])
    first_atom = np.cumsum(n_atoms) - n_atoms
    n_edges = np.array([len(e.senders) for e in edges])
    counts = np.concatenate([e.counts for e in edges]).astype(np.int64)
    receivers = np.repeat(np.arange(int(n_atoms.sum())), counts)
    senders = np.concatenate([e.senders for e in edges]) + np.repeat(first_atom, n_edges)
    reverse = np.concatenate([e.reverse for e in edges]) + np.repeat(np.cumsum(n_edges) - n_edges, n_edges)
    shifts = np.concatenate([e.shifts for e in edges]).astype(np.float64)
    positions = np.concatenate([s.positions for s in structures])
    cells = np.stack([s.cell for s in structures])
    of_edge = np.repeat(np.arange(len(structures)), n_edges)
    # Written out: einsum rounds an edge differently at the end of an array than within it.
    a, b, c = (shifts[:, k, None] * cells[of_edge, k] for k in range(3))
    vectors = positions[senders] - positions[receivers] + (a + b + c)
    return Ragged(counts, receivers, senders, shifts, reverse, vectors)


def assemble(structures: Sequence[Structure], edges: Sequence[CompactEdges], *, cutoff: float) -> Graph:
    """Batch of structures as one :class:`~hydrapot.potential.graph.Graph`.

    Equal to building each graph and collating them; done in a few array operations because it runs once a step.
    """
    counts, receivers, senders, edge_shifts, reverse, vectors = ragged(structures, edges)
    total = len(counts)
    degree = max(int(counts.max(initial=0)), 1)
    first_edge = np.cumsum(counts) - counts
    slot = receivers * degree + np.arange(len(receivers)) - first_edge[receivers]
    size = total * degree
    all_receivers = np.repeat(np.arange(total), degree)
    padded_senders, padded_reverse = all_receivers.copy(), np.arange(size)
    padded_senders[slot], padded_reverse[slot] = senders, slot[reverse]
    padded_vectors = np.zeros((size, 3))
    padded_vectors[:, 0] = cutoff
    padded_vectors[slot] = vectors
    padded_shifts = np.zeros((size, 3))
    padded_shifts[slot] = edge_shifts
    mask = np.zeros(size, dtype=bool)
    mask[slot] = True

    batch = np.repeat(np.arange(len(structures)), [len(s.numbers) for s in structures])
    cells = np.stack([s.cell for s in structures])
    numbers = np.concatenate([s.numbers for s in structures]).astype(np.int64)
    charge = np.array([s.charge for s in structures], dtype=np.int64)
    spin = np.array([s.spin for s in structures], dtype=np.int64)
    kinds, kind_index = np.unique(np.stack([numbers, charge[batch], spin[batch]], axis=1), axis=0, return_inverse=True)
    return Graph(
        numbers=torch.from_numpy(numbers),
        edge_index=torch.from_numpy(np.stack([all_receivers, padded_senders])),
        edge_vectors=torch.from_numpy(padded_vectors),
        edge_shifts=torch.from_numpy(padded_shifts),
        edge_mask=torch.from_numpy(mask),
        reverse=torch.from_numpy(padded_reverse),
        degree=degree,
        batch=torch.from_numpy(batch),
        cell=torch.from_numpy(cells),
        pbc=torch.from_numpy(np.stack([s.pbc for s in structures])),
        charge=torch.from_numpy(charge),
        spin=torch.from_numpy(spin),
        kinds=torch.from_numpy(kinds),
        kind_index=torch.from_numpy(kind_index.reshape(-1)),
    )
