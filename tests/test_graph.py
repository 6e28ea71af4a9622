"""Graphs: batches are what their structures are, and charge and spin come in as whole numbers."""

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from hydrapot.potential.errors import InvalidStructureError, UnknownElementError, UnsupportedChargeError
from hydrapot.potential.evaluate import evaluate
from hydrapot.potential.graph import Graph, build_graph, build_graph_from_arrays, collate, edge_vectors
from tests.contract_helpers import random_potential

CUTOFF = 5.0
# Very different numbers of neighbors, one atom, none at all, and none of the latter at the ends.
STRUCTURES = [
    Atoms(),
    molecule("CH3OH"),
    bulk("Cu"),
    Atoms("O", positions=[[1.0, 2.0, 3.0]]),
    bulk("Si", cubic=True),
    Atoms(),
    molecule("H2O"),
    Atoms(),
]


def graphs():
    return [build_graph(atoms, cutoff=CUTOFF) for atoms in STRUCTURES]


def test_a_batch_gives_what_its_structures_give():
    potential = random_potential()
    batch = evaluate(potential, collate(graphs(), cutoff=CUTOFF))
    alone = [evaluate(potential, graph) for graph in graphs()]
    for field in dataclasses.fields(batch):
        together, separate = getattr(batch, field.name), torch.cat([getattr(p, field.name) for p in alone])
        torch.testing.assert_close(together, separate, rtol=1e-12, atol=1e-12, equal_nan=True, msg=field.name)


def test_a_batch_of_batches_is_the_batch():
    three = collate([collate(graphs()[:3], cutoff=CUTOFF), collate(graphs()[3:], cutoff=CUTOFF)], cutoff=CUTOFF)
    flat = collate(graphs(), cutoff=CUTOFF)
    for field in dataclasses.fields(Graph):
        a, b = getattr(three, field.name), getattr(flat, field.name)
        assert a == b if field.name == "degree" else torch.equal(a, b), field.name


def test_padding_changes_nothing():
    """The same molecule beside a dense crystal, whose rows are ten times as long."""
    potential = random_potential()
    water = build_graph(molecule("H2O"), cutoff=CUTOFF)
    padded = collate([water, build_graph(bulk("Cu"), cutoff=CUTOFF)], cutoff=CUTOFF)
    assert padded.degree > 10 * water.degree
    forces = evaluate(potential, padded).forces[:3]
    torch.testing.assert_close(forces, evaluate(potential, water).forces, rtol=0.0, atol=1e-13)


def test_kinds_tell_charges_and_spins_apart():
    anion, neutral = molecule("OH"), molecule("OH")
    anion.info.update(charge=-1, spin=1)
    batch = collate([build_graph(a, cutoff=CUTOFF) for a in (anion, neutral, molecule("H2O"))], cutoff=CUTOFF)
    rows = {tuple(row) for row in batch.kinds.tolist()}
    assert rows == {(1, 0, 0), (8, 0, 0), (1, -1, 1), (8, -1, 1)}
    assert batch.charge.tolist() == [-1, 0, 0]
    assert batch.spin.tolist() == [1, 0, 0]
    assert torch.equal(batch.kinds[batch.kind_index][:, 0], batch.numbers)


@pytest.mark.parametrize(
    ("info", "expected"),
    [({}, (0, 0)), ({"charge": -2}, (-2, 0)), ({"charge": 1.0, "spin": 2}, (1, 2)), ({"spin": np.int64(3)}, (0, 3))],
)
def test_charge_and_spin_of_atoms(info, expected):
    atoms = molecule("H2O")
    atoms.info.update(info)
    graph = build_graph(atoms, cutoff=CUTOFF)
    assert (int(graph.charge), int(graph.spin)) == expected


@pytest.mark.parametrize("info", [{"charge": 0.5}, {"charge": float("nan")}, {"spin": 0}, {"spin": 1.5}, {"spin": -1}])
def test_charge_and_spin_that_are_none_raise(info):
    atoms = molecule("H2O")
    atoms.info.update(info)
    with pytest.raises(UnsupportedChargeError, match=next(iter(info))):
        build_graph(atoms, cutoff=CUTOFF)


def test_a_charged_cell_and_dummy_atoms_raise():
    with pytest.raises(UnsupportedChargeError, match="periodic"):
        build_graph_from_arrays([29], [[0, 0, 0]], 3 * np.eye(3), [1, 0, 0], cutoff=CUTOFF, charge=1)
    with pytest.raises(UnknownElementError, match="dummy"):
        build_graph(Atoms("XH", positions=[[0, 0, 0], [0, 0, 1]]), cutoff=CUTOFF)
    with pytest.raises(UnknownElementError, match="119"):
        build_graph_from_arrays([119], [[0, 0, 0]], np.zeros((3, 3)), [0, 0, 0], cutoff=CUTOFF)
    with pytest.raises(InvalidStructureError, match="2 atomic numbers but 1"):
        build_graph_from_arrays([1, 1], [[0, 0, 0]], np.zeros((3, 3)), [0, 0, 0], cutoff=CUTOFF)


def test_edge_vectors_follow_positions_and_cell():
    """With a kept list, moved atoms and a strained cell give the vectors of the strained structure."""
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=0)
    graph = build_graph(atoms, cutoff=CUTOFF)
    strain = np.eye(3) + 0.01 * np.random.default_rng(0).normal(size=(3, 3))
    vectors = edge_vectors(
        torch.from_numpy(atoms.positions @ strain),
        torch.from_numpy(atoms.cell.array @ strain),
        graph.edge_index,
        graph.edge_shifts,
        graph.edge_mask,
        cutoff=CUTOFF,
    )
    mask = graph.edge_mask
    torch.testing.assert_close(vectors[mask], (graph.edge_vectors @ torch.from_numpy(strain))[mask])
    lengths = torch.linalg.vector_norm(vectors[~mask], dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, CUTOFF))


def test_a_graph_owns_its_memory():
    """ASE moves positions in place during dynamics; a graph must not move with them."""
    atoms = molecule("H2O")
    graph = build_graph(atoms, cutoff=CUTOFF)
    before = graph.edge_vectors.clone(), graph.numbers.clone(), graph.cell.clone()
    atoms.positions += 1.0
    atoms.positions[0] += 1.0
    atoms.numbers[:] = 6
    atoms.cell[:] = np.eye(3)
    assert all(torch.equal(a, b) for a, b in zip(before, (graph.edge_vectors, graph.numbers, graph.cell), strict=True))
