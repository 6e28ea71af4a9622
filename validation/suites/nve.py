"""Energy conservation: the slope of velocity Verlet's shadow energy, and how fluctuations scale with the time step.

From relaxed structures, equilibrated at the highest temperature of the domain, runs at constant energy with half the
domain's time step, with it, and with twice that, for every seed. See :mod:`hydrapot.validation.nve` for the shadow
energy. Forces that are the gradient of a smooth energy leave it a slope of 1e-5 meV/atom/ps after a tenth of a
picosecond (crystals near their minimum), so that short runs resolve limits a hundred times above that; stiff bonds need
longer ones, and a run is continued while its interval contains the limit.

Half the step and the step itself have limits. Twice the step says what margin is left in the choice of the step: that is
no property of the potential, and has none. A slope that does not depend on the step is that of the forces, one that
grows with it is that of the integrator.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from scipy.stats import t as student

from hydrapot.validation.domain import Domain
from hydrapot.validation.guarded import PotentialFailure, guarded
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.nve import Trace, concatenate, equilibrate, fluctuation_ratio, pooled_ratio, run_nve
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.suite import ALL_TIERS, Context, Suite, Tier

#: K/ns; heating that a run at constant energy may show.
HEATING = 10.0
#: K; by how much a heat leak may shift a temperature that a thermostat holds.
SHIFT = 1.0
#: ps; within which the modes of a stiff solid exchange heat: lifetimes of phonons at room temperature.
EXCHANGE_TIME = 10.0
#: Range of the ratio of fluctuations when the step is halved. 4 to lowest order; for an oscillator of frequency ω it is
#: 4 (1 + 3 ω²h²/16): 4.06 for C–H at 0.5 fs against 0.25 fs.
RATIO_LIMITS = (3.5, 4.5)
#: Fluctuations below this multiple of the rounding of the energy are those of the rounding.
RESOLVED = 10.0
#: Relative rounding of the energy that is put up with; that of float32 is 1.2e-7. Coarser potentials are judged as they are.
COARSEST = 2e-7
#: K, at least: at rest nothing would be tested.
_COLDEST = 10.0
#: A run whose temperature rises above this multiple of where it began has exploded.
_EXPLODED = 10.0
_FACTORS = (0.5, 1.0, 2.0)
_POINTS = 200  # of a curve in the report


@dataclass(frozen=True)
class Plan:
    """Size of the runs of a tier: structures, steps of a run and at most, snapshots for the ratio, and their stretch (fs)."""

    structures: int
    steps: int
    max_steps: int
    snapshots: int
    equilibration: float
    stretch: float = 60.0


PLANS = {
    Tier.SMOKE: Plan(structures=2, steps=200, max_steps=800, snapshots=4, equilibration=150.0, stretch=40.0),
    Tier.STANDARD: Plan(structures=3, steps=480, max_steps=1920, snapshots=6, equilibration=300.0),
    Tier.FULL: Plan(structures=12, steps=4000, max_steps=16000, snapshots=12, equilibration=1000.0),
}


def slope_limit(domain: Domain) -> float:
    """Slope of the energy that the use allows, meV/atom/ps.

    With a heat capacity C = 3k per atom (half of it kinetic, half potential), a power P per atom heats a run at constant
    energy at the rate P/C; 10 K/ns allow P = 0.0026 meV/atom/ps.

    A thermostat of relaxation time τ takes out CΔT/τ when the temperature is ΔT too high (Langevin dynamics of friction
    1/τ: the kinetic energy 3kΔT/2 decays at the rate 2/τ). In the steady state ΔT = Pτ/C, and 1 K at τ = 100 fs would allow
    2.6 meV/atom/ps, with which no defect of a potential was ever caught. But this holds only where the heat enters
    evenly. Curl, a jump at the cutoff or a stale neighbor heat single modes, and the thermostat draws on all: in between
    heat crosses within the lifetime τ' of phonons, about 10 ps, so that the modes at the source are hotter by

        ΔT = P (τ + τ') / C,

    and 1 K allows P = 0.026 meV/atom/ps. The same holds at constant pressure.
    """
    capacity = 3000.0 * units.kB  # meV/K per atom
    if domain.ensemble == "nve":
        return float(capacity * HEATING / 1000.0)
    return float(capacity * SHIFT / (domain.thermostat_time / 1000.0 + EXCHANGE_TIME))


def choose(context: Context, count: int) -> list[str]:
    """Names of up to `count` structures of two atoms or more, a periodic one and one that is not before any further."""
    names = [n for n, a in context.structures.items() if len(a) > 1 or a.pbc.any()]
    first = {bool(context.structures[n].pbc.any()): n for n in reversed(names)}
    order = [n for n in names if n in first.values()] + [n for n in names if n not in first.values()]
    return order[:count]


def run(context: Context) -> Outcome:
    """Slopes and ratios of every chosen structure."""
    plan = PLANS[context.tier]
    metrics: list[Metric] = []
    figures: list[Figure] = []
    names = choose(context, plan.structures)
    if not names:
        return Outcome([skipped("shadow energy slope", "", "no structure of more than one atom", unit="meV/atom/ps")])
    for name in names:
        found = _Structure(context, name)
        metrics += found.metrics()
        figures += found.figures()
    limit = context.limit("nve", "shadow energy slope", slope_limit(context.domain))
    note = (
        f"Slopes up to ±{limit:.2g} meV/atom/ps are allowed in the ensemble {context.domain.ensemble}; "
        f"runs of {plan.steps} steps, continued up to {plan.max_steps} while the interval contains the limit. "
        "Twice the time step is reported without a limit."
    )
    return Outcome(metrics, figures, [note])


class _Structure:
    """All runs of one structure."""

    def __init__(self, context: Context, name: str) -> None:
        self.context, self.name, self.plan = context, name, PLANS[context.tier]
        self.atoms = context.repeated(name)
        self.temperature = max(context.domain.temperature[1], _COLDEST)
        self.timestep = context.domain.step(self.atoms)
        self.limit = context.limit("nve", "shadow energy slope", slope_limit(context.domain))
        self.calculator = guarded(context.subject.calculator())
        self.label = f"{name} ({len(self.atoms)} atoms), {self.temperature:.0f} K"
        self._relaxed: Atoms | None = None

    def metrics(self) -> list[Metric]:
        """Slopes by step and seed, and ratios."""
        self.runs = {(f, s): self._run(f, s) for s in self.context.seeds for f in _FACTORS}
        return [self._slope(f, s) for f, s in self.runs] + self._ratios()

    # --- runs -------------------------------------------------------------------------------------------------------
    def _start(self, seed: int) -> Atoms:
        """Equilibrated, with momenta and calculator; kept, because all steps begin there."""

        def compute() -> dict[str, Any]:
            if self._relaxed is None:
                self._relaxed, _ = relaxed(self.atoms, self.calculator)
            atoms = self._relaxed.copy()
            atoms.calc = self.calculator
            equilibrate(
                atoms, temperature=self.temperature, duration=self.plan.equilibration, timestep=self.timestep,
                seed=seed, friction=0.02,
            )  # fmt: skip
            return {"positions": atoms.positions.tolist(), "velocities": atoms.get_velocities().tolist()}

        kept = self.context.piece(f"nve start {self.name} {seed} {self.plan}", compute)
        atoms: Atoms = self.atoms.copy()
        atoms.positions[:] = kept["positions"]
        atoms.set_velocities(kept["velocities"])
        atoms.calc = self.calculator
        return atoms

    def _run(self, factor: float, seed: int) -> dict[str, Any]:
        """Slope with its interval, curves, and what went wrong."""

        def compute() -> dict[str, Any]:
            try:
                trace = self._trace(self._start(seed), factor)
            except PotentialFailure as error:
                return {"failure": str(error)}
            low, high = interval(trace)
            every = max(1, len(trace.time) // _POINTS)
            per_atom = 1000.0 / trace.n_atoms
            return {
                "failure": "", "slope": trace.slope().value, "interval": [low, high], "duration": float(trace.time[-1]),
                "time": trace.time[::every].tolist(),
                "shadow": (per_atom * (trace.shadow - trace.shadow[0]))[::every].tolist(),
                "total": (per_atom * (trace.total - trace.shadow[0]))[::every].tolist(),
            }  # fmt: skip

        return self.context.piece(f"nve run {self.name} {factor} {seed} {self.plan} {self.limit}", compute)

    def _trace(self, atoms: Atoms, factor: float) -> Trace:
        timestep = factor * self.timestep
        hottest = _EXPLODED * max(atoms.get_temperature(), self.temperature)
        parts: list[Trace] = []
        steps, done = self.plan.steps, 0
        while True:
            for _ in range(8):  # in parts, so that an explosion does not go on
                parts.append(
                    run_nve(atoms, energy_and_forces, timestep=timestep, steps=steps // 8, start=done * timestep)
                )
                done += steps // 8
                if not parts[-1].temperature.max() < hottest:
                    raise PotentialFailure(
                        f"the temperature rose above {hottest:.0f} K within {done * timestep:.0f} fs"
                    )
            trace = concatenate(parts)
            low, high = interval(trace)
            resolved = high <= self.limit and low >= -self.limit
            if resolved or low > self.limit or high < -self.limit or factor > 1 or 2 * done > self.plan.max_steps:
                return trace
            steps = done

    # --- what they show ---------------------------------------------------------------------------------------------
    def _slope(self, factor: float, seed: int) -> Metric:
        found = self.runs[factor, seed]
        name = "shadow energy slope" + (" at twice the step" if factor > 1 else "")
        subject = f"{self.label}, {factor * self.timestep:g} fs, seed {seed}"
        limit = self.limit if factor <= 1 else None
        lower = None if limit is None else -limit
        if found["failure"]:
            # An explosion at twice the step is reported, and does not count.
            if limit is None:
                return skipped(name, subject, found["failure"], unit="meV/atom/ps")
            return Metric(name, subject, math.nan, "meV/atom/ps", lower=lower, upper=limit, detail=found["failure"])
        low, high = found["interval"]
        detail = f"{found['duration'] / 1000.0:.2f} ps"
        return Metric(name, subject, found["slope"], "meV/atom/ps", lower, limit, (low, high), detail)

    def _ratios(self) -> list[Metric]:
        def compute() -> dict[str, Any]:
            try:
                return self._variances()
            except PotentialFailure as error:
                return {"failure": str(error)}

        found = self.context.piece(f"nve ratio {self.name} {self.context.seeds} {self.plan}", compute)
        name, subject = "fluctuation ratio", f"{self.label}, {self.timestep:g} fs against {self.timestep / 2:g} fs"
        lower, upper = RATIO_LIMITS
        if found.get("failure"):
            return [Metric(name, subject, math.nan, "", lower=lower, upper=upper, detail=found["failure"])]
        at_step, above = found["at step"], found["at twice the step"]
        metrics = []
        if _smallest(at_step) > RESOLVED * found["rounding"]:
            metrics.append(_ratio(name, subject, at_step, lower, upper))
        elif _smallest(above) > RESOLVED * found["rounding"]:
            # Of a calculator in single precision the smaller fluctuation is that of its rounding.
            subject = f"{self.label}, {2 * self.timestep:g} fs against {self.timestep:g} fs"
            return [_ratio(name, subject, above, lower, upper)]
        else:
            reason = f"fluctuations of the energy drown in its rounding, {found['rounding']:.1e} eV"
            metrics.append(skipped(name, subject, reason))
        subject = f"{self.label}, {2 * self.timestep:g} fs against {self.timestep:g} fs"
        if math.isfinite(found["at twice the step"][0][0]):
            metrics.append(_ratio(f"{name} at twice the step", subject, above, None, None))
        return metrics

    def _variances(self) -> dict[str, Any]:
        snapshots = []
        per_seed = -(-self.plan.snapshots // len(self.context.seeds))
        for seed in self.context.seeds:
            atoms = self._start(seed)
            for _ in range(per_seed):
                snapshots.append(atoms.copy())
                snapshots[-1].calc = self.calculator
                run_nve(
                    atoms, energy_and_forces, timestep=self.timestep, steps=round(self.plan.stretch / self.timestep)
                )
        energy, _ = energy_and_forces(snapshots[0])
        ratio = {
            name: list(fluctuation_ratio(snapshots, energy_and_forces, timestep=step, duration=self.plan.stretch))
            for name, step in (("at step", self.timestep), ("at twice the step", 2.0 * self.timestep))
        }
        rounding = min(self.context.subject.resolution, COARSEST) * max(1.0, abs(energy))
        return {"failure": "", "rounding": rounding, **ratio}

    def figures(self) -> list[Figure]:
        """Shadow energy and energy of the first seed with each step."""
        seed = self.context.seeds[0]
        found = {f: self.runs[f, seed] for f in _FACTORS if not self.runs[f, seed]["failure"]}
        figures = []
        for key, title in (("shadow", "Shadow energy"), ("total", "Energy")):
            series = [Series(f"{f * self.timestep:g} fs", r["time"], r[key]) for f, r in found.items()]
            if series:
                label = f"{title} relative to the shadow energy at the start (meV/atom)"
                figures.append(Figure(f"{title} at constant energy: {self.label}", "Time (fs)", label, series))
        return figures


def energy_and_forces(atoms: Atoms) -> tuple[float, Any]:
    """By the structure's guarded calculator, without reference energies where it tells them apart."""
    forces = np.array(atoms.get_forces(), dtype=np.float64)
    energy = atoms.calc.calculator.results.get("interaction_energy")
    return float(atoms.get_potential_energy() if energy is None else energy), forces


def interval(trace: Trace) -> tuple[float, float]:
    """95 % interval of the slope of the shadow energy, meV/atom/ps; the bound of :class:`~hydrapot.validation.nve.Slope`."""
    found = trace.slope()
    half = found.bound - abs(found.value)
    return found.value - half, found.value + half


def _smallest(pairs: list[list[float]]) -> float:
    """The smaller fluctuation, eV."""
    smallest = float(np.sqrt(np.mean(np.array(pairs)[:, 1])))
    return smallest if math.isfinite(smallest) else 0.0


def _ratio(name: str, subject: str, pairs: list[list[float]], lower: float | None, upper: float | None) -> Metric:
    ratio, error = pooled_ratio([(a, b) for a, b in pairs])
    half = float(student.ppf(0.975, len(pairs) - 1)) * error
    detail = f"{len(pairs)} stretches from common starts"
    return Metric(name, subject, ratio, "", lower, upper, (ratio - half, ratio + half), detail)


def _evaluations(context: Context) -> float:
    plan = PLANS[context.tier]
    total = 0.0
    for name in choose(context, plan.structures):
        atoms = context.repeated(name)
        step = context.domain.step(atoms)
        # Half the step, the step and its double over one stretch, and twice the step itself: (1 + 2) + (1/2 + 1) + 1.
        stretches = plan.snapshots * 5.5 * plan.stretch / step
        per_seed = plan.equilibration / step + 3 * plan.steps
        total += len(atoms) * (100 + len(context.seeds) * per_seed + stretches)
    return total


SUITE = Suite(
    name="nve",
    title="Energy conservation",
    purpose="heating or cooling that nobody put in, from forces that are not the gradient of a smooth energy",
    category="A",
    run=run,
    evaluations=_evaluations,
    tiers=ALL_TIERS,
)
