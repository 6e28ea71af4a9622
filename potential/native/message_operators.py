"""The native message sums and their derivatives as torch operators (:mod:`~hydrapot.potential.native.messages`).

=====================  ===============================================================================================
operator               what it computes
=====================  ===============================================================================================
``message_edges``      what the others need to know of each edge
``message_sum``        the sums s and V
``message_force``      gradients of ⟨γ, s⟩ + ⟨Γ, V⟩ with respect to context, vectors and edge vectors
``message_weight``     gradients of the same with respect to context, vectors and table of filters
``message_second``     the derivative of ``message_force``, along tangents of its results
``precise_product``    a matrix product in the precision of its factors, also under autocast
=====================  ===============================================================================================

All message operators begin with the number of their sums (:class:`Sums`), and all but the first go on with (context, vectors,
edge_vectors, table, records, cells, counts, senders, reverse). `edge_vectors` itself is not read: what is needed of it is in the
records; it is there for autograd. Equations: ``src/kernels/messages.hpp``.
"""

import ctypes
import itertools
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from hydrapot.potential.native.library import MessagesArrays, MessagesOptions, check, library

BITS = {torch.float32: 32, torch.float64: 64}

#: Operators take numbers, not objects. The smallest free one, so that compiled code finds itself in torch's cache again.
_SUMS: "weakref.WeakValueDictionary[int, Sums]" = weakref.WeakValueDictionary()


class Sums:
    """Threads and memory of message sums in the library, known to operators by a number while anybody holds it.

    Parameters
    ----------
    dtype
        float32 or float64.
    options
        Others of ``hydrapot_messages_options``.

    Raises
    ------
    ConfigurationError
        Options that make no sense, or that this processor cannot do.
    """

    def __init__(self, dtype: torch.dtype, **options: Any) -> None:
        self.dtype, self.channels = dtype, int(options["channels"])
        self.handle = ctypes.c_void_p()
        request = MessagesOptions(precision=BITS[dtype], **options)
        check(library().hydrapot_messages_create(ctypes.byref(request), ctypes.byref(self.handle)))
        weakref.finalize(self, library().hydrapot_messages_destroy, self.handle)
        self.table_rows: int = library().hydrapot_messages_table_rows(self.handle)
        self.record_width: int = library().hydrapot_messages_record_width(self.handle)
        self.number = next(n for n in itertools.count() if n not in _SUMS)
        _SUMS[self.number] = self

    def call(self, function: str, shape: tuple[int, int, int], **arrays: Tensor | None) -> None:
        """Call a function of the library with tensors by name.

        Parameters
        ----------
        shape
            Atoms, slots of each, parts of the context.

        Raises
        ------
        ValueError
            A tensor of another shape, dtype or device than the library will read it as.
        """
        n_atoms, degree, parts = shape
        expected = self._expected(n_atoms, degree, parts)
        addresses = {}
        for name, tensor in arrays.items():
            size, dtype = expected[name]
            if tensor is None or (name in {"vectors", "vectors_out"} and parts == 2):
                continue
            if tuple(tensor.shape) != size or tensor.dtype != dtype or tensor.device.type != "cpu":
                found = f"{tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
                raise ValueError(f"{function}: {name} is {found}, not {dtype} {size} on the CPU")
            if not tensor.is_contiguous():
                raise ValueError(f"{function}: {name} is not contiguous")
            addresses[name] = tensor.data_ptr() or None
        request = MessagesArrays(n_atoms=n_atoms, degree=degree, parts=parts, **addresses)
        check(getattr(library(), function)(self.handle, ctypes.byref(request)))

    def _expected(self, n_atoms: int, degree: int, parts: int) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every array."""
        channels, edges, real = self.channels, n_atoms * degree, self.dtype
        scalar, vector = ((n_atoms, channels), real), ((n_atoms, 3, channels), real)
        context, table = ((n_atoms, parts * channels), real), ((self.table_rows, parts * channels), real)
        return {
            "records": ((edges, self.record_width), real),
            "cells": ((edges,), torch.int32),
            "counts": ((n_atoms,), torch.int32),
            "senders": ((edges,), torch.int64),
            "reverse": ((edges,), torch.int64),
            **dict.fromkeys(("table", "table_out"), table),
            **dict.fromkeys(("context", "context_tangent", "context_out"), context),
            **dict.fromkeys(("scalar_gradient", "scalar_sum"), scalar),
            **dict.fromkeys(("vectors", "vector_gradient", "vector_tangent", "vector_sum", "vectors_out"), vector),
            **dict.fromkeys(("edge_tangent", "edges_out"), ((edges, 3), torch.float64)),
        }


def _sums(number: int) -> Sums:
    found = _SUMS.get(number)
    if found is None:
        raise RuntimeError("these native message sums are gone: keep the object that made them")
    return found


def _shape(context: Tensor, vectors: Tensor | None, senders: Tensor) -> tuple[int, int, int]:
    """Atoms, slots of each, parts of the context."""
    n_atoms = context.shape[0]
    return n_atoms, senders.shape[0] // n_atoms if n_atoms else 0, 2 if vectors is None else 3


def _contiguous(**tensors: Tensor | None) -> dict[str, Tensor | None]:
    return {name: None if t is None else t.contiguous() for name, t in tensors.items()}


def _like(tensor: Tensor | None, otherwise: Tensor) -> Tensor:
    """Room for the gradient of `tensor`; where there is none an empty tensor, since operators return tensors."""
    return otherwise.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)


@custom_op("hydrapot::message_edges", mutates_args=())
def message_edges(sums: int, edge_vectors: Tensor, n_atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    """Records ``(E, …)``, cells int32 ``(E,)`` and counts int32 ``(N,)`` of edges ``(E, 3)`` Å, float64, in equal rows."""
    own, n_edges = _sums(sums), edge_vectors.shape[0]
    records = edge_vectors.new_empty(n_edges, own.record_width, dtype=own.dtype)
    cells, counts = (torch.empty(n, dtype=torch.int32) for n in (n_edges, n_atoms))
    vectors = edge_vectors.contiguous()
    if vectors.dtype != torch.float64 or vectors.device.type != "cpu" or (n_atoms and n_edges % n_atoms):
        raise ValueError(
            f"edge vectors are {vectors.dtype} {tuple(vectors.shape)} on {vectors.device}: not those of a graph"
        )
    degree = n_edges // n_atoms if n_atoms else 0
    pointers = [t.data_ptr() or None for t in (vectors, records, cells, counts)]
    check(library().hydrapot_messages_describe(own.handle, n_atoms, degree, *pointers))
    return records, cells, counts


@message_edges.register_fake
def _(sums: int, edge_vectors: Tensor, n_atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    own, n_edges = _sums(sums), edge_vectors.shape[0]
    return (
        edge_vectors.new_empty(n_edges, own.record_width, dtype=own.dtype),
        edge_vectors.new_empty(n_edges, dtype=torch.int32),
        edge_vectors.new_empty(n_atoms, dtype=torch.int32),
    )


@custom_op("hydrapot::message_sum", mutates_args=())
def message_sum(
    sums: int,
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
    own, n_atoms = _sums(sums), context.shape[0]
    scalar_sum, vector_sum = context.new_empty(n_atoms, own.channels), context.new_empty(n_atoms, 3, own.channels)
    own.call(
        "hydrapot_messages_sum",
        _shape(context, vectors, senders),
        **_contiguous(records=records, cells=cells, counts=counts, senders=senders, reverse=reverse),
        **_contiguous(table=table, context=context, vectors=vectors),
        scalar_sum=scalar_sum,
        vector_sum=vector_sum,
    )
    return scalar_sum, vector_sum


@message_sum.register_fake
def _(sums: int, context: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    n_atoms, channels = context.shape[0], _sums(sums).channels
    return context.new_empty(n_atoms, channels), context.new_empty(n_atoms, 3, channels)


def _gradient(
    sums: int,
    context: Tensor,
    vectors: Tensor | None,
    tensors: Mapping[str, Tensor],
    **out: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of context and vectors, and of what there is room for in `out`."""
    d_context, d_vectors = _like(context, context), _like(vectors, context)
    _sums(sums).call(
        "hydrapot_messages_gradient",
        _shape(context, vectors, tensors["senders"]),
        **_contiguous(context=context, vectors=vectors, **tensors),
        context_out=d_context,
        vectors_out=d_vectors,
        **out,
    )
    return d_context, d_vectors


@custom_op("hydrapot::message_force", mutates_args=())
def message_force(
    sums: int,
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
    edges = {"records": records, "cells": cells, "counts": counts, "senders": senders, "reverse": reverse}
    rest = {"table": table, "scalar_gradient": scalar_gradient, "vector_gradient": vector_gradient}
    d_edges = _like(edge_vectors, context)
    return *_gradient(sums, context, vectors, edges | rest, edges_out=d_edges), d_edges


@custom_op("hydrapot::message_weight", mutates_args=())
def message_weight(
    sums: int,
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
    edges = {"records": records, "cells": cells, "counts": counts, "senders": senders, "reverse": reverse}
    rest = {"table": table, "scalar_gradient": scalar_gradient, "vector_gradient": vector_gradient}
    d_table = _like(table, context)
    return *_gradient(sums, context, vectors, edges | rest, table_out=d_table), d_table


@message_force.register_fake
def _(
    sums: int,  # noqa: ARG001
    context: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,
    *rest: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(context, context), _like(vectors, context), _like(edge_vectors, context)


@message_weight.register_fake
def _(
    sums: int,  # noqa: ARG001
    context: Tensor,
    vectors: Tensor | None,
    edge_vectors: Tensor,  # noqa: ARG001
    table: Tensor,
    *rest: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(context, context), _like(vectors, context), _like(table, context)


@custom_op("hydrapot::message_second", mutates_args=())
def message_second(
    sums: int,
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
    context_tangent: Tensor,
    vector_tangent: Tensor | None,
    edge_tangent: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of context, vectors, table, `scalar_gradient` and `vector_gradient`, of the results of ``message_force``."""
    inputs = (context, vectors, table, scalar_gradient, vector_gradient)
    d_context, d_vectors, d_table, scalar_rate, vector_rate = (_like(x, context) for x in inputs)
    _sums(sums).call(
        "hydrapot_messages_second",
        _shape(context, vectors, senders),
        **_contiguous(records=records, cells=cells, counts=counts, senders=senders, reverse=reverse),
        **_contiguous(table=table, context=context, vectors=vectors),
        **_contiguous(scalar_gradient=scalar_gradient, vector_gradient=vector_gradient),
        **_contiguous(context_tangent=context_tangent, vector_tangent=vector_tangent, edge_tangent=edge_tangent),
        context_out=d_context,
        vectors_out=d_vectors,
        table_out=d_table,
        scalar_sum=scalar_rate,
        vector_sum=vector_rate,
    )
    return d_context, d_vectors, d_table, scalar_rate, vector_rate


@message_second.register_fake
def _(
    sums: int,  # noqa: ARG001
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
# graph drops those whose results nobody uses. `torch.is_grad_enabled()` tells whether forces are made (create_graph) or
# gradients of weights.


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001 - torch's signature
    number, *tensors = inputs
    ctx.sums = _sums(number)  # kept as long as somebody may differentiate
    ctx.save_for_backward(*tensors)


def _sum_backward(ctx: Any, scalar_gradient: Tensor, vector_gradient: Tensor) -> tuple[Tensor | None, ...]:
    arguments = ctx.saved_tensors
    without = arguments[1] is None
    gradients = (scalar_gradient, vector_gradient)
    d_context, d_vectors, d_edges = message_force(ctx.sums.number, *arguments, *gradients)
    of_weights = message_weight(ctx.sums.number, *arguments, *gradients)
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
        *(ctx.sums.number, *arguments, scalar_gradient, vector_gradient),
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


@custom_op("hydrapot::precise_product", mutates_args=())
def precise_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of two matrices.

    An operator rather than a context without autocast: a context is lost where a step is traced.
    """
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


@precise_product.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


def _save_factors(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001 - torch's signature
    ctx.save_for_backward(*inputs)


def _product_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    a, b = ctx.saved_tensors
    return precise_product(gradient, b.t()), precise_product(a.t(), gradient)


precise_product.register_autograd(_product_backward, setup_context=_save_factors)
