"""Energy, forces and stress of structures by a chosen head: the one path that every adapter uses."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hydrapot.potential.backbones.blocked import fastest_message_sum
from hydrapot.potential.derivatives import (
    forces_from_edge_gradient,
    strain_gradient,
    strain_gradient_per_atom,
    volumes,
)
from hydrapot.potential.errors import SimulationError
from hydrapot.potential.graph import Graph
from hydrapot.potential.model import Potential

#: Learned part of the interaction energies: graph → ``(N,)`` eV. Replaced by a compiled function in adapters.
NetworkEnergies = Callable[[Graph], Tensor]


@dataclass(frozen=True)
class Prediction:
    """Results for a graph of ``N`` atoms in ``G`` structures, all float64, detached.

    Attributes
    ----------
    energy
        ``(G,)`` eV, reference energies included.
    interaction_energy
        ``(G,)`` eV relative to isolated atoms, never mixed with them: next to 1e6 eV of an all-electron code the
        difference of two totals would be rounded to 1e-10 eV.
    reference_energy
        ``(G,)`` eV: the sum of reference energies of the isolated atoms.
    energies
        ``(N,)`` eV per atom, references included.
    forces
        ``(N, 3)`` eV/Å, the negative gradient of `energy`.
    virial
        ``(G, 3, 3)`` eV: −∂E/∂ε.
    virials
        ``(N, 3, 3)`` eV: each atom's share of the virial, as the receiver of its edges; not symmetric.
    stress
        ``(G, 3, 3)`` eV/Å³, ∂E/∂ε / V; NaN for structures that are not periodic in all three directions.
    """

    energy: Tensor
    interaction_energy: Tensor
    reference_energy: Tensor
    energies: Tensor
    forces: Tensor
    virial: Tensor
    virials: Tensor
    stress: Tensor


def evaluate(
    potential: Potential,
    graph: Graph,
    *,
    head: str | None = None,
    network: NetworkEnergies | None = None,
    check: bool = True,
) -> Prediction:
    """Evaluate `head` on a graph.

    Parameters
    ----------
    potential
        The model; its dtype is that of the network, geometry and sums are float64.
    graph
        One or many structures (:func:`~hydrapot.potential.graph.collate`).
    head
        Name of the head; may be None only if the model has a single one.
    network
        A replacement (say, compiled) for ``potential.network_energies(graph, head=head)``, which is used with the
        fastest message sum of the device.
    check
        Check elements, charge and spin; an adapter that checked the same structure before may skip it.

    Raises
    ------
    UnknownHeadError, UnknownElementError, UnsupportedChargeError
    SimulationError
        The energy or a force is not finite.
    """
    head = potential.check_head(head)
    if check:
        potential.check_supported(graph, head=head)
    leaf = graph.edge_vectors.detach().double().requires_grad_()
    leafed = graph.with_edge_vectors(leaf)
    with torch.enable_grad():
        if network is not None:
            learned = network(leafed)
        else:
            fastest = fastest_message_sum(leaf.device, potential.dtype)
            learned = potential.network_energies(leafed, head=head, message_sum=fastest)
        interaction = learned + potential.repulsion(leafed)
        (gradient,) = torch.autograd.grad(interaction.sum(), leaf)
    interaction = interaction.detach()
    forces = forces_from_edge_gradient(gradient, graph)
    dedeps = strain_gradient(gradient, graph)
    references = torch.from_numpy(potential.references[head].values).to(interaction.device)[graph.numbers]
    zeros = interaction.new_zeros(graph.n_graphs)
    reference_energy = zeros.index_add(0, graph.batch, references)
    interaction_energy = zeros.index_add(0, graph.batch, interaction)
    energy = interaction_energy + reference_energy
    if not bool(torch.isfinite(energy).all() and torch.isfinite(forces).all()):
        raise SimulationError(
            "the energy or a force is not finite (NaN or infinity): two atoms are very close, or the weights are damaged"
        )
    periodic = graph.pbc.all(dim=1)
    volume = torch.where(periodic, volumes(graph), torch.full_like(zeros, torch.nan))
    return Prediction(
        energy=energy,
        interaction_energy=interaction_energy,
        reference_energy=reference_energy,
        energies=interaction + references,
        forces=forces,
        virial=-dedeps,
        virials=-strain_gradient_per_atom(gradient, graph),
        stress=dedeps / volume[:, None, None],
    )
