"""The sums over neighbors of PaiNN in C++ with their first and second derivatives: what training on CPUs uses.

Everything of size edges × 3F that :class:`~hydrapot.potential.backbones.painn.DenseMessageSum` writes to memory, and
autograd keeps for a second pass, stays in registers here. The functions are torch operators
(:mod:`~hydrapot.potential.native.message_operators`), so that the rest of the network is differentiated by autograd, and traced
and compiled around them.

Differentiable as a loss of energies, forces and virials needs it: once with respect to edge vectors, and all of that once
more with respect to everything else. What else one might ask for is an error, or NaN: second derivatives with respect to
edge vectors (Hessians) and second derivatives with respect to weights.
"""

import ctypes

import numpy as np
import torch
from torch import Tensor

from hydrapot.potential.backbones.painn import MessageSum
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.graph import Graph
from hydrapot.potential.native.library import check, library, reason_missing
from hydrapot.potential.native.message_operators import BITS, Sums, message_edges, message_sum, precise_product
from hydrapot.potential.native.model import DEFAULT_KNOTS
from hydrapot.potential.radial import BesselBasis


def _torch_region() -> int | None:
    """Address of the function by which torch's OpenMP library starts its threads; None where there is none.

    torch makes that library's symbols global. Threads of our own would compete with torch's, which spin between pieces of work.
    """
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError, TypeError):
        return None


class NativeMessages:
    """:class:`~hydrapot.potential.backbones.painn.MessageSums` in C++, on torch's threads.

    In float32 the radial functions are splines, whose error (4e-8 of the forces) is far below rounding; in float64 they are
    evaluated as they are.

    Parameters
    ----------
    channels, n_radial, cutoff
        Of the encoder; Å.
    dtype
        float32 or float64.
    threads
        Threads of one sum.
    instruction_set
        ``"generic"``, ``"avx2"`` or ``"avx512"``; for None the best of this processor whose vectors divide the channels.

    Raises
    ------
    ConfigurationError
        The native engine is not built, the precision is another, or the channels do not fill its vectors
        (multiples of 16 always do).
    """

    def __init__(
        self,
        *,
        channels: int,
        n_radial: int,
        cutoff: float,
        dtype: torch.dtype,
        threads: int,
        instruction_set: str | None = None,
    ) -> None:
        if dtype not in BITS:
            raise ConfigurationError(f"native message sums are for float32 and float64, not {dtype}")
        self.n_radial, self.cutoff, self.dtype = n_radial, cutoff, dtype
        self.sums = Sums(
            dtype,
            channels=channels,
            n_radial=n_radial,
            knots=DEFAULT_KNOTS if dtype == torch.float32 else 0,
            threads=threads,
            cutoff=cutoff,
            instruction_set=None if instruction_set is None else instruction_set.encode(),
            region=_torch_region(),
        )
        basis = np.empty((self.sums.table_rows, n_radial))
        check(library().hydrapot_messages_basis(self.sums.handle, basis.ctypes.data))
        self._basis = torch.from_numpy(basis).to(dtype)

    @property
    def instruction_set(self) -> str:
        """The one that is used."""
        name: bytes = library().hydrapot_messages_instruction_set(self.sums.handle)
        return name.decode()

    def on(self, graph: Graph, *, basis: BesselBasis, dtype: torch.dtype) -> MessageSum:
        """As in :class:`~hydrapot.potential.backbones.painn.MessageSums`."""
        if (basis.n_radial, basis.cutoff, dtype) != (self.n_radial, self.cutoff, self.dtype):
            raise ConfigurationError(
                f"message sums for {self.n_radial} radial functions, {self.cutoff} Å and {self.dtype} were given "
                f"{basis.n_radial}, {basis.cutoff} Å and {dtype}"
            )
        return _NativeMessageSum(self, graph)

    def table(self, filters: Tensor) -> Tensor:
        """Table of filters, ``(K, W)``, of weights ``(W, R)``; differentiable any number of times.

        Never in lower precision: differences from row to row are the slopes of filters.
        """
        table: Tensor = precise_product(self._basis, filters.t())
        return table


def native_messages(
    *, channels: int, n_radial: int, cutoff: float, dtype: torch.dtype, threads: int
) -> NativeMessages | str:
    """:class:`NativeMessages`, or why there are none for these arguments."""
    missing = reason_missing()
    if missing is not None:
        return missing
    try:
        return NativeMessages(channels=channels, n_radial=n_radial, cutoff=cutoff, dtype=dtype, threads=threads)
    except ConfigurationError as error:
        return str(error)


class _NativeMessageSum:
    """:class:`~hydrapot.potential.backbones.painn.MessageSum` for one graph."""

    def __init__(self, messages: NativeMessages, graph: Graph) -> None:
        if graph.reverse.shape != graph.edge_index[1].shape:
            raise ValueError("native message sums need the reverse of every edge: this is part of a structure only")
        self.messages = messages
        self.edge_vectors = graph.edge_vectors.double()
        records = message_edges(messages.sums.number, self.edge_vectors.detach(), graph.n_atoms)
        self.edges = (*records, graph.edge_index[1].contiguous(), graph.reverse)

    def __call__(
        self, context: Tensor, vectors: Tensor | None, filters: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor]:
        """As in :class:`~hydrapot.potential.backbones.painn.MessageSum`."""
        own = self.messages
        table = own.table(filters * scale)
        # Autocast has cast the context.
        context = context.to(own.dtype)
        sums: tuple[Tensor, Tensor] = message_sum(
            own.sums.number, context, vectors, self.edge_vectors, table, *self.edges
        )
        return sums
