"""Packing of structures into parts: nothing lost, limits kept, atoms and edges balanced at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.data.packing import pack
from hydrapot.training.data.parts import Limits, Packed, fill


def structures(n, *, largest=500, seed=0):
    """Sorted by degree with jitter, as the sampler hands them over: atoms, degrees, edges."""
    rng = np.random.default_rng(seed)
    atoms = np.exp(rng.uniform(np.log(10), np.log(largest), n)).astype(np.int64)
    mean = rng.choice([12.0, 28.0, 45.0, 70.0], n) * rng.uniform(0.8, 1.2, n)
    degrees = np.ceil(mean * rng.uniform(1.05, 1.4, n)).astype(np.int64)
    order = np.argsort(degrees * (1 + 0.15 * rng.random(n)))
    return atoms[order], degrees[order], (atoms * mean).astype(np.int64)[order]


def totals(packed: Packed, values, reduce=np.add):
    return np.array([[reduce.reduce(values[p]) for p in packed.parts(k)] for k in range(len(packed))])


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300),
    parts=st.integers(1, 9),
    multiple=st.integers(1, 3),
    slots=st.sampled_from([200, 3000, 40_000]),
    most=st.integers(1, 12),
    seed=st.integers(0, 5),
)
def test_every_structure_is_in_exactly_one_part_and_no_part_is_empty(n, parts, multiple, slots, most, seed):
    atoms, degrees, edges = structures(n, seed=seed)
    limits = Limits(edge_slots=slots, structures=most)
    if n < parts * multiple:
        with pytest.raises(ConfigurationError, match="cannot fill"):
            pack(atoms, degrees, edges, parts=parts, limits=limits, multiple=multiple)
        return
    packed = pack(atoms, degrees, edges, parts=parts, limits=limits, multiple=multiple)
    assert len(packed) % multiple == 0
    held = [part for k in range(len(packed)) for part in packed.parts(k)]
    assert len(held) == len(packed) * parts
    assert all(len(part) for part in held)
    np.testing.assert_array_equal(np.sort(np.concatenate(held)), np.arange(n))


@pytest.mark.parametrize("parts", [2, 8, 32])
def test_parts_keep_their_limits(parts):
    """Memory is bounded by atoms × slots; a part above that, unless it is one structure, ends a run."""
    atoms, degrees, edges = structures(6000, seed=1)
    limits = Limits(edge_slots=40_000, structures=16)
    packed = pack(atoms, degrees, edges, parts=parts, limits=limits)
    alone = totals(packed, np.ones(len(atoms), dtype=int)) == 1
    slots = totals(packed, atoms) * totals(packed, degrees, np.maximum)
    assert ((slots <= limits.edge_slots) | alone).all()
    assert totals(packed, np.ones(len(atoms), dtype=int)).max() <= 16
    # Limits that nothing comes near would be waste: parts are filled.
    assert slots.mean() > 0.8 * limits.edge_slots


@pytest.mark.parametrize("parts", [8, 64])
def test_atoms_and_edges_are_balanced_where_random_parts_are_not(parts):
    """Ranks wait for the fullest: on 10–500 atoms the mean of max/mean stays within 5 %, for both loads."""
    atoms, degrees, edges = structures(20_000, seed=2)
    packed = pack(atoms, degrees, edges, parts=parts, limits=Limits(edge_slots=64_000, structures=64))
    rng = np.random.default_rng(0)
    size = len(atoms) // (len(packed) * parts)
    drawn = rng.permutation(len(atoms))[: len(packed) * parts * size].reshape(len(packed), parts, size)
    for load in (atoms, edges):
        mine = totals(packed, load)
        assert (mine.max(axis=1) / mine.mean(axis=1)).mean() < 1.05
        random = load[drawn].sum(axis=2)
        assert (random.max(axis=1) / random.mean(axis=1)).mean() > 1.5


def test_rows_of_a_part_have_similar_length():
    """Stretches of similar degree keep padding near what the structures themselves bring."""
    atoms, degrees, edges = structures(20_000, seed=3)
    packed = pack(atoms, degrees, edges, parts=8, limits=Limits(edge_slots=64_000, structures=64))
    waste = 1 - edges.sum() / (totals(packed, atoms) * totals(packed, degrees, np.maximum)).sum()
    own = 1 - edges.sum() / (atoms * degrees).sum()
    assert waste < own + 0.1


def test_packing_is_reproducible():
    """Every process packs for itself: the same input must give the same parts everywhere."""
    columns = structures(3000, seed=4)
    limits = Limits(edge_slots=30_000, structures=10)
    a, b = (pack(*(c.copy() for c in columns), parts=6, limits=limits) for _ in range(2))
    np.testing.assert_array_equal(a.members, b.members)
    np.testing.assert_array_equal(a.offsets, b.offsets)


def test_one_structure_too_large_for_any_part_is_alone():
    atoms = np.array([10] * 30 + [1000] + [10] * 30)
    degrees, edges = np.full(61, 20), atoms * 18
    packed = pack(atoms, degrees, edges, parts=2, limits=Limits(edge_slots=4000, structures=24))
    large = [p for k in range(len(packed)) for p in packed.parts(k) if 30 in p]
    assert [len(p) for p in large] == [1]
    filled = fill(atoms, degrees, limits=Limits(edge_slots=4000, structures=24))
    assert [30] in [p.tolist() for k in range(len(filled)) for p in filled.parts(k)]
