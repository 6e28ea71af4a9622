"""Which code sums over neighbors in a training step."""

import logging
from typing import Literal

import torch

from hydrapot.potential.backbones.painn import DenseMessageSum, MessageSums
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.model import Potential
from hydrapot.potential.native.messages import native_messages

Backend = Literal["auto", "native", "torch"]

logger = logging.getLogger(__name__)


def training_message_sum(potential: Potential, *, backend: Backend) -> MessageSums:
    """Message sums that can be differentiated twice, for the device and precision of `potential`.

    Parameters
    ----------
    potential
        On the device and in the precision that it is trained in; its sums use as many threads as torch does now.
    backend
        ``native``: C++, on CPUs; ``torch``: dense arrays over edges; ``auto``: native where that is possible.

    Raises
    ------
    ConfigurationError
        ``native``, where it is not possible.
    """
    if backend == "torch":
        return DenseMessageSum
    encoder = potential.config.encoder
    device = next(potential.parameters()).device
    if device.type == "cpu":
        found = native_messages(
            channels=encoder.channels,
            n_radial=encoder.n_radial,
            cutoff=potential.cutoff,
            dtype=potential.dtype,
            threads=torch.get_num_threads(),
        )
    else:
        found = f"they run on CPUs, not on {device.type}"
    if not isinstance(found, str):
        return found
    if backend == "native":
        raise ConfigurationError(f"run.backend native is not possible: {found}")
    logger.info("no native message sums: %s", found)
    return DenseMessageSum
