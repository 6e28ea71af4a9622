"""Gather and sum along edges, each the other's derivative, without atomics.

With edges in equal rows per receiver (:mod:`hydrapot.potential.graph`) three linear maps are all that a message-passing
network needs, and the set is closed under differentiation, so second derivatives stay fast too:

=============================  ==============================  ======================
map                            what it does                    its transpose
=============================  ==============================  ======================
``sum_edges``    S, E → N      sum over an atom's row          R, repeat along the row
``swap_edges``   P, E → E      value of the reverse edge       P (an involution)
``gather``       G, N → E      value of the sender, ``P R``    ``S P``
=============================  ==============================  ======================
"""

from typing import Any

import torch
from torch import Tensor

from hydrapot.potential.graph import Graph


def _sum_rows(values: Tensor, degree: int) -> Tensor:
    # The number of rows is spelled out: −1 is ambiguous for an empty graph.
    return values.view(values.shape[0] // degree, degree, *values.shape[1:]).sum(dim=1)


def sum_edges(values: Tensor, graph: Graph) -> Tensor:
    """Sum over the edges of each receiver: ``(E, …)`` → ``(N, …)``."""
    return _sum_rows(values, graph.degree)


def swap_edges(values: Tensor, graph: Graph) -> Tensor:
    """The value that the same pair carries in the other direction: ``(E, …)`` → ``(E, …)``."""
    return _Swap.apply(values, graph.reverse)  # type: ignore[no-any-return, no-untyped-call]


def gather(values: Tensor, graph: Graph) -> Tensor:
    """The sender's value on each edge: ``(N, …)`` → ``(E, …)``."""
    return _Gather.apply(values, graph.edge_index[1], graph.reverse, graph.degree)  # type: ignore[no-any-return, no-untyped-call]


def spread_kinds(values: Tensor, graph: Graph) -> Tensor:
    """Each atom's row of a table over atom kinds: ``(K, …)`` → ``(N, …)``.

    The transpose is a product with the 0/1 membership matrix rather than a scatter: there are few kinds and many atoms.
    """
    return _Spread.apply(values, graph.kind_index)  # type: ignore[no-any-return, no-untyped-call]


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, kind_index: Tensor) -> Tensor:
        ctx.save_for_backward(kind_index)
        ctx.n_kinds = values.shape[0]
        return values.index_select(0, kind_index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kind_index,) = ctx.saved_tensors
        kinds = torch.arange(ctx.n_kinds, device=gradient.device)
        members = (kinds[:, None] == kind_index[None, :]).to(gradient.dtype)
        return (members @ gradient.reshape(gradient.shape[0], -1)).view(ctx.n_kinds, *gradient.shape[1:]), None


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, reverse: Tensor) -> Tensor:
        ctx.save_for_backward(reverse)
        return values.index_select(0, reverse)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (reverse,) = ctx.saved_tensors
        return _Swap.apply(gradient, reverse), None  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, senders: Tensor, reverse: Tensor, degree: int) -> Tensor:
        ctx.save_for_backward(senders, reverse)
        ctx.degree = degree
        return values.index_select(0, senders)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        _, reverse = ctx.saved_tensors
        swapped = _Swap.apply(gradient, reverse)  # type: ignore[no-untyped-call]
        return _sum_rows(swapped, ctx.degree), None, None, None
