"""The training step: gradients of the loss against finite differences, and compiled against eager."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from hydrapot.potential.evaluate import evaluate
from hydrapot.potential.graph import build_graph, collate
from hydrapot.training.objective import ObjectiveConfig, Targets
from hydrapot.training.step import Batch, CompiledStep, EagerStep, predict
from tests.contract_helpers import random_potential

CUTOFF = 3.5
CONFIG = ObjectiveConfig(energy=1.0, forces=2.0, stress=0.5)


def model(**options):
    settings = {"heads": ["a", "b"], "channels": 4, "layers": 2, "n_radial": 3, "cutoff": CUTOFF} | options
    return random_potential(**settings, scale=3.0)


def batch_of(structures, heads, *, seed=0):
    """Random labels; the second structure has no stress, the last one no forces."""
    graph = collate([build_graph(a, cutoff=CUTOFF) for a in structures], cutoff=CUTOFF)
    rng = np.random.default_rng(seed)
    g, n = graph.n_graphs, graph.n_atoms

    def random(*shape):
        return torch.from_numpy(rng.normal(size=shape))

    def positive(*shape):
        return torch.from_numpy(rng.uniform(0.5, 2.0, size=shape))

    strain = random(g, 3, 3)
    targets = Targets(
        energy=random(g),
        forces=random(n, 3),
        strain_gradient=strain + strain.transpose(1, 2),
        energy_weight=positive(g),
        force_weight=positive(n) * (graph.batch != g - 1),
        strain_weight=positive(g) * (torch.arange(g) != 1),
        energy_scale=positive(g),
        force_scale=positive(g),
        strain_scale=positive(g),
        atoms=torch.bincount(graph.batch, minlength=g).double(),
        normalizers=torch.tensor([g, int((graph.batch != g - 1).sum()), g - 1], dtype=torch.float64),
        noise=torch.zeros(g, 3, dtype=torch.float64),
    )
    return Batch(graph, torch.tensor(heads), targets)


def first_batch():
    crystal = bulk("NaCl", "rocksalt", a=5.4)
    crystal.rattle(0.1, seed=0)
    return batch_of([molecule("CH3OH"), crystal, molecule("H2O")], [0, 1, 1])


def test_gradient_of_the_loss_against_finite_differences():
    """All three terms together, along random directions of each parameter, by a five-point stencil."""
    potential, batch = model(), first_batch()
    step = EagerStep(potential, config=CONFIG)
    losses, gradients = step(batch)
    assert all(float(x) > 0 for x in losses)
    rng = torch.Generator().manual_seed(0)
    h = 1e-3
    for (name, parameter), gradient in zip(potential.named_parameters(), gradients, strict=True):
        direction = torch.randn(parameter.shape, dtype=parameter.dtype, generator=rng)
        values = []
        before = parameter.detach().clone()
        for multiple in (-2, -1, 1, 2):
            with torch.no_grad():
                parameter.copy_(before + multiple * h * direction)
            values.append(float(step(batch)[0].total))
        with torch.no_grad():
            parameter.copy_(before)
        slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
        expected = float((gradient * direction).sum())
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-7), name


def test_a_loss_of_forces_alone_reaches_every_weight_of_the_network():
    potential, batch = model(), first_batch()
    step = EagerStep(potential, config=ObjectiveConfig(energy=0.0, forces=1.0, stress=0.0))
    _, gradients = step(batch)
    for (name, _), gradient in zip(potential.named_parameters(), gradients, strict=True):
        if not name.startswith("conditioning"):  # neutral structures only
            assert float(gradient.abs().max()) > 0, name


def test_joint_predictions_are_those_of_evaluate():
    """Training sees the energies, forces and strain derivatives that users get, less the fixed repulsion."""
    potential = model(repulsion="none")
    batch = first_batch()
    step = EagerStep(potential, config=CONFIG)
    predicted = predict(step.module, batch.graph, batch.head_index)
    for head in range(2):
        expected = evaluate(potential, batch.graph, head=potential.heads[head])
        rows = batch.head_index == head
        atoms = rows[batch.graph.batch]
        torch.testing.assert_close(predicted.energy[rows], expected.interaction_energy[rows], rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(predicted.forces[atoms], expected.forces[atoms], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(predicted.strain_gradient[rows], -expected.virial[rows], rtol=1e-10, atol=1e-11)


def test_labels_without_weight_do_not_count():
    potential, batch = model(), first_batch()
    step = EagerStep(potential, config=CONFIG)
    targets = batch.targets._replace(
        forces=batch.targets.forces.clone(), strain_gradient=batch.targets.strain_gradient.clone()
    )
    targets.forces[batch.graph.batch == 2] = 1e3
    targets.strain_gradient[1] = 1e3
    changed = step(batch._replace(targets=targets))
    before = step(batch)
    assert all(torch.equal(a, b) for a, b in zip(changed[0], before[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(changed[1], before[1], strict=True))


def test_a_batch_of_isolated_atoms_has_no_gradient_but_a_loss():
    potential = model()
    losses, gradients = EagerStep(potential, config=CONFIG)(batch_of([Atoms("H"), Atoms("Cu")], [0, 1]))
    assert float(losses.energy) > 0
    assert all(torch.isfinite(g).all() for g in gradients)
    assert all(float(g.abs().max()) == 0.0 for g in gradients)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns of itself while it compiles
def test_the_compiled_step_equals_the_eager_one():
    """One compilation serves batches of other sizes, also of one structure, one atom or one element."""
    potential = model(layers=1)
    eager, compiled = EagerStep(potential, config=CONFIG), CompiledStep(potential, config=CONFIG)
    batches = [
        first_batch(),
        batch_of([molecule("CH3CH2OH")], [1]),
        batch_of([bulk("Cu")], [0]),
        batch_of([Atoms("H"), molecule("H2")], [0, 1]),
        batch_of([molecule(name) for name in ("H2O", "CH4", "CO2", "C6H6", "NaCl", "SiH4")], [0, 1, 0, 1, 0, 1]),
    ]
    for batch in batches:
        expected, found = eager(batch), compiled(batch)
        torch.testing.assert_close(tuple(found[0]), tuple(expected[0]), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-9, atol=1e-11)
        again = compiled(batch)
        assert all(torch.equal(a, b) for a, b in zip(again[1], found[1], strict=True))
