"""Forces and virial from the energy's gradient with respect to edge vectors: the one place where signs are decided.

With r_e = x_j − x_i (receiver i, sender j) and g_e = ∂E/∂r_e, the chain rule gives

    F_k = −∂E/∂x_k = Σ_{e: receiver k} g_e − Σ_{e: sender k} g_e,

and for a homogeneous strain r → (1+ε) r of positions and cell alike

    ∂E/∂ε_ab = Σ_e g_ea r_eb,      virial = −∂E/∂ε,      stress = (∂E/∂ε)/V   (ASE: positive = tension).

∂E/∂ε is symmetric for an energy that rotation leaves unchanged (Knuth et al., CPC 190, 33 (2015)); the symmetric part
is taken to remove rounding.
"""

import torch
from torch import Tensor

from hydrapot.potential.edges import sum_edges, swap_edges
from hydrapot.potential.graph import Graph


def forces_from_edge_gradient(gradient: Tensor, graph: Graph) -> Tensor:
    """Forces ``(N, 3)`` eV/Å from ∂E/∂r_e ``(E, 3)``; differentiable again."""
    return sum_edges(gradient - swap_edges(gradient, graph), graph)


def strain_gradient_per_atom(gradient: Tensor, graph: Graph) -> Tensor:
    """Each receiver's share of ∂E/∂ε, ``(N, 3, 3)`` eV; differentiable again."""
    return sum_edges(gradient[:, :, None] * graph.edge_vectors.to(gradient.dtype)[:, None, :], graph)


def strain_gradient(gradient: Tensor, graph: Graph) -> Tensor:
    """∂E/∂ε per structure, symmetrized, ``(G, 3, 3)`` eV; differentiable again."""
    per_atom = strain_gradient_per_atom(gradient, graph)
    total = per_atom.new_zeros(graph.n_graphs, 3, 3).index_add(0, graph.batch, per_atom)
    return 0.5 * (total + total.transpose(1, 2))


def volumes(graph: Graph) -> Tensor:
    """Cell volume per structure, ``(G,)`` Å³."""
    volume: Tensor = torch.linalg.det(graph.cell).abs()
    return volume
