"""Triton kernels of :mod:`~hydrapot.potential.backbones.fused`; importing this module needs the package `triton`.

Every program works on the edges of one receiver's row (of a stride of rows in :func:`filter_gradient_kernel`),
``BLOCK_EDGES`` at a time, and on ``BLOCK_CHANNELS`` of the F channels. Filters are recomputed from the basis where they
are needed, so that a tile edges × channels lives in registers and nowhere else. Each element of a result is written by
one program, after a sum in a fixed order: no atomics, the same bits on every run.

==============================  ====================  ========================================================
argument                        shape                 meaning
==============================  ====================  ========================================================
``context``                     ``(N, P·F)``          c, with P = 3 parts, or 2 without ``vectors``
``vectors``                     ``(N, 3, F)``         v; any tensor, never read, without HAS_VECTORS
``basis``, ``directions``       ``(E, R), (E, 3)``    b and r̂ on the edges (receiver, sender)
``filters``                     ``(P·F, R)``          W, the factor of the messages included
``senders``, ``reverse``        ``(E,)`` int64        as in :class:`~hydrapot.potential.graph.Graph`
``scalar_gradient``             ``(N, F)``            γ, gradient of the sums over scalar messages
``vector_gradient``             ``(N, 3, F)``         Γ, gradient of the sums over vector messages
==============================  ====================  ========================================================

All arrays are contiguous and share one dtype, float32 or float64. Notation and derivation of the gradients are those of
:mod:`~hydrapot.potential.backbones.blocked`: a gradient with respect to atom j runs over j's own row, reads γ and Γ at
the other end k of each edge, and basis and direction at the reverse edge, from k to j.

Products with W are exact in the dtype (``"ieee"``): tf32 would leave three digits.
"""

import triton
import triton.language as tl

# Triton reads annotations as types: tensors and sizes known only at run time have none. Sizes that change from step to
# step are not specialized, since every specialization compiles again.


@triton.jit
def _filters(filters, part: tl.constexpr, channels, radial, F: tl.constexpr, R: tl.constexpr):
    """W of one part, transposed: ``(BLOCK_RADIAL, BLOCK_CHANNELS)``, zero beyond R and F."""
    mask = (radial < R)[:, None] & (channels < F)[None, :]
    return tl.load(filters + (part * F + channels)[None, :] * R + radial[:, None], mask=mask, other=0.0)


@triton.jit
def _basis(basis, edges, inside, radial, R: tl.constexpr):
    """Basis b of some edges: ``(BLOCK_EDGES, BLOCK_RADIAL)``, zero in slots beyond the row."""
    mask = inside[:, None] & (radial < R)[None, :]
    return tl.load(basis + edges[:, None] * R + radial[None, :], mask=mask, other=0.0)


@triton.jit
def _direction(directions, edges, inside):
    """Components of r̂, each ``(BLOCK_EDGES, 1)``."""
    x = tl.load(directions + edges * 3, mask=inside, other=0.0)
    y = tl.load(directions + edges * 3 + 1, mask=inside, other=0.0)
    z = tl.load(directions + edges * 3 + 2, mask=inside, other=0.0)
    return x[:, None], y[:, None], z[:, None]


@triton.jit
def _rows(values, atoms, inside, channels, width: tl.constexpr, part: tl.constexpr, F: tl.constexpr):
    """Channels of one part of ``(N, width)`` at the given atoms: ``(BLOCK_EDGES, BLOCK_CHANNELS)``."""
    mask = inside[:, None] & (channels < F)[None, :]
    return tl.load(values + atoms[:, None] * width + (part * F + channels)[None, :], mask=mask, other=0.0)


@triton.jit
def _row(values, atom, channels, width: tl.constexpr, part: tl.constexpr, F: tl.constexpr):
    """Channels of one part of ``(N, width)`` at one atom: ``(1, BLOCK_CHANNELS)``."""
    return tl.load(values + atom * width + part * F + channels, mask=channels < F, other=0.0)[None, :]


@triton.jit
def _product(a, b):
    """Matrix product at full precision, in the dtype of the factors."""
    return tl.dot(a, b, input_precision="ieee", out_dtype=a.dtype)


@triton.jit(do_not_specialize=["degree"])
def sum_kernel(
    context,
    vectors,
    basis,
    directions,
    filters,
    senders,
    scalar_sum,
    vector_sum,
    degree,
    F: tl.constexpr,
    R: tl.constexpr,
    HAS_VECTORS: tl.constexpr,
    BLOCK_EDGES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_RADIAL: tl.constexpr,
):
    """Forward: `scalar_sum` ``(N, F)`` and `vector_sum` ``(N, 3, F)``. Grid: atoms × blocks of channels."""
    P: tl.constexpr = 3 if HAS_VECTORS else 2
    atom = tl.program_id(0).to(tl.int64)
    channels = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    radial = tl.arange(0, BLOCK_RADIAL)
    dtype: tl.constexpr = context.dtype.element_ty
    s = tl.zeros((BLOCK_EDGES, BLOCK_CHANNELS), dtype)
    x = tl.zeros((BLOCK_EDGES, BLOCK_CHANNELS), dtype)
    y = tl.zeros((BLOCK_EDGES, BLOCK_CHANNELS), dtype)
    z = tl.zeros((BLOCK_EDGES, BLOCK_CHANNELS), dtype)
    w0 = _filters(filters, 0, channels, radial, F, R)
    w1 = _filters(filters, 1, channels, radial, F, R)
    if HAS_VECTORS:
        w2 = _filters(filters, 2, channels, radial, F, R)
    for start in range(0, degree, BLOCK_EDGES):
        slots = start + tl.arange(0, BLOCK_EDGES)
        inside = slots < degree
        edges = atom * degree + slots
        j = tl.load(senders + edges, mask=inside, other=0)
        b = _basis(basis, edges, inside, radial, R)
        rx, ry, rz = _direction(directions, edges, inside)
        s += _product(b, w0) * _rows(context, j, inside, channels, P * F, 0, F)
        along = _product(b, w1) * _rows(context, j, inside, channels, P * F, 1, F)
        x += along * rx
        y += along * ry
        z += along * rz
        if HAS_VECTORS:
            factor = _product(b, w2) * _rows(context, j, inside, channels, P * F, 2, F)
            x += factor * _rows(vectors, j, inside, channels, 3 * F, 0, F)
            y += factor * _rows(vectors, j, inside, channels, 3 * F, 1, F)
            z += factor * _rows(vectors, j, inside, channels, 3 * F, 2, F)
    mask = channels < F
    tl.store(scalar_sum + atom * F + channels, tl.sum(s, axis=0), mask=mask)
    tl.store(vector_sum + atom * 3 * F + channels, tl.sum(x, axis=0), mask=mask)
    tl.store(vector_sum + (atom * 3 + 1) * F + channels, tl.sum(y, axis=0), mask=mask)
    tl.store(vector_sum + (atom * 3 + 2) * F + channels, tl.sum(z, axis=0), mask=mask)


@triton.jit(do_not_specialize=["degree"])
def node_gradient_kernel(
    context,
    vectors,
    basis,
    directions,
    filters,
    senders,
    reverse,
    scalar_gradient,
    vector_gradient,
    d_context,
    d_vectors,
    degree,
    F: tl.constexpr,
    R: tl.constexpr,
    HAS_VECTORS: tl.constexpr,
    BLOCK_EDGES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_RADIAL: tl.constexpr,
):
    """Gradients ∂c_j and ∂v_j, shaped like `context` and `vectors`. Grid: atoms × blocks of channels.

    With B = Σ_k w² Γ_k both gradients of the third part follow: ∂v_j = c²_j B and ∂c²_j = v_j · B.
    """
    P: tl.constexpr = 3 if HAS_VECTORS else 2
    atom = tl.program_id(0).to(tl.int64)
    channels = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    radial = tl.arange(0, BLOCK_RADIAL)
    dtype: tl.constexpr = context.dtype.element_ty
    d0 = tl.zeros((BLOCK_EDGES, BLOCK_CHANNELS), dtype)
    d1 = tl.zeros((BLOCK_EDGES, BLOCK_CHANNELS), dtype)
    w0 = _filters(filters, 0, channels, radial, F, R)
    w1 = _filters(filters, 1, channels, radial, F, R)
    if HAS_VECTORS:
        w2 = _filters(filters, 2, channels, radial, F, R)
        x = tl.zeros((BLOCK_EDGES, BLOCK_CHANNELS), dtype)
        y = tl.zeros((BLOCK_EDGES, BLOCK_CHANNELS), dtype)
        z = tl.zeros((BLOCK_EDGES, BLOCK_CHANNELS), dtype)
    for start in range(0, degree, BLOCK_EDGES):
        slots = start + tl.arange(0, BLOCK_EDGES)
        inside = slots < degree
        k = tl.load(senders + atom * degree + slots, mask=inside, other=0)
        edges = tl.load(reverse + atom * degree + slots, mask=inside, other=0)
        b = _basis(basis, edges, inside, radial, R)
        rx, ry, rz = _direction(directions, edges, inside)
        gx = _rows(vector_gradient, k, inside, channels, 3 * F, 0, F)
        gy = _rows(vector_gradient, k, inside, channels, 3 * F, 1, F)
        gz = _rows(vector_gradient, k, inside, channels, 3 * F, 2, F)
        d0 += _product(b, w0) * _rows(scalar_gradient, k, inside, channels, F, 0, F)
        d1 += _product(b, w1) * (gx * rx + gy * ry + gz * rz)
        if HAS_VECTORS:
            w = _product(b, w2)
            x += w * gx
            y += w * gy
            z += w * gz
    mask = channels < F
    row = d_context + atom * P * F + channels
    tl.store(row, tl.sum(d0, axis=0), mask=mask)
    tl.store(row + F, tl.sum(d1, axis=0), mask=mask)
    if HAS_VECTORS:
        bx, by, bz = tl.sum(x, axis=0)[None, :], tl.sum(y, axis=0)[None, :], tl.sum(z, axis=0)[None, :]
        vx = _row(vectors, atom, channels, 3 * F, 0, F)
        vy = _row(vectors, atom, channels, 3 * F, 1, F)
        vz = _row(vectors, atom, channels, 3 * F, 2, F)
        tl.store((row + 2 * F)[None, :], vx * bx + vy * by + vz * bz, mask=mask[None, :])
        c2 = _row(context, atom, channels, P * F, 2, F)
        first = (d_vectors + atom * 3 * F + channels)[None, :]
        tl.store(first, c2 * bx, mask=mask[None, :])
        tl.store(first + F, c2 * by, mask=mask[None, :])
        tl.store(first + 2 * F, c2 * bz, mask=mask[None, :])


@triton.jit(do_not_specialize=["degree"])
def edge_gradient_kernel(
    context,
    vectors,
    basis,
    directions,
    filters,
    senders,
    reverse,
    scalar_gradient,
    vector_gradient,
    d_basis,
    d_directions,
    degree,
    F: tl.constexpr,
    R: tl.constexpr,
    HAS_VECTORS: tl.constexpr,
    BLOCK_EDGES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_RADIAL: tl.constexpr,
):
    """Gradients ∂b and ∂r̂, shaped like `basis` and `directions`. Grid: atoms × blocks of their edges; all channels in turn.

    They come out at the reverse edges, and as reversing is a permutation no two programs write to one place.
    """
    P: tl.constexpr = 3 if HAS_VECTORS else 2
    atom = tl.program_id(0).to(tl.int64)
    slots = tl.program_id(1) * BLOCK_EDGES + tl.arange(0, BLOCK_EDGES)
    inside = slots < degree
    radial = tl.arange(0, BLOCK_RADIAL)
    dtype: tl.constexpr = context.dtype.element_ty
    k = tl.load(senders + atom * degree + slots, mask=inside, other=0)
    edges = tl.load(reverse + atom * degree + slots, mask=inside, other=0)
    b = _basis(basis, edges, inside, radial, R)
    rx, ry, rz = _direction(directions, edges, inside)
    db = tl.zeros((BLOCK_EDGES, BLOCK_RADIAL), dtype)
    dx = tl.zeros((BLOCK_EDGES,), dtype)
    dy = tl.zeros((BLOCK_EDGES,), dtype)
    dz = tl.zeros((BLOCK_EDGES,), dtype)
    for start in range(0, F, BLOCK_CHANNELS):
        channels = start + tl.arange(0, BLOCK_CHANNELS)
        gx = _rows(vector_gradient, k, inside, channels, 3 * F, 0, F)
        gy = _rows(vector_gradient, k, inside, channels, 3 * F, 1, F)
        gz = _rows(vector_gradient, k, inside, channels, 3 * F, 2, F)
        t = _rows(scalar_gradient, k, inside, channels, F, 0, F) * _row(context, atom, channels, P * F, 0, F)
        db += _product(t, tl.trans(_filters(filters, 0, channels, radial, F, R)))
        w1 = _filters(filters, 1, channels, radial, F, R)
        c1 = _row(context, atom, channels, P * F, 1, F)
        db += _product((gx * rx + gy * ry + gz * rz) * c1, tl.trans(w1))
        message = _product(b, w1) * c1
        dx += tl.sum(message * gx, axis=1)
        dy += tl.sum(message * gy, axis=1)
        dz += tl.sum(message * gz, axis=1)
        if HAS_VECTORS:
            t = gx * _row(vectors, atom, channels, 3 * F, 0, F)
            t += gy * _row(vectors, atom, channels, 3 * F, 1, F)
            t += gz * _row(vectors, atom, channels, 3 * F, 2, F)
            t *= _row(context, atom, channels, P * F, 2, F)
            db += _product(t, tl.trans(_filters(filters, 2, channels, radial, F, R)))
    mask = inside[:, None] & (radial < R)[None, :]
    tl.store(d_basis + edges[:, None] * R + radial[None, :], db, mask=mask)
    tl.store(d_directions + edges * 3, dx, mask=inside)
    tl.store(d_directions + edges * 3 + 1, dy, mask=inside)
    tl.store(d_directions + edges * 3 + 2, dz, mask=inside)


@triton.jit(do_not_specialize=["n_atoms", "degree"])
def filter_gradient_kernel(
    context,
    vectors,
    basis,
    directions,
    senders,
    reverse,
    scalar_gradient,
    vector_gradient,
    d_filters,
    n_atoms,
    degree,
    F: tl.constexpr,
    R: tl.constexpr,
    HAS_VECTORS: tl.constexpr,
    BLOCK_EDGES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_RADIAL: tl.constexpr,
):
    """Shares of ∂W, `d_filters` ``(strides, P·F, R)``, to be summed. Grid: strides of atoms × blocks of channels."""
    P: tl.constexpr = 3 if HAS_VECTORS else 2
    first = tl.program_id(0).to(tl.int64)
    channels = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    radial = tl.arange(0, BLOCK_RADIAL)
    dtype: tl.constexpr = context.dtype.element_ty
    d0 = tl.zeros((BLOCK_CHANNELS, BLOCK_RADIAL), dtype)
    d1 = tl.zeros((BLOCK_CHANNELS, BLOCK_RADIAL), dtype)
    d2 = tl.zeros((BLOCK_CHANNELS, BLOCK_RADIAL), dtype)
    for atom in range(first, n_atoms, tl.num_programs(0)):
        c0 = _row(context, atom, channels, P * F, 0, F)
        c1 = _row(context, atom, channels, P * F, 1, F)
        if HAS_VECTORS:
            c2 = _row(context, atom, channels, P * F, 2, F)
            vx = _row(vectors, atom, channels, 3 * F, 0, F)
            vy = _row(vectors, atom, channels, 3 * F, 1, F)
            vz = _row(vectors, atom, channels, 3 * F, 2, F)
        for start in range(0, degree, BLOCK_EDGES):
            slots = start + tl.arange(0, BLOCK_EDGES)
            inside = slots < degree
            k = tl.load(senders + atom * degree + slots, mask=inside, other=0)
            edges = tl.load(reverse + atom * degree + slots, mask=inside, other=0)
            b = _basis(basis, edges, inside, radial, R)
            rx, ry, rz = _direction(directions, edges, inside)
            gx = _rows(vector_gradient, k, inside, channels, 3 * F, 0, F)
            gy = _rows(vector_gradient, k, inside, channels, 3 * F, 1, F)
            gz = _rows(vector_gradient, k, inside, channels, 3 * F, 2, F)
            d0 += _product(tl.trans(_rows(scalar_gradient, k, inside, channels, F, 0, F) * c0), b)
            d1 += _product(tl.trans((gx * rx + gy * ry + gz * rz) * c1), b)
            if HAS_VECTORS:
                d2 += _product(tl.trans((gx * vx + gy * vy + gz * vz) * c2), b)
    mask = (channels < F)[:, None] & (radial < R)[None, :]
    place = d_filters + (first * P * F + channels)[:, None] * R + radial[None, :]
    tl.store(place, d0, mask=mask)
    tl.store(place + F * R, d1, mask=mask)
    if HAS_VECTORS:
        tl.store(place + 2 * F * R, d2, mask=mask)
