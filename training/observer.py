"""What a training run tells whoever measures it: timed sections of a step, and what each step and validation gave.

The loop knows nothing of rates, meters or files; it calls the methods of one :class:`Observer`, all of which do nothing
here.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

from torch import Tensor

from hydrapot.training.metrics import Metrics

#: Where the time of a step goes: waiting for a batch; loss and gradients; sums over processes; clipping, update and
#: average; errors on held-out structures; writing.
Section = Literal["data", "forward_backward", "communication", "optimizer", "validation", "checkpoint"]


class StepEvent(NamedTuple):
    """One optimizer step of the whole run; counts are sums over all processes."""

    step: int
    learning_rate: float
    #: Weighted sum and its three terms.
    losses: tuple[float, float, float, float]
    gradient_norm: float
    structures: int
    atoms: int
    #: Edge slots: atoms times the largest number of neighbors of each part.
    edges: int
    #: The gradient was not finite: no update was made.
    skipped: bool


class Observer:
    """Told of everything, does nothing: what measures a run overrides what it needs.

    Every process has one. Sections are of this process; events are the same on all.
    """

    def section(self, name: Section) -> AbstractContextManager[None]:  # noqa: ARG002 - for those who measure
        """Context around one section of a step."""
        return nullcontext()

    def step(self, event: StepEvent) -> None:
        """After each step."""

    def validation(self, step: int, metrics: Mapping[str, Metrics]) -> None:
        """After each validation, with the errors per head."""

    def conflicts(self, heads: Sequence[str], cosines: Tensor) -> None:
        """Cosines ``(heads, heads)`` between the gradients of heads on the shared parameters, when they were measured."""

    def balance(self, weights: Mapping[str, float]) -> None:
        """Adaptive weights of the heads, after each step that has them."""

    def close(self) -> None:
        """At the end of the run, whatever ended it."""
