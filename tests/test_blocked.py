"""Blocked sums over neighbors against the dense reference, in float64, where both agree to rounding."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from hydrapot.potential.backbones import blocked
from hydrapot.potential.backbones.blocked import BlockedMessageSum, fastest_message_sum
from hydrapot.potential.backbones.painn import DenseMessageSum, PaiNN
from hydrapot.potential.graph import Graph, build_graph, collate

CUTOFF = 4.0


def encoder(layers: int = 3) -> PaiNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return PaiNN(channels=6, layers=layers, n_radial=5, cutoff=CUTOFF, neighbor_scale=20.0).double()


def mixed_graph() -> Graph:
    crystal = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    crystal.rattle(0.1, seed=2)
    structures = [molecule("CH3CH2OH"), Atoms("He"), crystal, bulk("Cu")]
    return collate([build_graph(atoms, cutoff=CUTOFF) for atoms in structures], cutoff=CUTOFF)


def outputs(
    model: PaiNN, graph: Graph, message_sum: type[BlockedMessageSum | DenseMessageSum]
) -> tuple[torch.Tensor, ...]:
    kinds = model.embed(graph.kinds, torch.zeros((), dtype=torch.float64)).detach().requires_grad_()
    leaf = graph.edge_vectors.detach().requires_grad_()
    features = model(kinds, graph.with_edge_vectors(leaf), message_sum=message_sum)
    weights = torch.from_numpy(np.random.default_rng(1).normal(size=tuple(features.shape)))
    return features.detach(), *torch.autograd.grad((features * weights).sum(), [leaf, kinds])


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("block_bytes", [1, 20_000, 1 << 20])
def test_features_and_gradients_equal_the_dense_ones(layers: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blocked, "BLOCK_BYTES", block_bytes)
    model, graph = encoder(layers), mixed_graph()
    dense, fast = (outputs(model, graph, kind) for kind in (DenseMessageSum, BlockedMessageSum))
    for expected, got in zip(dense, fast, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


def test_the_two_directions_of_a_pair_need_not_mirror_each_other():
    graph = mixed_graph()
    noise = torch.from_numpy(np.random.default_rng(0).normal(scale=0.1, size=(len(graph.edge_vectors), 3)))
    shaken = graph.with_edge_vectors(graph.edge_vectors + noise * graph.edge_mask[:, None])
    dense, fast = (outputs(encoder(), shaken, kind) for kind in (DenseMessageSum, BlockedMessageSum))
    for expected, got in zip(dense, fast, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


def test_no_atoms():
    graph = build_graph(Atoms(), cutoff=CUTOFF)
    kinds = torch.zeros(0, 6, dtype=torch.float64)
    leaf = graph.edge_vectors.detach().requires_grad_()
    features = encoder()(kinds, graph.with_edge_vectors(leaf), message_sum=BlockedMessageSum)
    assert features.shape == (0, 6)
    assert torch.autograd.grad(features.sum(), leaf)[0].shape == leaf.shape


def test_repeats_to_the_last_bit_in_single_precision():
    model, graph = encoder().float(), mixed_graph()
    kinds = model.embed(graph.kinds, torch.zeros(()))
    runs = []
    for _ in range(3):
        leaf = graph.edge_vectors.detach().requires_grad_()
        energy = model(kinds, graph.with_edge_vectors(leaf), message_sum=BlockedMessageSum).square().sum()
        runs.append(torch.autograd.grad(energy, leaf)[0])
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_a_second_derivative_is_refused_rather_than_wrong():
    model, graph = encoder(), mixed_graph()
    leaf = graph.edge_vectors.detach().requires_grad_()
    kinds = model.embed(graph.kinds, torch.zeros((), dtype=torch.float64))
    energy = model(kinds, graph.with_edge_vectors(leaf), message_sum=BlockedMessageSum).sum()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(energy, leaf, create_graph=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cpus_get_blocks(dtype: torch.dtype):
    assert fastest_message_sum(torch.device("cpu"), dtype) is BlockedMessageSum
