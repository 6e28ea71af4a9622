"""The sums over neighbors of PaiNN as fused GPU kernels, written in Triton: what inference on CUDA uses.

The arithmetic, and the notation, are those of :mod:`~hydrapot.potential.backbones.blocked`. There a block of edges stays
in the caches, here a tile of 16 edges × 32 channels stays in the registers of a thread block
(:mod:`~hydrapot.potential.backbones.fused_kernels`). Nothing of size edges × F is written to memory in either direction:
what is stored besides the results is what goes in, edges × R for the basis, plus a few hundred copies of W when its
gradient is asked for. No atomics, so the same bits on every run.

The first derivative, that of the weights included, is fused too. A derivative that is itself to be differentiated
(``create_graph``: the force loss of training) goes through
:class:`~hydrapot.potential.backbones.painn.DenseMessageSum`, and so do all derivatives of it.

Verified without a GPU: results, in Triton's interpreter; that each kernel compiles for NVIDIA's sm_80 and sm_90, and fits
into their registers without spilling (Triton 3.9). **Not verified**: that the compiled kernels give these results on a
GPU, and any speed, hence also the choice of tile, warps and stages, which rests on the register counts of the compiler;
``benchmarks/gpu_edges.py`` measures both. `triton` comes with the CUDA builds of torch. Where it is missing, this
module imports all the same and :func:`is_usable` says no.
"""

import functools
import logging
from typing import Any

import torch
from torch import Tensor

from hydrapot.potential.backbones.painn import DenseMessageSum, TensorMessageSum
from hydrapot.potential.graph import Graph

logger = logging.getLogger(__name__)

#: Edges and channels of a tile; 16 is the least that a Triton matrix product takes, 32 channels of float32 are one line
#: of the caches.
BLOCK_EDGES, BLOCK_CHANNELS = 16, 32
#: For F = 128 and R = 20 no kernel spills registers or needs more than 38 KiB of shared memory at these settings. On
#: sm_90 they take at most 128 registers in float32 and 198 in float64.
LAUNCH = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True}
#: Shares in which the gradient of the weights is summed: programs enough to fill a GPU, few enough to stay small.
FILTER_SHARES = 256
#: Compute capability of the oldest GPUs that Triton supports.
LOWEST_CAPABILITY = (8, 0)
#: Oldest release whose compiler takes all kernels, of those tried (3.2, 3.5, 3.9); 3.2 multiplies no float64 matrices.
LOWEST_TRITON = (3, 5)


@functools.cache
def has_triton() -> bool:
    """Whether Triton imports and is recent enough."""
    try:
        import triton

        import hydrapot.potential.backbones.fused_kernels  # noqa: F401
    except ImportError as error:
        logger.info("no fused GPU kernels: %s", error)
        return False
    found = tuple(int(number) for number in triton.__version__.split(".")[:2])
    if found < LOWEST_TRITON:
        logger.info("no fused GPU kernels: they need Triton %d.%d, this is %s", *LOWEST_TRITON, triton.__version__)
        return False
    return True


def is_usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether :class:`FusedMessageSum` runs on `device` in `dtype`: an NVIDIA GPU, Triton, float32 or float64."""
    return (
        device.type == "cuda"
        and dtype in (torch.float32, torch.float64)
        and torch.version.cuda is not None
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability(device) >= LOWEST_CAPABILITY
        and has_triton()
    )


class FusedMessageSum(TensorMessageSum):
    """:class:`~hydrapot.potential.backbones.painn.MessageSum` in fused kernels; differentiable any number of times."""

    def __init__(self, basis: Tensor, directions: Tensor, graph: Graph) -> None:
        super().__init__(basis.contiguous(), directions.contiguous(), graph)

    def __call__(
        self, context: Tensor, vectors: Tensor | None, filters: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor]:
        """As in :class:`~hydrapot.potential.backbones.painn.MessageSum`."""
        sums: tuple[Tensor, Tensor] = _FusedSum.apply(  # type: ignore[no-untyped-call]
            context.contiguous(),
            None if vectors is None else vectors.contiguous(),
            self.basis,
            self.directions,
            filters * scale,
            self.graph,
        )
        return sums


class _Launcher:
    """Grids and sizes that the kernels of one message sum share."""

    def __init__(self, context: Tensor, vectors: Tensor | None, basis: Tensor, degree: int) -> None:
        self.n_atoms, width = context.shape
        self.degree = degree
        self.channels = width // (2 if vectors is None else 3)
        self.channel_blocks = -(-self.channels // BLOCK_CHANNELS)
        self.edge_blocks = -(-degree // BLOCK_EDGES)
        n_radial = basis.shape[1]
        self.sizes: dict[str, Any] = {
            "F": self.channels,
            "R": n_radial,
            "HAS_VECTORS": vectors is not None,
            "BLOCK_EDGES": BLOCK_EDGES,
            "BLOCK_CHANNELS": BLOCK_CHANNELS,
            "BLOCK_RADIAL": max(16, 1 << (n_radial - 1).bit_length()),
            **LAUNCH,
        }
        self.like = context

    def __call__(self, kernel: Any, grid: tuple[int, int], *arguments: Any) -> None:
        """Start `kernel` on the GPU of the tensors, unless there is nothing to do."""
        if min(grid) > 0:
            with torch.cuda.device_of(self.like):
                kernel[grid](*arguments, **self.sizes)


class _FusedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        context: Tensor,
        vectors: Tensor | None,
        basis: Tensor,
        directions: Tensor,
        filters: Tensor,
        graph: Graph,
    ) -> tuple[Tensor, Tensor]:
        from hydrapot.potential.backbones import fused_kernels as kernels

        ctx.save_for_backward(context, vectors, basis, directions, filters)
        ctx.graph = graph
        launch = _Launcher(context, vectors, basis, graph.degree)
        scalar_sum = context.new_empty(launch.n_atoms, launch.channels)
        vector_sum = context.new_empty(launch.n_atoms, 3, launch.channels)
        launch(
            kernels.sum_kernel,
            (launch.n_atoms, launch.channel_blocks),
            *(context, context if vectors is None else vectors, basis, directions, filters.contiguous()),
            *(graph.edge_index[1], scalar_sum, vector_sum, graph.degree),
        )
        return scalar_sum, vector_sum

    @staticmethod
    def backward(ctx: Any, scalar_gradient: Tensor, vector_gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return (*_differentiable_gradients(ctx, scalar_gradient, vector_gradient), None)
        from hydrapot.potential.backbones import fused_kernels as kernels

        context, vectors, basis, directions, filters = ctx.saved_tensors
        graph, degree = ctx.graph, ctx.graph.degree
        wants_context, wants_vectors, wants_basis, wants_directions, wants_filters, _ = ctx.needs_input_grad
        launch = _Launcher(context, vectors, basis, degree)
        nodes = (context, context if vectors is None else vectors)
        edges = (basis, directions)
        links = (graph.edge_index[1], graph.reverse)
        gradients = (scalar_gradient.contiguous(), vector_gradient.contiguous())
        filters = filters.contiguous()
        d_context = d_vectors = d_basis = d_directions = d_filters = None
        if wants_context or wants_vectors:
            d_context = torch.empty_like(context)
            d_vectors = None if vectors is None else torch.empty_like(vectors)
            launch(
                kernels.node_gradient_kernel,
                (launch.n_atoms, launch.channel_blocks),
                *(*nodes, *edges, filters, *links, *gradients),
                *(d_context, d_context if d_vectors is None else d_vectors, degree),
            )
        if wants_basis or wants_directions:
            d_basis, d_directions = torch.empty_like(basis), torch.empty_like(directions)
            launch(
                kernels.edge_gradient_kernel,
                (launch.n_atoms, launch.edge_blocks),
                *(*nodes, *edges, filters, *links, *gradients, d_basis, d_directions, degree),
            )
        if wants_filters:
            shares = filters.new_empty(min(FILTER_SHARES, launch.n_atoms), *filters.shape)
            launch(
                kernels.filter_gradient_kernel,
                (len(shares), launch.channel_blocks),
                *(*nodes, *edges, *links, *gradients, shares, launch.n_atoms, degree),
            )
            d_filters = shares.sum(0)
        return d_context, d_vectors, d_basis, d_directions, d_filters, None


def _differentiable_gradients(ctx: Any, *gradients: Tensor) -> list[Tensor | None]:
    """Gradients of the five tensors that went in, as functions of them and of `gradients`, by the dense form.

    The tensors are renamed first: `vectors` depends on `basis` by way of earlier layers, and a gradient with respect to
    the originals would count that path, which autograd adds itself, twice.
    """
    names = ("context", "vectors", "basis", "directions", "filters")
    inputs = {name: x.view_as(x) for name, x in zip(names, ctx.saved_tensors, strict=True) if x is not None}
    dense = DenseMessageSum(inputs["basis"], inputs["directions"], ctx.graph)
    sums = dense(inputs["context"], inputs.get("vectors"), inputs["filters"], scale=1.0)
    # The scalar sums do not depend on vectors and directions.
    pairs = [(s, g) for s, g in zip(sums, gradients, strict=True) if s.requires_grad]
    outputs, seeds = zip(*pairs, strict=True)
    wanted = [name for name, needed in zip(names, ctx.needs_input_grad, strict=False) if needed and name in inputs]
    found = torch.autograd.grad(outputs, [inputs[name] for name in wanted], seeds, create_graph=True, allow_unused=True)
    by_name = dict(zip(wanted, found, strict=True))
    return [by_name.get(name) for name in names]
