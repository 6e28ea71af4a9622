"""Forces and stress are the derivatives of the energy, the energy has no jumps, and its curvature is finite.

Differences are taken over a ladder of steps: truncation grows and rounding falls with the step, so the best
step of the ladder is what says how well the derivative agrees.
"""

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hydrapot.validation.evaluators import Evaluator
from hydrapot.validation.results import CheckResult, at_most, unmeasured

#: Of max(1 eV/Å, largest force), and of max(1 eV, largest strain derivative).
GRADIENT_LIMIT = 1e-7
#: eV; between the energy along a path and the work done by the forces.
CONTINUITY_LIMIT = 1e-9
#: Deviation of a force constant from k₀ + c h² for displacements h up to 0.003 Å.
SMOOTHNESS_LIMIT = 1e-3
_SMOOTHNESS_UNIT = "of max(1 eV/Å², |k|)"

FORCE_STEPS = (1e-2, 3e-3, 1e-3, 3e-4)  # Å
STRAIN_STEPS = (3e-3, 1e-3, 3e-4, 1e-4)
CURVATURE_STEPS = (3e-3, 1e-3, 3e-4, 1e-4)  # Å
#: At most so many panels are halved; one that is this narrow (Å) holds a jump.
_HALVINGS, _NARROW = 200, 1e-10
# f'(0) = [f(−2h) − 8 f(−h) + 8 f(h) − f(2h)] / 12h + O(h⁴)
_STENCIL = {-2: 1.0 / 12.0, -1: -8.0 / 12.0, 1: 8.0 / 12.0, 2: -1.0 / 12.0}


def five_point(
    evaluator: Evaluator, displaced: Sequence[Callable[[float], Atoms]], *, step: float
) -> NDArray[np.float64]:
    """Derivative of the energy at 0 along each path ``displaced[k](t)``, five-point stencil, ``(K,)``."""
    structures = [path(m * step) for path in displaced for m in _STENCIL]
    energies = np.array([e.energy for e in evaluator.many(structures)]).reshape(len(displaced), len(_STENCIL))
    return np.asarray(energies @ np.array(list(_STENCIL.values())) / step)


def check_forces(evaluator: Evaluator, atoms: Atoms, *, subject: str, n_atoms: int = 4) -> CheckResult:
    """Forces on up to `n_atoms` atoms against a five-point stencil."""
    forces = evaluator(atoms).forces
    scale = max(1.0, float(np.abs(forces).max(initial=0.0)))
    tested = np.unique(np.linspace(0, len(atoms) - 1, min(n_atoms, len(atoms))).round().astype(int)).tolist()
    paths = [_moved(atoms, index, axis) for index in tested for axis in range(3)]
    errors = [
        float(np.abs(five_point(evaluator, paths, step=h).reshape(-1, 3) + forces[tested]).max()) for h in FORCE_STEPS
    ]
    return at_most(
        "forces",
        subject,
        min(errors) / scale,
        GRADIENT_LIMIT,
        "of max(1 eV/Å, max|F|)",
        _ladder(FORCE_STEPS, errors, "eV/Å") + f", max|F| {np.abs(forces).max(initial=0.0):.3g} eV/Å",
    )


def check_stress(
    evaluator: Evaluator, atoms: Atoms, *, subject: str, steps: Sequence[float] = STRAIN_STEPS
) -> CheckResult:
    """∂E/∂ε for all six strains against a five-point stencil; limit 1e-7 of max(1 eV, max|∂E/∂ε|)."""
    unit = "of max(1 eV, max|∂E/∂ε|)"
    reported = evaluator(atoms).strain_gradient
    if reported is None:
        return unmeasured("stress", subject, GRADIENT_LIMIT, unit, "no stress is reported")
    pairs = [(a, b) for a in range(3) for b in range(a, 3)]
    paths = [_strained(atoms, a, b) for a, b in pairs]
    # A symmetric strain moves ε_ab and ε_ba, each by half.
    expected = np.array([0.5 * (reported[a, b] + reported[b, a]) for a, b in pairs])
    errors = [float(np.abs(five_point(evaluator, paths, step=h) - expected).max()) for h in steps]
    scale = max(1.0, float(np.abs(reported).max()))
    detail = _ladder(steps, errors, "eV") + f", max|∂E/∂ε| {np.abs(reported).max():.3g} eV"
    return at_most("stress", subject, min(errors) / scale, GRADIENT_LIMIT, unit, detail)


def check_continuity(
    evaluator: Evaluator,
    atoms: Atoms,
    direction: NDArray[np.float64],
    *,
    length: float,
    subject: str,
    limit: float = CONTINUITY_LIMIT,
) -> CheckResult:
    """No jumps along ``positions + t · direction``, 0 ≤ t ≤ `length`: energy differences are work.

    The work is integrated in panels (Gauss–Legendre, four nodes). The worst panel is halved until `limit` is kept: at
    a kink of a higher derivative the error falls with the panel, at a jump of the energy it stays. This finds
    truncated cutoffs, neighbor caps and stale neighbor lists, which derivatives at a point do not see.
    """

    def place(t: float) -> Atoms:
        moved: Atoms = atoms.copy()
        moved.positions += t * direction
        return moved

    def mismatches(panels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Energy difference less work over max(1, power), for panels ``(K, 2)``."""
        middle, half = panels.mean(axis=1), 0.5 * (panels[:, 1] - panels[:, 0])
        ts = np.concatenate([panels, middle[:, None] + half[:, None] * nodes], axis=1)
        results = evaluator.many([place(t) for t in ts.ravel()])
        energies = np.array([r.energy for r in results]).reshape(ts.shape)
        power = np.array([-np.sum(r.forces * direction) for r in results]).reshape(ts.shape)
        work = half * (power[:, 2:] @ weights)
        return np.asarray(np.abs(energies[:, 1] - energies[:, 0] - work) / max(1.0, np.abs(power).max()))

    nodes, weights = np.polynomial.legendre.leggauss(4)
    edges = np.linspace(0.0, length, max(2, int(np.ceil(length / 0.04)) + 1))
    panels = np.stack([edges[:-1], edges[1:]], axis=1)
    errors = mismatches(panels)
    for _ in range(_HALVINGS):
        worst = int(np.argmax(errors))  # the first NaN, if there is one
        if errors[worst] <= limit or np.isnan(errors[worst]):
            break
        start, end = panels[worst]
        if end - start < _NARROW:
            break
        halves = np.array([[start, 0.5 * (start + end)], [0.5 * (start + end), end]])
        panels = np.concatenate([np.delete(panels, worst, axis=0), halves])
        errors = np.concatenate([np.delete(errors, worst), mismatches(halves)])
    worst = int(np.argmax(errors))
    return at_most(
        "continuity",
        subject,
        float(errors[worst]),
        limit,
        "eV, of max(1, max|dE/dt| Å/eV)",
        f"largest difference of energy and work at t = {panels[worst].mean():.4f} Å",
    )


def check_smoothness(evaluator: Evaluator, crystal: Atoms, *, subject: str) -> CheckResult:
    """The second derivative is finite at a center of inversion, where all vector features vanish.

    The force constant k(h) = −[F(h) − F(−h)]/2h of atom 0 is that of a smooth energy, k₀ + c h², for displacements h up
    to 0.003 Å: a norm without softening, or with a tiny one, puts a cusp there that phonons see.
    """
    h = np.array(CURVATURE_STEPS)
    moved = _moved(crystal, 0, 0)
    results = evaluator.many([moved(sign * step) for step in h for sign in (1, -1)])
    forces = np.array([r.forces[0, 0] for r in results]).reshape(-1, 2)
    constants = -(forces[:, 0] - forces[:, 1]) / (2 * h)
    terms = np.stack([np.ones_like(h), (h / h[0]) ** 2], axis=1)
    if not np.isfinite(constants).all():
        return unmeasured("smoothness", subject, SMOOTHNESS_LIMIT, _SMOOTHNESS_UNIT, "a force is not finite")
    fitted, *_ = np.linalg.lstsq(terms, constants, rcond=None)
    return at_most(
        "smoothness",
        subject,
        float(np.abs(constants - terms @ fitted).max()) / max(1.0, float(np.abs(constants).max())),
        SMOOTHNESS_LIMIT,
        _SMOOTHNESS_UNIT,
        f"k = {', '.join(f'{k:.6g}' for k in constants)} eV/Å² at ±{', ±'.join(f'{s:g}' for s in h)} Å",
    )


def _moved(atoms: Atoms, index: int, axis: int) -> Callable[[float], Atoms]:
    def path(t: float) -> Atoms:
        moved: Atoms = atoms.copy()
        moved.positions[index, axis] += t
        return moved

    return path


def _strained(atoms: Atoms, a: int, b: int) -> Callable[[float], Atoms]:
    def path(t: float) -> Atoms:
        strain = np.eye(3)
        strain[a, b] += 0.5 * t
        strain[b, a] += 0.5 * t
        strained: Atoms = atoms.copy()
        strained.set_cell(atoms.cell.array @ strain, scale_atoms=False)
        strained.positions = atoms.positions @ strain
        return strained

    return path


def _ladder(steps: Sequence[float], errors: Sequence[float], unit: str) -> str:
    best = int(np.argmin(errors))
    return f"best at step {steps[best]:g}; all: {', '.join(f'{e:.1e}' for e in errors)} {unit}"
