"""Errors on labelled structures that took no part in training.

Mean absolute and root-mean-square errors of energy, forces and stress with 95 % intervals (bootstrap over structures,
or over groups of related ones where the file names groups). Energies are given as they are and with one shift per
element removed, which is what a different zero of the energy amounts to. That the structures are unseen has to be
trusted: nothing in a checkpoint can prove it.
"""

from collections.abc import Sequence

import numpy as np
from ase import units
from numpy.typing import NDArray

from hydrapot.potential.coverage import POOR
from hydrapot.validation.bootstrap import interval, unit
from hydrapot.validation.domain import LabelledReference
from hydrapot.validation.labelled import (
    Labelled,
    Prediction,
    ReferenceDataError,
    aligned_energies,
    force_pairs,
    open_reference,
)
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.suite import Context, Suite, Tier

Array = NDArray[np.float64]

#: Force MAE over the mean magnitude of a force component. Zero forces have 1; from here on `hydrapot info` warns of a
#: head. Accurate potentials reach 0.02 to 0.1.
RELATIVE_LIMIT = POOR
#: Points in a figure.
_POINTS = 1500


def run(context: Context) -> Outcome:
    """Compare with every file of labelled structures that the domain names."""
    references = context.domain.references.held_out
    if not references:
        reason = "the domain names no file of labelled structures (references.held_out)"
        return Outcome([skipped("relative force error", "held-out structures", reason)])
    metrics: list[Metric] = []
    figures: list[Figure] = []
    notes: list[str] = []
    for reference in references:
        try:
            structures, predictions, remarks = open_reference(context, reference)
        except ReferenceDataError as error:
            metrics.append(skipped("relative force error", reference.name, str(error)))
            continue
        notes += remarks
        metrics.append(_failures(reference, predictions))
        metrics += _energies(context, reference, structures, predictions, figures)
        metrics += _forces(context, reference, structures, predictions, figures)
        metrics += _stresses(context, reference, structures, predictions, figures)
    notes.append("That these structures were not trained on is taken from whoever wrote the domain file.")
    return Outcome(metrics, figures, notes)


def _failures(reference: LabelledReference, predictions: Sequence[Prediction]) -> Metric:
    failed = [p.failure for p in predictions if p.failure]
    detail = f"of {len(predictions)}" + (f"; first: {failed[0]}" if failed else "")
    return Metric(
        "structures without an answer", reference.name, float(len(failed)), "structures", upper=0, detail=detail
    )


def _limit(context: Context, name: str) -> float | None:
    """An absolute error is good or bad for a use only: its limit comes from the domain, or there is none."""
    return context.domain.limits.get(f"held_out/{name}")


def _mae(sums: Array) -> Array:
    return np.asarray(sums[:, 0] / sums[:, 2])


def _rmse(sums: Array) -> Array:
    return np.asarray(np.sqrt(sums[:, 1] / sums[:, 2]))


def _errors(
    context: Context,
    reference: LabelledReference,
    name: str,
    unit_name: str,
    sums: Array,
    groups: list[str],
    detail: str,
) -> list[Metric]:
    """MAE and RMSE from sums of |error|, error² and counts ``(S, 3)`` by structure."""
    found = []
    for label, statistic in (("MAE", _mae), ("RMSE", _rmse)):
        title = f"{name.replace(',', f' {label},', 1) if ',' in name else f'{name} {label}'}"
        found.append(
            Metric(
                title,
                reference.name,
                float(statistic(sums.sum(axis=0, keepdims=True))[0]),
                unit_name,
                upper=_limit(context, title),
                interval=interval(sums, statistic, groups=groups, seed=context.seeds[0]),
                detail=detail,
                level_of_theory=reference.level_of_theory,
            )
        )
    return found


def _energies(
    context: Context,
    reference: LabelledReference,
    structures: Sequence[Labelled],
    predictions: Sequence[Prediction],
    figures: list[Figure],
) -> list[Metric]:
    raw, aligned, remark = aligned_energies(structures, predictions)
    known = np.isfinite(raw)
    if not known.any():
        return [skipped("energy MAE", reference.name, "no reference energies", unit="meV/atom")]
    sizes = np.array([len(s.atoms) for s in structures])
    metrics: list[Metric] = []
    for name, errors, detail in (
        ("energy, zero as given", raw, "total energies as they are"),
        ("energy", aligned, remark),
    ):
        chosen = np.flatnonzero(np.isfinite(errors)).tolist()
        if len(chosen) == 0:
            metrics.append(skipped(f"{name} MAE", reference.name, detail, unit="meV/atom"))
            continue
        per_atom = 1000.0 * errors[chosen] / sizes[chosen]
        sums = np.stack([np.abs(per_atom), per_atom**2, np.ones(len(chosen))], axis=1)
        groups = [structures[k].group for k in chosen]
        words = f"{detail}; {len(chosen)} structures, intervals by {unit(groups)}"
        metrics += _errors(context, reference, name, "meV/atom", sums, groups, words)
    if np.isfinite(aligned).any():
        chosen = np.flatnonzero(np.isfinite(aligned)).tolist()
        exact = np.array([structures[k].energy or 0.0 for k in chosen]) / sizes[chosen]
        exact = exact - exact.mean()
        predicted = exact + aligned[chosen] / sizes[chosen]
        figures.append(_parity(f"{reference.name}: energy", "eV/atom, mean removed", exact, predicted, context))
    return metrics


def _forces(
    context: Context,
    reference: LabelledReference,
    structures: Sequence[Labelled],
    predictions: Sequence[Prediction],
    figures: list[Figure],
) -> list[Metric]:
    pairs = force_pairs(structures, predictions)
    if not pairs:
        return [skipped("relative force error", reference.name, "no reference forces, or none predicted")]
    groups = [structures[k].group for k, _, _ in pairs]
    detail = f"{len(pairs)} structures, {sum(len(p) for _, p, _ in pairs)} components, intervals by {unit(groups)}"
    sums = np.array([[np.abs(p - r).sum(), ((p - r) ** 2).sum(), len(p)] for _, p, r in pairs])
    metrics = _errors(
        context, reference, "force", "meV/Å", sums * np.array([1e3, 1e6, 1.0]), groups, detail + ", each Cartesian"
    )
    relative = np.array([[np.abs(p - r).sum(), np.abs(r).sum()] for _, p, r in pairs])
    products = np.array([[p @ r, p @ p, r @ r] for _, p, r in pairs])
    for name, table, statistic, lower, upper in (
        (
            "relative force error",
            relative,
            _ratio,
            None,
            context.limit("held_out", "relative force error", RELATIVE_LIMIT),
        ),
        ("force cosine similarity", products, _cosine, _limit(context, "force cosine similarity"), None),
    ):
        value = float(statistic(table.sum(axis=0, keepdims=True))[0])
        if not np.isfinite(value):
            metrics.append(skipped(name, reference.name, "all reference forces vanish", unit="1"))
            continue
        metrics.append(
            Metric(
                name,
                reference.name,
                value,
                "1",
                lower=lower,
                upper=upper,
                interval=interval(table, statistic, groups=groups, seed=context.seeds[0]),
                detail=detail,
                level_of_theory=reference.level_of_theory,
            )
        )
    exact = np.concatenate([r for _, _, r in pairs])
    predicted = np.concatenate([p for _, p, _ in pairs])
    figures.append(_parity(f"{reference.name}: force components", "eV/Å", exact, predicted, context))
    return metrics


def _ratio(sums: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])


def _cosine(sums: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 0] / np.sqrt(sums[:, 1] * sums[:, 2]))


def _stresses(
    context: Context,
    reference: LabelledReference,
    structures: Sequence[Labelled],
    predictions: Sequence[Prediction],
    figures: list[Figure],
) -> list[Metric]:
    pairs = [
        (k, p.stress / units.GPa, s.stress / units.GPa)
        for k, (s, p) in enumerate(zip(structures, predictions, strict=True))
        if s.stress is not None and p.stress is not None
    ]
    if not pairs:
        return [skipped("stress MAE", reference.name, "no reference stresses, or none predicted", unit="GPa")]
    groups = [structures[k].group for k, _, _ in pairs]
    sums = np.array([[np.abs(p - r).sum(), ((p - r) ** 2).sum(), len(p)] for _, p, r in pairs])
    exact = np.concatenate([r for _, _, r in pairs])
    predicted = np.concatenate([p for _, p, _ in pairs])
    figures.append(_parity(f"{reference.name}: stress components", "GPa", exact, predicted, context))
    detail = f"{len(pairs)} structures, six components each, intervals by {unit(groups)}"
    return _errors(context, reference, "stress", "GPa", sums, groups, detail)


def _parity(title: str, unit_name: str, exact: Array, predicted: Array, context: Context) -> Figure:
    chosen = np.arange(len(exact))
    if len(chosen) > _POINTS:
        chosen = np.random.default_rng(context.seeds[0]).choice(chosen, size=_POINTS, replace=False)
    ends = [float(exact.min()), float(exact.max())]
    return Figure(
        title,
        f"reference, {unit_name}",
        f"predicted, {unit_name}",
        [
            Series("structures", exact[chosen].tolist(), predicted[chosen].tolist(), style="points"),
            Series("identity", ends, ends, style="reference"),
        ],
    )


def evaluations(context: Context) -> float:
    """Evaluations times atoms, for structures of the usual 60 atoms: the files are not opened for the plan."""
    return sum(60.0 * reference.max_structures for reference in context.domain.references.held_out)


SUITE = Suite(
    name="held_out",
    title="Held-out data",
    purpose="Errors of energy, forces and stress on first-principles data that the potential has not seen.",
    category="B",
    run=run,
    evaluations=evaluations,
    tiers=frozenset({Tier.STANDARD, Tier.FULL}),
)
