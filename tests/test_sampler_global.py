"""Global batches: disjoint between processes, the same for any number of them, resumable, shared by temperature."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.data import draws as draws_module
from hydrapot.training.data.draws import Draws, permuted
from hydrapot.training.data.sampler import BalancedSampler, GlobalSampler, Position


def columns(sizes, *, seed=0):
    rng = np.random.default_rng(seed)
    atoms = [rng.integers(1, 30, n) for n in sizes]
    degrees = [rng.integers(1, 40, n) for n in sizes]
    return atoms, degrees, [a * np.maximum(g - 3, 1) for a, g in zip(atoms, degrees, strict=True)]


def sampler(sizes, **options):
    chosen = {"temperature": 0.5, "edge_slots": 2000, "max_structures": 7, "seed": 3, **options}
    return GlobalSampler(*columns(sizes), **chosen)


def pairs(parts):
    return [tuple(row) for rows in parts for row in rows.tolist()]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    world=st.integers(1, 6),
    share=st.integers(1, 3),
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 3),
)
def test_processes_share_every_batch_without_overlap(sizes, world, share, temperature, seed):
    """Oversampled or not, no two processes ever train on the same draw, and together they train on all."""
    parts = world * share
    made = sampler(sizes, parts=parts, temperature=temperature, seed=seed)
    total = int(np.floor(made.draws).sum())
    if total < parts:
        with pytest.raises(ConfigurationError, match="cannot fill"):
            made.round(0)
        return
    assigned = [made.part(rank, world) for rank in range(world)]
    assert sorted(p for own in assigned for p in own) == list(range(parts))
    assert {len(own) for own in assigned} == {share}
    drawn = []
    for batch in (batches := made.round(1)):
        assert len(batch) == parts
        assert all(len(rows) for rows in batch)
        drawn += [tuple(row) for own in assigned for p in own for row in batch[p].tolist()]
    assert len(batches) > 0
    expected = made._branches[0].draws.round(1)
    assert sorted(drawn) == sorted(tuple(row) for row in expected.tolist())


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 80), min_size=1, max_size=3),
    parts=st.integers(1, 4),
    temperature=st.sampled_from([0.0, 0.7]),
)
def test_no_structure_is_drawn_again_before_all_others_of_its_dataset(sizes, parts, temperature):
    made = sampler(sizes, parts=parts, temperature=temperature)
    if made.draws.sum() < parts:
        return
    seen = [np.zeros(n, dtype=int) for n in sizes]
    for index in range(3):
        for batch in made.round(index):
            for d, i in pairs(batch):
                seen[d][i] += 1
    assert all(counts.max() - counts.min() <= 1 for counts in seen)


def test_a_batch_does_not_depend_on_who_computes_it():
    """A run that continues on another number of processes must see the same global batches."""
    a, b = (sampler([300, 50], parts=4) for _ in range(2))
    for x, y in zip(a.round(2), b.round(2), strict=True):
        assert all(np.array_equal(p, q) for p, q in zip(x, y, strict=True))
    assert [a.part(r, 2) for r in range(2)] == [[0, 2], [1, 3]]


def test_stream_continues_at_any_position():
    whole = sampler([150, 40], parts=3).stream(Position())
    seen = [next(whole) for _ in range(40)]
    assert len({position.round for position, _ in seen}) > 2
    for k in (0, 7, 20):
        resumed = sampler([150, 40], parts=3).stream(seen[k][0])
        for expected in seen[k + 1 : k + 15]:
            position, batch = next(resumed)
            assert position == expected[0]
            assert all(np.array_equal(p, q) for p, q in zip(batch, expected[1], strict=True))


def test_one_part_is_what_a_single_process_has_always_trained_on():
    """Runs of one process keep their sequence of batches: sorted, filled one after the other, shuffled."""
    sizes = [120, 33]
    atoms, degrees, edges = columns(sizes)
    options = {"temperature": 0.5, "edge_slots": 500, "max_structures": 5, "seed": 7}
    single = BalancedSampler(atoms, degrees, **options).round(1)
    for batch, rows in zip(GlobalSampler(atoms, degrees, edges, **options).round(1), single, strict=True):
        assert np.array_equal(batch[0], rows)
    # The recipe, written out once more.
    walk = []
    for d, n in enumerate(np.rint(np.sqrt(sizes) / np.sqrt(sizes).sum() * sum(sizes)).astype(int)):
        passes = range(n // sizes[d], (2 * n - 1) // sizes[d] + 1)
        shuffled = [np.random.default_rng([7, 0, d, p]).permutation(sizes[d]) for p in passes]
        start = n - passes[0] * sizes[d]
        walk += [(d, i) for i in np.concatenate(shuffled)[start : start + n].tolist()]
    rng = np.random.default_rng([7, 1, 1])
    keys = np.array([degrees[d][i] for d, i in walk]) * (1.0 + 0.15 * rng.random(len(walk)))
    batches, current = [], []
    for k in np.argsort(keys, kind="stable"):
        trial = [*current, walk[k]]
        slots = sum(atoms[d][i] for d, i in trial) * max(degrees[d][i] for d, i in trial)
        if current and (slots > 500 or len(trial) > 5):
            batches.append(current)
            trial = [walk[k]]
        current = trial
    batches.append(current)
    expected = [batches[k] for k in rng.permutation(len(batches))]
    assert [pairs([rows]) for rows in single] == expected


def test_weights_multiply_what_temperature_gives():
    made = sampler([400, 100], temperature=0.5, weights=[1.0, 3.0])
    assert made.draws[1] / made.draws[0] == pytest.approx(1.5, rel=0.02)
    alone = sampler([400, 100], weights=[1.0, 0.0])
    assert {d for batch in alone.round(0) for d, _ in pairs(batch)} == {0}
    with pytest.raises(ConfigurationError, match="no dataset is drawn from"):
        sampler([10], weights=[0.0])


def test_a_stratum_of_every_kind_is_in_each_batch():
    """With strata a large batch mixes structures of few and of many neighbors, each part holding one kind."""
    made = sampler([3000], temperature=1.0, parts=8, strata=4)
    degrees = made.degrees[0]
    for batch in made.round(0):
        means = [degrees[rows[:, 1]].mean() for rows in batch]
        kinds = [np.mean(means[2 * k : 2 * k + 2]) for k in range(4)]
        assert kinds == sorted(kinds)
        assert kinds[3] > 2 * kinds[0]


def test_branches_never_share_a_part():
    """In a task-parallel layout a process holds the heads of one branch only."""
    made = sampler([500, 40, 200], parts=6, branches=[[0, 2], [1]], branch_parts=[4, 2])
    assert made.branch_of_part.tolist() == [0, 0, 0, 0, 1, 1]
    assert [made.part(r, 3) for r in range(3)] == [[0, 1], [2, 3], [4, 5]]
    batches = made.round(0)
    assert len(batches) > 3
    for batch in batches:
        assert [set(rows[:, 0].tolist()) <= ({0, 2} if k < 4 else {1}) for k, rows in enumerate(batch)] == [True] * 6
    everything = {row for batch in batches for row in pairs(batch) if row[0] == 1}
    assert len(everything) == 40  # a small branch makes several passes while a large one makes its first


def test_branches_get_parts_by_what_they_draw():
    made = sampler([900, 90, 10], parts=8, temperature=1.0, branches=[[0], [1], [2]])
    assert np.bincount(made.branch_of_part).tolist() == [6, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": 4, "strata": 3}, "does not divide"),
        ({"parts": 2, "branches": [[0], [0, 1]]}, "do not hold each"),
        ({"parts": 2, "branches": [[0], [1]], "branch_parts": [2, 1]}, "cannot be shared"),
        ({"parts": 1, "branches": [[0], [1]]}, "cannot be shared"),
    ],
)
def test_what_does_not_fit_together_is_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        sampler([30, 30], **options)


def test_processes_have_to_divide_the_parts():
    with pytest.raises(ConfigurationError, match="must be a multiple of their number"):
        sampler([30], parts=4).part(0, 3)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 100))
def test_computed_permutation_is_one(size, seed):
    keys = np.random.default_rng(seed).integers(0, 2**64, 6, np.uint64)
    found = permuted(np.arange(size), size=size, keys=keys)
    np.testing.assert_array_equal(np.sort(found), np.arange(size))
    part = permuted(np.arange(size // 3, size // 2), size=size, keys=keys)
    np.testing.assert_array_equal(part, found[size // 3 : size // 2])


def test_computed_permutation_leaves_no_order():
    """Neighbors in a file are frames of one trajectory: they must not stay neighbors."""
    keys = np.random.default_rng(0).integers(0, 2**64, 6, np.uint64)
    found = permuted(np.arange(200_000), size=200_000, keys=keys)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(found, np.arange(200_000))[0, 1]) < 0.01
    # As many fixed gaps of one as chance has: two.
    assert (np.abs(np.diff(found)) == 1).sum() < 12


def test_datasets_larger_than_memory_for_a_shuffle_are_walked_without_one(monkeypatch):
    """A window of half a billion structures costs what the window costs, and passes stay complete."""
    huge = Draws([544_000_000, 1000], datasets=[0, 1], temperature=0.5, weights=None, length=1 << 14, seed=0)
    rows = huge.round(12_345)
    assert len(rows) == pytest.approx(1 << 14, abs=2)
    assert len(np.unique(rows[rows[:, 0] == 0, 1])) == (rows[:, 0] == 0).sum()
    assert rows[:, 1].max() > 500_000_000
    monkeypatch.setattr(draws_module, "SHUFFLED_WHOLE", 10)
    small = Draws([500], datasets=[0], temperature=1.0, weights=None, length=70, seed=1)
    first_pass = np.concatenate([small.round(k)[:, 1] for k in range(8)])[:500]
    np.testing.assert_array_equal(np.sort(first_pass), np.arange(500))


def test_windows_share_a_dataset_exactly_in_the_long_run():
    """Fractions of a draw per window are carried over, so that a small dataset is not forgotten."""
    made = Draws([100_000, 10], datasets=[0, 1], temperature=1.0, weights=None, length=1000, seed=0)
    counts = np.array([made.counts(k) for k in range(1000)])
    assert counts[:, 1].sum() == pytest.approx(1000 * made.shares[1], abs=1)
    assert made.shares[1] < 1
