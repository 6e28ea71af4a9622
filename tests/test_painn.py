"""PaiNN: linear maps and their transposes, derivatives up to the second, atoms without neighbors, no idle weights."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch.autograd import gradcheck, gradgradcheck

from hydrapot.potential.backbones.painn import NORM_SOFTENING, PaiNN, smooth_norm
from hydrapot.potential.edges import gather, spread_kinds, sum_edges, swap_edges
from hydrapot.potential.graph import build_graph, collate
from hydrapot.potential.radial import BesselBasis, envelope
from tests.contract_helpers import random_potential

CUTOFF = 3.0


def small_graph():
    structures = [molecule("H2O"), bulk("Cu", a=3.6), Atoms("H")]
    structures[0].rattle(0.05, seed=0)
    return collate([build_graph(a, cutoff=CUTOFF) for a in structures], cutoff=CUTOFF)


GRAPH = small_graph()
EDGES, ATOMS, KINDS = len(GRAPH.reverse), GRAPH.n_atoms, len(GRAPH.kinds)
MAPS = {
    "sum": (sum_edges, EDGES),
    "swap": (swap_edges, EDGES),
    "gather": (gather, ATOMS),
    "kinds": (spread_kinds, KINDS),
}


def random(*shape, requires_grad=True):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=requires_grad)


@pytest.mark.parametrize(("function", "rows"), MAPS.values(), ids=MAPS.keys())
@pytest.mark.parametrize("tail", [(), (2,), (3, 2)], ids=str)
def test_maps_and_their_derivatives(function, rows, tail):
    assert gradcheck(lambda x: function(x, GRAPH), random(rows, *tail))
    # Squared: the second derivative of a linear map alone is zero whatever its backward does.
    assert gradgradcheck(lambda x: function(x * x, GRAPH), random(rows, *tail))


def test_maps_are_what_they_say():
    """Against indexing, scatter and the definition of the reverse edge."""
    receivers, senders = GRAPH.edge_index
    atoms, edges = random(ATOMS, 2, requires_grad=False), random(EDGES, 2, requires_grad=False)
    assert torch.equal(gather(atoms, GRAPH), atoms[senders])
    torch.testing.assert_close(sum_edges(edges, GRAPH), torch.zeros(ATOMS, 2).double().index_add(0, receivers, edges))
    assert torch.equal(swap_edges(swap_edges(edges, GRAPH), GRAPH), edges)
    vectors = torch.where(GRAPH.edge_mask[:, None], GRAPH.edge_vectors, 0.0)
    torch.testing.assert_close(swap_edges(vectors, GRAPH), -vectors)
    assert torch.equal(spread_kinds(GRAPH.kinds, GRAPH)[:, 0], GRAPH.numbers)


def encoder(*, layers=2, channels=4, dtype=torch.float64):
    torch.manual_seed(0)
    model = PaiNN(channels=channels, layers=layers, n_radial=3, cutoff=CUTOFF, neighbor_scale=10.0)
    return model.to(dtype)


def kind_features(model, dtype=torch.float64):
    return model.embed(GRAPH.kinds, torch.zeros(KINDS, model.channels, dtype=dtype))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_derivatives_with_respect_to_edge_vectors(layers):
    """First and second: what forces and a force loss need."""
    model = encoder(layers=layers, channels=2)
    kinds = kind_features(model).detach()
    water = build_graph(molecule("H2O"), cutoff=CUTOFF)
    kinds = model.embed(water.kinds, torch.zeros(2, 2, dtype=torch.float64)).detach()

    def features(vectors):
        return model(kinds, water.with_edge_vectors(vectors)).sum(dim=0)

    vectors = water.edge_vectors.clone().requires_grad_()
    assert gradcheck(features, vectors)
    assert gradgradcheck(features, vectors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layers", [1, 3])
def test_without_neighbors_is_forward_on_atoms_without_neighbors(layers, dtype):
    model = encoder(layers=layers, channels=16, dtype=dtype)
    for symbol in ("H", "O", "Cu", "U"):
        graph = build_graph(Atoms(symbol), cutoff=CUTOFF)
        kinds = model.embed(graph.kinds, torch.zeros(1, 16, dtype=dtype))
        assert torch.equal(model(kinds, graph), model.without_neighbors(kinds))


def test_precision_is_that_of_the_weights_and_geometry_is_double():
    single = encoder(dtype=torch.float32)
    double = encoder(dtype=torch.float64)
    low, high = (m(kind_features(m, d), GRAPH) for m, d in ((single, torch.float32), (double, torch.float64)))
    assert low.dtype == torch.float32
    assert high.dtype == torch.float64
    assert GRAPH.edge_vectors.dtype == torch.float64
    torch.testing.assert_close(low.double(), high, rtol=1e-4, atol=1e-5)


def test_casting_a_model_back_and_forth_costs_only_the_rounding_of_weights():
    """Frequencies and scales are no weights: single precision must not round them."""
    potential = random_potential()
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.copy_(parameter.float().double())
    graph = build_graph(molecule("CH3OH"), cutoff=potential.cutoff)
    before = potential(graph, head="a").detach()
    assert torch.equal(potential.float().double()(graph, head="a"), before)


def test_every_weight_is_used():
    """A weight that no energy depends on would be a bug, or dead freight in every checkpoint."""
    potential = random_potential(repulsion="none")
    water = molecule("H2O")
    anion = molecule("H2O")
    anion.info.update(charge=-1, spin=2)
    graph = collate([build_graph(a, cutoff=potential.cutoff) for a in (water, anion)], cutoff=potential.cutoff)
    potential(graph, head="a").pow(2).sum().backward()
    for name, parameter in potential.named_parameters():
        assert parameter.grad is not None, name
        if name.split(".")[0] == "conditioning" or "embedding" in name:
            continue  # tables, of which few rows are in use
        used = parameter.grad.abs().sum(dim=tuple(range(1, parameter.ndim)))
        assert bool((used > 0).all()), name


def test_smooth_norm_at_zero():
    zero = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.equal(smooth_norm(zero), torch.full((2, 4), NORM_SOFTENING, dtype=torch.float64))
    assert gradcheck(smooth_norm, zero)
    assert gradgradcheck(smooth_norm, zero)


def test_envelope_vanishes_with_two_derivatives():
    for end, value in ((0.0, 1.0), (4.0, 0.0)):
        r = torch.tensor(end, dtype=torch.float64, requires_grad=True)
        f = envelope(r, cutoff=4.0)
        (first,) = torch.autograd.grad(f, r, create_graph=True)
        (second,) = torch.autograd.grad(first, r)
        assert [x.item() for x in (f, first, second)] == [value, 0.0, 0.0]
    delta = torch.tensor([1e-3, 1e-6, 1e-9], dtype=torch.float64)
    cubic = envelope(4.0 - delta, cutoff=4.0) / delta**3
    torch.testing.assert_close(cubic, torch.full_like(cubic, 10.0 / 4.0**3), rtol=1e-3, atol=0.0)
    assert float(envelope(torch.tensor(4.1), cutoff=4.0)) == 0.0


def test_bessel_functions_are_orthonormal_without_their_envelope():
    """∫ b_m b_n r² dr = δ_mn on 0 … r_c (arXiv:2003.03123, eq. 7)."""
    r = (torch.arange(20000, dtype=torch.float64) + 0.5) * (4.0 / 20000)
    basis = BesselBasis(n_radial=6, cutoff=4.0)(r) / envelope(r, cutoff=4.0)[:, None]
    overlap = torch.einsum("em,en,e->mn", basis, basis, r**2) * (4.0 / 20000)
    torch.testing.assert_close(overlap, torch.eye(6, dtype=torch.float64), rtol=0.0, atol=1e-6)
