"""Neighbor lists are complete, in any cell: against brute force over images and against ASE."""

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list as ase_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrapot.potential.errors import InvalidStructureError
from hydrapot.potential.graph import build_graph_from_arrays, pad_edges
from hydrapot.potential.neighbors import neighbor_list
from hydrapot.validation.structures import rotation

#: Å; pairs this close to the cutoff may be listed or not, in either of two lists.
AMBIGUOUS = 1e-9


def listed(edge_index, shifts):
    return {(int(i), int(j), *map(int, s)) for (i, j), s in zip(edge_index.T, shifts, strict=True)}


def brute_force(positions, cell, pbc, cutoff):
    """Every (i, j, S) with its distance; the range of S follows from the heights of the cell, pair by pair."""
    pairs = {}
    complete = np.array(cell, dtype=float)
    periodic = complete[pbc]
    complete[~pbc] = np.linalg.svd(np.vstack([periodic, np.zeros((1, 3))]))[2][len(periodic) :]
    inverse = np.linalg.inv(complete)
    reach = cutoff * np.linalg.norm(inverse, axis=0)  # cutoff over height, for each lattice vector
    for i, j in itertools.product(range(len(positions)), repeat=2):
        fraction = (positions[j] - positions[i]) @ inverse
        spans = [
            range(int(np.ceil(-f - r)) - 1, int(np.floor(-f + r)) + 2) if p else (0,)
            for f, r, p in zip(fraction, reach, pbc, strict=True)
        ]
        shifts = np.array(list(itertools.product(*spans)))
        distances = np.linalg.norm(positions[j] - positions[i] + shifts @ complete, axis=1)
        for shift, distance in zip(shifts, distances, strict=True):
            if distance <= cutoff + AMBIGUOUS and not (i == j and not shift.any()):
                pairs[i, j, *map(int, shift)] = distance
    return pairs


@st.composite
def structures(draw):
    """Positions, cell, periodicity: small and skewed cells, atoms up to thousands of cells away."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pbc = np.array(draw(st.tuples(st.booleans(), st.booleans(), st.booleans())))
    cell = np.diag(rng.uniform(1.5, 7.0, 3)) + rng.uniform(-0.6, 0.6, (3, 3))
    for _ in range(draw(st.integers(0, 3))):
        a, b = rng.choice(3, size=2, replace=False)
        cell[a] += int(rng.integers(-2, 3)) * cell[b]
    if draw(st.booleans()):
        cell = cell @ rotation(rng)
    positions = rng.uniform(-1.0, 1.0, (draw(st.integers(1, 5)), 3)) @ cell
    if draw(st.booleans()):  # corners and faces: fractions of exactly 0 or 1
        positions[0] = rng.integers(0, 2, 3) @ cell
    far = draw(st.sampled_from([0, 1, 30, 5000]))
    positions += (rng.integers(-far, far + 1, positions.shape) * pbc) @ cell
    if draw(st.booleans()):
        cell[~pbc] = 0.0
    return positions, cell, pbc


@settings(max_examples=300, deadline=None, derandomize=True)
@given(structures(), st.sampled_from([2.0, 3.5, 5.0]))
def test_every_pair_within_the_cutoff_and_no_other(structure, cutoff):
    positions, cell, pbc = structure
    expected = brute_force(positions, cell, pbc, cutoff)
    if expected and min(expected.values()) < 2e-3:
        return  # coincident atoms raise, see below
    found = neighbor_list(positions, cell, pbc, cutoff=cutoff)
    pairs = listed(*found)
    # 5000 cells away the positions themselves carry errors of 1e-11 Å.
    certain = {pair for pair, distance in expected.items() if distance < cutoff - AMBIGUOUS}
    assert certain <= pairs <= set(expected)
    assert len(pairs) == found.edge_index.shape[1]
    assert np.all(np.diff(found.edge_index[0]) >= 0)
    assert found.edge_index.dtype == found.shifts.dtype == np.int64


@settings(max_examples=200, deadline=None, derandomize=True)
@given(structures())
def test_rows_and_reverse_edges(structure):
    positions, cell, pbc = structure
    try:
        graph = build_graph_from_arrays(np.ones(len(positions)), positions, cell, pbc, cutoff=4.0)
    except InvalidStructureError:
        return
    receivers, senders = graph.edge_index.numpy()
    mask, reverse, vectors = graph.edge_mask.numpy(), graph.reverse.numpy(), graph.edge_vectors.numpy()
    assert np.array_equal(receivers, np.repeat(np.arange(graph.n_atoms), graph.degree))
    assert np.array_equal(reverse[reverse], np.arange(len(reverse)))
    assert np.array_equal(reverse[~mask], np.flatnonzero(~mask))
    assert not np.any(reverse[mask] == np.flatnonzero(mask))
    assert np.array_equal(receivers[reverse[mask]], senders[mask])
    assert np.array_equal(senders[reverse[mask]], receivers[mask])
    assert np.allclose(vectors[reverse[mask]], -vectors[mask], rtol=0.0, atol=1e-10)
    assert np.allclose(np.linalg.norm(vectors[~mask], axis=1), 4.0)
    expected = positions[senders] - positions[receivers] + graph.edge_shifts.numpy() @ cell
    assert np.allclose(vectors[mask], expected[mask], rtol=0.0, atol=1e-10)


STRUCTURES = {
    "primitive fcc": bulk("Cu"),
    "cubic fcc": bulk("Cu", cubic=True),
    "diamond": bulk("Si"),
    "hcp": bulk("Ti"),
    "slab": fcc111("Al", (2, 2, 3), vacuum=6.0, periodic=False),
    "slab without third vector": Atoms(
        "Al2", [[0, 0, 0], [1, 1, 2]], cell=[[2.8, 0, 0], [1.4, 2.5, 0], [0, 0, 0]], pbc=[1, 1, 0]
    ),
    "wire": Atoms("C2", [[0, 0, 0], [0.3, 0, 1.2]], cell=[0, 0, 2.5], pbc=[0, 0, 1]),
    "molecule": molecule("C6H6"),
}


@pytest.mark.parametrize("atoms", STRUCTURES.values(), ids=STRUCTURES.keys())
def test_the_same_as_ase(atoms):
    i, j, shifts = ase_neighbor_list("ijS", atoms, 5.03)
    found = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff=5.03)
    assert listed(*found) == listed(np.stack([i, j]), shifts)


def test_a_shell_exactly_at_the_cutoff_is_listed_both_ways_or_not_at_all():
    """Rounding decides whether such a pair is listed, and must decide the same for both of its directions."""
    rng = np.random.default_rng(0)
    for crystal, ratio in ((bulk("Cu", a=1.0), 1.0), (bulk("Po", "sc", a=1.0), 2.0), (bulk("Si", a=1.0), 1.0)):
        for _ in range(40):
            cell = crystal.cell.array * (4.0 / ratio) @ rotation(rng)
            positions = crystal.get_scaled_positions() @ cell + rng.uniform(-9.0, 9.0, 3)
            found = neighbor_list(positions, cell, np.ones(3, bool), cutoff=4.0)
            pairs = listed(*found)
            assert pairs == {(j, i, -a, -b, -c) for i, j, a, b, c in pairs}


def test_no_atoms_and_one_atom():
    for cell, pbc in ((np.zeros((3, 3)), False), (4.0 * np.eye(3), True)):
        nothing = neighbor_list(np.zeros((0, 3)), cell, np.full(3, pbc), cutoff=5.0)
        assert nothing.edge_index.shape == (2, 0)
        assert nothing.shifts.shape == (0, 3)
    alone = neighbor_list(np.ones((1, 3)), np.zeros((3, 3)), np.zeros(3, bool), cutoff=5.0)
    assert alone.edge_index.shape == (2, 0)
    images = neighbor_list(np.ones((1, 3)), 4.0 * np.eye(3), np.ones(3, bool), cutoff=5.0)
    assert len(listed(*images)) == 6


@pytest.mark.parametrize("distance", [1e3, 1e4, 1e6, 1e9])
@pytest.mark.parametrize("pbc", [(0, 0, 0), (0, 0, 1), (1, 1, 0), (0, 1, 0)], ids=str)
def test_fragments_far_apart_along_free_directions(pbc, distance):
    """The search itself would take minutes, or die of a division by zero."""
    cell = np.array([[3.0, 0.4, 0.0], [0.0, 3.1, -0.3], [0.2, 0.0, 4.0]]) * np.array(pbc)[:, None]
    fragment = np.array([[0.1, 0.2, 0.3], [1.2, 1.3, 1.6]])
    alone = neighbor_list(fragment, cell, np.array(pbc, bool), cutoff=5.0)
    far = distance * np.array([0.6, -0.64, 0.48])
    both = neighbor_list(np.concatenate([fragment, fragment + far]), cell, np.array(pbc, bool), cutoff=5.0)
    first = both.edge_index[0] < 2
    assert listed(both.edge_index[:, first], both.shifts[first]) == listed(*alone)
    assert first.sum() == (~first).sum() == len(listed(*alone))


def test_rows_cannot_be_shorter_than_the_largest_number_of_neighbors():
    edges = neighbor_list(np.ones((1, 3)), 4.0 * np.eye(3), np.ones(3, bool), cutoff=5.0)
    assert pad_edges(edges, 1, degree=8)[2].sum() == 6
    with pytest.raises(ValueError, match="degree 5"):
        pad_edges(edges, 1, degree=5)


PERIODIC, FREE = np.ones(3, bool), np.zeros(3, bool)
BAD = {
    "lattice vector of a millimeter": ([[0, 0, 0]], np.diag([4.0, 4.0, 1e7]), PERIODIC, "1e\\+07 Å long"),
    "same place": ([[0, 0, 0], [1, 1, 1], [1, 1, 1 + 1e-5]], np.eye(3), FREE, "atoms 1 and 2 are at one place"),
    "same place by an image": ([[0.1, 0, 0], [4.1, 0, 0]], 4 * np.eye(3), PERIODIC, "at one place"),
    "same place cells away": ([[0.1, 0, 0], [400.1, -40, 0]], 4 * np.eye(3), PERIODIC, "at one place"),
    "no third vector": ([[0, 0, 0]], np.diag([4.0, 4.0, 0.0]), PERIODIC, "no volume"),
    "no cell at all": ([[0, 0, 0]], np.zeros((3, 3)), PERIODIC, "no volume"),
    "parallel vectors": ([[0, 0, 0]], [[4, 0, 0], [8, 0, 0], [0, 0, 4]], PERIODIC, "no volume"),
    "slab without its second vector": ([[0, 0, 0]], np.diag([4.0, 0.0, 9.0]), [1, 1, 0], "no volume"),
    "position NaN": ([[0, 0, 0], [0, np.nan, 0]], np.eye(3), FREE, "atom 1 has a position that is not finite"),
    "position infinite": ([[np.inf, 0, 0]], np.eye(3), FREE, "not finite"),
    "cell NaN": ([[0, 0, 0]], np.diag([4.0, 4.0, np.nan]), PERIODIC, "the cell holds"),
    "positions in a plane": (np.zeros((2, 2)), np.eye(3), FREE, "expected \\(N, 3\\)"),
}


@pytest.mark.parametrize(("positions", "cell", "pbc", "message"), BAD.values(), ids=BAD.keys())
def test_what_has_no_neighbor_list_raises_one_line(positions, cell, pbc, message):
    with pytest.raises(InvalidStructureError, match=message) as caught:
        neighbor_list(np.array(positions, float), np.array(cell, float), np.array(pbc, bool), cutoff=5.0)
    assert "\n" not in str(caught.value)


def test_coordinates_without_digits_are_refused_by_name():
    """At 1e20 Å all atoms round to one place, which is not what is wrong with the structure."""
    with pytest.raises(InvalidStructureError, match="wrap the structure"):
        neighbor_list(np.array([[0.0, 0.0, 0.0], [1e20, 0.0, 0.0]]), np.eye(3) * 5, np.array([True] * 3), cutoff=3.0)
