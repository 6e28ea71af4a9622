"""Batches taken apart by head: what gradients of single tasks are made of."""

import torch
from torch import Tensor

from hydrapot.potential.graph import Graph
from hydrapot.training.step import Batch


def select_structures(graph: Graph, chosen: Tensor) -> Graph:
    """The structures `chosen` of a graph, in their order.

    Parameters
    ----------
    graph
        ``G`` structures.
    chosen
        bool ``(G,)``.
    """
    atoms = torch.nonzero(chosen[graph.batch]).flatten()
    number = torch.full((graph.n_atoms,), -1, dtype=torch.int64, device=atoms.device)
    number[atoms] = torch.arange(len(atoms), device=atoms.device)
    structure = torch.cumsum(chosen.to(torch.int64), 0) - 1
    rows, degree = (graph.n_atoms, graph.degree), graph.degree
    reverse = graph.reverse.view(rows)[atoms]
    senders = number[graph.edge_index[1].view(rows)[atoms]]
    receivers = torch.arange(len(atoms), device=atoms.device)[:, None].expand(len(atoms), degree)
    return Graph(
        numbers=graph.numbers[atoms],
        edge_index=torch.stack([receivers.reshape(-1), senders.reshape(-1)]),
        edge_vectors=graph.edge_vectors.view(*rows, 3)[atoms].reshape(-1, 3),
        edge_shifts=graph.edge_shifts.view(*rows, 3)[atoms].reshape(-1, 3),
        edge_mask=graph.edge_mask.view(rows)[atoms].reshape(-1),
        reverse=(number[reverse // max(degree, 1)] * degree + reverse % max(degree, 1)).reshape(-1),
        degree=degree,
        batch=structure[graph.batch[atoms]],
        cell=graph.cell[chosen],
        pbc=graph.pbc[chosen],
        charge=graph.charge[chosen],
        spin=graph.spin[chosen],
        kinds=graph.kinds,
        kind_index=graph.kind_index[atoms],
    )


def of_head(batch: Batch, head: int) -> Batch | None:
    """The structures of one head, with the normalizers of the whole batch; None if there is none.

    The losses of all heads, and their gradients, add up to those of the batch.
    """
    chosen = batch.head_index == head
    if not bool(chosen.any()):
        return None
    if bool(chosen.all()):
        return batch
    atoms = chosen[batch.graph.batch]
    per_atom, whole = {"forces", "force_weight"}, {"normalizers"}
    targets = batch.targets._replace(
        **{
            name: value[atoms] if name in per_atom else value[chosen]
            for name, value in batch.targets._asdict().items()
            if name not in whole
        }
    )
    return Batch(select_structures(batch.graph, chosen), batch.head_index[chosen], targets)
