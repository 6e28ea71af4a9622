"""Balance between the heads: projection of conflicting gradients, and weights that adapt themselves.

For every head the gradient of its own loss is formed over all processes; what they do to each other is decided on the shared
parameters, the encoder's. With everything switched off the plain sum is taken (:class:`SummedGradients`), which costs less: one
sum over processes instead of one for each head.
"""

import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.gradients import GradientRule, SummedGradients, accumulate
from hydrapot.training.layout import Layout
from hydrapot.training.objective import Losses
from hydrapot.training.observer import Observer
from hydrapot.training.perhead import of_head
from hydrapot.training.sharded import ShardedLayout
from hydrapot.training.step import Batch, Step

logger = logging.getLogger(__name__)

#: Bounds of an adaptive weight about its mean of 1: no head is switched off, none takes over.
SMALLEST, LARGEST = 0.05, 20.0


class BalancingConfig(BaseModel):
    """What is done about heads that pull the encoder in different directions, or with different strength."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Literal["fixed", "uncertainty", "gradnorm"] = Field(
        default="fixed",
        description="fixed: those of the datasets. uncertainty: each head by the inverse of its running loss. gradnorm: such"
        " that all heads pull the encoder alike, those that learn slowly more.",
    )
    project: bool = Field(
        default=False, description="Take off each head's gradient what points against that of another (PCGrad)."
    )
    measure_every: int = Field(
        default=0,
        ge=0,
        description="Steps between measurements of the angles between the heads' gradients, for the telemetry; 0: never.",
    )
    rate: float = Field(default=0.025, gt=0, le=1, description="Of adaptive weights, per step.")
    asymmetry: float = Field(default=1.5, ge=0, description="GradNorm's α: how much heads that learn slowly gain.")

    @property
    def plain(self) -> bool:
        """Nothing is asked for."""
        return self.weights == "fixed" and not self.project and not self.measure_every


class _Task(NamedTuple):
    """One head's part of a step, summed over all processes."""

    loss: float
    structures: float
    gradients: list[Tensor]


def make_rule(config: BalancingConfig, step: Step, *, heads: Sequence[str], layout: Layout, seed: int) -> GradientRule:
    """Rule that a configuration asks for.

    Parameters
    ----------
    config
        What is asked for.
    step
        Loss and gradients of one batch.
    heads
        All heads of the whole model, in order.
    layout
        Who holds what.
    seed
        Of the order in which projections are made.

    Raises
    ------
    ConfigurationError
        The layout holds parts of tensors only: angles between gradients need whole ones.
    """
    if config.plain:
        return SummedGradients(step)
    if isinstance(layout, ShardedLayout):
        raise ConfigurationError(
            "balancing needs whole gradients: layout.kind sharded has parts of them; use data or task"
        )
    return BalancedGradients(config, step, heads=heads, seed=seed)


class BalancedGradients:
    """Gradients of the heads one by one, put together by weights and projections.

    Parameters
    ----------
    config, step, heads, seed
        As for :func:`make_rule`.

    Attributes
    ----------
    weights
        ``(heads,)`` float64, mean 1: factors on the heads' losses.
    """

    def __init__(self, config: BalancingConfig, step: Step, *, heads: Sequence[str], seed: int) -> None:
        self.config, self.step, self.heads, self.seed = config, step, list(heads), seed
        self.steps = 0
        self.weights = torch.ones(len(self.heads), dtype=torch.float64)
        #: Loss per structure: at first, and averaged over time; NaN for a head that was not met yet.
        self.first = torch.full_like(self.weights, torch.nan)
        self.running = torch.full_like(self.weights, torch.nan)

    def state(self) -> dict[str, Tensor]:
        """As in :class:`GradientRule`."""
        steps = torch.tensor([self.steps], dtype=torch.int64)
        return {"steps": steps, "weights": self.weights, "first": self.first, "running": self.running}

    def restore(self, state: dict[str, Tensor]) -> None:
        """As in :class:`GradientRule`; a state without this rule's leaves it at its beginning."""
        if state:
            self.steps = int(state["steps"][0])
            self.weights, self.first, self.running = (state[k].clone() for k in ("weights", "first", "running"))

    def __call__(self, batches: Sequence[Batch], *, layout: Layout, observer: Observer) -> tuple[Losses, list[Tensor]]:
        """As in :class:`GradientRule`; the losses are those without adaptive weights."""
        shared = shared_tensors(layout)
        losses, tasks = self._tasks(batches, layout=layout, observer=observer)
        present = [k for k, task in enumerate(tasks) if task.structures > 0]
        if not present:
            return losses, [torch.zeros_like(t) for t in layout.tensors]
        tasks_present = [tasks[k] for k in present]
        flat = [_flat(task.gradients, shared) for task in tasks_present]
        products = torch.stack([torch.stack([a @ b for b in flat]) for a in flat]).cpu()
        if self.config.measure_every and self.steps % self.config.measure_every == 0:
            observer.conflicts([self.heads[k] for k in present], _cosines(products))
        self._adapt(present, tasks_present, norms=products.diagonal().sqrt())
        if self.config.weights != "fixed":
            observer.balance(dict(zip(self.heads, self.weights.tolist(), strict=True)))
        weights = self.weights[present]
        mixing = self._mixing(products, weights) if self.config.project else weights
        total = [
            sum((float(w) * task.gradients[k] for w, task in zip(weights, tasks_present, strict=True)), torch.zeros(()))
            for k in range(len(layout.tensors))
        ]
        if self.config.project:
            for k in shared:
                mixed = zip(mixing.tolist(), tasks_present, strict=True)
                total[k] = sum((m * task.gradients[k] for m, task in mixed), torch.zeros(()))
        self.steps += 1
        return losses, [t.to(g.dtype) for t, g in zip(total, layout.tensors, strict=True)]

    def _tasks(self, batches: Sequence[Batch], *, layout: Layout, observer: Observer) -> tuple[Losses, list[_Task]]:
        """Loss and gradients of every head, over all processes; losses of this process in sum."""
        zero = torch.zeros((), dtype=torch.float64, device=layout.device)
        losses, local = Losses(zero, zero, zero, zero), {name: k for k, name in enumerate(layout.heads)}
        gradients: list[list[Tensor]] = []
        sizes = torch.zeros(len(self.heads), 2, dtype=torch.float64, device=layout.device)
        for k, name in enumerate(self.heads):
            parts = [of_head(b, local[name]) for b in batches] if name in local else []
            own = [part for part in parts if part is not None]
            with observer.section("forward_backward"), layout.whole():
                more, made = accumulate(self.step, own, like=layout.gradient_shapes())
            losses = Losses(*(a + b for a, b in zip(losses, more, strict=True)))
            sizes[k, 0], sizes[k, 1] = more.total, float(sum(b.graph.n_graphs for b in own))
            with observer.section("communication"):
                gradients.append(layout.reduce(made))
        with observer.section("communication"):
            table = layout.total(sizes).tolist()
        return losses, [_Task(loss, n, g) for (loss, n), g in zip(table, gradients, strict=True)]

    def _adapt(self, present: Sequence[int], tasks: Sequence[_Task], *, norms: Tensor) -> None:
        """Follow the losses, and move the weights."""
        structures = sum(task.structures for task in tasks)
        # Parts of one mean over the batch: brought to a mean over the head's own structures.
        loss = torch.tensor([task.loss * structures / task.structures for task in tasks], dtype=torch.float64)
        if not bool(torch.isfinite(loss).all() & torch.isfinite(norms).all()):
            return  # the step is skipped by the loop; nothing is learned from it
        # Heads without a label that counts (weight 0, or none in this batch) say nothing about how well they learn; taken
        # for perfect, they would draw all weight to themselves.
        counts = loss > 0
        if not bool(counts.any()):
            return
        index, loss, norms = torch.tensor(present)[counts], loss[counts], norms[counts]
        new = torch.isnan(self.first[index])
        self.first[index] = torch.where(new, loss, self.first[index])
        running = self.running[index]
        self.running[index] = torch.where(new, loss, running + self.config.rate * (loss - running))
        met = ~torch.isnan(self.running)
        if self.config.weights == "uncertainty":
            self.weights[met] = _normalized(1.0 / self.running[met].clamp(min=1e-12))
        elif self.config.weights == "gradnorm":
            self._gradnorm(index, norms)
            self.weights[met] = _normalized(self.weights[met])

    def _gradnorm(self, index: Tensor, norms: Tensor) -> None:
        """Towards equal pulls, as in Chen et al., arXiv:1711.02257, Eqs. 1 and 2.

        The weights move by a bounded factor, not by a gradient step of fixed length, so that they stay positive and do not
        depend on the scale of the losses.
        """
        pull = self.weights[index] * norms
        speed = self.running[index] / self.first[index].clamp(min=1e-12)
        target = pull.mean() * (speed / speed.mean().clamp(min=1e-12)) ** self.config.asymmetry
        excess = ((pull - target) / target.clamp(min=1e-12)).clamp(-1.0, 1.0)
        self.weights[index] = self.weights[index] * torch.exp(-self.config.rate * excess)

    def _mixing(self, products: Tensor, weights: Tensor) -> Tensor:
        """Coefficients of the heads' gradients after projection, in PCGrad of Yu et al., arXiv:2001.06782, Alg. 1.

        Every projected gradient is a combination of the original ones, so the products of these are all that it takes.
        """
        products = products * weights[:, None] * weights[None, :]
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps)
        result = torch.zeros_like(weights)
        for k in range(len(weights)):
            own = torch.zeros_like(weights)
            own[k] = 1.0
            for other in torch.randperm(len(weights), generator=rng).tolist():
                against = float(own @ products[:, other])
                if other != k and against < 0.0 < float(products[other, other]):
                    own[other] -= against / float(products[other, other])
            result += own
        return result * weights


def shared_tensors(layout: Layout) -> list[int]:
    """Numbers of those of ``layout.tensors`` that belong to no head: the encoder's."""
    owned = {id(p) for name in layout.heads for p in layout.potential.head(name).parameters()}
    trained = [p for p in layout.potential.parameters() if p.requires_grad]
    return [k for k, p in enumerate(trained) if id(p) not in owned]


def _flat(gradients: Sequence[Tensor], chosen: Sequence[int]) -> Tensor:
    return torch.cat([gradients[k].double().reshape(-1) for k in chosen])


def _cosines(products: Tensor) -> Tensor:
    norms = products.diagonal().sqrt().clamp(min=1e-300)
    return products / norms[:, None] / norms[None, :]


def _normalized(weights: Tensor) -> Tensor:
    """Mean 1, within bounds."""
    return (weights / weights.mean()).clamp(SMALLEST, LARGEST)
