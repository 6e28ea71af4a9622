"""Forces, virial and stress from edge-vector gradients equal what autograd gives through positions and strain."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones

from hydrapot.potential.derivatives import (
    forces_from_edge_gradient,
    strain_gradient,
    strain_gradient_per_atom,
    volumes,
)
from hydrapot.potential.evaluate import evaluate
from hydrapot.potential.graph import build_graph, collate, edge_vectors
from tests.contract_helpers import random_potential


def rattled(atoms, *, by=0.1):
    atoms.rattle(by, seed=1)
    return atoms


STRUCTURES = {
    "molecule": lambda: molecule("CH3OH"),
    "one atom in its cell": lambda: bulk("Cu"),
    "crystal": lambda: rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True)),
}


@pytest.mark.parametrize("make", STRUCTURES.values(), ids=STRUCTURES.keys())
def test_against_autograd_through_positions_and_strain(make):
    potential, atoms = random_potential(), make()
    graph = build_graph(atoms, cutoff=potential.cutoff)
    positions = torch.from_numpy(atoms.positions.copy()).requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    deformation = torch.eye(3, dtype=torch.float64) + strain
    vectors = edge_vectors(
        positions @ deformation,
        graph.cell[0] @ deformation,
        graph.edge_index,
        graph.edge_shifts,
        graph.edge_mask,
        cutoff=potential.cutoff,
    )
    energy = potential(graph.with_edge_vectors(vectors), head="a").sum()
    gradient, strain_derivative = torch.autograd.grad(energy, [positions, strain])

    result = evaluate(potential, graph)
    torch.testing.assert_close(result.forces, -gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(-result.virial[0], strain_derivative, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(result.virials.sum(dim=0), result.virial[0], rtol=1e-10, atol=1e-11)
    if atoms.pbc.all():
        torch.testing.assert_close(result.stress[0], strain_derivative / atoms.get_volume(), rtol=1e-10, atol=1e-12)
    else:
        assert bool(torch.isnan(result.stress).all())


def test_signs_and_units_are_those_of_ase():
    """A Lennard-Jones pair sum through our derivatives, and through ASE's calculator: compressed and stretched."""
    cutoff = 4.0
    for scale in (0.9, 1.1):
        atoms = rattled(bulk("Ar", "fcc", a=2 ** (2 / 3) * scale, cubic=True), by=0.01)
        calculator = LennardJones(sigma=1.0, epsilon=1.0, rc=cutoff)
        atoms.calc = calculator
        graph = build_graph(atoms, cutoff=cutoff)
        leaf = graph.edge_vectors.clone().requires_grad_()
        r6 = (leaf * leaf).sum(dim=1) ** -3
        pair = torch.where(graph.edge_mask, 4 * (r6 * r6 - r6), 0.0)
        (gradient,) = torch.autograd.grad(0.5 * pair.sum(), leaf)
        forces = forces_from_edge_gradient(gradient, graph).numpy()
        stress = (strain_gradient(gradient, graph)[0] / volumes(graph)[0]).numpy()
        np.testing.assert_allclose(forces, atoms.get_forces(), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), rtol=1e-9, atol=1e-9)
        assert np.sign(np.trace(stress)) == np.sign(scale - 1.0)  # positive is tension


def test_both_are_differentiable_again():
    """Linear maps of the gradient: gradcheck of each is what double backward through a force loss needs."""
    structures = [molecule("H2O"), bulk("Cu", a=3.6)]
    graph = collate([build_graph(a, cutoff=2.6) for a in structures], cutoff=2.6)
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(graph.edge_vectors.shape, dtype=torch.float64, generator=generator, requires_grad=True)
    for function in (forces_from_edge_gradient, strain_gradient_per_atom, strain_gradient):
        assert torch.autograd.gradcheck(lambda g, f=function: f(g, graph), gradient)
        assert torch.autograd.gradgradcheck(lambda g, f=function: f(g * g, graph), gradient)


def test_results_of_a_batch_belong_to_their_structures():
    potential = random_potential()
    graphs = [build_graph(make(), cutoff=potential.cutoff) for make in STRUCTURES.values()]
    batch = evaluate(potential, collate(graphs, cutoff=potential.cutoff))
    for k, graph in enumerate(graphs):
        torch.testing.assert_close(batch.virial[k], evaluate(potential, graph).virial[0], rtol=1e-11, atol=1e-12)


def test_evaluation_leaves_no_gradient_behind():
    potential = random_potential()
    with torch.no_grad():
        result = evaluate(potential, build_graph(molecule("H2O"), cutoff=potential.cutoff))
    assert not result.energy.requires_grad
    assert not result.forces.requires_grad
    assert all(p.grad is None for p in potential.parameters())
