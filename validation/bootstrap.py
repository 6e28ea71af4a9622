"""Confidence intervals of error measures by resampling whole structures, or whole groups of related ones.

Force components of one structure, and frames of one trajectory, share their errors. Drawn one by one they would give
intervals that are too narrow by the square root of the size of the group.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Resamples; the percentiles of 1000 are themselves uncertain by a tenth of the interval's width.
RESAMPLES = 1000
#: Fewer groups than this say too little about their own spread; structures are drawn one by one then.
FEWEST_GROUPS = 5


def interval(
    sums: Array, statistic: Callable[[Array], Array], *, groups: Sequence[str], seed: int
) -> tuple[float, float]:
    """95 % interval of a statistic that is a function of sums over structures.

    Parameters
    ----------
    sums
        ``(S, K)``: what each of S structures contributes to K sums.
    statistic
        Maps ``(B, K)`` sums to ``(B,)`` values, e.g. the ratio of two columns.
    groups
        ``(S,)`` names of groups that are drawn as a whole.
    seed
        Of the resampling.

    Returns
    -------
    Percentiles 2.5 and 97.5 of the resampled statistic; of a single structure, which says nothing about spread,
    everything from −∞ to ∞.
    """
    totals = _totals(sums, groups)
    if len(totals) < 2:
        return -np.inf, np.inf
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(totals), np.full(len(totals), 1 / len(totals)), size=RESAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = statistic(weights @ totals)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return -np.inf, np.inf
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def resampled(
    statistic: Callable[[NDArray[np.int64]], float], *, groups: Sequence[str], seed: int, resamples: int = 200
) -> tuple[float, float]:
    """95 % interval of any statistic of a list of structures, given by their indices; see :func:`interval`."""
    members = [np.flatnonzero(labels) for labels in _membership(groups)]
    if len(members) < 2:
        return -np.inf, np.inf
    rng = np.random.default_rng(seed)
    values = np.array(
        [
            statistic(np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))]))
            for _ in range(resamples)
        ]
    )
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return -np.inf, np.inf
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def unit(groups: Sequence[str]) -> str:
    """What is drawn, in words: ``group`` or ``structure``."""
    return "group" if len(set(groups)) >= FEWEST_GROUPS else "structure"


def _membership(groups: Sequence[str]) -> NDArray[np.bool_]:
    if unit(groups) == "structure":
        return np.eye(len(groups), dtype=bool)
    names = np.array(groups)
    return np.array([names == name for name in sorted(set(groups))])


def _totals(sums: Array, groups: Sequence[str]) -> Array:
    return np.asarray(_membership(groups).astype(float) @ sums)
