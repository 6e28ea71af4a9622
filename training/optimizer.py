"""The optimizer, and one update with it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from hydrapot.training.config import OptimizerConfig


def make_optimizer(parameters: Sequence[Tensor], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # One kernel for all tensors instead of ten for each; sharded ones have none.
    fused = not any(isinstance(p, DTensor) for p in parameters)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=fused)


def update(
    optimizer: torch.optim.AdamW,
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    *,
    rate: float,
    clip: float,
    norm: Tensor,
) -> None:
    """Change `parameters` by one step at learning rate `rate`.

    Parameters
    ----------
    gradients
        Of the parameters, in any memory layout.
    clip
        Largest norm; gradients with a larger one are scaled.
    norm
        Of all gradients, those of other processes included.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    for parameter, gradient in zip(parameters, gradients, strict=True):
        # The fused kernel of torch for CPUs takes elements in the order of memory, whatever the strides are.
        parameter.grad = gradient.contiguous()
    torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    optimizer.step()
