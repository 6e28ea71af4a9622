"""Training state: a restored run continues to the last bit, and nothing but a sound state is accepted."""

import math

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from hydrapot.potential import CheckpointError, build_graph, container, save
from hydrapot.training.state import (
    STATE_VERSION,
    flatten_optimizer,
    generator_state,
    load_state,
    restore_generator,
    restore_optimizer,
    restore_torch_random_state,
    save_state,
    torch_random_state,
    with_prefix,
    without_prefix,
)
from tests.potential_helpers import METALS, MOLECULES, tiny_potential

STRUCTURES = [(METALS, bulk("Cu", cubic=True)), (MOLECULES, molecule("H2O")), (MOLECULES, molecule("CH3OH"))]


class Run:
    """What a trainer holds: a model, AdamW with two groups, an average, and generators of numpy and torch."""

    def __init__(self, *, dtype=torch.float32):
        self.potential = tiny_potential().to(dtype)
        parameters = list(self.potential.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3)
        self.average = {name: p.detach().clone() for name, p in self.potential.named_parameters()}
        self.rng = np.random.default_rng(7)
        self.graphs = [(head, build_graph(atoms, cutoff=4.0)) for head, atoms in STRUCTURES]

    def train(self, steps):
        for _ in range(steps):
            head, graph = self.graphs[self.rng.integers(len(self.graphs))]
            vectors = graph.edge_vectors + 0.01 * torch.randn(graph.edge_vectors.shape, dtype=torch.float64)
            self.optimizer.zero_grad()  # to None: heads that had no structure keep their moments
            loss = self.potential(graph.with_edge_vectors(vectors), head=head).pow(2).mean()
            loss.backward()
            self.optimizer.step()
            for name, parameter in self.potential.named_parameters():
                self.average[name].lerp_(parameter.detach(), 0.1)

    def save(self, path):
        tensors = {
            **with_prefix("weights", dict(self.potential.named_parameters())),
            **with_prefix("average", self.average),
            **with_prefix("optimizer", flatten_optimizer(self.optimizer, self.potential)),
            **with_prefix("random", torch_random_state()),
        }
        save_state(path, tensors=tensors, document={"rng": generator_state(self.rng)})

    def load(self, path):
        tensors, document = load_state(path)
        self.potential.load_state_dict(without_prefix("weights", tensors), strict=True)
        self.average = without_prefix("average", tensors)
        restore_optimizer(self.optimizer, self.potential, without_prefix("optimizer", tensors))
        restore_torch_random_state(without_prefix("random", tensors))
        restore_generator(self.rng, document["rng"])

    def tensors(self):
        moments = flatten_optimizer(self.optimizer, self.potential)
        return {**dict(self.potential.named_parameters()), **with_prefix("average", self.average), **moments}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_restored_run_continues_to_the_last_bit(tmp_path, dtype):
    torch.manual_seed(3)
    run = Run(dtype=dtype)
    run.train(3)
    run.save(tmp_path / "state.safetensors")
    run.train(3)
    expected = {name: tensor.detach().clone() for name, tensor in run.tensors().items()}

    torch.manual_seed(99)
    other = Run(dtype=dtype)
    other.train(2)  # whatever it held before must be gone
    other.load(tmp_path / "state.safetensors")
    other.train(3)
    result = other.tensors()
    assert result.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(result[name], tensor), name


def test_the_comparison_above_would_notice_lost_moments(tmp_path):
    """Guards the test itself: without the optimizer's state, the same three steps end elsewhere."""
    torch.manual_seed(3)
    run = Run()
    run.train(3)
    run.save(tmp_path / "state.safetensors")
    run.train(3)
    other = Run()
    other.load(tmp_path / "state.safetensors")
    other.optimizer.state.clear()
    other.train(3)
    assert not torch.equal(run.potential.encoder.embedding.weight, other.potential.encoder.embedding.weight)


def test_hyperparameters_are_those_of_the_new_optimizer():
    """They belong to the configuration: a run may be resumed with another learning rate."""
    run, other = Run(), Run()
    run.train(1)
    for group in other.optimizer.param_groups:
        group["lr"] = 0.5
    restore_optimizer(other.optimizer, other.potential, flatten_optimizer(run.optimizer, run.potential))
    assert [g["lr"] for g in other.optimizer.param_groups] == [0.5, 0.5]
    assert [g["weight_decay"] for g in other.optimizer.param_groups] == [0.01, 0.0]


def test_restored_moments_are_copies():
    run, other = Run(), Run()
    run.train(1)
    moments = flatten_optimizer(run.optimizer, run.potential)
    before = {name: tensor.clone() for name, tensor in moments.items()}
    restore_optimizer(other.optimizer, other.potential, moments)
    other.train(2)
    assert all(torch.equal(moments[name], before[name]) for name in moments)


def test_an_optimizer_that_never_stepped_has_no_state():
    run, other = Run(), Run()
    assert flatten_optimizer(run.optimizer, run.potential) == {}
    other.train(1)
    restore_optimizer(other.optimizer, other.potential, {})
    assert flatten_optimizer(other.optimizer, other.potential) == {}


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("encoder.nothing/exp_avg", torch.zeros(2), "belongs to no parameter"),
        ("encoder.embedding.weight/exp_avg", torch.zeros(2), "shape"),
        ("encoder.embedding.weight/exp_avg", torch.zeros(119, 2, dtype=torch.float64), "float64"),
    ],
)
def test_state_of_another_model_is_refused(key, value, hint):
    run = Run()
    with pytest.raises(CheckpointError, match=hint):
        restore_optimizer(run.optimizer, run.potential, {key: value})


def test_an_optimizer_over_foreign_parameters_is_refused():
    with pytest.raises(ValueError, match="does not own"):
        flatten_optimizer(torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]), tiny_potential())


@pytest.mark.parametrize("name", ["PCG64", "MT19937", "SFC64", "Philox"])
def test_every_generator_of_numpy_continues_where_it_was(tmp_path, name):
    kind = getattr(np.random, name)
    generator = np.random.Generator(kind(5))
    generator.integers(10, size=3, dtype=np.uint32)  # leaves half of a 64-bit word behind, which is state too
    save_state(tmp_path / "s.safetensors", tensors={}, document={"rng": generator_state(generator)})
    _, document = load_state(tmp_path / "s.safetensors")
    other = np.random.Generator(kind(6))
    restore_generator(other, document["rng"])
    draws = [(g.integers(10, size=3, dtype=np.uint32), g.normal(size=5)) for g in (generator, other)]
    assert all(np.array_equal(a, b) for a, b in zip(*draws, strict=True))


def test_the_state_of_another_kind_of_generator_is_refused():
    state = generator_state(np.random.Generator(np.random.MT19937(1)))
    with pytest.raises(CheckpointError, match=r"MT19937.*PCG64"):
        restore_generator(np.random.default_rng(), state)


def test_documents_and_tensors_come_back_exactly(tmp_path):
    document = {
        "best": math.inf,
        "third": 1 / 3,
        "big": 2**127 + 1,
        "none": None,
        "text": "Å",
        "list": [1, [2.5]],
    }
    tensors = {
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "strided": torch.arange(6.0).view(2, 3).T,
        "nan": torch.tensor([math.nan, -0.0]),
        "flags": torch.tensor([True, False]),
    }
    save_state(tmp_path / "s.safetensors", tensors=tensors, document=document)
    again, read = load_state(tmp_path / "s.safetensors")
    assert read == document
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert again[name].shape == tensor.shape
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(again[name].reshape(-1).view(torch.uint8), flat), name


def test_only_a_training_state_of_this_version_is_read(tmp_path):
    path = tmp_path / "s.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        load_state(path)
    save(tiny_potential(), path)
    with pytest.raises(CheckpointError, match="not a hydrapot training state"):
        load_state(path)
    container.write(path, kind="hydrapot-training", document={"state_version": STATE_VERSION + 1}, tensors={})
    with pytest.raises(CheckpointError, match=f"version {STATE_VERSION + 1}"):
        load_state(path)
    save_state(path, tensors={"x": torch.ones(1000)}, document={})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="truncated"):
        load_state(path)


def test_a_document_that_json_cannot_hold_is_refused_before_writing(tmp_path):
    path = tmp_path / "s.safetensors"
    for value, kind in ((torch.zeros(1), "Tensor"), ({1: 2}, "dict"), (tmp_path, "Path"), ({3}, "set")):
        with pytest.raises(CheckpointError, match=rf"a\.b.*{kind}"):
            save_state(path, tensors={}, document={"a": {"b": value}})
    assert not path.exists()
