"""The native message sums and their derivatives as torch operators (:mod:`~hydrapot.potential.native.messages`).

==================  ==================================================================================================
operator            what it computes
==================  ==================================================================================================
``message_edges``   what the others need to know of each edge
``message_sum``     the sums s and V
``message_force``   gradients of ⟨γ, s⟩ + ⟨Γ, V⟩ with respect to context, vectors and edge vectors
``message_weight``  gradients of the same with respect to context, vectors and table of filters
``message_second``  the derivative of ``message_force``, along tangents of its results
==================  ==================================================================================================

All but the first begin with the arguments (handle, context, vectors, edge_vectors, table, records, cells, counts, senders,
reverse). `edge_vectors` itself is not read: what is needed of it is in the records; it is there for autograd. Equations:
``src/kernels/messages.hpp``.
"""

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from hydrapot.potential.native.library import MessagesArrays, check, library


def _call(function: str, handle: int, shape: tuple[int, int, int], arrays: Mapping[str, Tensor | None]) -> None:
    """Call a function of the library with contiguous tensors by name, for a shape of :func:`_shape`."""
    addresses = {k: None if t is None or t.numel() == 0 else t.data_ptr() for k, t in arrays.items()}
    request = MessagesArrays(n_atoms=shape[0], degree=shape[1], **addresses)
    check(getattr(library(), function)(handle, ctypes.byref(request)))


def _contiguous(**tensors: Tensor | None) -> dict[str, Tensor | None]:
    return {name: None if t is None else t.contiguous() for name, t in tensors.items()}


def _shape(context: Tensor, vectors: Tensor | None, senders: Tensor) -> tuple[int, int, int]:
    """Atoms, slots of each and channels."""
    n_atoms = context.shape[0]
    return n_atoms, senders.shape[0] // n_atoms if n_atoms else 0, context.shape[1] // (2 if vectors is None else 3)


def _like(tensor: Tensor | None, otherwise: Tensor) -> Tensor:
    """Room for the gradient of `tensor`; where there is none an empty tensor, since operators return tensors."""
    return otherwise.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)


@custom_op("hydrapot::message_edges", mutates_args=())
def message_edges(handle: int, edge_vectors: Tensor, n_atoms: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Records ``(E, …)``, cells int32 ``(E,)`` and counts int32 ``(N,)`` of edges ``(E, 3)`` Å, float64, in equal rows."""
    n_edges = edge_vectors.shape[0]
    records = edge_vectors.new_empty(n_edges, library().hydrapot_messages_record_width(handle), dtype=dtype)
    cells, counts = (torch.empty(n, dtype=torch.int32) for n in (n_edges, n_atoms))
    vectors = edge_vectors.contiguous()
    degree = n_edges // n_atoms if n_atoms else 0
    pointers = [None if t.numel() == 0 else t.data_ptr() for t in (vectors, records, cells, counts)]
    check(library().hydrapot_messages_describe(handle, n_atoms, degree, *pointers))
    return records, cells, counts


@message_edges.register_fake
def _(handle: int, edge_vectors: Tensor, n_atoms: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    width = library().hydrapot_messages_record_width(handle)
    n_edges = edge_vectors.shape[0]
    return (
        edge_vectors.new_empty(n_edges, width, dtype=dtype),
        edge_vectors.new_empty(n_edges, dtype=torch.int32),
        edge_vectors.new_empty(n_atoms, dtype=torch.int32),
    )


@custom_op("hydrapot::message_sum", mutates_args=())
def message_sum(
    handle: int,
    context: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,  # noqa: ARG001
    table: Tensor,
    records: Tensor,
    cells: Tensor,
    counts: Tensor,
    senders: Tensor,
    reverse: Tensor,
) -> tuple[Tensor, Tensor]:
    """Sums ``(N, F)`` and ``(N, 3, F)``."""
    n_atoms, _, channels = shape = _shape(context, vectors, senders)
    sums = context.new_empty(n_atoms, channels), context.new_empty(n_atoms, 3, channels)
    _call(
        "hydrapot_messages_sum",
        handle,
        shape,
        {
            **_contiguous(records=records, cells=cells, counts=counts, senders=senders, reverse=reverse),
            **_contiguous(table=table, context=context, vectors=vectors),
            "scalar_sum": sums[0],
            "vector_sum": sums[1],
        },
    )
    return sums


@message_sum.register_fake
def _(
    handle: int,  # noqa: ARG001
    context: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,  # noqa: ARG001
    table: Tensor,  # noqa: ARG001
    *edges: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    channels = context.shape[1] // (2 if vectors is None else 3)
    return context.new_empty(context.shape[0], channels), context.new_empty(context.shape[0], 3, channels)


@custom_op("hydrapot::message_force", mutates_args=())
def message_force(
    handle: int,
    context: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,
    table: Tensor,
    records: Tensor,
    cells: Tensor,
    counts: Tensor,
    senders: Tensor,
    reverse: Tensor,
    scalar_gradient: Tensor,
    vector_gradient: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of context, vectors (empty if there are none) and edge vectors."""
    shape = _shape(context, vectors, senders)
    d_context, d_vectors, d_edges = _like(context, context), _like(vectors, context), _like(edge_vectors, context)
    _call(
        "hydrapot_messages_gradient",
        handle,
        shape,
        {
            **_contiguous(records=records, cells=cells, counts=counts, senders=senders, reverse=reverse),
            **_contiguous(table=table, context=context, vectors=vectors),
            **_contiguous(scalar_gradient=scalar_gradient, vector_gradient=vector_gradient),
            "context_out": d_context,
            "vectors_out": d_vectors,
            "edges_out": d_edges,
        },
    )
    return d_context, d_vectors, d_edges


@message_force.register_fake
def _(
    handle: int,  # noqa: ARG001
    context: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,
    table: Tensor,  # noqa: ARG001
    *rest: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(context, context), _like(vectors, context), _like(edge_vectors, context)


@custom_op("hydrapot::message_weight", mutates_args=())
def message_weight(
    handle: int,
    context: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,  # noqa: ARG001
    table: Tensor,
    records: Tensor,
    cells: Tensor,
    counts: Tensor,
    senders: Tensor,
    reverse: Tensor,
    scalar_gradient: Tensor,
    vector_gradient: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of context, vectors (empty if there are none) and table."""
    shape = _shape(context, vectors, senders)
    d_context, d_vectors, d_table = _like(context, context), _like(vectors, context), _like(table, context)
    _call(
        "hydrapot_messages_gradient",
        handle,
        shape,
        {
            **_contiguous(records=records, cells=cells, counts=counts, senders=senders, reverse=reverse),
            **_contiguous(table=table, context=context, vectors=vectors),
            **_contiguous(scalar_gradient=scalar_gradient, vector_gradient=vector_gradient),
            "context_out": d_context,
            "vectors_out": d_vectors,
            "table_out": d_table,
        },
    )
    return d_context, d_vectors, d_table


@message_weight.register_fake
def _(
    handle: int,  # noqa: ARG001
    context: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,  # noqa: ARG001
    table: Tensor,
    *rest: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(context, context), _like(vectors, context), _like(table, context)


@custom_op("hydrapot::message_second", mutates_args=())
def message_second(
    handle: int,
    context: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,  # noqa: ARG001
    table: Tensor,
    records: Tensor,
    cells: Tensor,
    counts: Tensor,
    senders: Tensor,
    reverse: Tensor,
    scalar_gradient: Tensor,
    vector_gradient: Tensor,
    context_tangent: Tensor | None,
    vector_tangent: Tensor | None,
    edge_tangent: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of context, vectors, table, `scalar_gradient` and `vector_gradient`, of the results of ``message_force``."""
    shape = _shape(context, vectors, senders)
    d_context, d_vectors, d_table = _like(context, context), _like(vectors, context), _like(table, context)
    sums = _like(scalar_gradient, context), _like(vector_gradient, context)
    _call(
        "hydrapot_messages_second",
        handle,
        shape,
        {
            **_contiguous(records=records, cells=cells, counts=counts, senders=senders, reverse=reverse),
            **_contiguous(table=table, context=context, vectors=vectors),
            **_contiguous(scalar_gradient=scalar_gradient, vector_gradient=vector_gradient),
            **_contiguous(
                context_tangent=context_tangent, vector_tangent=vector_tangent, edge_tangent=edge_tangent.double()
            ),
            "context_out": d_context,
            "vectors_out": d_vectors,
            "table_out": d_table,
            "scalar_sum": sums[0],
            "vector_sum": sums[1],
        },
    )
    return d_context, d_vectors, d_table, *sums


@message_second.register_fake
def _(
    handle: int,  # noqa: ARG001
    context: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,  # noqa: ARG001
    table: Tensor,
    records: Tensor,  # noqa: ARG001
    cells: Tensor,  # noqa: ARG001
    counts: Tensor,  # noqa: ARG001
    senders: Tensor,  # noqa: ARG001
    reverse: Tensor,  # noqa: ARG001
    scalar_gradient: Tensor,
    vector_gradient: Tensor,
    *tangents: Tensor | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = (context, vectors, table, scalar_gradient, vector_gradient)
    d_context, d_vectors, d_table, scalars, vectors_ = (_like(x, context) for x in inputs)
    return d_context, d_vectors, d_table, scalars, vectors_


# ---- derivatives -----------------------------------------------------------------------------------------------------
#
# Backward functions cannot know what will be asked of them, so they call one operator for each kind of gradient; a traced
# graph drops those whose results nobody uses, and so does nearly all of the time here: `torch.is_grad_enabled()`
# tells whether forces are made (create_graph) or gradients of weights.


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001 - torch's signature
    handle, *tensors = inputs
    ctx.handle = handle
    ctx.save_for_backward(*tensors)


def _sum_backward(ctx: Any, scalar_gradient: Tensor, vector_gradient: Tensor) -> tuple[Tensor | None, ...]:
    arguments = ctx.saved_tensors
    without = arguments[1] is None
    gradients = (scalar_gradient, vector_gradient)
    d_context, d_vectors, d_edges = message_force(ctx.handle, *arguments, *gradients)
    of_weights = message_weight(ctx.handle, *arguments, *gradients)
    if not torch.is_grad_enabled():  # the same numbers, from the operator that is called anyway
        d_context, d_vectors = of_weights[:2]
    return (None, d_context, None if without else d_vectors, d_edges, of_weights[2], *[None] * 5)


def _force_backward(
    ctx: Any, context_tangent: Tensor, vector_tangent: Tensor, edge_tangent: Tensor
) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError("native message sums are differentiable twice: use DenseMessageSum for more")
    *arguments, scalar_gradient, vector_gradient = ctx.saved_tensors
    without = arguments[1] is None
    d_context, d_vectors, d_table, *d_gradients = message_second(
        *(ctx.handle, *arguments, scalar_gradient, vector_gradient),
        *(context_tangent, None if without else vector_tangent, edge_tangent),
    )
    # Curvatures with respect to edges are not computed; who uses them nevertheless shall see it.
    unknown = torch.full_like(arguments[2], torch.nan)
    return (None, d_context, None if without else d_vectors, unknown, d_table, *[None] * 5, *d_gradients)


def _weight_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ARG001
    raise RuntimeError("gradients of weights of native message sums cannot be differentiated: use DenseMessageSum")


message_sum.register_autograd(_sum_backward, setup_context=_save)
message_force.register_autograd(_force_backward, setup_context=_save)
message_weight.register_autograd(_weight_backward, setup_context=_save)
