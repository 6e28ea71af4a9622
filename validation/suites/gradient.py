"""Forces and stress are derivatives of the reported energy.

Along random directions and the six strains, differences of the energy over a ladder of steps: truncation grows and
rounding falls with the step, and the minimum of that V says how well the derivative agrees.

Where rounding hides small errors, as in single precision, work shows them: along a closed path in configuration space

    x(θ) = x₀ + R (u cos θ + w sin θ),    0 ≤ θ < 2π,

the forces do no work, and energy and work agree everywhere on it. Both are integrals, in which rounding averages out
and curl does not. The trapezoidal rule converges exponentially for a periodic integrand.
"""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hydrapot.validation import static
from hydrapot.validation.derivatives import FORCE_STEPS, STRAIN_STEPS, check_stress, five_point
from hydrapot.validation.evaluators import Evaluator
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.static import Case, Variant, Widening
from hydrapot.validation.suite import ALL_TIERS, Context, Suite, Tier

Array = NDArray[np.float64]

#: Of the force; smooth controls and hydrapot-s in float64 stay below 1e-8.
GRADIENT_LIMIT = 1e-6
#: eV/atom; float64. EMT, EAM and hydrapot-s stay below 1e-8; 5e-8 for a Lennard-Jones whose force has kinks.
WORK_LIMIT = 1e-7
#: Å; amplitude of the closed path for each atom.
RADIUS = 0.15
#: Points on it. The finer ones are evaluated where the coarser do not suffice and refining helps: the error of the
#: quadrature at kinks falls at least as 1/n², that is ninefold, curl stays, noise falls as 1/√n.
POINTS = (48, 144, 576)
#: Energies in single precision, differenced over 0.1 Å, resolve a force to 1e-5 eV/Å and its truncation is about as large;
#: with forces in bfloat16 the difference is 2e-3.
WIDENING = {
    "force along a direction": Widening(4000, 5e-4),
    "stress": Widening(4000, 5e-4),
    "closed path": Widening(10, 2e-6),
    "energy and work": Widening(20, 5e-6),
}
_HELPS = 0.4
_COARSE = (0.1, 0.03)  # Å, further steps where rounding is that of single precision
_COARSE_ABOVE = 1e-10
_DIRECTIONS = {Tier.SMOKE: 2, Tier.STANDARD: 3, Tier.FULL: 5}


def run(context: Context) -> Outcome:
    """Derivatives along directions and strains, and work along closed paths."""
    exact = static.evaluator(context)
    metrics: list[Metric] = []
    ladders: list[Series] = []
    for seed in context.seeds:
        some = static.cases(context, standard=("molecule", "skewed"), seed=seed)
        for case in some:
            subject = f"{case.name}, seed {seed}"
            found: list[Series] = []
            metrics += static.attempt(
                "force along a direction",
                subject,
                lambda case=case, subject=subject, seed=seed, found=found: _directions(  # type: ignore[misc]
                    context, exact, case, subject, seed, found
                ),
                legal=case.legal,
            )
            if seed == context.seeds[0]:
                ladders += found
                metrics += static.attempt(
                    "stress",
                    case.name,
                    lambda case=case: _strains(context, exact, case),  # type: ignore[misc]
                    legal=case.legal,
                )
            for variant in [Variant("", lambda: exact, context.subject.resolution), *_single(context)]:
                metrics += static.attempt(
                    "closed path",
                    variant.label(subject),
                    lambda variant=variant, case=case, subject=subject, seed=seed: _work(  # type: ignore[misc]
                        context, variant, case, variant.label(subject), seed
                    ),
                    legal=case.legal,
                )
    figure = Figure(
        "Error of the force along random directions",
        "step (Å)",
        "error (of the force)",
        [*ladders, Series("limit", [min(FORCE_STEPS), max(FORCE_STEPS)], [GRADIENT_LIMIT] * 2, "limit")],
        x_log=True,
        y_log=True,
    )
    return Outcome(metrics, [figure] if ladders else [])


def _single(context: Context) -> list[Variant]:
    """The calculators of a checkpoint in less than float64."""
    return [v for v in static.deployed(context) if v.name and v.resolution > context.subject.resolution]


def _directions(
    context: Context, exact: Evaluator, case: Case, subject: str, seed: int, ladders: list[Series]
) -> list[Metric]:
    rng = np.random.default_rng(seed)
    atoms = case.atoms
    forces = exact(atoms).forces
    resolution = context.subject.resolution
    steps = (*_COARSE, *FORCE_STEPS) if resolution > _COARSE_ABOVE else FORCE_STEPS
    directions = [d / np.abs(d).max() for d in rng.normal(size=(_DIRECTIONS[context.tier], *atoms.positions.shape))]
    # A component along a random direction is the root mean square force times its length, give or take.
    rms = max(0.1, float(np.sqrt(np.mean(forces**2))))
    scales = np.array([rms * np.linalg.norm(d) for d in directions])
    expected = np.array([-np.sum(forces * d) for d in directions])

    paths = [_Line(atoms, d) for d in directions]
    errors = np.array([np.abs(five_point(exact, paths, step=h) - expected) / scales for h in steps])
    worst = int(np.argmax(np.nan_to_num(errors.min(axis=0), nan=np.inf)))
    ladders.append(Series(case.name, list(steps), np.maximum(errors[:, worst], 1e-17).tolist()))
    value = float(errors[:, worst].min())
    return [
        Metric(
            "force along a direction",
            subject,
            value,
            "of the force",
            upper=static.limit(context, "gradient", "force along a direction", GRADIENT_LIMIT, WIDENING),
            detail=f"best at {steps[int(np.argmin(errors[:, worst]))]:g} Å, rms force {rms:.3g} eV/Å",
        )
    ]


class _Line:
    """Structures ``positions + t · direction``."""

    def __init__(self, atoms: Atoms, direction: Array) -> None:
        self.atoms, self.direction = atoms, direction

    def __call__(self, t: float) -> Atoms:
        moved: Atoms = self.atoms.copy()
        moved.positions += t * self.direction
        return moved


def _strains(context: Context, exact: Evaluator, case: Case) -> list[Metric]:
    if exact(case.atoms).strain_gradient is None:
        reason = "no stress without three periodic directions" if not case.atoms.pbc.all() else "no stress is reported"
        return [skipped("stress", case.name, reason)]
    steps = (0.03, 0.01, *STRAIN_STEPS) if context.subject.resolution > _COARSE_ABOVE else STRAIN_STEPS
    check = check_stress(exact, case.atoms, subject=case.name, steps=steps)
    upper = static.limit(context, "gradient", "stress", GRADIENT_LIMIT, WIDENING)
    return [Metric("stress", case.name, check.measured, check.unit, upper=upper, detail=check.detail)]


def _work(context: Context, variant: Variant, case: Case, subject: str, seed: int) -> list[Metric]:
    upper = {
        name: static.limit(context, "gradient", name, WORK_LIMIT, WIDENING, variant.resolution)
        for name in ("closed path", "energy and work")
    }
    evaluator = variant.make()
    last = np.inf
    for n in POINTS:
        closed, apart = closed_path(evaluator, case.atoms, points=n, seed=seed)
        excess = max(closed / upper["closed path"], apart / upper["energy and work"])
        if excess <= 1.0 or not excess < _HELPS * last:
            break
        last = excess
    detail = f"{n} points, {RADIUS} Å"
    return [
        Metric("closed path", subject, closed, "eV/atom", upper=upper["closed path"], detail=detail),
        Metric("energy and work", subject, apart, "eV/atom", upper=upper["energy and work"], detail=detail),
    ]


def closed_path(evaluator: Evaluator, atoms: Atoms, *, points: int, seed: int) -> tuple[float, float]:
    """|∮ F·dr|, and the largest difference of energy and work along the path, both eV/atom.

    With Fourier coefficients p_k of the power F·dx/dθ, the work from the mean is Σ_k≠0 p_k e^{ikθ} / ik, and E plus that is
    constant; p_0 is the work around the path over 2π.
    """
    rng = np.random.default_rng(seed)
    theta = 2.0 * np.pi * np.arange(points) / points
    u, w = (d / np.linalg.norm(d, axis=1, keepdims=True) for d in rng.normal(size=(2, *atoms.positions.shape)))
    structures = []
    for t in theta:
        moved = atoms.copy()
        moved.positions += RADIUS * (u * np.cos(t) + w * np.sin(t))
        structures.append(moved)
    results = evaluator.many(structures)
    energy = np.array([r.energy for r in results])
    tangents = [RADIUS * (w * np.cos(t) - u * np.sin(t)) for t in theta]
    power = np.array([np.sum(r.forces * d) for r, d in zip(results, tangents, strict=True)])
    spectrum = np.fft.rfft(power)
    spectrum[0] = 0.0
    spectrum[1:] /= 1j * np.arange(1, len(spectrum))
    work = np.fft.irfft(spectrum, n=points)
    balance = energy + work
    n = max(1, len(atoms))
    return abs(float(2.0 * np.pi * power.mean())) / n, float(np.abs(balance - balance.mean()).max()) / n


def evaluations(context: Context) -> float:
    """Ladders, strains and paths for each structure."""
    atoms = 2 * 0.7 * context.max_atoms + 8.0
    runs = len(context.seeds)
    return atoms * (runs * (16 * _DIRECTIONS[context.tier] + 2 * POINTS[0]) + 96)


SUITE = Suite(
    name="gradient",
    title="Gradient",
    purpose="Forces and stress are derivatives of the energy: without that no dynamics conserves it",
    category="A",
    run=run,
    evaluations=evaluations,
    tiers=ALL_TIERS,
)
