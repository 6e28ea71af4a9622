"""Softening: are large forces systematically too small?

Potentials trained on structures near equilibrium underestimate the curvature away from it: predicted forces lie on a line
of slope below one against the reference (Deng et al., "Systematic softening in universal machine learning interatomic
potentials", *npj Comput. Mater.* 11, 9 (2025)). The slope through the origin, Σ F·F_ref / Σ F_ref², is measured on all
labelled structures and on those with the largest forces, with a bootstrap interval.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hydrapot.validation.bootstrap import interval, unit
from hydrapot.validation.domain import LabelledReference
from hydrapot.validation.labelled import Labelled, ReferenceDataError, force_pairs, open_reference
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.suite import Context, Suite, Tier

Array = NDArray[np.float64]

#: Of the slope, on either side of one. Frequencies go with the square root of the curvature: 0.1 is 5 % of a frequency,
#: the difference between common functionals.
SLOPE_TOLERANCE = 0.1
#: The share of the structures, by the root mean square of their reference forces, that counts as far from equilibrium.
_FAR = 0.25
#: Structures of which a slope can be given an interval; and eV/Å below which forces are noise of the reference.
_FEWEST, _LEAST_FORCE = 8, 0.02
_POINTS = 1500


def slope(sums: Array) -> Array:
    """Least-squares slope through the origin, from Σ F·F_ref and Σ F_ref² ``(B, 2)``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])


def run(context: Context) -> Outcome:
    """Slopes on every file of labelled structures of the domain."""
    references = context.domain.references.held_out
    name = "force slope, large forces"
    if not references:
        reason = "the domain names no file of labelled structures (references.held_out)"
        return Outcome([skipped(name, "held-out structures", reason, unit="1")])
    metrics: list[Metric] = []
    figures: list[Figure] = []
    notes: list[str] = []
    for reference in references:
        try:
            structures, predictions, remarks = open_reference(context, reference)
        except ReferenceDataError as error:
            metrics.append(skipped(name, reference.name, str(error), unit="1"))
            continue
        notes += remarks
        pairs = force_pairs(structures, predictions)
        lost = sum(bool(p.failure) for p in predictions)
        if lost:
            reason = next(p.failure for p in predictions if p.failure)
            metrics.append(
                Metric(
                    "structures without an answer",
                    reference.name,
                    float(lost),
                    "structures",
                    upper=0,
                    detail=f"of {len(predictions)}; first: {reason}",
                )
            )
        pairs = [pair for pair in pairs if _size(pair[2]) > _LEAST_FORCE]
        if len(pairs) < _FEWEST:
            reason = f"only {len(pairs)} structures have forces above {_LEAST_FORCE} eV/Å"
            metrics.append(skipped(name, reference.name, reason, unit="1"))
            continue
        metrics += _slopes(context, reference, structures, pairs, figures)
    return Outcome(metrics, figures, notes)


def _slopes(
    context: Context,
    reference: LabelledReference,
    structures: Sequence[Labelled],
    pairs: list[tuple[int, Array, Array]],
    figures: list[Figure],
) -> list[Metric]:
    threshold = float(np.quantile([_size(r) for _, _, r in pairs], 1.0 - _FAR))
    far = [pair for pair in pairs if _size(pair[2]) >= threshold]
    if len(far) < _FEWEST:
        far = sorted(pairs, key=lambda pair: -_size(pair[2]))[:_FEWEST]
    tolerance = context.limit("softening", "slope tolerance", SLOPE_TOLERANCE)
    metrics = []
    for name, chosen, words in (
        ("force slope", pairs, "all structures"),
        ("force slope, large forces", far, f"root mean square above {min(_size(r) for _, _, r in far):.2g} eV/Å"),
    ):
        sums = np.array([[p @ r, r @ r, p @ p] for _, p, r in chosen])
        total = sums.sum(axis=0)
        correlation = total[0] / np.sqrt(total[1] * total[2]) if total[2] > 0 else float("nan")
        groups = [structures[k].group for k, _, _ in chosen]
        limited = name != "force slope"
        metrics.append(
            Metric(
                name,
                reference.name,
                float(total[0] / total[1]),
                "1",
                lower=1.0 - tolerance if limited else None,
                upper=1.0 + tolerance if limited else None,
                interval=interval(sums[:, :2], slope, groups=groups, seed=context.seeds[0]),
                detail=f"{len(chosen)} structures ({words}), interval by {unit(groups)}; cosine {correlation:.4f}",
                level_of_theory=reference.level_of_theory,
            )
        )
    figures.append(_figure(context, reference, far, metrics[-1].value or 0.0))
    return metrics


def _size(forces: Array) -> float:
    return float(np.sqrt(np.mean(forces**2)))


def _figure(
    context: Context, reference: LabelledReference, pairs: list[tuple[int, Array, Array]], fitted: float
) -> Figure:
    exact = np.concatenate([r for _, _, r in pairs])
    predicted = np.concatenate([p for _, p, _ in pairs])
    ends = np.array([exact.min(), exact.max()])
    chosen = np.arange(len(exact))
    if len(chosen) > _POINTS:
        chosen = np.random.default_rng(context.seeds[0]).choice(chosen, size=_POINTS, replace=False)
    return Figure(
        f"{reference.name}: structures with large forces",
        "reference force component, eV/Å",
        "predicted, eV/Å",
        [
            Series("components", exact[chosen].tolist(), predicted[chosen].tolist(), style="points"),
            Series("identity", ends.tolist(), ends.tolist(), style="reference"),
            Series(f"slope {fitted:.3f}", ends.tolist(), (fitted * ends).tolist()),
        ],
    )


def evaluations(context: Context) -> float:
    """Evaluations times atoms, for structures of the usual 60 atoms: the files are not opened for the plan."""
    return sum(60.0 * reference.max_structures for reference in context.domain.references.held_out)


SUITE = Suite(
    name="softening",
    title="Force softening",
    purpose="Large forces are not systematically too small, as they are in potentials trained near equilibrium.",
    category="B",
    run=run,
    evaluations=evaluations,
    tiers=frozenset({Tier.STANDARD, Tier.FULL}),
)
