"""The kept neighbor list gives, at every step and for any motion, the graph that a fresh search gives."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydrapot.calculators.verlet import VerletList
from hydrapot.potential import InvalidStructureError, UnknownElementError, build_graph, evaluate
from tests.engine_helpers import CRYSTALS, small_potential

CUTOFF = 4.0
SYSTEMS = {
    "crystal": lambda: bulk("Cu", cubic=True).repeat((2, 1, 1)),
    "one atom": lambda: bulk("Cu"),
    "skewed": lambda: Atoms(
        "CuO", positions=[[0, 0, 0], [1.9, 0, 0.3]], cell=[[4, 0, 0], [5, 3.5, 0], [1, 6, 4.2]], pbc=True
    ),
    "slab": lambda: Atoms(
        "Cu4", positions=[[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [2.5, 2.5, 1]], cell=[5, 5, 0], pbc=[1, 1, 0]
    ),
    "wire": lambda: Atoms("CuOCu", positions=[[0, 0, 0], [1, 1.5, 0], [0, 0, 2.6]], cell=[0, 0, 5.2], pbc=[0, 0, 1]),
    "molecule": lambda: molecule("CH3CH2OH"),
}


def edges(graph):
    mask = graph.edge_mask
    rows = torch.cat([graph.edge_index.T[mask], graph.edge_shifts[mask].long()], dim=1).numpy()
    order = np.lexsort(rows.T[::-1])
    return rows[order], graph.edge_vectors[mask].numpy()[order]


def step(verlet, atoms):
    return verlet.graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def assert_same_graph(graph, atoms):
    """Against a fresh search: the same edges; and the invariants of the padded layout."""
    fresh = build_graph(atoms, cutoff=CUTOFF)
    (rows, vectors), (expected_rows, expected_vectors) = edges(graph), edges(fresh)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(vectors, expected_vectors, rtol=0, atol=1e-11)
    assert graph.degree == fresh.degree
    assert graph.edge_index.shape == fresh.edge_index.shape
    assert torch.equal(graph.edge_index[0], fresh.edge_index[0])
    reverse = graph.reverse
    assert torch.equal(reverse[reverse], torch.arange(len(reverse)))
    assert torch.equal(graph.edge_index[0][reverse[graph.edge_mask]], graph.edge_index[1][graph.edge_mask])
    assert torch.equal(graph.edge_vectors[reverse[graph.edge_mask]], -graph.edge_vectors[graph.edge_mask])
    assert torch.equal(graph.cell, fresh.cell)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["diffuse", "diffuse", "drift", "strain", "shear", "rotate", "wrap", "unwrap", "jump"]),
        st.floats(0.001, 0.3),
        st.integers(0, 2**31),
    ),
    min_size=1,
    max_size=12,
)


def move(atoms, kind, size, seed):
    rng = np.random.default_rng(seed)
    n = len(atoms)
    if kind == "diffuse":
        atoms.positions += rng.normal(scale=size, size=(n, 3))
    elif kind == "drift":  # a common translation: no reason for a search
        atoms.positions += 5 * size * rng.normal(size=3)
    elif kind == "strain":
        deform(atoms, np.diag(1 + size * rng.uniform(-0.3, 0.3, size=3)))
    elif kind == "shear":
        deform(atoms, np.eye(3) + size * rng.uniform(-0.3, 0.3, size=(3, 3)))
    elif kind == "rotate":
        deform(atoms, np.linalg.qr(np.eye(3) + size * rng.normal(size=(3, 3)))[0])
    elif kind == "wrap":  # what engines do: a teleport by whole lattice vectors
        atoms.wrap()
    elif kind == "unwrap":
        shifts = rng.integers(-2, 3, size=(n, 3)) * atoms.pbc
        atoms.positions += shifts @ atoms.cell.array
    elif kind == "jump":
        atoms.positions[rng.integers(n)] += rng.normal(scale=2, size=3)


def deform(atoms, matrix):
    cell = atoms.cell.array.copy()
    cell[atoms.pbc] = cell[atoms.pbc] @ matrix
    atoms.positions = atoms.positions @ matrix
    atoms.set_cell(cell)


@pytest.mark.parametrize("name", SYSTEMS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(moves=MOVES, skin=st.sampled_from([0.0, 0.2, 0.5, 1.5]))
def test_any_motion(name, moves, skin):
    atoms = SYSTEMS[name]()
    verlet = VerletList(cutoff=CUTOFF, skin=skin)
    for kind, size, seed in [("diffuse", 0.01, 0), *moves]:
        move(atoms, kind, size, seed)
        try:
            graph, _ = step(verlet, atoms)
        except InvalidStructureError:  # a random jump onto another atom
            with pytest.raises(InvalidStructureError):
                build_graph(atoms, cutoff=CUTOFF)
            return
        assert_same_graph(graph, atoms)


@pytest.mark.parametrize("name", SYSTEMS)
def test_energy_and_forces_do_not_depend_on_the_history_of_the_list_to_the_last_bit(name):
    potential = small_potential().double()
    cutoff = potential.cutoff
    atoms = SYSTEMS[name]()
    rng = np.random.default_rng(4)
    kept = VerletList(cutoff=cutoff, skin=0.8)
    for k in range(12):
        atoms.positions += rng.normal(scale=0.02, size=(len(atoms), 3))
        deform(atoms, np.eye(3) + rng.normal(scale=0.002, size=(3, 3)))
        if k % 4 == 3:
            atoms.wrap()
        graph, _ = step(kept, atoms)
        other, _ = step(VerletList(cutoff=cutoff, skin=0.1 * k), atoms)
        a, b = (evaluate(potential, g, head=CRYSTALS) for g in (graph, other))
        fresh = evaluate(potential, build_graph(atoms, cutoff=cutoff), head=CRYSTALS)
        for quantity in ("energies", "forces", "virial"):
            assert torch.equal(getattr(a, quantity), getattr(b, quantity)), quantity
            torch.testing.assert_close(getattr(a, quantity), getattr(fresh, quantity), rtol=0, atol=1e-12)
    assert kept.searches < 12


def test_searches_are_rare_and_needed():
    """A crystal at rest, drifting, breathing by a little or wrapped keeps its list; a displacement beyond
    does not.
    """
    atoms = SYSTEMS["crystal"]()
    verlet = VerletList(cutoff=CUTOFF, skin=0.5)

    def searched():
        return step(verlet, atoms)[1]

    assert searched()
    assert not searched()
    atoms.positions += 100.3
    assert not searched()
    atoms.wrap()
    assert not searched()
    deform(atoms, 1.02 * np.eye(3))
    assert not searched()
    deform(atoms, 0.97 * np.eye(3))
    assert not searched()
    deform(atoms, 0.88 * np.eye(3))  # (cutoff + skin) · 0.87 < cutoff
    assert searched()
    atoms.positions[0] += [0.24, 0, 0]
    assert not searched()
    atoms.positions[1] += [0, 0.4, 0]
    assert searched()


def test_other_elements_counts_periodicity_and_charge_are_noticed():
    atoms = SYSTEMS["crystal"]()
    verlet = VerletList(cutoff=CUTOFF, skin=0.5)
    step(verlet, atoms)
    atoms.numbers[3] = 47
    graph, searched = step(verlet, atoms)
    assert searched
    assert graph.numbers.tolist() == atoms.numbers.tolist()
    atoms.pbc = [True, True, False]
    graph, searched = step(verlet, atoms)
    assert searched
    assert_same_graph(graph, atoms)
    del atoms[2]
    graph, searched = step(verlet, atoms)
    assert searched
    assert_same_graph(graph, atoms)
    lone = Atoms("Cu")
    graph, _ = verlet.graph(lone.numbers, lone.positions, lone.cell.array, lone.pbc, charge=1, spin=2)
    assert (graph.charge.tolist(), graph.spin.tolist(), graph.kinds.tolist()) == ([1], [2], [[29, 1, 2]])
    graph, searched = verlet.graph(lone.numbers, lone.positions, lone.cell.array, lone.pbc)
    assert searched
    assert graph.charge.tolist() == [0]
    graph, _ = step(verlet, Atoms())
    assert graph.n_atoms == 0


@pytest.mark.parametrize("what", ["nan", "coincident", "flat cell", "nan cell", "element"])
def test_a_structure_that_goes_bad_raises_also_while_the_list_is_kept(what):
    atoms = SYSTEMS["crystal"]()
    verlet = VerletList(cutoff=CUTOFF, skin=10.0)
    step(verlet, atoms)
    expected = InvalidStructureError
    if what == "nan":
        atoms.positions[5, 1] = np.nan
    elif what == "coincident":
        atoms.positions[5] = atoms.positions[2] + atoms.cell[0]
    elif what == "flat cell":
        atoms.cell[2] = atoms.cell[1]
    elif what == "nan cell":
        atoms.cell[2, 2] = np.inf
    else:
        atoms.numbers[0] = 0
        expected = UnknownElementError
    for _ in range(2):  # and again: a failed search leaves nothing behind
        with pytest.raises(expected):
            step(verlet, atoms)


def test_a_negative_skin_is_refused():
    with pytest.raises(ValueError, match="skin"):
        VerletList(cutoff=CUTOFF, skin=-0.1)
