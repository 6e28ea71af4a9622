"""Molecular dynamics beyond the domain: do runs survive, and do they sample their ensemble?

For each structure and seed, in the highest precision of the subject:

* a ramp at constant volume from the lowest temperature of the domain to 1.5 times its highest, and for crystals the same
  while the pressure rises to the domain's highest. A run fails when the potential has no finite answer, when two atoms come
  within half their covalent radii, when a bond of a molecule breaks, or when temperature or volume leave all bounds;
* two runs held at the highest temperature and somewhat above it, whose kinetic and potential energies have to follow
  their distributions (:mod:`hydrapot.validation.ensembles`). They are held by a strong thermostat, which forgets in some
  20 fs: more independent samples in the same time.

How many of n runs failed is a count without error; what it says about runs to come is its Clopper–Pearson interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray
from scipy.stats import beta

from hydrapot.validation.ensembles import (
    FEWEST,
    best_interval,
    deviation_limits,
    independent,
    kinetic_deviations,
    potential_deviation,
)
from hydrapot.validation.guarded import PotentialFailure, failed, guarded
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.sampling import BROKEN, CLOSEST, Ramp, Sample, sample, temperature_band
from hydrapot.validation.suite import Context, Suite, Tier
from hydrapot.validation.suites.nve import choose

#: Of the highest temperature of the domain.
OVERHEATING = 1.5
#: Standard errors of the slope of ln P₂(U)/P₁(U); those of kinetic energies have
#: :func:`~hydrapot.validation.ensembles.deviation_limits`. Of 160 samples of exact distributions none exceeded 2.7.
DEVIATION_LIMIT = 4.0
#: Relative; density at the end of a ramp against Murnaghan's equation. Melting changes it by 5 to 15 %, thermal expansion
#: by up to 10 %.
DENSITY_LIMIT = 0.3
#: fs; of the runs that are held.
_STRONG_THERMOSTAT = 40.0
_COLDEST = 10.0  # K
_POINTS = 200  # of a curve in the report


@dataclass(frozen=True)
class Plan:
    """Number of structures, atoms in the largest, and fs of a ramp, before a sample is taken, and of the sample."""

    structures: int
    max_atoms: int
    ramp: float
    settle: float
    held: float


PLANS = {
    Tier.SMOKE: Plan(structures=1, max_atoms=16, ramp=200.0, settle=100.0, held=400.0),
    Tier.STANDARD: Plan(structures=2, max_atoms=32, ramp=800.0, settle=200.0, held=1500.0),
    Tier.FULL: Plan(structures=6, max_atoms=64, ramp=5000.0, settle=1000.0, held=10000.0),
}


def clopper_pearson(k: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a probability of which k of n trials came true (Clopper & Pearson, *Biometrika* 26, 404 (1934))."""
    tail = (1.0 - confidence) / 2.0
    low = float(beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(beta.ppf(1.0 - tail, k + 1, n - k)) if k < n else 1.0
    return low, high


def run(context: Context) -> Outcome:
    """Ramps and held runs of every chosen structure."""
    plan = PLANS[context.tier]
    metrics: list[Metric] = []
    figures: list[Figure] = []
    for name in choose(context, plan.structures):
        found = _Structure(context, name)
        metrics += found.metrics()
        figures += found.figures()
    if not metrics:
        metrics.append(skipped("failed runs", "", "no structure of more than one atom"))
    note = (
        f"Ramps of {plan.ramp / 1000:g} ps to {OVERHEATING} times the highest temperature; held runs of "
        f"{plan.held / 1000:g} ps per temperature and seed. Short runs show what fails often, not what fails rarely: "
        "see the interval of the failure probability."
    )
    return Outcome(metrics, figures, [note])


class _Structure:
    """All runs of one structure."""

    def __init__(self, context: Context, name: str) -> None:
        self.context, self.name, self.plan = context, name, PLANS[context.tier]
        self.atoms = context.repeated(name, max_atoms=min(self.plan.max_atoms, context.max_atoms))
        self.timestep = context.domain.step(self.atoms)
        low, high = (max(t, _COLDEST) for t in context.domain.temperature)
        self.temperatures = (high, high + best_interval(high, degrees_of_freedom=3 * len(self.atoms)))
        self.heating = (low, OVERHEATING * high)
        self.calculator = guarded(context.subject.calculator())
        self.label = f"{name} ({len(self.atoms)} atoms)"
        self.crystal = bool(self.atoms.pbc.all())
        self.start: Atoms | None = None
        self.bulk_modulus: float | None = None

    def metrics(self) -> list[Metric]:
        """Ramps, density, kinetic energy, ensemble."""
        try:
            self.start, _ = relaxed(self.atoms, self.calculator)
            self.bulk_modulus = self._bulk_modulus(self.start) if self.crystal else None
            self._copy().get_forces()
        except PotentialFailure as error:
            return [failed("failed runs", self.label, error)]
        seeds = self.context.seeds
        self.ramps = {("NVT", seed): self._run(Ramp(self.heating), seed) for seed in seeds}
        if self.bulk_modulus is not None:
            ramp = Ramp(self.heating, self.context.domain.pressure)
            self.ramps |= {("NPT", seed): self._run(ramp, seed) for seed in seeds}
        self.held = {(t, seed): self._hold(t, seed) for t in self.temperatures for seed in seeds}
        return [*self._survival(), *self._density(), *self._distributions()]

    # --- runs -------------------------------------------------------------------------------------------------------
    def _copy(self) -> Atoms:
        assert self.start is not None  # noqa: S101 - for the type checker
        atoms: Atoms = self.start.copy()
        atoms.calc = self.calculator
        return atoms

    def _bulk_modulus(self, start: Atoms) -> float | None:
        """GPa, of the structure as it is; None where the potential has no stress."""
        pressures = []
        for strain in (-0.005, 0.005):
            atoms = start.copy()
            atoms.calc = self.calculator
            atoms.set_cell((1.0 + strain) * atoms.cell.array, scale_atoms=True)
            try:
                pressures.append(-float(atoms.get_stress()[:3].mean()) / units.GPa)
            except PropertyNotImplementedError:
                return None
        return float(max(5.0, (pressures[0] - pressures[1]) / 0.03))

    def _run(self, ramp: Ramp, seed: int) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            found = sample(
                self._copy(),
                ramp,
                timestep=self.timestep,
                steps=round(self.plan.ramp / self.timestep),
                thermostat_time=self.context.domain.thermostat_time,
                seed=seed,
                bulk_modulus=self.bulk_modulus or 100.0,
            )
            return _document(found)

        return self.context.piece(f"md ramp {self.name} {ramp} {seed} {self.plan}", compute)

    def _hold(self, temperature: float, seed: int) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            atoms = self._copy()
            ramp, seeds = Ramp((temperature, temperature)), np.random.SeedSequence([seed, round(temperature)])
            settings: Any = {"timestep": self.timestep, "thermostat_time": _STRONG_THERMOSTAT}
            first, second = (int(s) for s in seeds.generate_state(2))
            steps = (round(self.plan.settle / self.timestep), round(self.plan.held / self.timestep))
            found = sample(atoms, ramp, steps=steps[0], seed=first, **settings)
            if not found.failure:
                found = sample(atoms, ramp, steps=steps[1], seed=second, new_velocities=False, **settings)
            every = max(1, round(2.0 / self.timestep))
            return _document(found) | {"kinetic": found.kinetic[::every], "potential": found.potential[::every]}

        return self.context.piece(f"md held {self.name} {temperature} {seed} {self.plan}", compute)

    # --- what they show ---------------------------------------------------------------------------------------------
    def _survival(self) -> list[Metric]:
        runs = [
            *((f"{kind} ramp, seed {seed}", r) for (kind, seed), r in self.ramps.items()),
            *((f"held at {t:.0f} K, seed {seed}", r) for (t, seed), r in self.held.items()),
        ]
        failures = [f"{which}: {r['failure']} after {r['duration']:.0f} fs" for which, r in runs if r["failure"]]
        k, n = len(failures), len(runs)
        subject = f"{self.label}, up to {max(self.heating[1], self.temperatures[1]):.0f} K"
        if self.bulk_modulus is not None:
            subject += f" and {self.context.domain.pressure[1]:g} GPa"
        low, high = clopper_pearson(k, n)
        detail = "; ".join(failures[:3]) or f"0 of {n} runs failed"
        results = [r for _, r in runs]
        metrics = [
            Metric(
                "failed runs", subject, float(k), "", upper=self.context.limit("md", "failed runs", 0.0), detail=detail
            ),
            Metric("failure probability", subject, k / n, "", interval=(low, high), detail=f"{k} of {n} runs"),
            Metric(
                "smallest distance",
                subject,
                min(r["closest"] for r in results),
                "covalent radii",
                lower=self.context.limit("md", "smallest distance", CLOSEST),
                detail="1 where no two atoms came that close",
            ),
            Metric(
                "highest temperature",
                subject,
                max(r["hottest"] for r in results),
                "of the thermostat's",
                upper=self.context.limit("md", "highest temperature", temperature_band(len(self.atoms))),
                detail="at a single step",
            ),
        ]
        if not self.atoms.pbc.any():
            limit = self.context.limit("md", "largest bond stretch", BROKEN)
            stretch = max(r["stretch"] for r in results)
            metrics.append(Metric("largest bond stretch", subject, stretch, "of its length at rest", upper=limit))
        return metrics

    def _density(self) -> list[Metric]:
        name, unit = "density after compression", "of Murnaghan's"
        if not self.crystal:
            return []
        if self.bulk_modulus is None:
            return [skipped(name, self.label, "the potential has no stress", unit=unit)]
        pressure = self.context.domain.pressure[1]
        # With B' = 4, as of most solids.
        expected = (1.0 + 4.0 * max(0.0, pressure) / self.bulk_modulus) ** 0.25
        limit = self.context.limit("md", name, DENSITY_LIMIT)
        metrics = []
        for (kind, seed), found in self.ramps.items():
            if kind != "NPT" or found["failure"]:
                continue
            last = np.array(found["volume"][-max(1, len(found["volume"]) // 4) :])
            value = float(self.atoms.get_volume() / last.mean() / expected)
            subject = f"{self.label}, {self.heating[1]:.0f} K, {pressure:g} GPa, seed {seed}"
            detail = f"last quarter of the ramp; bulk modulus {self.bulk_modulus:.0f} GPa"
            metrics.append(Metric(name, subject, value, unit, 1.0 - limit, 1.0 + limit, detail=detail))
        return metrics

    def _distributions(self) -> list[Metric]:
        names = ("kinetic energy mean", "kinetic energy width", "potential energy distributions")
        if any(found["failure"] for found in self.held.values()):
            return [skipped(name, self.label, "a run failed", unit="standard errors") for name in names]
        metrics = []
        for t in self.temperatures:
            runs = self._runs(t, "kinetic")
            subject, count = f"{self.label}, {t:.0f} K", len(independent(runs))
            if count < FEWEST:
                reason = f"{count} independent values are not enough: {FEWEST}"
                metrics += [skipped(name, subject, reason, unit="standard errors") for name in names[:2]]
                continue
            deviations = kinetic_deviations(runs, temperature=t, degrees_of_freedom=3 * len(self.atoms))
            for name, value, limit in zip(names, deviations, deviation_limits(count), strict=False):
                upper = self.context.limit("md", name, limit)
                detail = f"{count} independent values"
                metrics.append(Metric(name, subject, value, "standard errors", upper=upper, detail=detail))
        first, second = (self._runs(t, "potential") for t in self.temperatures)
        subject = f"{self.label}, {self.temperatures[0]:.0f} and {self.temperatures[1]:.0f} K"
        try:
            value = potential_deviation(first, second, temperatures=self.temperatures)
        except ValueError as error:
            metrics.append(skipped(names[2], subject, f"not enough samples: {error}", unit="standard errors"))
        else:
            upper = self.context.limit("md", names[2], DEVIATION_LIMIT)
            metrics.append(Metric(names[2], subject, value, "standard errors", upper=upper))
        return metrics

    def _runs(self, temperature: float, key: str) -> list[NDArray[np.float64]]:
        return [np.array(r[key]) for (t, _), r in self.held.items() if t == temperature]

    def figures(self) -> list[Figure]:
        """Temperature, and density, along the ramps."""
        if not hasattr(self, "ramps"):
            return []
        series = [Series(f"{kind}, seed {s}", r["time"], r["temperature"]) for (kind, s), r in self.ramps.items()]
        first = next(iter(self.ramps.values()))
        series.append(Series("thermostat", first["time"], first["target"], "reference"))
        figures = [Figure(f"Temperature along the ramps: {self.label}", "Time (fs)", "Temperature (K)", series)]
        mass = self.atoms.get_masses().sum() / units.kg * 1e3 * 1e24  # g Å³/cm³
        series = [
            Series(f"seed {s}", r["time"], (mass / np.array(r["volume"])).tolist())
            for (kind, s), r in self.ramps.items()
            if kind == "NPT"
        ]
        if series:
            figures.append(Figure(f"Density along the ramps: {self.label}", "Time (fs)", "Density (g/cm³)", series))
        return figures


def _document(found: Sample) -> dict[str, Any]:
    every = max(1, len(found.time) // _POINTS)
    temperatures = found.temperatures()
    return {
        "failure": found.failure,
        "duration": found.time[-1] if found.time else 0.0,
        "closest": found.closest,
        "stretch": found.stretch,
        "hottest": float((temperatures / np.array(found.target)).max(initial=0.0)),
        "temperature": temperatures[::every].tolist(),
        **{key: _thinned(getattr(found, key), every) for key in ("time", "target", "volume")},
    }


def _thinned(values: Sequence[float], every: int) -> list[float]:
    return [float(v) for v in values[::every]]


def _evaluations(context: Context) -> float:
    plan = PLANS[context.tier]
    total = 0.0
    for name in choose(context, plan.structures):
        atoms = context.repeated(name, max_atoms=min(plan.max_atoms, context.max_atoms))
        per_seed = (2 if atoms.pbc.all() else 1) * plan.ramp + 2 * (plan.settle + plan.held)
        total += len(atoms) * (60 + len(context.seeds) * per_seed / context.domain.step(atoms))
    return total


SUITE = Suite(
    name="md",
    title="Molecular dynamics",
    purpose="runs that explode, collapse or sample a wrong ensemble hours after they were started",
    category="A",
    run=run,
    evaluations=_evaluations,
    requires=("physical_validation",),
)
