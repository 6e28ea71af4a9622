"""Learning rate over the steps of a run: warm-up, plateau, decay."""

import math

from hydrapot.training.config import OptimizerConfig


def fade(step: int, *, steps: int, config: OptimizerConfig) -> float:
    """1 on the plateau, then half a cosine to 0 over the last ``decay_fraction`` of a run of `steps`."""
    decay_steps = config.decay_fraction * steps
    remaining = steps - step
    return 0.5 * (1.0 - math.cos(math.pi * remaining / decay_steps)) if remaining < decay_steps else 1.0


def learning_rate(step: int, *, steps: int, config: OptimizerConfig) -> float:
    """Rate of step `step` (0-based) in a run of `steps`: linear warm-up, constant, :func:`fade`.

    The plateau does not depend on the length of the run, so a run can be lengthened while it is on it
    (Hägele et al., NeurIPS 2024, arXiv:2405.18392).
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.learning_rate * warm * fade(step, steps=steps, config=config)
