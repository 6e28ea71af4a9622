"""Native message sums against dense ones: values, forces, and gradients of a loss of both, which training rests on."""

import gc

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrapot.potential.backbones.painn import DenseMessageSum, PaiNN
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.graph import build_graph, collate
from hydrapot.potential.native import instruction_sets, reason_missing
from hydrapot.potential.native import library as binding
from hydrapot.potential.native import message_operators as operators
from hydrapot.potential.native import messages as native
from hydrapot.potential.native.messages import NativeMessages
from hydrapot.training.messages import training_message_sum
from hydrapot.training.objective import ObjectiveConfig
from hydrapot.training.precision import AutocastStep
from hydrapot.training.step import CompiledStep, EagerStep
from tests.contract_helpers import random_potential
from tests.native_helpers import needs_native
from tests.test_step import CONFIG, batch_of, first_batch, model

CUTOFF, RADIAL = 4.0, 5
SETS = [] if reason_missing() else instruction_sets()


def encoder(channels=16, dtype=torch.float64, layers=3):
    torch.manual_seed(0)
    made = PaiNN(channels=channels, layers=layers, n_radial=RADIAL, cutoff=CUTOFF, neighbor_scale=10.0)
    return made.to(dtype)


def sums_for(channels=16, dtype=torch.float64, *, threads=1, instruction_set=None):
    return NativeMessages(
        channels=channels,
        n_radial=RADIAL,
        cutoff=CUTOFF,
        dtype=dtype,
        threads=threads,
        instruction_set=instruction_set,
    )


def mixture():
    """Rows of unequal length, cells smaller than the cutoff, a slab, an atom without neighbors."""
    crystal, slab = bulk("NaCl", "rocksalt", a=5.6), fcc111("Cu", (1, 1, 3), vacuum=6.0)
    for atoms in (crystal, slab):
        atoms.rattle(0.1, seed=0)
    structures = [molecule("CH3CH2OH"), crystal, Atoms("H"), slab]
    return collate([build_graph(a, cutoff=CUTOFF) for a in structures], cutoff=CUTOFF)


def derivatives(model, graph, sums):
    """Energy, edge gradient, and what a loss of both says to every input: all that training asks for."""
    rng = torch.Generator().manual_seed(1)
    channels, dtype = model.channels, model.embedding.weight.dtype
    kinds = torch.randn(len(graph.kinds), channels, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    readout = torch.randn(graph.n_atoms, channels, generator=rng, dtype=torch.float64)
    target = torch.randn(graph.edge_vectors.shape, generator=rng, dtype=torch.float64)
    leaf = graph.edge_vectors.clone().requires_grad_()
    features = model(kinds, graph.with_edge_vectors(leaf), message_sum=sums)
    energy = (torch.tanh(features.double()) * readout).sum()
    (gradient,) = torch.autograd.grad(energy, leaf, create_graph=True)
    loss = energy.square() + (gradient - target).square().sum()
    names = ["kinds", *(name for name, _ in model.named_parameters())]
    found = torch.autograd.grad(loss, [kinds, *model.parameters()], materialize_grads=True)
    return {"energy": energy.detach(), "edges": gradient.detach(), **dict(zip(names, found, strict=True))}


def assert_same(found, expected, *, tolerance):
    for name, value in expected.items():
        scale = float(value.norm()) + 1e-30
        assert float((found[name] - value).norm()) <= tolerance * scale + 1e-13, name


@needs_native
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("instruction_set", SETS)
def test_float64_equals_the_dense_sums(instruction_set, threads):
    model, graph = encoder(), mixture()
    sums = sums_for(threads=threads, instruction_set=instruction_set)
    assert sums.instruction_set == instruction_set
    assert_same(derivatives(model, graph, sums), derivatives(model, graph, DenseMessageSum), tolerance=2e-13)


@needs_native
@pytest.mark.parametrize("instruction_set", SETS)
def test_float32_splines_are_within_rounding_of_the_dense_sums(instruction_set):
    """The reference is float64: splines add nothing to what float32 loses anyway."""
    graph = mixture()
    exact = derivatives(encoder(), graph, DenseMessageSum)
    single = encoder(dtype=torch.float32)
    sums = sums_for(dtype=torch.float32, instruction_set=instruction_set)
    found, dense = derivatives(single, graph, sums), derivatives(single, graph, DenseMessageSum)
    for name, value in exact.items():
        errors = [float((other[name] - value).norm() / (value.norm() + 1e-30)) for other in (found, dense)]
        assert errors[0] < max(2.0 * errors[1], 1e-6), name


@needs_native
@pytest.mark.parametrize("channels", [2, 4, 12, 48])
def test_the_widest_vectors_that_divide_the_channels(channels):
    model, graph, sums = encoder(channels), mixture(), sums_for(channels)
    lanes = {"generic": 2, "avx2": 4, "avx512": 8}
    assert sums.instruction_set == next(name for name in SETS if channels % lanes[name] == 0)
    assert_same(derivatives(model, graph, sums), derivatives(model, graph, DenseMessageSum), tolerance=2e-13)


@st.composite
def structures(draw):
    """Any cell, any periodicity, atoms anywhere, none closer than 0.7 Å."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    cell = np.diag(rng.uniform(2.5, 6.0, 3)) + np.tril(rng.uniform(-1.0, 1.0, (3, 3)), -1)
    n = draw(st.integers(1, 5))
    for _ in range(50):
        atoms = Atoms(rng.choice(["H", "O", "Cu"], n), scaled_positions=rng.uniform(-2, 3, (n, 3)), cell=cell, pbc=pbc)
        graph = build_graph(atoms, cutoff=CUTOFF)
        lengths = torch.linalg.vector_norm(graph.edge_vectors[graph.edge_mask], dim=1)
        if not len(lengths) or float(lengths.min()) > 0.7:
            return graph
    return build_graph(Atoms("H"), cutoff=CUTOFF)


@needs_native
@settings(max_examples=25, deadline=None)
@given(st.lists(structures(), min_size=1, max_size=3))
def test_any_structures(graphs):
    model, graph = encoder(8, layers=2), collate(graphs, cutoff=CUTOFF)
    dense = derivatives(model, graph, DenseMessageSum)
    assert_same(derivatives(model, graph, sums_for(8, threads=2)), dense, tolerance=1e-11)


@needs_native
def test_an_edge_at_the_cutoff_is_none():
    """As in rows of a list with a skin, also in the middle of a row."""
    model = encoder()
    atoms = Atoms("H3", positions=[[0, 0, 0], [1.0, 0, 0], [0, 1.2, 0]])
    graph = build_graph(atoms, cutoff=CUTOFF)
    stretched = graph.edge_vectors.clone()
    stretched[[0, int(graph.reverse[0])]] *= 5.0
    graph = graph.with_edge_vectors(stretched)
    assert_same(derivatives(model, graph, sums_for()), derivatives(model, graph, DenseMessageSum), tolerance=2e-13)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_bits_on_every_run(dtype):
    model, graph, sums = encoder(dtype=dtype), mixture(), sums_for(dtype=dtype, threads=3)
    first, second = (derivatives(model, graph, sums) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@needs_native
def test_a_first_derivative_by_itself():
    """Without create_graph, as in a plain evaluation, edges and weights get their gradients all the same."""
    model, graph = encoder(), mixture()
    kinds = torch.ones(len(graph.kinds), 16, dtype=torch.float64)

    def gradients(sums):
        leaf = graph.edge_vectors.clone().requires_grad_()
        energy = model(kinds, graph.with_edge_vectors(leaf), message_sum=sums).square().sum()
        return torch.autograd.grad(energy, [leaf, model.messages[1].filters.weight, model.messages[0].hidden.weight])

    for found, expected in zip(gradients(sums_for()), gradients(DenseMessageSum), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@needs_native
def test_what_is_not_computed_is_not_silently_zero():
    """Hessians come out as NaN, third derivatives and curvatures in the weights raise."""
    model, graph, sums = encoder(layers=2), mixture(), sums_for()
    leaf = graph.edge_vectors.clone().requires_grad_()
    kinds = torch.ones(len(graph.kinds), 16, dtype=torch.float64)
    energy = model(kinds, graph.with_edge_vectors(leaf), message_sum=sums).sum()
    (gradient,) = torch.autograd.grad(energy, leaf, create_graph=True)
    assert bool(torch.isnan(torch.autograd.grad(gradient.square().sum(), leaf, retain_graph=True)[0]).any())
    weight = model.messages[0].filters.weight
    with pytest.raises(RuntimeError, match="differentiable twice"):
        torch.autograd.grad(gradient.square().sum(), weight, create_graph=True)
    (slope,) = torch.autograd.grad(energy, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated"):
        torch.autograd.grad(slope.square().sum(), weight)


@needs_native
def test_sums_for_another_encoder_are_refused():
    graph = mixture()
    with pytest.raises(ConfigurationError, match=r"given 5, 4\.0 Å and torch\.float32"):
        encoder(dtype=torch.float32)(torch.ones(len(graph.kinds), 16), graph, message_sum=sums_for())
    with pytest.raises(ConfigurationError, match="17 channels do not fill the vectors"):
        sums_for(17)
    with pytest.raises(ConfigurationError, match="float32 and float64"):
        sums_for(dtype=torch.bfloat16)


@needs_native
def test_a_step_with_native_sums_is_a_step():
    """Losses and gradients of everything, conditioning and heads included, against the dense step."""
    potential, batch = model(), first_batch()
    sums = training_message_sum(potential, backend="native")
    expected = EagerStep(potential, config=CONFIG)(batch)
    found = EagerStep(potential, config=CONFIG, message_sum=sums)(batch)
    torch.testing.assert_close(tuple(found[0]), tuple(expected[0]), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-10, atol=1e-11)


@needs_native
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns of itself while it traces
@pytest.mark.parametrize("kind", [EagerStep, CompiledStep])
def test_bfloat16_products_leave_filters_alone(monkeypatch, kind):
    """Tables of filters stay out of autocast: rounded to three digits, their differences would be no slopes.

    In a traced step, too, where a context without autocast is lost.
    """
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    potential, batch = random_potential(heads=["a", "b"], cutoff=3.5).float(), first_batch()
    exact = EagerStep(potential, config=ObjectiveConfig())(batch)
    errors = {}
    for name, sums in (("dense", DenseMessageSum), ("native", training_message_sum(potential, backend="native"))):
        step = AutocastStep(kind(potential, config=ObjectiveConfig(), message_sum=sums), device_type="cpu")
        losses, gradients = step(batch)
        torch.testing.assert_close(losses.forces, exact[0].forces, rtol=0.03, atol=0)
        names = [n for n, _ in potential.named_parameters()]
        errors[name] = {
            n: float((g - e).norm() / (e.norm() + 1e-12))
            for n, g, e in zip(names, gradients, exact[1], strict=True)
            if float(e.norm()) > 0
        }
    for name, error in errors["native"].items():
        assert error < 2.0 * errors["dense"][name] + 0.01, name


@needs_native
def test_tensors_of_another_kind_are_refused_not_read():
    """The library gets addresses: what is behind them has to be what it takes it for."""
    graph, sums = mixture(), sums_for()
    edges = operators.message_edges(sums.sums.number, graph.edge_vectors, graph.n_atoms)
    rest = (graph.edge_vectors, sums.table(torch.ones(32, RADIAL).double()), *edges, graph.edge_index[1], graph.reverse)
    context = torch.ones(graph.n_atoms, 32, dtype=torch.float64)
    operators.message_sum(sums.sums.number, context, None, *rest)
    with pytest.raises(ValueError, match=r"context is torch\.float32"):
        operators.message_sum(sums.sums.number, context.float(), None, *rest)
    with pytest.raises(ValueError, match="table is"):
        operators.message_sum(sums.sums.number, context, None, rest[0], rest[1][1:], *rest[2:])
    with pytest.raises(ValueError, match="not those of a graph"):
        operators.message_edges(sums.sums.number, graph.edge_vectors.float(), graph.n_atoms)


@needs_native
def test_sums_live_as_long_as_somebody_may_differentiate():
    model, graph = encoder(), mixture()
    kinds = torch.ones(len(graph.kinds), 16, dtype=torch.float64)

    def energy():
        leaf = graph.edge_vectors.clone().requires_grad_()
        return leaf, model(kinds, graph.with_edge_vectors(leaf), message_sum=sums_for()).sum()

    leaf, value = energy()
    gc.collect()
    (gradient,) = torch.autograd.grad(value, leaf)
    assert bool(torch.isfinite(gradient).all())
    number = sums_for().sums.number
    gc.collect()
    with pytest.raises(RuntimeError, match="are gone"):
        operators.message_edges(number, graph.edge_vectors, graph.n_atoms)


@needs_native
@pytest.mark.parametrize("vectors", [False, True])
def test_no_atoms(vectors):
    """Nothing is left as it was in memory."""
    sums, parts = sums_for(), 3 if vectors else 2
    none = torch.zeros(0, 3, 16, dtype=torch.float64)
    edges = operators.message_edges(sums.sums.number, torch.zeros(0, 3, dtype=torch.float64), 0)
    indices = torch.zeros(0, dtype=torch.int64)
    table = sums.table(torch.ones(parts * 16, RADIAL).double())
    arguments = (
        torch.zeros(0, parts * 16).double(),
        none if vectors else None,
        torch.zeros(0, 3).double(),
        table,
        *edges,
    )
    *_, d_table = operators.message_weight(
        sums.sums.number, *arguments, indices, indices, torch.zeros(0, 16).double(), none
    )
    assert torch.equal(d_table, torch.zeros_like(table))


@needs_native
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns of itself while it compiles
@pytest.mark.parametrize("how", ["traced", pytest.param("compiled", marks=pytest.mark.slow)])
def test_the_compiled_native_step_equals_the_dense_one(monkeypatch, how):
    """One graph serves batches of other sizes, also of one structure, one atom or one element.

    Most that can go wrong does in tracing; compiling what was traced takes over a minute.
    """
    if how == "traced":
        monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    potential = model(layers=2)
    dense = EagerStep(potential, config=CONFIG)
    compiled = CompiledStep(potential, config=CONFIG, message_sum=training_message_sum(potential, backend="native"))
    batches = [
        first_batch(),
        batch_of([bulk("Cu")], [0]),
        batch_of([Atoms("H"), molecule("H2")], [0, 1]),
        batch_of([molecule(name) for name in ("H2O", "CH4", "CO2", "C6H6", "NaCl", "SiH4")], [0, 1, 0, 1, 0, 1]),
    ]
    for batch in batches:
        expected, found = dense(batch), compiled(batch)
        assert not compiled.failed
        torch.testing.assert_close(tuple(found[0]), tuple(expected[0]), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-9, atol=1e-11)
        again = compiled(batch)
        assert all(torch.equal(a, b) for a, b in zip(again[1], found[1], strict=True))


def test_without_the_library_training_falls_back_or_says_why(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(binding, "library_path", lambda: tmp_path / "libhydrapot.so")
    binding._open.cache_clear()
    try:
        with caplog.at_level("INFO"):
            assert training_message_sum(model(), backend="auto") is DenseMessageSum
        assert "not built in this installation" in caplog.text
        with pytest.raises(ConfigurationError, match=r"run\.backend native is not possible: .*not built"):
            training_message_sum(model(), backend="native")
    finally:
        binding._open.cache_clear()


@needs_native
def test_the_backend_is_a_choice():
    assert training_message_sum(model(), backend="torch") is DenseMessageSum
    assert isinstance(training_message_sum(model(), backend="auto"), native.NativeMessages)
    # Seventeen channels fill no vectors: torch does it.
    assert training_message_sum(model(channels=17), backend="auto") is DenseMessageSum
