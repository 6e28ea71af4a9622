"""Calibration of the uncertainty that a potential gives beside its energies and forces.

A calculator gives standard deviations in ``results`` under the names of
:data:`~hydrapot.validation.labelled.UNCERTAINTY_KEYS`. Three questions, after Kuleshov, Fenner, Ermon (ICML 2018) and
Levi, Gispan, Giladi, Fetaya (*Sensors* 22, 5540 (2022)):

* How often does the error lie inside the central interval of probability p of a normal distribution? The area between
  that curve and the diagonal is the miscalibration area: 0 at best, 0.5 at worst.
* In bins of predicted standard deviation, is the root mean square of the errors as large? The mean relative
  difference is the expected normalized calibration error (ENCE).
* Are larger uncertainties where larger errors are (Spearman's rank correlation)?
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf
from scipy.stats import spearmanr

from hydrapot.validation.bootstrap import resampled, unit
from hydrapot.validation.domain import LabelledReference
from hydrapot.validation.labelled import (
    UNCERTAINTY_KEYS,
    Labelled,
    Prediction,
    ReferenceDataError,
    aligned_energies,
    answered,
    open_reference,
)
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.suite import Context, Suite, Tier

Array = NDArray[np.float64]
Measure = Callable[[Array, Array], float]

#: Miscalibration area: reached by normal errors that are 1.4 times as wide as predicted; at 1.5 times it is 0.125, at
#: twice or half as wide 0.20.
AREA_LIMIT = 0.1
#: Rank correlation of |error| and standard deviation. Perfectly calibrated normal errors reach 0.13 when the deviations
#: spread by a factor of 1.5, 0.33 for a factor of 3, 0.57 for a factor of 10; uncertainties that know nothing have 0.
SPEARMAN_LIMIT = 0.1
_LEVELS = np.linspace(0.0, 1.0, 41)
_BINS = 10
#: Values below which a curve means nothing.
_FEWEST = 20
_POINTS = 1500


def miscalibration(errors: Array, deviations: Array) -> float:
    """Area between the fraction of errors inside central normal intervals and the diagonal."""
    return float(np.trapezoid(np.abs(coverage(errors, deviations) - _LEVELS), _LEVELS))


def coverage(errors: Array, deviations: Array) -> Array:
    """Fraction of errors inside the central interval of each probability of 0, 0.025, …, 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        within = erf(np.nan_to_num(np.abs(errors) / deviations, nan=0.0, posinf=np.inf) / np.sqrt(2.0))
    return np.asarray((within[None, :] <= _LEVELS[:, None]).mean(axis=1))


def ence(errors: Array, deviations: Array) -> float:
    """Expected normalized calibration error over ten bins of equal numbers."""
    order = np.argsort(deviations, kind="stable")
    parts = [part for part in np.array_split(order, _BINS) if len(part)]
    predicted = np.array([np.sqrt(np.mean(deviations[part] ** 2)) for part in parts])
    found = np.array([np.sqrt(np.mean(errors[part] ** 2)) for part in parts])
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.mean(np.abs(predicted - found) / predicted))


def rank_correlation(errors: Array, deviations: Array) -> float:
    """Spearman's coefficient of |error| and standard deviation; NaN where one of them is constant."""
    if np.ptp(np.abs(errors)) == 0 or np.ptp(deviations) == 0:
        return float("nan")
    return float(spearmanr(np.abs(errors), deviations).statistic)


def run(context: Context) -> Outcome:
    """Calibration on every file of labelled structures of the domain."""
    name = "miscalibration area of forces"
    references = context.domain.references.held_out
    if not _gives_uncertainty(context):
        keys = ", ".join(key for group in UNCERTAINTY_KEYS.values() for key in group)
        reason = f"this potential gives no uncertainty (none of {keys} in its results)"
        return Outcome([skipped(name, "all structures", reason, unit="1")])
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
        found = _reference(context, reference, structures, predictions, figures)
        reason = "no structure of this file has both an uncertainty and an answer"
        metrics += found or [skipped(name, reference.name, reason, unit="1")]
    return Outcome(metrics, figures, notes)


def _gives_uncertainty(context: Context) -> bool:
    """Whether any structure of the domain is answered with an uncertainty."""
    trials = [Labelled(atoms, None, None, None, "") for atoms in context.structures.values()]
    answers = answered(context, trials)
    # A potential that fails on its own domain is the business of other suites; the files decide then.
    return not answers or any(
        p.failure or p.energy_uncertainty is not None or p.forces_uncertainty is not None for p in answers
    )


def _reference(
    context: Context,
    reference: LabelledReference,
    structures: Sequence[Labelled],
    predictions: Sequence[Prediction],
    figures: list[Figure],
) -> list[Metric]:
    metrics: list[Metric] = []
    if any(p.forces_uncertainty is not None for p in predictions):
        errors, deviations, kept = _force_errors(structures, predictions)
        metrics += _quantity(context, reference, "forces", errors, deviations, kept, structures, figures)
    if any(p.energy_uncertainty is not None for p in predictions):
        _, aligned, _ = aligned_energies(structures, predictions)
        chosen = [k for k, p in enumerate(predictions) if p.energy_uncertainty is not None and np.isfinite(aligned[k])]
        errors = [aligned[k : k + 1] for k in chosen]
        deviations = [np.array([predictions[k].energy_uncertainty], dtype=float) for k in chosen]
        metrics += _quantity(context, reference, "energies", errors, deviations, chosen, structures, figures)
    return metrics


def _force_errors(
    structures: Sequence[Labelled], predictions: Sequence[Prediction]
) -> tuple[list[Array], list[Array], list[int]]:
    errors: list[Array] = []
    deviations: list[Array] = []
    kept: list[int] = []
    for k, (s, p) in enumerate(zip(structures, predictions, strict=True)):
        if s.forces is None or p.forces is None or p.forces_uncertainty is None:
            continue
        spread = p.forces_uncertainty
        errors.append((p.forces - s.forces).ravel())
        deviations.append((np.repeat(spread[:, None], 3, axis=1) if spread.ndim == 1 else spread).ravel())
        kept.append(k)
    return errors, deviations, kept


def _quantity(
    context: Context,
    reference: LabelledReference,
    what: str,
    errors: list[Array],
    deviations: list[Array],
    kept: list[int],
    structures: Sequence[Labelled],
    figures: list[Figure],
) -> list[Metric]:
    name = f"miscalibration area of {what}"
    if sum(map(len, errors)) < _FEWEST:
        reason = f"only {sum(map(len, errors))} values with label and uncertainty"
        return [skipped(name, reference.name, reason, unit="1")]
    all_errors, all_deviations = np.concatenate(errors), np.concatenate(deviations)
    if not (np.isfinite(all_deviations).all() and (all_deviations >= 0).all()):
        detail = "uncertainties are negative or not finite"
        return [Metric(name, reference.name, float("nan"), "1", upper=AREA_LIMIT, detail=detail)]
    groups = [structures[k].group for k in kept]
    words = f"{len(all_errors)} values of {len(kept)} structures, interval by {unit(groups)}"
    scale = float(np.sqrt(np.mean(all_errors**2) / np.maximum(np.mean(all_deviations**2), 1e-300)))
    metrics = []
    measures: tuple[tuple[str, Measure, float | None, float | None, str], ...] = (
        (
            name,
            miscalibration,
            None,
            context.limit("uncertainty", name, AREA_LIMIT),
            f"errors are {scale:.3g} times the predicted deviations (root mean squares)",
        ),
        (f"ENCE of {what}", ence, None, None, "ten bins"),
        (
            f"rank correlation of {what}",
            rank_correlation,
            context.limit("uncertainty", f"rank correlation of {what}", SPEARMAN_LIMIT),
            None,
            "Spearman, |error| and deviation",
        ),
    )
    for title, statistic, lower, upper, detail in measures:
        value = statistic(all_errors, all_deviations)
        bounds = resampled(
            partial(_of_structures, statistic, errors, deviations),
            groups=groups,
            seed=context.seeds[0],
        )
        metrics.append(
            Metric(
                title,
                reference.name,
                value,
                "1",
                lower=lower,
                upper=upper,
                interval=bounds,
                detail=f"{detail}; {words}",
                level_of_theory=reference.level_of_theory,
            )
        )
    figures += _figures(context, reference, what, all_errors, all_deviations)
    return metrics


def _of_structures(
    statistic: Measure, errors: list[Array], deviations: list[Array], chosen: NDArray[np.int64]
) -> float:
    return statistic(np.concatenate([errors[k] for k in chosen]), np.concatenate([deviations[k] for k in chosen]))


def _figures(
    context: Context, reference: LabelledReference, what: str, errors: Array, deviations: Array
) -> list[Figure]:
    chosen = np.arange(len(errors))
    if len(chosen) > _POINTS:
        chosen = np.random.default_rng(context.seeds[0]).choice(chosen, size=_POINTS, replace=False)
    shown = chosen[(deviations[chosen] > 0) & (errors[chosen] != 0)]
    unit_name = "eV/Å" if what == "forces" else "eV"
    figures = [
        Figure(
            f"{reference.name}: calibration of {what}",
            "probability of the central interval",
            "fraction of errors inside",
            [
                Series("observed", _LEVELS.tolist(), coverage(errors, deviations).tolist()),
                Series("calibrated", [0.0, 1.0], [0.0, 1.0], style="reference"),
            ],
        )
    ]
    if len(shown):
        ends = [float(deviations[shown].min()), float(deviations[shown].max())]
        figures.append(
            Figure(
                f"{reference.name}: errors and uncertainties of {what}",
                f"predicted standard deviation, {unit_name}",
                f"|error|, {unit_name}",
                [
                    Series("values", deviations[shown].tolist(), np.abs(errors[shown]).tolist(), style="points"),
                    Series("equal", ends, ends, style="reference"),
                ],
                x_log=True,
                y_log=True,
            )
        )
    return figures


def evaluations(context: Context) -> float:
    """Evaluations times atoms, for structures of the usual 60 atoms: the files are not opened for the plan."""
    return sum(60.0 * reference.max_structures for reference in context.domain.references.held_out)


SUITE = Suite(
    name="uncertainty",
    title="Calibration of uncertainty",
    purpose="Where the potential says how sure it is, errors are as large as it says.",
    category="B",
    run=run,
    evaluations=evaluations,
    tiers=frozenset({Tier.STANDARD, Tier.FULL}),
)
