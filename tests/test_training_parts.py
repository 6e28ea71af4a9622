"""Sampler, batches, schedule, objective and average: the parts a training run is made of."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrapot.potential.graph import Graph, build_graph_from_arrays, collate
from hydrapot.potential.references import zero_references
from hydrapot.potential.repulsion import NoRepulsion, ZBLRepulsion
from hydrapot.training.averaging import MovingAverage
from hydrapot.training.config import OptimizerConfig
from hydrapot.training.data.compact import assemble, compact_edges
from hydrapot.training.data.frames import Frames, Structure
from hydrapot.training.data.prepared import make_batch, prepare
from hydrapot.training.data.sampler import BalancedSampler, Position
from hydrapot.training.objective import ObjectiveConfig, Targets, objective
from hydrapot.training.optimizer import make_optimizer, update
from hydrapot.training.schedule import learning_rate
from tests.training_helpers import frames_of

CUTOFF = 4.0


def _structures() -> list[Structure]:
    atoms = [molecule("CH3OH"), bulk("Cu", cubic=True), bulk("MgO", "rocksalt", a=4.2), molecule("H2")]
    for k, a in enumerate(atoms):
        a.rattle(0.1, seed=k)
    frames = frames_of(atoms, name="mix")
    return [frames.structure(i) for i in range(len(frames))]


def test_assembled_batch_is_the_collated_batch() -> None:
    """The trainer's fast assembly must see exactly what inference sees, padding and reverse edges included."""
    structures = _structures()
    batch = assemble(structures, [compact_edges(s, cutoff=CUTOFF) for s in structures], cutoff=CUTOFF)
    graphs = [
        build_graph_from_arrays(
            s.numbers, s.positions, s.cell, s.pbc, cutoff=CUTOFF, charge=s.charge, spin=s.spin or None
        )
        for s in structures
    ]
    expected = collate(graphs, cutoff=CUTOFF)
    assert batch.degree == expected.degree
    for field in dataclasses.fields(Graph):
        if field.name != "degree":
            a, b = getattr(batch, field.name), getattr(expected, field.name)
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=lambda m, n=field.name: f"{n}: {m}")


def _sampler(sizes: list[int], *, temperature: float = 0.5, seed: int = 3, slots: int = 400) -> BalancedSampler:
    rng = np.random.default_rng(0)
    return BalancedSampler(
        [rng.integers(1, 20, n) for n in sizes],
        [rng.integers(1, 30, n) for n in sizes],
        temperature=temperature,
        edge_slots=slots,
        max_structures=7,
        seed=seed,
    )


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4), temperature=st.sampled_from([0.0, 0.5, 1.0]))
def test_every_structure_is_drawn_before_any_is_drawn_again(sizes: list[int], temperature: float) -> None:
    """Oversampling a small dataset must not favor some of its structures."""
    sampler = _sampler(sizes, temperature=temperature)
    seen = [np.zeros(n, dtype=int) for n in sizes]
    for index in range(3):
        for batch in sampler.round(index):
            for d, i in batch.tolist():
                seen[d][i] += 1
    for counts in seen:
        assert counts.max() - counts.min() <= 1


def test_batches_respect_their_limits() -> None:
    """Memory is bounded by atoms × slots; only a structure that is too large alone may exceed it."""
    sampler = _sampler([200, 50])
    for batch in sampler.round(0):
        atoms = sum(int(sampler.atoms[d][i]) for d, i in batch)
        widest = max(int(sampler.degrees[d][i]) for d, i in batch)
        assert len(batch) == 1 or atoms * widest <= 400
        assert len(batch) <= 7


def test_stream_continues_where_it_stood() -> None:
    """A resumed run must see the batches that the interrupted one would have seen."""
    sampler = _sampler([40, 10])
    whole = sampler.stream(Position())
    for _ in range(17):
        position, _ = next(whole)
    resumed = _sampler([40, 10]).stream(position)
    for _ in range(60):
        expected, actual = next(whole), next(resumed)
        assert expected[0] == actual[0]
        np.testing.assert_array_equal(expected[1], actual[1])


def test_small_datasets_are_drawn_more_often() -> None:
    """Temperature 0.5 draws in proportion to the root of the size."""
    sampler = _sampler([400, 100], temperature=0.5)
    assert sampler.draws[0] / sampler.draws[1] == pytest.approx(2.0, rel=0.02)
    assert sampler.draws.sum() == pytest.approx(500, abs=2)


def test_learning_rate_warms_up_stays_and_ends_at_zero() -> None:
    """The plateau must not depend on the run's length, so that a run can be lengthened."""
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, decay_fraction=0.5)
    rates = [learning_rate(s, steps=100, config=config) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:50] == [1.0] * 40
    assert all(b <= a for a, b in pairwise(rates[50:]))
    assert 0 < rates[-1] < 0.002
    assert rates[20] == learning_rate(20, steps=1000, config=config)


def test_an_update_does_not_depend_on_the_memory_layout_of_gradients() -> None:
    """Gradients of matrices come transposed; torch's fused optimizer for CPUs (2.13) would take elements in that order."""
    results = []
    for order in (lambda g: g, lambda g: g.t().contiguous().t()):
        rng = torch.Generator().manual_seed(0)
        matrix = torch.randn(8, 16, generator=rng)
        optimizer = make_optimizer([matrix], OptimizerConfig())
        for _ in range(3):
            gradient = order(torch.randn(8, 16, generator=rng))
            update(optimizer, [matrix], [gradient], rate=0.01, clip=1.0, norm=torch.tensor(11.0))
        results.append(matrix)
    assert torch.equal(*results)


def test_average_approaches_constant_weights() -> None:
    """The average forgets the initial weights quickly, and equals constant ones."""
    parameter = torch.zeros(3)
    average = MovingAverage([parameter], decay=0.99)
    parameter = torch.ones(3)
    for _ in range(400):
        average.update([parameter])
    torch.testing.assert_close(average.values[0], torch.ones(3), rtol=0, atol=1e-3)


def _labelled_frames() -> Frames:
    atoms = [molecule("H2O"), bulk("Cu", cubic=True)]
    atoms[1].rattle(0.3, seed=1)
    rng = np.random.default_rng(0)
    forces = [rng.normal(size=(len(a), 3)) for a in atoms]
    return frames_of(
        atoms, name="labels", energies=[-1.0, 3.0], forces=forces, stresses=[None, np.diag([0.1, 0.2, 0.3])]
    )


def test_labels_are_what_remains_after_references_and_repulsion() -> None:
    """Adding back what was taken off must give the labels of the file, repulsion acting on all three."""
    frames = _labelled_frames()
    compressed = dataclasses.replace(frames, positions=frames.positions * 0.7, cells=frames.cells * 0.7)
    prepared = prepare(
        compressed, references=zero_references([1, 8, 29]), repulsion=ZBLRepulsion(cutoff=CUTOFF), cutoff=CUTOFF
    )
    assert prepared.repulsion_energy.min() > 0.1
    assert np.abs(prepared.repulsion_forces).max() > 0.1
    np.testing.assert_allclose(prepared.energy + prepared.repulsion_energy, frames.energy, rtol=1e-13)
    np.testing.assert_allclose(prepared.forces + prepared.repulsion_forces, frames.forces, rtol=1e-12)
    # Repulsion pushes outwards: dE/dstrain is negative.
    assert np.trace(prepared.repulsion_strain[1]) < 0


def test_missing_labels_have_no_weight() -> None:
    """A structure without stress must not pull the stress to zero."""
    prepared = prepare(
        _labelled_frames(), references=zero_references([1, 8, 29]), repulsion=NoRepulsion(), cutoff=CUTOFF
    )
    rows = np.array([[0, 0], [0, 1]])
    _, heads, targets = make_batch(rows, [prepared], scales=[prepared.scales()], weights=[2.0], cutoff=CUTOFF)
    assert heads.tolist() == [0, 0]
    assert targets.strain_weight.tolist() == [0.0, 2.0]
    assert targets.energy_weight.tolist() == [2.0, 2.0]
    assert bool(torch.isfinite(targets.strain_gradient).all())


def _targets(n: int) -> Targets:
    one = torch.ones(2, dtype=torch.float64)
    return Targets(
        energy=one,
        forces=torch.zeros(n, 3, dtype=torch.float64),
        strain_gradient=torch.zeros(2, 3, 3, dtype=torch.float64),
        energy_weight=one,
        force_weight=torch.ones(n, dtype=torch.float64),
        strain_weight=torch.tensor([1.0, 0.0], dtype=torch.float64),
        energy_scale=one,
        force_scale=one,
        strain_scale=one,
        atoms=torch.tensor([2.0, 3.0], dtype=torch.float64),
        normalizers=torch.tensor([2.0, n, 1.0], dtype=torch.float64),
        noise=torch.zeros(2, 3, dtype=torch.float64),
    )


def test_objective_vanishes_only_at_the_labels_and_turns_with_the_axes() -> None:
    """Zero at perfect predictions, and the same for rotated force errors."""
    targets, batch = _targets(5), torch.tensor([0, 0, 1, 1, 1])
    config = ObjectiveConfig()

    def loss(forces: torch.Tensor) -> float:
        zero = torch.zeros(2, 3, 3, dtype=torch.float64)
        return float(objective(targets.energy, forces, zero, targets, batch, config=config).total)

    assert loss(targets.forces) == 0.0
    error = torch.zeros(5, 3, dtype=torch.float64)
    error[:, 0] = 0.5
    turned = (
        error @ torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    )
    assert loss(error) > 1.0
    assert loss(turned) == pytest.approx(loss(error), rel=1e-12)
