"""How losses become the gradient of a step: the parts of this process, summed, then summed over processes.

Other rules (projected conflicts, balanced norms, adaptive weights) are other classes with the same call.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from hydrapot.training.layout import Layout
from hydrapot.training.objective import Losses
from hydrapot.training.observer import Observer
from hydrapot.training.step import Batch, Step


class GradientRule(Protocol):
    """Turns the batches of one step into the gradient that the optimizer takes.

    State that a resumed run needs goes in and out as tensors by name; it has to be the same on every process.
    """

    def __call__(self, batches: Sequence[Batch], *, layout: Layout, observer: Observer) -> tuple[Losses, list[Tensor]]:
        """Losses of this process's parts, summed, and the gradient of the global loss for each of ``layout.tensors``.

        `batches` may be empty: every process takes part in every sum all the same.
        """

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs, by name."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` gave."""


class SummedGradients:
    """The plain sum: the gradient of the loss.

    Parameters
    ----------
    step
        Loss and gradients of one batch.
    """

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, batches: Sequence[Batch], *, layout: Layout, observer: Observer) -> tuple[Losses, list[Tensor]]:
        """As in :class:`GradientRule`."""
        with observer.section("forward_backward"), layout.whole():
            losses, gradients = accumulate(self.step, batches, like=layout.gradient_shapes())
        with observer.section("communication"):
            return losses, layout.reduce(gradients)

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing."""


def accumulate(step: Step, batches: Sequence[Batch], *, like: Sequence[Tensor]) -> tuple[Losses, list[Tensor]]:
    """Sums of losses and gradients over `batches`, in their order; zeros of the shapes of `like` when there is none."""
    if not batches:
        zero = torch.zeros((), dtype=torch.float64, device=like[0].device)
        return Losses(zero, zero, zero, zero), [torch.zeros_like(t) for t in like]
    losses, gradients = step(batches[0])
    for batch in batches[1:]:
        more, added = step(batch)
        losses = Losses(*(a + b for a, b in zip(losses, more, strict=True)))
        gradients = [a + b for a, b in zip(gradients, added, strict=True)]
    return losses, gradients
