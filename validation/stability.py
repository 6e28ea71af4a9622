"""What an instability of a crystal or molecule says about a potential."""

from dataclasses import replace

import numpy as np

from hydrapot.validation.metrics import Metric, Verdict
from hydrapot.validation.suite import Context


def stability(context: Context, metric: Metric) -> Metric:
    """A metric whose failure says that a structure is unstable; of one that nobody named, that is inconclusive.

    The most stable of a few simple crystals need not be stable in nature either (SrTiO₃ in the cubic structure is not):
    only a structure of the domain is meant to be.
    """
    if context.domain.structures or metric.value is None or metric.verdict is not Verdict.FAIL:
        return metric
    edge = metric.lower if metric.lower is not None and metric.value < metric.lower else metric.upper
    if edge is None or not np.isfinite(metric.value):
        return metric
    detail = f"{metric.detail}; a structure that was not named by a domain may be unstable in nature too"
    low, high = metric.interval or (metric.value, metric.value)
    return replace(metric, interval=(min(low, edge), max(high, edge)), detail=detail)
