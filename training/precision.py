"""Arithmetic of a run: float64, float32, TF32 or bfloat16.

Geometry, reference energies, labels and losses are in float64 whatever the choice; it concerns the network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.objective import Losses
from hydrapot.training.step import Batch, Step

Precision = Literal["float64", "float32", "tf32", "bfloat16"]


class AutocastStep:
    """A step whose matrix products are in bfloat16; weights, their gradients and everything else stay float32.

    Parameters
    ----------
    step
        Loss and gradients of one batch.
    device_type
        "cpu", "cuda" or "xpu".
    """

    def __init__(self, step: Step, *, device_type: str) -> None:
        self.step, self.device_type = step, device_type

    def __call__(self, batch: Batch) -> tuple[Losses, list[Tensor]]:
        """As the step itself."""
        # No cache: cast weights would be kept from one differentiation to the next.
        with torch.autocast(self.device_type, dtype=torch.bfloat16, cache_enabled=False):
            return self.step(batch)


def network_dtype(precision: Precision) -> torch.dtype:
    """Type of the weights."""
    return torch.float64 if precision == "float64" else torch.float32


@contextmanager
def matrix_products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Context in which float32 matrix products are rounded to TF32, if that is what is asked for.

    Raises
    ------
    ConfigurationError
        TF32 on a processor that has none.
    """
    if precision != "tf32":
        yield
        return
    if device.type != "cuda":
        raise ConfigurationError(f"run.precision tf32 is of NVIDIA's GPUs, not of {device.type}: use float32")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
