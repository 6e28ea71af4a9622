"""Fused message sums against the dense reference; `test_fused.py` runs this file in Triton's interpreter.

The interpreter has to be asked for before Triton is imported for the first time, hence in a process of its own:
``TRITON_INTERPRET=1 pytest tests/fused_cases.py``.
"""

import os
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from hydrapot.potential import evaluate
from hydrapot.potential.backbones.fused import FusedMessageSum, has_triton
from hydrapot.potential.backbones.painn import DenseMessageSum, MessageSum, PaiNN
from hydrapot.potential.graph import Graph, build_graph, collate
from tests.potential_helpers import METALS, MOLECULES, tiny_potential

if not has_triton():
    pytest.skip("needs a recent Triton", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs Triton's interpreter (TRITON_INTERPRET=1)", allow_module_level=True)

CUTOFF = 4.0
TOLERANCES = {torch.float64: {"rtol": 1e-11, "atol": 1e-12}, torch.float32: {"rtol": 2e-4, "atol": 2e-5}}


def small_graph(case: str) -> Graph:
    """Rows of edges shorter than a tile, a little longer, and padded; atoms of several kinds, and alone."""
    rocksalt = bulk("NaCl", "rocksalt", a=5.6)
    rocksalt.rattle(0.1, seed=2)
    copper = bulk("Cu", cubic=True)[:2]
    copper.rattle(0.1, seed=3)
    structures = {
        "short": [molecule("H2O")],
        "long": [copper],
        "padded": [molecule("H2O"), Atoms("He"), rocksalt, bulk("Cu")],
    }[case]
    return collate([build_graph(atoms, cutoff=CUTOFF) for atoms in structures], cutoff=CUTOFF)


def inputs(graph: Graph, *, channels: int, n_radial: int, with_vectors: bool, dtype: torch.dtype) -> list[Tensor]:
    """Random context, (vectors,) basis, directions and filters; nothing mirrors the two directions of a pair."""
    rng = np.random.default_rng(0)
    n, e, parts = graph.n_atoms, len(graph.reverse), 3 if with_vectors else 2
    shapes = [(n, parts * channels), (n, 3, channels), (e, n_radial), (e, 3), (parts * channels, n_radial)]
    if not with_vectors:
        del shapes[1]
    return [torch.from_numpy(rng.normal(size=shape)).to(dtype).requires_grad_() for shape in shapes]


def derivatives(kind: type[MessageSum], graph: Graph, tensors: list[Tensor], order: int) -> list[Tensor]:
    """Both sums, then all first derivatives of a smooth function of them, then all second derivatives."""
    *nodes, basis, directions, filters = tensors
    vectors = nodes[1] if len(nodes) > 1 else None
    sums = kind(basis, directions, graph)(nodes[0], vectors, filters, scale=0.3)
    found = [s.detach() for s in sums]
    value = sum(torch.sin(s).sum() for s in sums)
    for k in range(order):
        gradients = torch.autograd.grad(value, tensors, create_graph=k < order - 1)
        found.extend(g.detach() for g in gradients)
        value = sum(torch.cos(g).sum() for g in gradients)
    return found


def assert_equal_to_dense(graph: Graph, tensors: list[Tensor], *, order: int) -> None:
    dense, fused = (derivatives(kind, graph, tensors, order) for kind in (DenseMessageSum, FusedMessageSum))
    assert len(dense) == 2 + order * len(tensors)
    for expected, got in zip(dense, fused, strict=True):
        assert got.dtype == tensors[0].dtype
        assert expected.abs().max() > 1e-3
        scale = float(expected.abs().max())
        torch.testing.assert_close(got / scale, expected / scale, **TOLERANCES[expected.dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("with_vectors", [False, True])
@pytest.mark.parametrize(
    ("case", "channels", "n_radial"), [("short", 5, 3), ("long", 32, 16), ("padded", 33, 5), ("padded", 7, 17)]
)
def test_sums_and_gradients(case: str, channels: int, n_radial: int, with_vectors: bool, dtype: torch.dtype):
    graph = small_graph(case)
    tensors = inputs(graph, channels=channels, n_radial=n_radial, with_vectors=with_vectors, dtype=dtype)
    assert_equal_to_dense(graph, tensors, order=1)


@pytest.mark.parametrize("with_vectors", [False, True])
@pytest.mark.parametrize(
    ("order", "dtype"),
    [(2, torch.float32), (2, torch.float64), (3, torch.float64)],
    ids=["2-float32", "2-float64", "3"],
)
def test_higher_derivatives(with_vectors: bool, order: int, dtype: torch.dtype):
    graph = small_graph("padded")
    tensors = inputs(graph, channels=3, n_radial=2, with_vectors=with_vectors, dtype=dtype)
    assert_equal_to_dense(graph, tensors, order=order)


def test_tensors_that_are_not_contiguous():
    graph = small_graph("short")
    tensors = [
        torch.zeros(*t.shape[:-1], 2 * t.shape[-1], dtype=t.dtype)[..., ::2].copy_(t.detach()).requires_grad_()
        for t in inputs(graph, channels=4, n_radial=3, with_vectors=True, dtype=torch.float64)
    ]
    assert not any(t.is_contiguous() for t in tensors)
    assert_equal_to_dense(graph, tensors, order=1)


@pytest.mark.parametrize("wanted", range(5))
def test_one_gradient_alone(wanted: int):
    graph = small_graph("short")
    every = inputs(graph, channels=3, n_radial=2, with_vectors=True, dtype=torch.float64)
    alone = [t.detach().requires_grad_(k == wanted) for k, t in enumerate(every)]

    def gradient(kind: type[MessageSum], *, create_graph: bool) -> Tensor:
        context, vectors, basis, directions, filters = alone
        sums = kind(basis, directions, graph)(context, vectors, filters, scale=1.0)
        value = sum(s.square().sum() for s in sums)
        return torch.autograd.grad(value, alone[wanted], create_graph=create_graph)[0]

    expected = gradient(DenseMessageSum, create_graph=False)
    for create_graph in (False, True):
        torch.testing.assert_close(
            gradient(FusedMessageSum, create_graph=create_graph), expected, rtol=1e-11, atol=1e-12
        )


def encoder(channels: int = 6) -> PaiNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return PaiNN(channels=channels, layers=3, n_radial=5, cutoff=CUTOFF, neighbor_scale=20.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_training_on_energies_and_forces(dtype: torch.dtype):
    """Gradients of the weights, where vectors depend on the basis by way of earlier layers."""
    model, graph = encoder().to(dtype), small_graph("padded")

    def gradients(kind: type[MessageSum]) -> list[Tensor]:
        leaf = graph.edge_vectors.detach().requires_grad_()
        kinds = model.embed(graph.kinds, torch.zeros((), dtype=dtype))
        energy = torch.sin(model(kinds, graph.with_edge_vectors(leaf), message_sum=kind)).sum()
        (forces,) = torch.autograd.grad(energy, leaf, create_graph=True)
        loss = energy.square() + forces.square().sum()
        return [g for g in torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) if g is not None]

    dense, fused = gradients(DenseMessageSum), gradients(FusedMessageSum)
    assert len(dense) > 15
    scale = max(float(g.abs().max()) for g in dense)
    for expected, got in zip(dense, fused, strict=True):
        torch.testing.assert_close(got / scale, expected / scale, **TOLERANCES[dtype])


def test_training_on_energies():
    model, graph = encoder().double(), small_graph("short")

    def gradients(kind: type[MessageSum]) -> list[Tensor]:
        kinds = model.embed(graph.kinds, torch.zeros((), dtype=torch.float64))
        loss = model(kinds, graph, message_sum=kind).square().sum()
        return [g for g in torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) if g is not None]

    for expected, got in zip(gradients(DenseMessageSum), gradients(FusedMessageSum), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_repeats_to_the_last_bit_in_single_precision():
    graph = small_graph("padded")
    tensors = inputs(graph, channels=7, n_radial=5, with_vectors=True, dtype=torch.float32)
    first, second = (derivatives(FusedMessageSum, graph, tensors, 1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_atoms():
    graph = build_graph(Atoms(), cutoff=CUTOFF)
    model = encoder().double()
    leaf = graph.edge_vectors.detach().requires_grad_()
    kinds = torch.zeros(0, 6, dtype=torch.float64)
    features = model(kinds, graph.with_edge_vectors(leaf), message_sum=FusedMessageSum)
    assert features.shape == (0, 6)
    (gradient,) = torch.autograd.grad(features.sum(), leaf, retain_graph=True)
    assert gradient.shape == leaf.shape
    filters = model.messages[1].filters.weight
    (gradient,) = torch.autograd.grad(features.sum(), filters)
    assert torch.equal(gradient, torch.zeros_like(filters))


def test_atoms_without_neighbors():
    graph = build_graph(Atoms("HeNe", positions=[[0, 0, 0], [30, 0, 0]]), cutoff=CUTOFF)
    tensors = inputs(graph, channels=3, n_radial=2, with_vectors=True, dtype=torch.float64)
    tensors[2] = torch.zeros_like(tensors[2], requires_grad=True)  # the basis in padding slots
    *_, filters_gradient = found = derivatives(FusedMessageSum, graph, tensors, 1)
    assert torch.equal(found[0], torch.zeros_like(found[0]))
    assert torch.equal(filters_gradient, torch.zeros_like(filters_gradient))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 3e-5)], ids=["float64", "float32"]
)
def test_forces_of_a_model(dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch):
    potential = tiny_potential().to(dtype)
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.1, seed=5)
    for atoms, head in ((copper, METALS), (molecule("CH3OH"), MOLECULES)):
        graph = build_graph(atoms, cutoff=potential.cutoff)
        results = []
        for kind in (DenseMessageSum, FusedMessageSum):
            # The package exports the function under the name of its module.
            monkeypatch.setattr(sys.modules[evaluate.__module__], "fastest_message_sum", lambda *_, kind=kind: kind)
            results.append(evaluate(potential, graph, head=head))
        dense, fused = results
        size = float(dense.forces.abs().max())
        assert size > 1e-3
        torch.testing.assert_close(fused.forces / size, dense.forces / size, rtol=0.0, atol=tolerance)
        torch.testing.assert_close(fused.interaction_energy, dense.interaction_energy, rtol=tolerance, atol=0.0)
        torch.testing.assert_close(fused.virials / size, dense.virials / size, rtol=tolerance, atol=10 * tolerance)
