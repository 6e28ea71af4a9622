"""Exponential moving average of the weights."""

from collections.abc import Sequence

import torch
from torch import Tensor


class MovingAverage:
    """Average with decay min(`decay`, (1+t)/(10+t)) after t updates: not held back by the initial weights.

    Parameters
    ----------
    parameters
        The tensors that are trained; the average starts as a copy of them.
    decay
        Weight of the past.
    """

    def __init__(self, parameters: Sequence[Tensor], *, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, parameters: Sequence[Tensor]) -> None:
        """Move towards the present values."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.values, [p.detach() for p in parameters], 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Sequence[Tensor]) -> None:
        """Write the averages into `parameters`."""
        for parameter, value in zip(parameters, self.values, strict=True):
            parameter.copy_(value)
