"""Balance between heads: the sum is the plain gradient, projections and weights are those of their papers, state resumes."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.balancing import BalancedGradients, BalancingConfig, make_rule, shared_tensors
from hydrapot.training.config import load_config
from hydrapot.training.gradients import SummedGradients
from hydrapot.training.layout import Layout
from hydrapot.training.meter import TELEMETRY_FILE, read_telemetry
from hydrapot.training.objective import Losses, ObjectiveConfig
from hydrapot.training.observer import Observer
from hydrapot.training.perhead import of_head, select_structures
from hydrapot.training.run import STATE_FILE, train
from hydrapot.training.state import load_state
from hydrapot.training.step import EagerStep
from tests.test_step import batch_of, first_batch
from tests.test_step import model as two_heads
from tests.training_helpers import write_datasets


def test_structures_taken_out_of_a_batch_have_the_energies_they_had_in_it():
    model = two_heads()
    batch = first_batch()
    chosen = torch.tensor([True, False, True])
    whole = model.features(batch.graph)[0]
    some = model.features(select_structures(batch.graph, chosen))[0]
    torch.testing.assert_close(some, whole[chosen[batch.graph.batch]], rtol=1e-12, atol=1e-14)


def test_parts_of_all_heads_add_up_to_the_batch():
    model = two_heads()
    step = EagerStep(model, config=ObjectiveConfig())
    batch = first_batch()
    losses, gradients = step(batch)
    parts = [step(part) for k in range(len(model.heads)) if (part := of_head(batch, k)) is not None]
    assert len(parts) == 2
    torch.testing.assert_close(sum(p[0].total for p in parts), losses.total, rtol=1e-12, atol=0)
    for k, gradient in enumerate(gradients):
        torch.testing.assert_close(sum(p[1][k] for p in parts), gradient, rtol=1e-9, atol=1e-12)


def test_a_head_that_is_not_in_a_batch_has_no_part():
    batch = batch_of([__import__("ase.build", fromlist=["molecule"]).molecule("H2O")], [1])
    assert of_head(batch, 0) is None
    assert of_head(batch, 1) is batch


def test_without_anything_asked_for_the_plain_sum_is_taken():
    model = two_heads()
    step = EagerStep(model, config=ObjectiveConfig())
    rule = make_rule(BalancingConfig(), step, heads=model.heads, layout=Layout(model), seed=0)
    assert isinstance(rule, SummedGradients)


def test_measuring_alone_changes_nothing():
    model = two_heads()
    step, layout = EagerStep(model, config=ObjectiveConfig()), Layout(model)
    rule = make_rule(BalancingConfig(measure_every=1), step, heads=model.heads, layout=layout, seed=0)
    seen = []
    observer = Observer()
    observer.conflicts = lambda heads, cosines: seen.append((heads, cosines))
    losses, gradients = rule([first_batch()], layout=layout, observer=observer)
    plain_losses, plain = SummedGradients(step)([first_batch()], layout=layout, observer=Observer())
    torch.testing.assert_close(losses.total, plain_losses.total)
    for ours, theirs in zip(gradients, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    ((heads, cosines),) = seen
    assert heads == model.heads
    torch.testing.assert_close(cosines.diagonal(), torch.ones(2, dtype=torch.float64))
    parts = [step(of_head(first_batch(), k))[1] for k in range(2)]
    flat = [torch.cat([p[k].reshape(-1) for k in shared_tensors(layout)]) for p in parts]
    expected = torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0)
    torch.testing.assert_close(cosines[0, 1], expected.double())


# --- made-up tasks: two shared numbers, and one number for each head ---


class Toy:
    """A step whose loss for head h is ``scale_h · (g_h · shared)``: gradients are known without a network."""

    def __init__(self, *gradients: list[float], losses: list[float] | None = None) -> None:
        self.gradients = torch.tensor(gradients, dtype=torch.float64)
        self.losses = losses or [1.0] * len(gradients)

    def rule(self, monkeypatch: pytest.MonkeyPatch, **config: object) -> BalancedGradients:
        monkeypatch.setattr("hydrapot.training.balancing.of_head", lambda batch, k: batch if batch.head == k else None)
        heads = [f"h{k}" for k in range(len(self.gradients))]
        return BalancedGradients(BalancingConfig(**config), self.step, heads=heads, seed=1)

    def step(self, batch: SimpleNamespace) -> tuple[Losses, list[torch.Tensor]]:
        k = batch.head
        zero = torch.zeros((), dtype=torch.float64)
        own = [torch.zeros(1, dtype=torch.float64) for _ in self.gradients]
        own[k] += 1.0
        return Losses(zero + self.losses[k], zero, zero, zero), [self.gradients[k], *own]

    def __call__(self, rule: BalancedGradients) -> list[torch.Tensor]:
        batches = [SimpleNamespace(head=k, graph=SimpleNamespace(n_graphs=1)) for k in range(len(self.gradients))]
        return rule(batches, layout=self.layout(), observer=Observer())[1]

    def layout(self) -> Layout:
        shared = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        heads = {
            f"h{k}": torch.nn.ParameterList([torch.zeros(1, dtype=torch.float64)]) for k in range(len(self.gradients))
        }
        model = SimpleNamespace(
            heads=list(heads),
            head=heads.__getitem__,
            parameters=lambda: [shared, *(p for h in heads.values() for p in h)],
            named_parameters=lambda: enumerate([shared, *(p for h in heads.values() for p in h)]),
        )
        return Layout(model)


def test_conflicting_gradients_are_projected_as_in_the_paper(monkeypatch: pytest.MonkeyPatch):
    """Yu et al., arXiv:2001.06782, Alg. 1, for two tasks: each loses its part along the other."""
    first, second = np.array([1.0, 0.0]), np.array([-0.5, 2.0])
    toy = Toy(list(first), list(second))
    total = toy(toy.rule(monkeypatch, project=True))
    projected = first - (first @ second) / (second @ second) * second + second - (first @ second) * first
    np.testing.assert_allclose(total[0], projected, rtol=1e-14)
    assert float(total[0] @ torch.tensor(first)) > 0
    assert float(total[0] @ torch.tensor(second)) > 0
    np.testing.assert_array_equal(torch.cat(total[1:]), [1.0, 1.0])


def test_three_tasks_are_projected_one_after_the_other(monkeypatch: pytest.MonkeyPatch):
    """Against the algorithm written out with vectors, in the same random order."""
    rng = np.random.default_rng(3)
    gradients = rng.normal(size=(3, 2))
    toy = Toy(*gradients.tolist())
    rule = toy.rule(monkeypatch, project=True)
    for step in range(4):
        order = torch.Generator().manual_seed(1 * 1_000_003 + step)
        expected = np.zeros(2)
        for k in range(3):
            own = gradients[k].copy()
            for other in torch.randperm(3, generator=order).tolist():
                if other != k and own @ gradients[other] < 0:
                    own -= own @ gradients[other] / (gradients[other] @ gradients[other]) * gradients[other]
            expected += own
        np.testing.assert_allclose(toy(rule)[0], expected, rtol=1e-12)


def test_gradients_that_agree_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    toy = Toy([1.0, 0.2], [0.5, 3.0])
    np.testing.assert_allclose(toy(toy.rule(monkeypatch, project=True))[0], [1.5, 3.2])


def test_uncertainty_weighs_by_the_inverse_of_the_running_loss(monkeypatch: pytest.MonkeyPatch):
    toy = Toy([1.0, 0.0], [0.0, 1.0], losses=[1.0, 4.0])
    rule = toy.rule(monkeypatch, weights="uncertainty")
    total = toy(rule)
    np.testing.assert_allclose(rule.weights, [1.6, 0.4])
    np.testing.assert_allclose(total[0], [1.6, 0.4])
    np.testing.assert_allclose(torch.cat(total[1:]), [1.6, 0.4])


def test_gradnorm_evens_out_how_strongly_heads_pull(monkeypatch: pytest.MonkeyPatch):
    """At equal speed of learning, all weighted gradients come to have the same length, whatever their own."""
    toy = Toy([1.0, 0.0], [0.0, 3.0])
    rule = toy.rule(monkeypatch, weights="gradnorm", rate=0.05)
    for _ in range(300):
        toy(rule)
    pull = rule.weights * torch.tensor([1.0, 3.0])
    assert float(pull[0] / pull[1]) == pytest.approx(1.0, rel=0.02)
    assert float(rule.weights.mean()) == pytest.approx(1.0)


def test_gradnorm_gives_more_to_a_head_that_learns_slowly(monkeypatch: pytest.MonkeyPatch):
    toy = Toy([1.0, 0.0], [0.0, 1.0])
    rule = toy.rule(monkeypatch, weights="gradnorm", rate=0.05)
    toy(rule)
    toy.losses = [0.1, 1.0]
    for _ in range(200):
        toy(rule)
    assert float(rule.weights[1]) > 2 * float(rule.weights[0])


def test_a_loss_that_is_not_finite_teaches_nothing(monkeypatch: pytest.MonkeyPatch):
    toy = Toy([1.0, 0.0], [0.0, 1.0], losses=[1.0, float("nan")])
    rule = toy.rule(monkeypatch, weights="uncertainty")
    toy(rule)
    assert rule.weights.tolist() == [1.0, 1.0]
    assert bool(torch.isnan(rule.running).all())


@pytest.mark.parametrize("kind", ["uncertainty", "gradnorm"])
def test_a_head_without_a_label_that_counts_takes_no_weight_from_the_others(monkeypatch: pytest.MonkeyPatch, kind: str):
    """A dataset of weight 0, there to be watched, has the smallest loss of all."""
    toy = Toy([1.0, 0.0], [0.0, 0.0], [0.0, 1.0], losses=[1.0, 0.0, 1.0])
    rule = toy.rule(monkeypatch, weights=kind, rate=0.5)
    for _ in range(20):
        total = toy(rule)
    np.testing.assert_allclose(rule.weights, [1.0, 1.0, 1.0])
    np.testing.assert_allclose(total[0], [1.0, 1.0])


# --- in a run ---


def _run(project: Path, out: str, *, steps: int, resume: bool = False, **overrides: object) -> Path:
    values = {"run.steps": steps, "run.validate_every": 50, "run.compile": False, "optimizer.decay_fraction": 0.0}
    values |= {k.replace("__", "."): v for k, v in overrides.items()}
    config = load_config(project / "train.yaml", overrides=values)
    train(
        config,
        data=project / "data",
        manifest_path=project / config.split,
        out=project / out,
        resume=resume,
        threads=1,
        cache_dir=project / "cache",
        console=Console(quiet=True),
    )
    return project / out


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_datasets(folder)
    return folder


@pytest.mark.parametrize("kind", ["uncertainty", "gradnorm"])
def test_a_resumed_run_with_adaptive_weights_is_the_uninterrupted_one(project: Path, kind: str):
    """Weights, running losses and the order of projections are part of the state."""
    asked = {"balancing__weights": kind, "balancing__project": True, "balancing__measure_every": 2}
    asked |= {"telemetry__every": 2}
    whole = _run(project, f"{kind}-whole", steps=8, **asked)
    _run(project, f"{kind}-parts", steps=3, **asked)
    parts = _run(project, f"{kind}-parts", steps=8, resume=True, **asked)
    ours, theirs = (load_state(f / STATE_FILE)[0] for f in (parts, whole))
    assert ours.keys() == theirs.keys()
    assert "rule/weights" in ours
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key
    row = read_telemetry(whole / TELEMETRY_FILE)[-1]
    assert row["conflicts"]["pairs"] == 1
    assert -1 <= row["conflicts"]["worst_cosine"] <= 1
    assert sum(row["head_weights"].values()) == pytest.approx(2.0)


@pytest.mark.parametrize("precision", ["float64", "bfloat16"])
def test_a_run_in_another_precision_learns_the_same(project: Path, precision: str):
    """After few steps the loss is that of float32 within what the arithmetic loses."""
    out = _run(project, precision, steps=4, telemetry__every=1, run__precision=precision)
    reference = _run(project, f"{precision}-reference", steps=4, telemetry__every=1)
    ours, theirs = (read_telemetry(f / TELEMETRY_FILE) for f in (out, reference))
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel={"float64": 1e-4, "bfloat16": 0.1}[precision])
    assert [a["loss"] for a in ours] != [b["loss"] for b in theirs]
    weights = load_state(out / STATE_FILE)[0]
    wanted = torch.float64 if precision == "float64" else torch.float32
    assert {v.dtype for k, v in weights.items() if k.startswith("weights/")} == {wanted}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"balancing.weights": "gradnorm", "datasets.0.ramp": {"end": 0.5}}, "would undo the ramp of dataset copper"),
        ({"objective.loss": "mae", "datasets.1.noise": {"forces": 0.1}}, "noise of dataset molecules"),
    ],
)
def test_settings_that_undo_each_other_are_refused(project: Path, settings: dict[str, object], message: str):
    with pytest.raises(ConfigurationError, match=message):
        load_config(project / "train.yaml", overrides=settings)


def test_tf32_on_a_processor_without_it_is_refused(project: Path):
    with pytest.raises(ConfigurationError, match="use float32"):
        _run(project, "tf32", steps=1, run__precision="tf32", run__device="cpu")
