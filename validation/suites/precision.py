"""What the precision of the network does to energies, forces, stress, and to the properties made from them.

Everything is measured against float64 with the same code on the same structures; the metrics carry the precision that they
hold for in ``precision``. Names (each with the unit of its value):

===============================  ============  =====================================================================
``energy error``                 meV/atom      largest, over structures displaced at random
``force error p50``, ``p99``     meV/Å         percentiles of the components' absolute errors
``force error max``              meV/Å         largest component
``stress error``                 GPa           largest component (crystals)
``phonon frequency error``       THz           largest of modes above 0.5 THz, displacements of 0.01 Å
``elastic constant error``       GPa           largest, strains of 0.005 (crystals)
``barrier error``                meV           largest along a fixed path
``shadow energy slope``          meV/atom/ps   of a run at constant energy, with its interval
``allowed: KEY``                 of the limit  the largest of the errors that matter for a use, each in units of what
                                               the use allows; at most 1 to be allowed
===============================  ============  =====================================================================

The errors themselves have no limits: those belong to the uses in :data:`USES`, whose keys are the ones of
:mod:`hydrapot.validation.uses`. A precision that was asked for and is not good enough for a use fails there.
"""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError

from hydrapot.validation.guarded import GuardedCalculator, PotentialFailure, guarded
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.nve import Trace, concatenate, equilibrate, run_nve
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.rounding import SLOWEST, elastic_constants, fixed_path, frequencies, path_energies
from hydrapot.validation.suite import Context, Suite, Tier
from hydrapot.validation.suites.nve import choose, energy_and_forces, interval

#: Unit of every error.
UNITS = {
    "energy error": "meV/atom",
    "force error p50": "meV/Å",
    "force error p99": "meV/Å",
    "force error max": "meV/Å",
    "stress error": "GPa",
    "phonon frequency error": "THz",
    "elastic constant error": "GPa",
    "barrier error": "meV",
    "shadow energy slope": "meV/atom/ps",
}
_FORCE = {"force error max": 1.0}  # meV/Å: relaxations stop at 1 to 10
_CELL = {**_FORCE, "stress error": 0.1}  # GPa
#: What each use allows, in the units above. An energy: 1 meV/atom, a fifth of what separates polymorphs. Phonons: 0.05 THz,
#: the threshold of imaginary modes. A barrier: 1 meV, 4 % of a rate at room temperature. Slopes: see
#: :func:`~hydrapot.validation.suites.nve.slope_limit`.
USES: Mapping[str, Mapping[str, float]] = {
    "energies": {"energy error": 1.0},
    "relaxation": _FORCE,
    "cell relaxation": _CELL,
    "elastic": {**_CELL, "elastic constant error": 1.0},
    "phonons": {**_FORCE, "phonon frequency error": 0.05},
    "defects": {**_FORCE, "energy error": 1.0, "barrier error": 1.0},
    "adsorption": {**_FORCE, "energy error": 1.0},
    "barriers": {**_FORCE, "barrier error": 1.0},
    "nve": {"shadow energy slope": 0.0026},
    "nvt": {"shadow energy slope": 0.026, "force error p99": 10.0},
    "npt": {"shadow energy slope": 0.026, "force error p99": 10.0, "stress error": 0.1},
}
#: Å; standard deviation of the random displacements: a solid at its Debye temperature.
RATTLE = 0.07


@dataclass(frozen=True)
class Plan:
    """Structures, atoms at most, displaced copies of each, and steps of the run at constant energy."""

    structures: int
    max_atoms: int
    copies: int
    steps: int


PLANS = {
    Tier.SMOKE: Plan(structures=1, max_atoms=8, copies=2, steps=200),
    Tier.STANDARD: Plan(structures=2, max_atoms=27, copies=4, steps=800),
    Tier.FULL: Plan(structures=4, max_atoms=64, copies=16, steps=4000),
}


def run(context: Context) -> Outcome:
    """Every precision that was asked for, on every chosen structure."""
    reference = context.subject.precisions[0]
    asked = [p for p in context.precisions if p not in {reference, "f64"}]
    metrics: list[Metric] = []
    figures: list[Figure] = []
    known = [p for p in asked if p in context.subject.precisions]
    if reference != "f64":
        reason = "the calculator comes in a single precision: there is nothing to compare with"
        return Outcome([_skipped("energies", "", reason, precision=p) for p in asked or [reference]])
    name = context.subject.identity.name
    metrics += [_skipped("energies", "", f"{name} has no {p}", precision=p) for p in asked if p not in known]
    names = choose(context, PLANS[context.tier].structures)
    if not known or not names:
        reason = "no other precision than float64 was asked for" if names else "no structure of more than one atom"
        return Outcome(metrics or [_skipped("energies", "", reason, precision="")])
    for name in names:
        structure = _Structure(context, name)
        found = {precision: structure.measure(precision) for precision in known}
        for precision, errors in found.items():
            metrics += _metrics(context, structure.label, errors, precision)
        figures += _figure(context, structure.label, found)
    return Outcome(metrics, figures)


class _Structure:
    """One structure, and what float64 says about it."""

    def __init__(self, context: Context, name: str) -> None:
        self.context, self.name, self.plan = context, name, PLANS[context.tier]
        self.atoms = context.repeated(name, max_atoms=min(self.plan.max_atoms, context.max_atoms))
        self.label = f"{name} ({len(self.atoms)} atoms)"
        self.timestep = context.domain.step(self.atoms)
        self.temperature = max(context.domain.temperature[1], 10.0)
        self._reference: dict[str, Any] | None = None
        self._start: Atoms | None = None

    def measure(self, precision: str) -> dict[str, Any]:
        """Errors by name, ``interval`` of the slope, and ``failure`` in place of all when the potential failed."""

        def compute() -> dict[str, Any]:
            try:
                if self._reference is None:
                    self._reference = self._properties(guarded(self.context.subject.calculator()), slope=False)
                other = self._properties(guarded(self.context.subject.calculator(precision)), slope=True)
            except PotentialFailure as error:
                return {"failure": str(error)}
            return _errors(self._reference, other)

        return self.context.piece(f"precision {self.name} {precision} {self.plan} {self.context.seeds[0]}", compute)

    def _properties(self, calculator: GuardedCalculator, *, slope: bool) -> dict[str, Any]:
        start = self._relaxed()
        rng = np.random.default_rng(self.context.seeds[0])
        energies, forces, stresses = [], [], []
        for _ in range(self.plan.copies):
            atoms = start.copy()
            atoms.positions += RATTLE * rng.normal(size=(len(atoms), 3))
            atoms.calc = calculator
            forces.append(np.array(atoms.get_forces(), dtype=np.float64))
            energies.append(energy_and_forces(atoms)[0] / len(atoms))
            if atoms.pbc.all():
                with contextlib.suppress(PropertyNotImplementedError):
                    stresses.append(np.array(atoms.get_stress(), dtype=np.float64) / units.GPa)
        found = {
            "energies": np.array(energies),
            "forces": np.array(forces),
            "frequencies": frequencies(start, calculator),
            "barrier": path_energies(fixed_path(start), calculator),
        }
        if stresses:
            found |= {"stress": np.array(stresses), "elastic": elastic_constants(self._cell(), calculator)}
        if slope:
            found |= self._slope(calculator)
        return found

    def _relaxed(self) -> Atoms:
        if self._start is None:
            self._start, _ = relaxed(self.atoms, guarded(self.context.subject.calculator()))
        return self._start

    def _cell(self) -> Atoms:
        """The structure as given, not repeated: what elastic constants need."""
        atoms: Atoms = self.context.structures[self.name].copy()
        return atoms

    def _slope(self, calculator: GuardedCalculator) -> dict[str, Any]:
        atoms = self._relaxed().copy()
        atoms.calc = guarded(self.context.subject.calculator())
        equilibrate(
            atoms, temperature=self.temperature, duration=150.0, timestep=self.timestep, seed=self.context.seeds[0],
            friction=0.02,
        )  # fmt: skip
        atoms.calc = calculator
        # Half the step: sixteen times less of the integrator's own error, and no less of that of the rounding.
        settings = {"timestep": self.timestep / 2.0, "steps": self.plan.steps // 8}
        parts: list[Trace] = []
        for k in range(8):  # in parts, so that an explosion does not go on
            start = k * settings["timestep"] * settings["steps"]
            parts.append(run_nve(atoms, energy_and_forces, **settings, start=start))  # type: ignore[arg-type]
            if not parts[-1].temperature.max() < 10.0 * self.temperature:
                raise PotentialFailure("a run at constant energy exploded")
        trace = concatenate(parts)
        return {"slope": trace.slope().value, "interval": interval(trace)}


def _errors(reference: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    forces = 1000.0 * np.abs(other["forces"] - reference["forces"])
    vibrating = np.abs(reference["frequencies"]) > SLOWEST
    errors = {
        "energy error": 1000.0 * _largest(reference, other, "energies"),
        "force error p50": float(np.percentile(forces, 50)),
        "force error p99": float(np.percentile(forces, 99)),
        "force error max": float(forces.max()),
        "phonon frequency error": float(
            np.abs(other["frequencies"] - reference["frequencies"])[vibrating].max(initial=0.0)
        ),
        "barrier error": 1000.0 * _largest(reference, other, "barrier"),
        "shadow energy slope": float(other["slope"]),
        "interval": [float(x) for x in other["interval"]],
        "failure": "",
    }
    if "stress" in reference:
        errors["stress error"] = _largest(reference, other, "stress")
        errors["elastic constant error"] = _largest(reference, other, "elastic")
    return errors


def _largest(reference: Mapping[str, Any], other: Mapping[str, Any], key: str) -> float:
    return float(np.abs(other[key] - reference[key]).max())


def _metrics(context: Context, label: str, errors: Mapping[str, Any], precision: str) -> list[Metric]:
    if errors["failure"]:
        return [
            Metric(
                f"allowed: {use}",
                label,
                math.nan,
                "of the limit",
                upper=1.0,
                detail=errors["failure"],
                precision=precision,
            )
            for use in USES
        ]
    metrics = [
        Metric(
            name, label, errors[name], unit, precision=precision,
            interval=tuple(errors["interval"]) if name == "shadow energy slope" else None,
        )
        for name, unit in UNITS.items() if name in errors
    ]  # fmt: skip
    return metrics + [_allowed(context, label, use, errors, precision) for use in USES]


def _allowed(context: Context, label: str, use: str, errors: Mapping[str, Any], precision: str) -> Metric:
    """The worst of the errors that the use cares about, with the interval that it has."""
    missing = [name for name in USES[use] if name not in errors]
    if missing:
        return _skipped(
            use, label, f"no {missing[0].removesuffix(' error')}: not a crystal, or no stress", precision=precision
        )
    parts = {}
    for name, limit in USES[use].items():
        low, high = errors["interval"] if name == "shadow energy slope" else (errors[name], errors[name])
        near = 0.0 if low <= 0.0 <= high else min(abs(low), abs(high))
        parts[name] = (abs(errors[name]) / limit, near / limit, max(abs(low), abs(high)) / limit)
    worst = max(parts, key=lambda name: parts[name][2])
    _, low, high = parts[worst]
    low = max(low, *(part[1] for part in parts.values()), 0.0)
    value = max(part[0] for part in parts.values())
    name = f"allowed: {use}"
    return Metric(
        name,
        label,
        value,
        "of the limit",
        upper=context.limit("precision", name, 1.0),
        interval=(low, high) if "shadow energy slope" in parts else None,
        detail=f"{worst}: limit {USES[use][worst]:g} {UNITS[worst]}",
        precision=precision,
    )


def _skipped(use: str, label: str, reason: str, *, precision: str) -> Metric:
    found = skipped(f"allowed: {use}", label, reason, unit="of the limit")
    return Metric(found.name, label, None, found.unit, detail=reason, precision=precision)


def _figure(context: Context, label: str, found: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """The errors of each use in units of its limit."""
    series = []
    for precision, errors in found.items():
        allowed = [
            m
            for m in _metrics(context, label, errors, precision)
            if m.name.startswith("allowed") and m.value is not None
        ]
        index = [list(USES).index(m.name.removeprefix("allowed: ")) for m in allowed]
        values = [float(m.value) for m in allowed if m.value is not None]
        shown = [(k, v) for k, v in zip(index, values, strict=True) if math.isfinite(v) and v > 0]
        if shown:
            series.append(Series(precision, [float(k) for k, _ in shown], [v for _, v in shown], "points"))
    if not series:
        return []
    series.append(Series("allowed", [0.0, len(USES) - 1.0], [1.0, 1.0], "limit"))
    ticks = [(float(k), use) for k, use in enumerate(USES)]
    return [
        Figure(f"Rounding: {label}", "Use", "Largest error / what the use allows", series, y_log=True, x_ticks=ticks)
    ]


def _evaluations(context: Context) -> float:
    plan = PLANS[context.tier]
    known = [p for p in context.precisions if p != "f64" and p in context.subject.precisions]
    total = 0.0
    for name in choose(context, plan.structures) if known and context.subject.precisions[0] == "f64" else ():
        atoms = context.repeated(name, max_atoms=min(plan.max_atoms, context.max_atoms))
        properties = plan.copies + 6 * len(atoms) + 20
        run = plan.steps + 150.0 / context.domain.step(atoms)
        # Emulated and dense forms cost about twice the blocked one.
        total += len(atoms) * (60 + properties + len(known) * 1.5 * (properties + run))
    return total


SUITE = Suite(
    name="precision",
    title="Precision of the network",
    purpose="phonons, barriers or long runs spoiled by the rounding of a faster precision",
    category="A",
    run=run,
    evaluations=_evaluations,
)
