"""The sums over neighbors of PaiNN, a few atoms at a time: what inference on a CPU uses.

Everything of size edges × 3F that :class:`~hydrapot.potential.backbones.painn.DenseMessageSum` writes to main memory
and reads back is here recomputed for blocks of atoms whose edges fit into the caches; only arrays of size atoms × 3F
and edges × R live longer. The derivative is therefore written by hand, and it is the first derivative only: training
differentiates the dense form.

Forward, in the rows of receiver i with edges e = (i, j), filters w_e = W b_e split into three parts like the context
c_j:

    s_i = Σ_e w⁰_e c⁰_j,      v_i = Σ_e (w¹_e c¹_j r̂_e + w²_e c²_j v_j).

Backward, with γ and Γ the gradients of s and v: the gradient of c_j sums over the edges that j is the *sender* of. Those
are the reverses of the edges in j's own rows, so a loop over rows serves again, with basis and direction of the reverse
edge (k, j) and the gradients of its receiver k:

    t⁰ = γ_k,     t¹ = r̂ · Γ_k,     t² = v_j · Γ_k,

    ∂c_j = Σ_k w t,     ∂v_j = c²_j Σ_k w² Γ_k,     ∂b = (c_j t) W,     ∂r̂ = Σ_F w¹ c¹_j Γ_k.

No atomics, so the same bits on every run with the same number of threads.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hydrapot.potential.backbones.fused import FusedMessageSum, is_usable
from hydrapot.potential.backbones.painn import DenseMessageSum, MessageSums, TensorMessageSum
from hydrapot.potential.edges import swap_edges
from hydrapot.potential.graph import Graph

#: Size of one array over the edges of a block, for each thread; about four are in use at a time, so that second- and
#: third-level caches hold them. Flat between half and twice this value.
BLOCK_BYTES = 1 << 20


def fastest_message_sum(device: torch.device, dtype: torch.dtype) -> MessageSums:
    """The message sum for evaluation without double backward on `device`, with a network in `dtype`.

    A GPU has no caches to block for and pays for every kernel launch: it gets the fused kernels, or the dense form
    where they do not run.
    """
    if device.type == "cpu":
        return BlockedMessageSum
    return FusedMessageSum if is_usable(device, dtype) else DenseMessageSum


class BlockedMessageSum(TensorMessageSum):
    """:class:`~hydrapot.potential.backbones.painn.MessageSum` by blocks; differentiable once, not in the weights."""

    #: Gradients of all senders from those of the receivers, where these are not the same atoms.
    spread: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def __init__(self, basis: Tensor, directions: Tensor, graph: Graph) -> None:
        super().__init__(basis, directions, graph)
        self.edges = (basis.detach(), directions.detach())
        self.reverse_edges = self.reverse(basis, directions)

    def reverse(self, basis: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Basis and directions of the reverse edges, where gradients come out: one swap serves all layers."""
        return swap_edges(basis, self.graph), swap_edges(directions, self.graph)

    def __call__(
        self, context: Tensor, vectors: Tensor | None, filters: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor]:
        """As in :class:`~hydrapot.potential.backbones.painn.MessageSum`."""
        sums: tuple[Tensor, Tensor] = _BlockedSum.apply(  # type: ignore[no-untyped-call]
            context,
            vectors,
            *self.reverse_edges,
            *self.edges,
            filters.detach() * scale,
            self.graph.edge_index[1],
            self.graph.degree,
            self.spread,
        )
        return sums


class _Blocks:
    """Blocks of atoms with their rows of edges, and room for one block's arrays.

    Parameters
    ----------
    context
        ``(S, width)``, what an array over edges is as wide as.
    n_atoms, degree
        Atoms that have edges, and edges of each.
    """

    def __init__(self, context: Tensor, n_atoms: int, degree: int) -> None:
        self.n_atoms, width = n_atoms, context.shape[1]
        self.degree = degree
        bytes_per_atom = degree * width * context.element_size()
        self.size = min(max(BLOCK_BYTES * torch.get_num_threads() // bytes_per_atom, 1), self.n_atoms)
        self._like = context

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Slices of the atoms and of their edges."""
        for start in range(0, self.n_atoms, max(self.size, 1)):
            stop = min(start + self.size, self.n_atoms)
            yield slice(start, stop), slice(start * self.degree, stop * self.degree)

    def room(self, *shape: int) -> Tensor:
        """Uninitialized array ``(edges of a block, *shape)``."""
        return self._like.new_empty(self.size * self.degree, *shape)


def _dot(a: Tensor, b: Tensor, *, out: Tensor) -> None:
    """Scalar products of Cartesian vectors, which lie along the last but one dimension."""
    torch.mul(a[..., 0, :], b[..., 0, :], out=out)
    out.addcmul_(a[..., 1, :], b[..., 1, :]).addcmul_(a[..., 2, :], b[..., 2, :])


class _BlockedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        context: Tensor,
        vectors: Tensor | None,
        reverse_basis: Tensor,
        reverse_directions: Tensor,
        basis: Tensor,
        directions: Tensor,
        filters: Tensor,
        senders: Tensor,
        degree: int,
        spread: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(context, vectors, reverse_basis, reverse_directions, filters, senders)
        ctx.degree, ctx.spread = degree, spread
        n_atoms, width = len(senders) // degree, context.shape[1]
        F = width // (2 if vectors is None else 3)
        blocks = _Blocks(context, n_atoms, degree)
        filter_room, message_room, vector_room = blocks.room(width), blocks.room(width), blocks.room(3, F)
        scalar_sum, vector_sum = context.new_empty(n_atoms, F), context.new_empty(n_atoms, 3, F)
        for atoms, edges in blocks:
            j, r = senders[edges], directions[edges].view(-1, degree, 3)
            w = torch.mm(basis[edges], filters.t(), out=filter_room[: len(j)])
            message = torch.index_select(context, 0, j, out=message_room[: len(j)]).mul_(w)
            rows = message.view(-1, degree, width)
            torch.sum(rows[..., :F], 1, out=scalar_sum[atoms])
            torch.bmm(r.transpose(1, 2), rows[..., F : 2 * F], out=vector_sum[atoms])
            if vectors is not None:
                v = torch.index_select(vectors, 0, j, out=vector_room[: len(j)]).mul_(message[:, None, 2 * F :])
                vector_sum[atoms] += v.view(-1, degree, 3, F).sum(1)
        return scalar_sum, vector_sum

    @staticmethod
    def backward(ctx: Any, scalar_gradient: Tensor, vector_gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # torch's own once_differentiable lets a second derivative with respect to the edges pass, and be wrong.
            raise RuntimeError("blocked message sums are differentiable once (no create_graph): use DenseMessageSum")
        context, vectors, basis, directions, filters, senders = ctx.saved_tensors
        width, degree = context.shape[1], ctx.degree
        F = width // (2 if vectors is None else 3)
        scalar_gradient, vector_gradient = scalar_gradient.contiguous(), vector_gradient.contiguous()
        n_atoms = len(scalar_gradient)
        if ctx.spread is not None:
            scalar_gradient, vector_gradient = ctx.spread(scalar_gradient, vector_gradient)
        blocks = _Blocks(context, n_atoms, degree)
        filter_room, t_room, message_room = (blocks.room(width) for _ in range(3))
        gradient_room, product_room = blocks.room(3, F), blocks.room(3, F)
        d_context, d_basis, d_directions = (torch.empty_like(x) for x in (context, basis, directions))
        d_vectors = None if vectors is None else torch.empty_like(vectors)
        for gradient in (d_context, d_vectors):
            if gradient is not None:  # senders without edges of their own: their owners account for them
                gradient[n_atoms:] = 0.0
        for atoms, edges in blocks:
            k, r, c = senders[edges], directions[edges], context[atoms, None]
            w = torch.mm(basis[edges], filters.t(), out=filter_room[: len(k)]).view(-1, degree, width)
            gradient = torch.index_select(vector_gradient, 0, k, out=gradient_room[: len(k)])
            rows = gradient.view(-1, degree, 3, F)
            product = product_room[: len(k)].view_as(rows)
            t = t_room[: len(k)].view_as(w)
            t[..., :F] = scalar_gradient.index_select(0, k).view(-1, degree, F)
            _dot(rows, r.view(-1, degree, 3, 1), out=t[..., F : 2 * F])
            if vectors is not None and d_vectors is not None:
                _dot(rows, vectors[atoms, None], out=t[..., 2 * F :])
                weighted = torch.mul(rows, w[..., None, 2 * F :], out=product).sum(1)
                torch.mul(weighted, c[..., 2 * F :], out=d_vectors[atoms])
            torch.sum(torch.mul(w, t, out=message_room[: len(k)].view_as(w)), 1, out=d_context[atoms])
            torch.mm(t.mul_(c).view(-1, width), filters, out=d_basis[edges])
            message = w[..., None, F : 2 * F].mul_(c[..., None, F : 2 * F])
            torch.sum(torch.mul(rows, message, out=product), 3, out=d_directions[edges].view(-1, degree, 3))
        return d_context, d_vectors, d_basis, d_directions, None, None, None, None, None, None
