"""The Jacobian of the forces is symmetric: they are the gradient of *some* energy.

No energy is looked at, so that this also tests potentials whose energy is coarse or absent. J_ij = ∂F_i/∂x_j by
five-point differences over a ladder of steps; the antisymmetric part ‖J − Jᵀ‖ / ‖J + Jᵀ‖ (Frobenius norms) at the best
step. Forces that a network predicts directly, without a derivative, have some percent of it.
"""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hydrapot.validation import static
from hydrapot.validation.evaluators import Evaluator
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series
from hydrapot.validation.static import Case, Widening
from hydrapot.validation.suite import ALL_TIERS, Context, Suite, Tier

#: Smooth controls and hydrapot-s in float64 stay below 1e-10; a tabulated EAM, whose splines have knots, at 5e-8.
LIMIT = 1e-6
#: Å.
STEPS = (1e-2, 3e-3, 1e-3, 3e-4)
_COARSE = (0.1, 0.03)  # Å, further steps where rounding is that of single precision
_COARSE_ABOVE = 1e-10
#: Forces in single precision over 0.03 Å resolve 1e-5 of the Jacobian; those in bfloat16 leave some percent.
WIDENING = {"antisymmetric part": Widening(300, 3e-4)}
_MAX_ATOMS = {Tier.SMOKE: 8, Tier.STANDARD: 16, Tier.FULL: 32}
_STENCIL = {-2: 1.0 / 12.0, -1: -8.0 / 12.0, 1: 8.0 / 12.0, 2: -1.0 / 12.0}


def run(context: Context) -> Outcome:
    """Antisymmetric part for small structures of the domain and a made molecule."""
    exact = static.evaluator(context)
    metrics: list[Metric] = []
    series: list[Series] = []
    for case in _chosen(context):
        metrics += static.attempt(
            "antisymmetric part",
            case.name,
            lambda case=case: [_measure(context, exact, case, series)],  # type: ignore[misc]
            legal=case.legal,
        )
    figure = Figure(
        "Antisymmetric part of the Jacobian of the forces",
        "step (Å)",
        "‖J − Jᵀ‖ / ‖J + Jᵀ‖",
        series,
        x_log=True,
        y_log=True,
    )
    return Outcome(metrics, [figure] if series else [])


def _chosen(context: Context) -> list[Case]:
    most = _MAX_ATOMS[context.tier]
    some = static.cases(context, standard=("molecule", "crystal"), max_atoms=most, seed=context.seeds[0])
    small = [case for case in some if 1 < len(case.atoms) <= most]
    return small[-3:] if context.tier is Tier.SMOKE else small


def _measure(context: Context, exact: Evaluator, case: Case, series: list[Series]) -> Metric:
    steps = (*_COARSE, *STEPS) if context.subject.resolution > _COARSE_ABOVE else STEPS
    ratios = []
    for step in steps:
        matrix = jacobian(exact, case.atoms, step=step)
        symmetric = float(np.linalg.norm(matrix + matrix.T))
        ratios.append(float(np.linalg.norm(matrix - matrix.T)) / max(1e-300, symmetric))
    series.append(Series(case.name, list(steps), [max(r, 1e-17) for r in ratios]))
    # A Jacobian that is not finite at one step is not excused by another step.
    value = min(ratios) if np.isfinite(ratios).all() else float("nan")
    return Metric(
        "antisymmetric part",
        case.name,
        value,
        "of the symmetric part",
        upper=static.limit(context, "jacobian", "antisymmetric part", LIMIT, WIDENING),
        detail=f"best at {steps[int(np.argmin(ratios))]:g} Å, {len(case.atoms)} atoms",
    )


def jacobian(evaluator: Evaluator, atoms: Atoms, *, step: float) -> NDArray[np.float64]:
    """∂F_i/∂x_j, ``(3N, 3N)`` eV/Å², five-point stencil; an error of order step⁴."""
    structures = []
    for index in range(len(atoms)):
        for axis in range(3):
            for multiple in _STENCIL:
                moved = atoms.copy()
                moved.positions[index, axis] += multiple * step
                structures.append(moved)
    forces = np.array([result.forces.ravel() for result in evaluator.many(structures)])
    weights = np.array(list(_STENCIL.values())) / step
    columns = np.einsum("s,jsi->ij", weights, forces.reshape(3 * len(atoms), len(weights), -1))
    return np.asarray(columns)


def evaluations(context: Context) -> float:
    """12 N evaluations of N atoms for each step and structure."""
    most = _MAX_ATOMS[context.tier]
    return 12.0 * len(STEPS) * (36.0 + (1.5 if context.tier is Tier.SMOKE else 4.0) * 0.6 * most**2)


SUITE = Suite(
    name="jacobian",
    title="Jacobian",
    purpose="Forces are the gradient of some energy; those that a network predicts directly are not",
    category="A",
    run=run,
    evaluations=evaluations,
    tiers=ALL_TIERS,
)
