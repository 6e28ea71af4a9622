"""Energies of one part of a structure, whose neighbors in part belong to others: domain decomposition.

An engine that divides space hands each process its own atoms, copies of the foreign atoms (and of periodic images) within
one cutoff of them, called ghosts, and a full list of the neighbors of its own atoms. Each layer of the encoder looks one
cutoff further, so ghosts need features that only their owners can compute:

* before the first layer a feature depends on the kind of the atom alone, nothing travels;
* between layers the owners' scalars and vectors are copied to the ghosts, and in the backward pass the gradients that
  ghosts have received are added to their owners: one :class:`Halo` exchange each, for every layer but the last.

Whatever the number of layers, the halo is one cutoff wide, and energies, forces and virial are those of
:func:`~hydrapot.potential.evaluate.evaluate` to rounding.

Lists of this kind hold no edges of ghosts, hence not the reverse of every edge, and the gradient of a gather is a scatter
here (:class:`OneSidedMessageSum`): the reference, which is differentiable any number of times.

On a CPU :func:`evaluate_domain` gathers instead (:class:`BlockedDomainSum`), as for a whole structure. An own atom j has in
its row everybody to whom it sends; with the gradients of these receivers, which for ghosts come from their owners just as
features do, it finds by itself the gradient of what it sent. So gradients travel to ghosts too, nothing is ever added to an
owner, and the derivative with respect to a pair (j, k) comes out as that of the pair (k, j), which lies opposite.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hydrapot.potential.backbones.blocked import BlockedMessageSum
from hydrapot.potential.backbones.painn import DenseMessageSum
from hydrapot.potential.errors import ConfigurationError, InvalidStructureError
from hydrapot.potential.graph import SPIN_ABSENT, Graph
from hydrapot.potential.model import Potential
from hydrapot.potential.neighbors import MINIMUM_DISTANCE


class Halo(Protocol):
    """Communication between owners and ghosts, ``n`` own atoms and ``S`` atoms in all.

    Both are collective: every process calls them equally often, with or without atoms. Rows are of one dtype and width
    on all processes, and each map is the other's transpose.
    """

    def to_ghosts(self, rows: Tensor) -> Tensor:
        """Own rows followed by those of the ghosts' owners: ``(n, W)`` → ``(S, W)``."""

    def to_owners(self, rows: Tensor) -> Tensor:
        """Own rows plus what all ghosts of each atom hold, on any process: ``(S, W)`` → ``(n, W)``."""


class _ToGhosts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, halo: Halo) -> Tensor:
        ctx.halo = halo
        return halo.to_ghosts(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _ToOwners.apply(gradient, ctx.halo), None  # type: ignore[no-untyped-call]


class _ToOwners(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, halo: Halo) -> Tensor:
        ctx.halo = halo
        return halo.to_owners(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _ToGhosts.apply(gradient, ctx.halo), None  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Domain(Graph):
    """The rows of a graph that one process owns; ``N`` own atoms, which come first, ``S`` with ghosts.

    Differs from a whole :class:`~hydrapot.potential.graph.Graph` in that `numbers` and the senders in
    ``edge_index[1]`` reach over all ``S`` atoms, `kind_index` over the ``N`` own ones, and in that `reverse` is empty.

    Attributes
    ----------
    sender_kind_index
        int64 ``(S,)``: row of every atom in `kinds`.
    halo
        To the owners of the ghosts.
    """

    sender_kind_index: Tensor
    halo: Halo

    @property
    def n_atoms(self) -> int:
        """Number of own atoms."""
        return self.kind_index.shape[0]


class HaloExchange:
    """:class:`~hydrapot.potential.backbones.painn.Exchange` by a halo.

    Parameters
    ----------
    domain
        Of this process.
    """

    def __init__(self, domain: Domain) -> None:
        self.domain = domain

    def embedded(self, scalars: Tensor, kind_features: Tensor) -> Tensor:  # noqa: ARG002 - of the protocol
        """As in :class:`~hydrapot.potential.backbones.painn.Exchange`."""
        return kind_features.index_select(0, self.domain.sender_kind_index)

    def __call__(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """As in :class:`~hydrapot.potential.backbones.painn.Exchange`."""
        return _split(self.travel(_join(scalars, vectors)))

    def travel(self, rows: Tensor) -> Tensor:
        """Own rows to the ghosts, and gradients back to the owners."""
        return _ToGhosts.apply(rows, self.domain.halo)  # type: ignore[no-any-return, no-untyped-call]


class GatheredExchange(HaloExchange):
    """:class:`HaloExchange` for :class:`BlockedDomainSum`, which leaves nothing in ghosts that owners would want."""

    def travel(self, rows: Tensor) -> Tensor:
        """Own rows to the ghosts."""
        ghosts = self.domain.halo.to_ghosts(rows.detach())[self.domain.n_atoms :]
        return torch.cat([rows, ghosts])


def _join(scalars: Tensor, vectors: Tensor) -> Tensor:
    """``(N, F)`` and ``(N, 3, F)`` → ``(N, 4F)``."""
    return torch.cat([scalars, vectors.flatten(1)], dim=1)


def _split(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The reverse of :func:`_join`."""
    F = rows.shape[1] // 4
    return rows[:, :F], rows[:, F:].unflatten(1, (3, F))


class OneSidedMessageSum(DenseMessageSum):
    """:class:`~hydrapot.potential.backbones.painn.MessageSum` for lists without reverse edges."""

    def gather(self, values: Tensor) -> Tensor:
        """The sender's value on each edge: ``(S, …)`` → ``(E, …)``; its derivative scatters."""
        return values.index_select(0, self.graph.edge_index[1])


class BlockedDomainSum(BlockedMessageSum):
    """:class:`~hydrapot.potential.backbones.blocked.BlockedMessageSum` where gradients of ghosts come from their owners."""

    graph: Domain

    def reverse(self, basis: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The reverse of an edge lies opposite, on whichever process."""
        return basis, -directions

    def spread(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of all atoms from those of the own ones."""
        scalars, vectors = _split(self.graph.halo.to_ghosts(_join(scalars, vectors)))
        return scalars.contiguous(), vectors.contiguous()


@dataclass(frozen=True)
class DomainPrediction:
    """Results for one process's own atoms: ``N`` own atoms, ``S`` with ghosts, ``P`` pairs; float64, detached.

    Attributes
    ----------
    energies
        ``(N,)`` eV, interaction energies; their sum over all processes is the interaction energy.
    pair_gradient
        ``(P, 3)`` eV/Å, g with F_k = Σ g_kj − Σ g_ik over all pairs of all processes. Whether it is the gradient of the
        energy with respect to this r_ij, or minus that with respect to r_ji, is the same in every such sum.
    forces
        ``(S, 3)`` eV/Å; what ghosts hold is to be added to their owners.
    virials
        ``(N, 3, 3)`` eV, shares of the atoms. Their sum over all atoms of all processes is the virial.
    """

    energies: Tensor
    pair_gradient: Tensor
    forces: Tensor
    virials: Tensor


def make_domain(
    *,
    numbers: Tensor,
    pair_i: Tensor,
    pair_j: Tensor,
    r_ij: Tensor,
    n_local: int,
    cutoff: float,
    halo: Halo,
    charge: int = 0,
    spin: int | None = None,
) -> Domain:
    """The graph of one process, differentiable with respect to `r_ij`; parameters as for :func:`energies`."""
    device = r_ij.device
    squares = (r_ij.detach() * r_ij.detach()).sum(dim=1)
    if squares.numel() and float(squares.min()) < MINIMUM_DISTANCE**2:
        pair = int(squares.argmin())
        raise InvalidStructureError(
            f"atoms {int(pair_i[pair])} and {int(pair_j[pair])} of a process are at one place "
            f"({float(squares[pair]) ** 0.5:.1e} Å apart)"
        )
    # Pairs beyond the cutoff, from the skin of an engine's list, contribute nothing.
    inside = torch.nonzero(squares < cutoff * cutoff)[:, 0]
    order = inside[torch.argsort(pair_i[inside], stable=True)]
    receivers, senders = pair_i[order], pair_j[order]
    counts = torch.bincount(receivers, minlength=n_local)
    if counts.shape[0] > n_local:
        raise ValueError(f"receivers reach to {counts.shape[0] - 1}, but only {n_local} atoms are local")
    degree = max(int(counts.max()), 1) if n_local else 1
    starts = counts.cumsum(0) - counts
    slots = receivers * degree + torch.arange(len(order), device=device) - starts[receivers]
    rows = torch.arange(n_local, device=device).repeat_interleave(degree)
    filler = r_ij.new_tensor([cutoff, 0.0, 0.0]).expand(n_local * degree, 3)
    mask = torch.zeros(n_local * degree, dtype=torch.bool, device=device)
    mask[slots] = True
    multiplicity = SPIN_ABSENT if spin is None else spin
    elements, index = torch.unique(numbers, return_inverse=True)
    kinds = torch.stack([elements, torch.full_like(elements, charge), torch.full_like(elements, multiplicity)], dim=1)
    return Domain(
        numbers=numbers,
        edge_index=torch.stack([rows, rows.index_copy(0, slots, senders)]),
        edge_vectors=filler.index_copy(0, slots, r_ij[order]),
        edge_shifts=r_ij.new_zeros(n_local * degree, 3),
        edge_mask=mask,
        reverse=rows.new_empty(0),
        degree=degree,
        batch=torch.zeros(n_local, dtype=torch.int64, device=device),
        cell=r_ij.new_zeros(1, 3, 3),
        pbc=torch.zeros(1, 3, dtype=torch.bool, device=device),
        charge=torch.tensor([charge], device=device),
        spin=torch.tensor([multiplicity], device=device),
        kinds=kinds,
        kind_index=index[:n_local],
        sender_kind_index=index,
        halo=halo,
    )


def check_heads(potential: Potential, heads: Mapping[str, float]) -> None:
    """Raise unless the model has all heads of a blend, and there is one.

    Raises
    ------
    UnknownHeadError, ConfigurationError
    """
    for head in heads:
        potential.check_head(head)
    if not heads:
        raise ConfigurationError(f"name a head: {', '.join(potential.heads)}")


def energies(
    potential: Potential,
    *,
    heads: Mapping[str, float],
    numbers: Tensor,
    pair_i: Tensor,
    pair_j: Tensor,
    r_ij: Tensor,
    n_local: int,
    halo: Halo,
    charge: int = 0,
    spin: int | None = None,
    gathered: bool = False,
) -> Tensor:
    """Interaction energies of a process's own atoms, ``(n_local,)`` eV, float64, differentiable in `r_ij`.

    Collective: every process calls it, and differentiates the sum of what it got exactly once, also without any atom.

    Parameters
    ----------
    heads
        Weight of each head: E = Σ weight · E_head. One head of weight 1 is the ordinary case.
    numbers
        int64 ``(S,)`` atomic numbers, own atoms first.
    pair_i, pair_j
        int64 ``(P,)``: full list of the neighbors of own atoms, receivers ``< n_local`` and senders ``< S``, at least as
        far as the cutoff and in any order. Images count as atoms of their own.
    r_ij
        ``(P, 3)`` Å, float64: from receiver to sender.
    halo
        To the owners of the ghosts.
    charge, spin
        Of the whole structure, on all processes alike.
    gathered
        Gather in the backward pass too (:class:`BlockedDomainSum`): on a CPU faster, in a hundredth of the memory, and
        differentiable once; the sum over processes has to be differentiated with respect to all their pairs.

    Raises
    ------
    UnknownHeadError, UnknownElementError, UnsupportedChargeError, InvalidStructureError
        On the process that is concerned; it has to end the others.
    """
    check_heads(potential, heads)
    domain = make_domain(
        numbers=numbers,
        pair_i=pair_i,
        pair_j=pair_j,
        r_ij=r_ij,
        n_local=n_local,
        cutoff=potential.cutoff,
        halo=halo,
        charge=charge,
        spin=spin,
    )
    for head in heads:
        potential.check_supported(domain, head=head)
    message_sum, exchange = (
        (BlockedDomainSum, GatheredExchange(domain)) if gathered else (OneSidedMessageSum, HaloExchange(domain))
    )
    features, isolated = potential.features(domain, message_sum=message_sum, exchange=exchange)
    total: Tensor = sum(heads.values()) * potential.repulsion(domain)
    for head, weight in heads.items():
        total = total + weight * potential.head(head)(features, isolated, domain)
    return total


def evaluate_domain(
    potential: Potential,
    *,
    heads: Mapping[str, float],
    numbers: Tensor,
    pair_i: Tensor,
    pair_j: Tensor,
    r_ij: Tensor,
    n_local: int,
    halo: Halo,
    charge: int = 0,
    spin: int | None = None,
    n_counted: int | None = None,
    gathered: bool | None = None,
) -> DomainPrediction:
    """Energies, forces and virials of a process's share; collective, parameters and errors as for :func:`energies`.

    Whether they are finite is for the caller to see, who can tell all processes.

    Parameters
    ----------
    n_counted
        How many of the atoms with neighbors contribute to the energy, the first ones; None for all. The others are there
        to have features of their own instead of such that travel.
    gathered
        As for :func:`energies`; None gathers where it can.
    """
    if gathered is None:
        # Atoms that have neighbors but do not count may lack some of them: nothing can be gathered there.
        gathered = r_ij.device.type == "cpu" and n_counted is None
    leaf = r_ij.detach().double().requires_grad_()
    # In the calling thread: communication from a thread of autograd's own is more than some MPI libraries allow.
    with torch.enable_grad(), torch.autograd.set_multithreading_enabled(mode=False):
        local = energies(
            potential,
            heads=heads,
            numbers=numbers,
            pair_i=pair_i,
            pair_j=pair_j,
            r_ij=leaf,
            n_local=n_local,
            halo=halo,
            charge=charge,
            spin=spin,
            gathered=gathered,
        )
        (gradient,) = torch.autograd.grad(local[:n_counted].sum(), leaf)
    forces = gradient.new_zeros(len(numbers), 3).index_add(0, pair_i, gradient).index_add(0, pair_j, -gradient)
    shares = -gradient[:, :, None] * leaf.detach()[:, None, :]
    return DomainPrediction(
        energies=local[:n_counted].detach(),
        pair_gradient=gradient,
        forces=forces,
        virials=gradient.new_zeros(n_local, 3, 3).index_add(0, pair_i, shares),
    )
