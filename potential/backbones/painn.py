"""PaiNN, the polarizable atom interaction neural network.

Schütt, Unke & Gastegger, *Equivariant message passing for the prediction of tensorial properties and molecular
spectra*, ICML 2021 (arXiv:2102.03150).

======================  ====================================  ===============================================
paper                   here                                  shape
======================  ====================================  ===============================================
s_i                     ``scalars``                           ``(N, F)``
v_i                     ``vectors``                           ``(N, 3, F)``
φ(s_j), eq. 7           ``Message.context``                   ``(N, 3F)``
W(‖r_ij‖), eq. 7        ``Message.filters`` on the basis      ``(E, 3F)``
r_ij/‖r_ij‖             ``directions``                        ``(E, 3)``; from receiver i to sender j
U v, V v, eq. 9–10      ``Update.mix``                        ``(N, 3, 2F)``
a_ss, a_sv, a_vv        ``Update.gates``                      ``(N, 3F)``
======================  ====================================  ===============================================

Deviations, each for smoothness or cost, none of which changes what the network can express:

* The paper's cosine cutoff (C¹) is replaced by the C² envelope that the radial basis carries; filters have no bias, so
  every edge quantity vanishes with it.
* ‖Vv‖ is √(|Vv|² + ε²) with ε = 0.1: gradient and curvature stay finite at |Vv| = 0, which is where every atom of a
  symmetric crystal sits. (ε = 10⁻⁴, as often seen, puts a curvature of 10⁴ there, that is into the phonons.)
* Messages are divided by a constant √n̄ of the order of the number of neighbors, so that the sum starts at unit scale.
* Terms that are identically zero or never read are left out: the v_j term of the first layer, the vector update of the
last.
"""

import math
from collections.abc import Iterable
from typing import Protocol, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from hydrapot.potential.edges import gather, spread_kinds, sum_edges
from hydrapot.potential.graph import MAX_ATOMIC_NUMBER, Graph
from hydrapot.potential.initialization import SILU_GAIN, initialize, initialize_filters
from hydrapot.potential.radial import BesselBasis

#: ε of the smooth norm, in units of the vector features.
NORM_SOFTENING = 0.1


def smooth_norm(vectors: Tensor) -> Tensor:
    """√(|v|² + ε²) over dimension 1: ``(N, 3, F)`` → ``(N, F)``."""
    return torch.sqrt((vectors * vectors).sum(dim=1) + NORM_SOFTENING**2)


class MessageSum(Protocol):
    """The sums over neighbors of eq. 7 and 8, Σ_j a_ij and Σ_j (b_ij r̂_ij + c_ij v_j), for one graph.

    Nine tenths of the work, and all of the memory, are here; an engine may bring its own.
    """

    def __call__(
        self, context: Tensor, vectors: Tensor | None, filters: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Sums for every receiver, ``(N, F)`` and ``(N, 3, F)``.

        Parameters
        ----------
        context
            ``(S, 3F)`` of all senders (the N receivers, unless there is an exchange), ``(S, 2F)`` without `vectors`.
        vectors
            ``(S, 3, F)``, or None in the first layer, where they are zero.
        filters
            ``(3F, R)`` or ``(2F, R)``: weights of W.
        scale
            Factor of every message.
        """


class MessageSums(Protocol):
    """Makes the :class:`MessageSum` of a graph: a class of them, or an object that has prepared something."""

    def on(self, graph: Graph, *, basis: BesselBasis, dtype: torch.dtype) -> MessageSum:
        """Sums over the edges of `graph`, with radial functions `basis`, for features of `dtype`."""


class TensorMessageSum:
    """A :class:`MessageSum` that takes its edges as tensors, and the :class:`MessageSums` that makes it.

    Parameters
    ----------
    basis, directions
        ``(E, R)`` radial basis and ``(E, 3)`` unit vectors of the edges.
    graph
        What the edges connect.
    """

    def __init__(self, basis: Tensor, directions: Tensor, graph: Graph) -> None:
        self.basis, self.directions, self.graph = basis, directions, graph

    @classmethod
    def on(cls, graph: Graph, *, basis: BesselBasis, dtype: torch.dtype) -> Self:
        """As in :class:`MessageSums`."""
        edge_vectors = graph.edge_vectors.to(dtype)
        distances = torch.linalg.vector_norm(edge_vectors, dim=1)
        return cls(basis(distances), edge_vectors / distances[:, None], graph)


class Exchange(Protocol):
    """Where the features of senders come from, when not all of them belong to the atoms that receive.

    An engine that divides a structure between processes brings its own (:mod:`~hydrapot.potential.decomposed`).
    """

    def embedded(self, scalars: Tensor, kind_features: Tensor) -> Tensor:
        """Features ``(S, F)`` of the senders before the first layer, functions of their kinds: nothing travels.

        Parameters
        ----------
        scalars
            ``(N, F)``, the same of the receivers.
        kind_features
            ``(K, F)``.
        """

    def __call__(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the senders between two layers, ``(S, F)`` and ``(S, 3, F)``, from those of the receivers."""


class NoExchange:
    """:class:`Exchange` of a whole structure: every sender is a receiver, in the same place."""

    def embedded(self, scalars: Tensor, kind_features: Tensor) -> Tensor:  # noqa: ARG002 - of the protocol
        """As in :class:`Exchange`."""
        return scalars

    def __call__(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """As in :class:`Exchange`."""
        return scalars, vectors


NO_EXCHANGE = NoExchange()


class DenseMessageSum(TensorMessageSum):
    """:class:`MessageSum` as the equations are written: differentiable any number of times, and the reference."""

    def __call__(
        self, context: Tensor, vectors: Tensor | None, filters: Tensor, *, scale: float
    ) -> tuple[Tensor, Tensor]:
        """As in :class:`MessageSum`."""
        edge = self.gather(context) * (linear(self.basis, filters) * scale)
        parts = edge.chunk(2 if vectors is None else 3, dim=1)
        edge_vectors = parts[1][:, None, :] * self.directions[:, :, None]
        if vectors is not None:
            edge_vectors = edge_vectors + parts[2][:, None, :] * self.gather(vectors)
        return sum_edges(parts[0], self.graph), sum_edges(edge_vectors, self.graph)

    def gather(self, values: Tensor) -> Tensor:
        """The sender's value on each edge: ``(S, …)`` → ``(E, …)``."""
        return gather(values, self.graph)


class Message(nn.Module):
    """Eq. 7 and 8: s_i += Σ_j a_ij,  v_i += Σ_j (b_ij r̂_ij + c_ij v_j)."""

    def __init__(self, *, channels: int, n_radial: int, neighbor_scale: float, first: bool) -> None:
        super().__init__()
        self.first = first
        self.scale = 1.0 / math.sqrt(neighbor_scale)
        parts = 2 if first else 3
        self.hidden = initialize(nn.Linear(channels, channels))
        self.context = initialize(nn.Linear(channels, parts * channels), gain=SILU_GAIN)
        self.filters = nn.Linear(n_radial, parts * channels, bias=False)

    def forward(
        self, scalars: Tensor, vectors: Tensor, sent: tuple[Tensor, Tensor], message_sum: MessageSum
    ) -> tuple[Tensor, Tensor]:
        """Scalars and vectors of the receivers after the messages of all neighbors, whose features are `sent`."""
        context: Tensor = self.context(silu(self.hidden(sent[0])))
        known = None if self.first else sent[1]
        scalar_sum, vector_sum = message_sum(context, known, self.filters.weight, scale=self.scale)
        return scalars + scalar_sum, vectors + vector_sum


class Update(nn.Module):
    """Eq. 9 and 10: atom-wise mixing of scalars and vectors."""

    def __init__(self, *, channels: int, last: bool) -> None:
        super().__init__()
        self.channels = channels
        self.last = last
        self.mix = initialize(nn.Linear(channels, 2 * channels, bias=False))
        self.hidden = initialize(nn.Linear(2 * channels, channels))
        # A smaller gain: scalars receive a product of two vectors here, whose tail would grow from layer to layer.
        self.gates = initialize(nn.Linear(channels, (2 if last else 3) * channels), gain=0.5 * SILU_GAIN)

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars and vectors after mixing; the last layer returns its vectors unchanged."""
        u, v = self.mix(vectors).split(self.channels, dim=2)
        hidden = silu(self.hidden(torch.cat([scalars, smooth_norm(v)], dim=1)))
        gates = self.gates(hidden).split(self.channels, dim=1)
        scalars = scalars + gates[0] + gates[1] * (u * v).sum(dim=1)
        if not self.last:
            vectors = vectors + gates[2][:, None, :] * u
        return scalars, vectors

    def without_neighbors(self, scalars: Tensor) -> Tensor:
        """The scalar update of an atom whose vectors are zero: ``(K, F)`` → ``(K, F)``."""
        norms = torch.full_like(scalars, NORM_SOFTENING)
        gates: Tensor = self.gates(silu(self.hidden(torch.cat([scalars, norms], dim=1))))
        return scalars + gates[:, : self.channels]


class PaiNN(nn.Module):
    """Encoder: graph → invariant node features.

    Parameters
    ----------
    channels
        F, width of scalar and vector features.
    layers
        Number of message + update blocks; the receptive field is layers · cutoff.
    n_radial
        Radial basis functions.
    cutoff
        Å.
    neighbor_scale
        n̄, typical number of neighbors in the training data.
    """

    def __init__(self, *, channels: int, layers: int, n_radial: int, cutoff: float, neighbor_scale: float) -> None:
        super().__init__()
        self.channels = channels
        self.basis = BesselBasis(n_radial=n_radial, cutoff=cutoff)
        self.embedding = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels)
        self.messages = nn.ModuleList(
            Message(channels=channels, n_radial=n_radial, neighbor_scale=neighbor_scale, first=k == 0)
            for k in range(layers)
        )
        self.updates = nn.ModuleList(Update(channels=channels, last=k == layers - 1) for k in range(layers))
        for message in cast("Iterable[Message]", self.messages):
            initialize_filters(message.filters, self.basis, cutoff=cutoff)

    def embed(self, kinds: Tensor, conditioning: Tensor) -> Tensor:
        """Features of atom kinds before any layer: ``(K, 3)``, ``(K, F)`` → ``(K, F)``."""
        embedded: Tensor = self.embedding(kinds[:, 0])
        return embedded + conditioning

    def forward(
        self,
        kind_features: Tensor,
        graph: Graph,
        *,
        message_sum: MessageSums = DenseMessageSum,
        exchange: Exchange = NO_EXCHANGE,
    ) -> Tensor:
        """Node features ``(N, F)`` from the embedded kinds ``(K, F)`` and the graph, in the dtype of the kinds.

        `message_sum` says how sums over neighbors are done, not what they are; `exchange`, where senders are found.
        """
        scalars = spread_kinds(kind_features, graph)
        vectors = scalars.new_zeros(scalars.shape[0], 3, self.channels)
        sums = message_sum.on(graph, basis=self.basis, dtype=scalars.dtype)
        sent = exchange.embedded(scalars, kind_features), vectors
        for layer, (message, update) in enumerate(zip(self.messages, self.updates, strict=True)):
            if layer > 0:
                sent = exchange(scalars, vectors)
            scalars, vectors = message(scalars, vectors, sent, sums)
            scalars, vectors = update(scalars, vectors)
        return scalars

    def without_neighbors(self, kind_features: Tensor) -> Tensor:
        """Node features of atoms that have no neighbor: ``(K, F)`` → ``(K, F)``; equals `forward` on such atoms."""
        scalars = kind_features
        for update in cast("Iterable[Update]", self.updates):
            scalars = update.without_neighbors(scalars)
        return scalars
