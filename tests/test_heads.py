"""Heads: many at once equal each by itself, isolated atoms have their reference energy, nothing unknown is evaluated."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import atomic_numbers

from hydrapot.potential.errors import SimulationError, UnknownElementError, UnknownHeadError, UnsupportedChargeError
from hydrapot.potential.evaluate import evaluate
from hydrapot.potential.graph import build_graph, collate
from hydrapot.potential.heads import stacked_energies
from tests.contract_helpers import ELEMENTS, random_potential

NAMES = ["one", "two.v3", "three"]


def potential_of(dtype):
    potential = random_potential(heads=NAMES)
    for k, name in enumerate(NAMES):
        potential.head(name).scale = 10.0**k
    return potential.to(dtype)


def mixed_graph(cutoff):
    structures = [molecule("CH3OH"), bulk("Cu"), Atoms("Na"), molecule("H2O")]
    return collate([build_graph(a, cutoff=cutoff) for a in structures], cutoff=cutoff)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_all_heads_at_once_equal_each_by_itself(dtype, tolerance):
    potential = potential_of(dtype)
    graph = mixed_graph(potential.cutoff)
    features, isolated = potential.features(graph)
    stacked = stacked_energies([potential.head(n) for n in NAMES], features, isolated, graph)
    assert stacked.shape == (graph.n_atoms, 3)
    assert stacked.dtype == dtype
    for k, name in enumerate(NAMES):
        alone = potential.network_energies(graph, head=name)
        assert alone.dtype == torch.float64
        scale = 10.0**k
        torch.testing.assert_close(stacked[:, k].double() / scale, alone / scale, rtol=tolerance, atol=tolerance)


def test_heads_differ():
    potential = potential_of(torch.float64)
    graph = mixed_graph(potential.cutoff)
    a, b = (potential(graph, head=n).detach() / potential.head(n).scale for n in NAMES[:2])
    assert float((a - b).abs().max()) > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_an_isolated_atom_has_its_reference_energy_to_the_last_bit(dtype, name):
    potential = potential_of(dtype)
    for symbol in ELEMENTS:
        result = evaluate(potential, build_graph(Atoms(symbol), cutoff=potential.cutoff), head=name)
        assert float(result.energy) == potential.references[name].values[atomic_numbers[symbol]]
        assert float(result.interaction_energy) == 0.0
        assert not result.forces.any()


def test_energies_are_references_plus_interaction():
    potential = potential_of(torch.float64)
    atoms = molecule("CH3OH")
    result = evaluate(potential, build_graph(atoms, cutoff=potential.cutoff), head="one")
    reference = potential.references["one"].energy(atoms.numbers)
    assert float(result.reference_energy) == pytest.approx(reference, rel=1e-15)
    assert float(result.energy) == pytest.approx(reference + float(result.interaction_energy), rel=1e-15)
    assert float(result.energies.sum()) == pytest.approx(float(result.energy), rel=1e-14)


def test_the_interaction_energy_keeps_its_digits_beside_all_electron_totals():
    """Subtracted from a total of 1e8 eV it would be rounded to 1e-8 eV, and finite differences would be noise."""
    potential = potential_of(torch.float64)
    graph = build_graph(molecule("CH3OH"), cutoff=potential.cutoff)
    small = float(evaluate(potential, graph, head="one").interaction_energy)
    potential.references["one"].values[:] *= 1e5
    assert float(evaluate(potential, graph, head="one").interaction_energy) == small


def test_a_head_is_never_picked_silently():
    potential = potential_of(torch.float64)
    graph = mixed_graph(potential.cutoff)
    with pytest.raises(UnknownHeadError, match=r"3 heads.*one, two\.v3, three"):
        evaluate(potential, graph)
    with pytest.raises(UnknownHeadError, match=r"unknown head 'four'.*one, two\.v3, three"):
        evaluate(potential, graph, head="four")
    assert evaluate(random_potential(), graph).energy.shape == (4,)


def test_what_a_head_was_not_trained_on_raises():
    potential = random_potential(elements=["H", "O"])
    gold = Atoms("OAu", positions=[[0, 0, 0], [0, 0, 2]])
    with pytest.raises(UnknownElementError, match="'a' was not trained on element Au"):
        evaluate(potential, build_graph(gold, cutoff=potential.cutoff))
    cation = molecule("H2O")
    cation.info["charge"] = 1
    with pytest.raises(UnsupportedChargeError, match=r"charge \+1 .*-1, 2"):
        evaluate(potential, build_graph(cation, cutoff=potential.cutoff))


def test_an_energy_that_is_not_finite_raises():
    potential = random_potential()
    with torch.no_grad():
        potential.encoder.embedding.weight[8] = np.inf
    with pytest.raises(SimulationError, match="not finite"):
        evaluate(potential, build_graph(molecule("H2O"), cutoff=potential.cutoff))
