"""Part of the suite of phonons: a potential against first-principles force sets, and band structures as figures."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols

from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation.domain import PhononReference
from hydrapot.validation.guarded import PotentialFailure, failed, guarded
from hydrapot.validation.levels import comparison
from hydrapot.validation.metrics import Figure, Metric, Series, skipped
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.suite import Context

if TYPE_CHECKING:
    from hydrapot.validation.lattice_dynamics import Phonons
    from hydrapot.validation.phonon_reference import Comparison

#: THz; mean over a mesh, at the potential's own geometry. LDA, PBE and PBEsol differ by 3 to 5 %.
FREQUENCY_LIMIT = 0.3
#: Overlap of the densities of states (Gaussians of 0.2 THz).
OVERLAP_LIMIT = 0.8
#: THz; a mode that is imaginary although the reference has none.
IMAGINARY = 0.05
_MAIN = "frequency error"


@dataclass(frozen=True)
class Found:
    """Metrics and figures of one reference, and whether it has imaginary modes itself."""

    metrics: list[Metric]
    figures: list[Figure] = field(default_factory=list)
    unstable: bool = False


def reference_phonons(context: Context, reference: PhononReference, *, fmax: float) -> Found:
    """Forces and frequencies at the reference's geometry and at the potential's own."""
    from hydrapot.validation.lattice_dynamics import to_ase
    from hydrapot.validation.phonon_reference import compare, load_reference

    name, level = reference.name, reference.level_of_theory
    try:
        found = load_reference(context.domain.folder / reference.folder)
    except ConfigurationError as error:
        return Found([skipped(_MAIN, name, str(error), unit="THz")])
    unknown = found.elements - set(context.subject.elements)
    if unknown:
        reason = f"elements that the potential does not know: {', '.join(chemical_symbols[z] for z in sorted(unknown))}"
        return Found([skipped(_MAIN, name, reason, unit="THz")])
    calculator = guarded(context.subject.calculator())
    remark = comparison(context.subject.identity.level_of_theory, level)
    try:
        there = compare(found, calculator)
        metrics = _metrics(
            context, name, level, there, geometry="geometry of the reference", limited=False, remark=remark
        )
        unit_cell = to_ase(found.phonons.unitcell)
        own, converged = relaxed(unit_cell, calculator, fmax=fmax, cell=True)
        if not converged:
            failure = PotentialFailure("it does not relax from the reference's geometry")
            return Found([*metrics, failed(_MAIN, f"{name}, own geometry", failure, unit="THz")])
        here = compare(found, calculator, unit_cell=own)
    except PotentialFailure as error:
        return Found([failed(_MAIN, name, error, unit="THz")])
    metrics += _metrics(context, name, level, here, geometry="own geometry", limited=True, remark=remark)
    change = 100 * (here.volume / there.volume - 1)
    detail = f"{here.volume:.3f} against {there.volume:.3f} Å³/atom"
    metrics.append(Metric("volume error", name, change, "%", detail=_joined(detail, remark), level_of_theory=level))
    figure = band_figure(f"Phonons of {name} against {level}", here.phonons, reference=found.phonons)
    return Found(metrics, [figure] if figure else [], there.reference_lowest < -IMAGINARY)


def _metrics(
    context: Context, name: str, level: str, found: "Comparison", *, geometry: str, limited: bool, remark: str
) -> list[Metric]:
    subject = f"{name}, {geometry}"

    def metric(quantity: str, value: float, unit: str, detail: str, **limits: float | None) -> Metric:
        return Metric(quantity, subject, value, unit, detail=_joined(detail, remark), level_of_theory=level, **limits)  # type: ignore[arg-type]

    upper = context.limit("phonons", _MAIN, FREQUENCY_LIMIT) if limited else None
    overlap = context.limit("phonons", "overlap of the densities of states", OVERLAP_LIMIT) if limited else None
    stable = -IMAGINARY if found.reference_lowest > -IMAGINARY else None
    relative = 100 * found.force_error / found.force_scale
    return [
        metric(
            _MAIN, found.frequency_error, "THz",
            f"mean shift {found.mean_shift:+.3f} THz; highest {found.highest:.2f} against {found.reference_highest:.2f} THz",
            upper=upper,
        ),
        metric("largest frequency error", found.worst_frequency_error, "THz", ""),
        metric("overlap of the densities of states", found.overlap, "", "Gaussians of 0.2 THz", lower=overlap),
        metric("force error", found.force_error, "eV/Å", f"{relative:.1f} % of the mean component of the reference"),
        metric("stiffness", found.stiffness, "", "factor of the forces to those of the reference"),
        metric("lowest frequency", found.lowest, "THz", f"reference {found.reference_lowest:.2f} THz",
               lower=stable if limited else None),
    ]  # fmt: skip


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def band_figure(title: str, phonons: "Phonons", *, reference: "Phonons | None" = None) -> Figure | None:
    """Bands along a path, and the density of states to the right of them; None for a cell without a known path.

    The density of states shares the axis of frequencies: its own axis is scaled to a fifth of the path.
    """
    from hydrapot.validation.lattice_dynamics import band_path, density_of_states, frequencies, mesh

    path = band_path(phonons)
    if path is None:
        return None
    length = float(path.distance[-1])
    series: list[Series] = []
    # The reference has its own lattice constant: the same fractional path, drawn over the potential's distances.
    curves: list[tuple[str, Any, str]] = [("potential", phonons, "line")]
    if reference is not None:
        curves.insert(0, ("reference", reference, "reference"))
    densities = []
    for label, source, style in curves:
        bands = frequencies(source, path.points)
        series += [Series(label, path.distance.tolist(), band.tolist(), style) for band in bands.T]
        values = frequencies(source, mesh(source))
        grid = np.linspace(min(0.0, values.min() - 0.5), values.max() + 0.5, 200)
        densities.append((label, grid, density_of_states(values, grid, width=0.15), style))
    scale = 0.2 * length / max(float(d.max()) for _, _, d, _ in densities)
    for label, grid, density, style in densities:
        series.append(Series(label, (1.03 * length + scale * density).tolist(), grid.tolist(), style))
    ticks = (*path.ticks, (1.13 * length, "DOS"))
    return Figure(title, "wave vector", "frequency / THz", series, x_ticks=ticks)
