"""The one structure type that an encoder sees: plain tensors, batched by concatenation.

Edges are sorted by receiver and laid out in equal rows, `degree` slots for every atom; slots beyond an atom's neighbors
are filled with edges of length *cutoff*, where the envelope and its derivatives vanish, so they contribute exactly
zero. Sums over neighbors are then dense reductions, and, since every pair is listed both ways, the gradient of a
gather is a gather again (:mod:`hydrapot.potential.edges`): no atomics, the same bits on every run, CPU or GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hydrapot.potential.errors import InvalidStructureError, UnknownElementError, UnsupportedChargeError
from hydrapot.potential.neighbors import NeighborList, neighbor_list

MAX_ATOMIC_NUMBER = 118
#: Spin multiplicity 0 stands for "not stated".
SPIN_ABSENT = 0


@dataclass(frozen=True)
class Graph:
    """Structures as tensors. ``N`` atoms, ``E = N · degree`` edge slots, ``G`` structures, ``K`` atom kinds.

    Attributes
    ----------
    numbers
        int64 ``(N,)`` atomic numbers.
    edge_index
        int64 ``(2, E)``: receiver, sender. Row 0 is ``0…0 1…1 …``, each value `degree` times.
    edge_vectors
        ``(E, 3)`` Å, float64: ``r_ij = x_j + shift·cell − x_i``, from the receiver to the sender.
    edge_shifts
        ``(E, 3)`` float64, whole numbers: lattice shift of the sender; 0 in padding slots.
    edge_mask
        bool ``(E,)``: true where the slot holds a real edge.
    reverse
        int64 ``(E,)``: slot of the same pair seen from the other side; a padding slot is its own reverse.
    degree
        Slots per atom.
    batch
        int64 ``(N,)``: structure of each atom.
    cell, pbc
        ``(G, 3, 3)`` Å float64 and bool ``(G, 3)``.
    charge, spin
        int64 ``(G,)``: total charge in e; spin multiplicity 2S+1, 0 when not stated.
    kinds, kind_index
        int64 ``(K, 3)`` distinct (atomic number, charge, spin), and int64 ``(N,)`` the row of each atom: what an atom
        is when it has no neighbors.
    """

    numbers: Tensor
    edge_index: Tensor
    edge_vectors: Tensor
    edge_shifts: Tensor
    edge_mask: Tensor
    reverse: Tensor
    degree: int
    batch: Tensor
    cell: Tensor
    pbc: Tensor
    charge: Tensor
    spin: Tensor
    kinds: Tensor
    kind_index: Tensor

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all structures."""
        return self.numbers.shape[0]

    @property
    def n_graphs(self) -> int:
        """Number of structures."""
        return self.cell.shape[0]

    def to(self, device: torch.device | str) -> "Graph":
        """The same graph on another device (dtypes are left alone)."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: value.to(device) for name, value in tensors.items()})

    def with_edge_vectors(self, edge_vectors: Tensor) -> "Graph":
        """The same graph with other edge vectors, for derivatives and for molecular dynamics with a kept list."""
        return replace(self, edge_vectors=edge_vectors)


def _atom_kinds(numbers: NDArray[np.int64], charge: int, spin: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    elements, index = np.unique(numbers, return_inverse=True)
    kinds = np.stack([elements, np.full_like(elements, charge), np.full_like(elements, spin)], axis=1)
    return kinds.reshape(-1, 3), index.reshape(-1)


def pad_edges(
    edges: NeighborList, n_atoms: int, *, degree: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], int]:
    """Lay a receiver-sorted list out in rows of equal length and find each edge's reverse.

    Returns
    -------
    edge_index, shifts, mask, reverse, degree
        As in :class:`Graph`; ``(2, E)``, ``(E, 3)``, ``(E,)``, ``(E,)`` and the row length.
    """
    receivers, senders = edges.edge_index
    counts = np.bincount(receivers, minlength=n_atoms) if n_atoms else np.zeros(0, dtype=np.int64)
    needed = int(counts.max()) if n_atoms else 0
    degree = max(needed, 1) if degree is None else degree
    if degree < needed:
        raise ValueError(f"degree {degree} is smaller than the largest number of neighbors {needed}")
    starts = np.cumsum(counts) - counts
    slot = receivers * degree + (np.arange(len(receivers)) - starts[receivers])

    total = n_atoms * degree
    padded_receivers = np.repeat(np.arange(n_atoms), degree)
    edge_index = np.stack([padded_receivers, padded_receivers.copy()])
    edge_index[1, slot] = senders
    shifts = np.zeros((total, 3), dtype=np.int64)
    shifts[slot] = edges.shifts
    mask = np.zeros(total, dtype=bool)
    mask[slot] = True

    # (i, j, S) and (j, i, −S) are the two sides of one pair: sorting both the same way lines them up.
    s = edges.shifts
    forward = np.lexsort((s[:, 2], s[:, 1], s[:, 0], senders, receivers))
    backward = np.lexsort((-s[:, 2], -s[:, 1], -s[:, 0], receivers, senders))
    reverse = np.arange(total)
    reverse[slot[forward]] = slot[backward]
    return edge_index, shifts, mask, reverse, degree


def edge_vectors(
    positions: Tensor, cell: Tensor, edge_index: Tensor, edge_shifts: Tensor, edge_mask: Tensor, *, cutoff: float
) -> Tensor:
    """Vectors from receiver to sender, ``(E, 3)`` Å, float64; padding slots get a vector of length `cutoff`.

    Parameters
    ----------
    positions
        ``(N, 3)`` Å.
    cell
        ``(3, 3)`` Å, for one structure.
    """
    vectors = positions[edge_index[1]] - positions[edge_index[0]] + edge_shifts @ cell
    filler = vectors.new_tensor([cutoff, 0.0, 0.0])
    return torch.where(edge_mask[:, None], vectors, filler)


def build_graph_from_arrays(
    numbers: ArrayLike,
    positions: ArrayLike,
    cell: ArrayLike,
    pbc: ArrayLike,
    *,
    cutoff: float,
    charge: int = 0,
    spin: int | None = None,
) -> Graph:
    """Graph of one structure.

    Parameters
    ----------
    numbers, positions, cell, pbc
        ``(N,)``, ``(N, 3)`` Å, ``(3, 3)`` Å (rows), ``(3,)``.
    cutoff
        Å.
    charge
        Total charge in e, a whole number.
    spin
        Multiplicity 2S+1, or None when not stated.

    Raises
    ------
    InvalidStructureError, UnknownElementError, UnsupportedChargeError
    """
    numbers_ = np.asarray(numbers, dtype=np.int64)
    positions_ = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    cell_ = np.asarray(cell, dtype=np.float64).reshape(3, 3)
    pbc_ = np.asarray(pbc, dtype=bool).reshape(3)
    if len(numbers_) != len(positions_):
        raise InvalidStructureError(f"{len(numbers_)} atomic numbers but {len(positions_)} positions")
    outside = (numbers_ < 1) | (numbers_ > MAX_ATOMIC_NUMBER)
    if outside.any():
        z = int(numbers_[outside][0])
        name = "X (a dummy atom)" if z == 0 else f"atomic number {z}"
        raise UnknownElementError(f"{name} is not an element from {chemical_symbols[1]} to Z = {MAX_ATOMIC_NUMBER}")
    if charge != 0 and pbc_.any():
        raise UnsupportedChargeError(
            f"charge {charge:+d} in a periodic cell has no defined energy: use charge 0, or a cell without periodicity"
        )
    neighbors = neighbor_list(positions_, cell_, pbc_, cutoff=cutoff)
    edge_index, shifts, mask, reverse, degree = pad_edges(neighbors, len(numbers_))
    multiplicity = SPIN_ABSENT if spin is None else spin
    kinds, kind_index = _atom_kinds(numbers_, charge, multiplicity)
    tensors = {
        "edge_index": torch.from_numpy(edge_index),
        "edge_shifts": torch.from_numpy(shifts.astype(np.float64)),
        "edge_mask": torch.from_numpy(mask),
    }
    cell_tensor = torch.from_numpy(cell_.copy())
    return Graph(
        numbers=torch.from_numpy(numbers_.copy()),
        edge_vectors=edge_vectors(torch.from_numpy(positions_.copy()), cell_tensor, cutoff=cutoff, **tensors),
        reverse=torch.from_numpy(reverse),
        degree=degree,
        batch=torch.zeros(len(numbers_), dtype=torch.int64),
        cell=cell_tensor[None],
        pbc=torch.from_numpy(pbc_.copy())[None],
        charge=torch.tensor([charge]),
        spin=torch.tensor([multiplicity]),
        kinds=torch.from_numpy(kinds),
        kind_index=torch.from_numpy(kind_index),
        **tensors,
    )


def charge_and_spin(atoms: Atoms) -> tuple[int, int | None]:
    """Total charge (e) and multiplicity from ``atoms.info["charge"]`` and ``["spin"]``; 0 and None when absent.

    Raises
    ------
    UnsupportedChargeError
        If either is not a whole number, or the multiplicity is smaller than 1.
    """
    info = atoms.info
    if "charge" not in info and "spin" not in info:
        return 0, None
    charge = _whole(info.get("charge", 0))
    spin = info.get("spin")
    multiplicity = None if spin is None else _whole(spin)
    if charge is None:
        raise UnsupportedChargeError(
            f'info["charge"] = {atoms.info["charge"]!r} is not a whole number of elementary charges'
        )
    if spin is not None and (multiplicity is None or multiplicity < 1):
        raise UnsupportedChargeError(f'info["spin"] = {spin!r} is not a multiplicity 2S+1 (1, 2, 3, …)')
    return charge, multiplicity


def _whole(value: object) -> int | None:
    """`value` as an integer, None if it is not a whole number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def build_graph(atoms: Atoms, *, cutoff: float) -> Graph:
    """Graph of an ASE structure; charge and spin are taken from ``atoms.info`` (:func:`charge_and_spin`)."""
    charge, spin = charge_and_spin(atoms)
    return build_graph_from_arrays(
        atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, cutoff=cutoff, charge=charge, spin=spin
    )


def collate(graphs: Sequence[Graph], *, cutoff: float) -> Graph:
    """Concatenate graphs; rows of edges are padded to the longest.

    Parameters
    ----------
    graphs
        At least one.
    cutoff
        Å, the length given to new padding edges.
    """
    if len(graphs) == 1:
        return graphs[0]
    degree = max(g.degree for g in graphs)
    atoms = np.cumsum([0, *[g.n_atoms for g in graphs]])
    n_edges = int(atoms[-1]) * degree
    receivers = torch.arange(int(atoms[-1])).repeat_interleave(degree)
    senders = receivers.clone()
    reverse = torch.arange(n_edges)
    vectors = torch.zeros(n_edges, 3, dtype=torch.float64)
    vectors[:, 0] = cutoff
    shifts = torch.zeros(n_edges, 3, dtype=torch.float64)
    mask = torch.zeros(n_edges, dtype=torch.bool)
    for graph, first in zip(graphs, atoms[:-1].tolist(), strict=True):
        rows = slice(first * degree, (first + graph.n_atoms) * degree)

        def put(target: Tensor, source: Tensor, graph: Graph = graph, rows: slice = rows) -> None:
            view = target[rows].view(graph.n_atoms, degree, *target.shape[1:])
            view[:, : graph.degree] = source.view(graph.n_atoms, graph.degree, *source.shape[1:])

        put(senders, graph.edge_index[1] + first)
        old = graph.reverse
        put(reverse, (old // max(graph.degree, 1) + first) * degree + old % max(graph.degree, 1))
        put(vectors, graph.edge_vectors)
        put(shifts, graph.edge_shifts)
        put(mask, graph.edge_mask)
    kinds, kind_index = torch.unique(torch.cat([g.kinds[g.kind_index] for g in graphs]), dim=0, return_inverse=True)
    first_graph = np.cumsum([0, *[g.n_graphs for g in graphs[:-1]]]).tolist()
    return Graph(
        numbers=torch.cat([g.numbers for g in graphs]),
        edge_index=torch.stack([receivers, senders]),
        edge_vectors=vectors,
        edge_shifts=shifts,
        edge_mask=mask,
        reverse=reverse,
        degree=degree,
        batch=torch.cat([g.batch + k for g, k in zip(graphs, first_graph, strict=True)]),
        cell=torch.cat([g.cell for g in graphs]),
        pbc=torch.cat([g.pbc for g in graphs]),
        charge=torch.cat([g.charge for g in graphs]),
        spin=torch.cat([g.spin for g in graphs]),
        kinds=kinds,
        kind_index=kind_index,
    )
