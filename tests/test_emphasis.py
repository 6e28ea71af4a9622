"""How much each label counts, and the norms of errors: what they are at their limits, and against their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hydrapot.training.data.prepared import Scales
from hydrapot.training.emphasis import DatasetEmphasis, Emphasis, Noise, Ramp, TargetWeights
from hydrapot.training.objective import ObjectiveConfig, objective, robust
from tests.test_step import first_batch

SCALES = [Scales(energy=0.5, forces=2.0, strain=4.0), Scales(energy=1.0, forces=1.0, strain=1.0)]
PLAIN = DatasetEmphasis(TargetWeights(), Noise(), None)


def emphasis(*datasets: DatasetEmphasis, **config: object) -> Emphasis:
    return Emphasis(datasets, scales=SCALES, config=ObjectiveConfig(**config))


def test_plain_datasets_leave_all_but_the_weight_of_energies_alone():
    batch = first_batch()
    weighed = emphasis(PLAIN, PLAIN, energy=0.1, energy_final=1.0)(batch, share=0.5, fade=0.0)
    for name, ours, theirs in zip(batch.targets._fields, weighed.targets, batch.targets, strict=True):
        assert torch.equal(ours, theirs), name


def test_target_weights_reach_the_structures_of_their_own_head():
    batch = first_batch()  # heads 0, 1, 1
    chosen = DatasetEmphasis(TargetWeights(energy=2.0, forces=3.0, stress=0.0), Noise(), None)
    targets = emphasis(PLAIN, chosen, energy=1.0)(batch, share=0.0, fade=1.0).targets
    first = batch.graph.batch == 0
    assert torch.equal(targets.energy_weight, batch.targets.energy_weight * torch.tensor([1.0, 2.0, 2.0]))
    assert torch.equal(targets.force_weight[first], batch.targets.force_weight[first])
    assert torch.equal(targets.force_weight[~first], 3.0 * batch.targets.force_weight[~first])
    assert targets.strain_weight[1:].abs().max() == 0


def test_noise_is_in_the_scales_of_the_dataset():
    noisy = DatasetEmphasis(TargetWeights(), Noise(energy=0.01, forces=0.1, stress=0.2), None)
    targets = emphasis(noisy, PLAIN)(first_batch(), share=0.0, fade=1.0).targets
    torch.testing.assert_close(targets.noise[0], torch.tensor([0.02, 0.05, 0.05], dtype=torch.float64))
    assert targets.noise[1:].abs().max() == 0


def test_errors_within_the_noise_pull_less_and_those_far_beyond_as_before():
    batch = first_batch()
    zeros = torch.zeros_like(batch.targets.strain_gradient)

    def pull(error: float, noise: float) -> float:
        """Slope of the loss with the force on one atom."""
        targets = batch.targets._replace(noise=torch.full((3, 3), noise, dtype=torch.float64))
        forces = targets.forces.clone()
        forces[0, 0] += error
        forces.requires_grad_()
        loss = objective(targets.energy, forces, zeros, targets, batch.graph.batch, config=ObjectiveConfig())
        (slope,) = torch.autograd.grad(loss.total, forces)
        return float(slope[0, 0])

    assert pull(0.02, 0.5) < 0.1 * pull(0.02, 0.0)
    assert pull(50.0, 0.5) == pytest.approx(pull(50.0, 0.0), rel=0.01)


@pytest.mark.parametrize(("share", "factor"), [(0.0, 0.2), (0.1, 0.2), (0.3, 0.6), (0.5, 1.0), (1.0, 1.0)], ids=str)
def test_a_ramp_goes_from_first_to_last(share: float, factor: float):
    ramp = Ramp(begin=0.1, end=0.5, first=0.2, last=1.0)
    assert ramp.factor(share) == pytest.approx(factor)
    targets = emphasis(DatasetEmphasis(TargetWeights(), Noise(), ramp), PLAIN, energy=1.0)(
        first_batch(), share=share, fade=1.0
    ).targets
    ratio = targets.strain_weight[0] / first_batch().targets.strain_weight[0]
    assert float(ratio) == pytest.approx(factor)


def test_a_ramp_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValidationError, match="end comes before begin"):
        Ramp(begin=0.6, end=0.5)


@given(error=st.floats(0.0, 1e3), delta=st.floats(1e-3, 1.0))
def test_norms_against_their_definitions(error: float, delta: float):
    def norm(loss: str) -> float:
        squared = torch.tensor(error * error, dtype=torch.float64)
        return float(robust(squared, delta=torch.tensor(delta, dtype=torch.float64), loss=loss))

    huber = error * error / (2 * delta) if error < delta else error - delta / 2
    assert norm("huber") == pytest.approx(huber, rel=1e-9, abs=1e-12)
    assert norm("mse") == pytest.approx(error * error)
    assert norm("mae") == pytest.approx(error, abs=1.1e-6)
    assert norm("pseudo_huber") == pytest.approx((error**2 + delta**2) ** 0.5 - delta, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("loss", ["pseudo_huber", "huber", "mae", "mse"])
def test_gradients_of_norms_exist_at_zero_and_at_the_kink(loss: str):
    """A perfect prediction, or an error as large as the width, must not turn a step into NaN."""
    x = torch.tensor([0.0, 0.02, 5.0], dtype=torch.float64, requires_grad=True)
    value = robust(x * x, delta=torch.full((3,), 0.02, dtype=torch.float64), loss=loss)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert torch.isfinite(slope).all()
    assert slope[0] == 0
    assert slope[2] == pytest.approx(10.0 if loss == "mse" else 1.0, rel=1e-4)
