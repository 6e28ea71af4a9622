"""What every potential keeps: the same answer to the same question, no net force, no energy of an atom alone.

The potential is tested in its best precision and, beside that, as it is deployed: a checkpoint's ASE calculator in
float64 and in float32.
"""

from collections.abc import Iterable

import numpy as np

from hydrapot.validation import static
from hydrapot.validation.consistency import check_batch, check_charge, check_empty, check_signal, check_sums
from hydrapot.validation.evaluators import Evaluation, PotentialEvaluator
from hydrapot.validation.locality import check_isolated_atoms
from hydrapot.validation.metrics import Metric, Outcome, skipped
from hydrapot.validation.static import Case, Variant, Widening
from hydrapot.validation.suite import ALL_TIERS, Context, Suite, Tier
from hydrapot.validation.symmetry import check_invariance

#: Of max(1, largest value): same structure, same calculator. Rounding may differ where a neighbor list was kept and holds
#: its pairs in another order (EMT: 1e-15); a first call of TorchScript before and after fusion: some 1e-7 in float32.
REPEAT_LIMIT = 1e-13
#: How limits follow the rounding r: measured over the controls and hydrapot-s in float32 (tests and the study in
#: docs/validation.md) the errors are at most some 30 r; single precision has to keep 1e-4, whatever rounds more is no
#: precision to run dynamics in.
WIDENING = {
    "first call": Widening(50, 1e-5),
    "repeated call": Widening(50, 1e-5),
    "history": Widening(100, 1e-4),
    "wrapping": Widening(200, 1e-4),
    "net force": Widening(300, 1e-4),
    "net torque": Widening(2000, 1e-3),
    "stress symmetry": Widening(300, 1e-4),
    "isolated atoms": Widening(50, 1e-5),
}
_REPEAT_UNIT = "of max(1, largest value)"
_ISOLATED_LIMIT = 1e-10  # eV, eV/Å: a checkpoint keeps 0


def run(context: Context) -> Outcome:
    """The contract of the subject, and of its calculators as deployed."""
    exact = static.evaluator(context)
    some = static.cases(context, standard=("molecule", "skewed", "slab"), max_atoms=16)
    if context.tier is not Tier.SMOKE:
        some += static.cases(context, standard=("crystal", "primitive", "wire"), seed=context.seeds[0] + 1)
    metrics: list[Metric] = []
    # Calculators come first: the first call of a process may be special.
    for variant in static.deployed(context):
        for case in some:
            metrics += _calls(context, variant, case)
    for case in some:
        metrics += static.attempt(
            "net force",
            case.name,
            lambda case=case: static.widened(  # type: ignore[misc]
                check_sums(exact, case.atoms, subject=case.name), context, "contract", WIDENING
            ),
            legal=case.legal,
        )
    return Outcome(metrics + _wholes(context, some))


def _wholes(context: Context, some: list[Case]) -> list[Metric]:
    """What is tested once, on all structures or on structures of its own."""
    exact = static.evaluator(context)
    chosen = {case.name: case.atoms for case in some if case.legal}
    ours = isinstance(exact, PotentialEvaluator)
    metrics = static.attempt(
        "signal", "all structures", lambda: static.widened([check_signal(exact, chosen)], context, "contract", WIDENING)
    )
    metrics += static.attempt("isolated atoms", "each element", lambda: _isolated(context), legal=ours)
    metrics += static.attempt(
        "empty structure",
        "no atoms",
        lambda: static.widened([check_empty(exact)], context, "contract", WIDENING),
        legal=ours,
    )
    if not isinstance(exact, PotentialEvaluator):
        one_by_one = "a calculator takes one structure at a time"
        rules = "a calculator does not say which charges it knows"
        return [*metrics, skipped("batch", "all structures", one_by_one), skipped("charge and spin", "", rules)]
    made = static.made(context)
    metrics += static.attempt(
        "batch", "all structures", lambda: static.widened([check_batch(exact, chosen)], context, "contract", WIDENING)
    )
    return metrics + static.attempt(
        "charge and spin",
        exact.head,
        lambda: static.widened([check_charge(exact, made["molecule"], made["crystal"])], context, "contract", WIDENING),
    )


def _isolated(context: Context) -> Iterable[Metric]:
    exact = static.evaluator(context)
    chosen = static.elements(context)
    check = check_isolated_atoms(exact, elements=chosen)
    (metric,) = static.widened([check], context, "contract", WIDENING)
    if isinstance(exact, PotentialEvaluator):
        return [metric]
    upper = static.limit(context, "contract", "isolated atoms", _ISOLATED_LIMIT, WIDENING)
    return [Metric(metric.name, metric.subject, metric.value, metric.unit, upper=upper, detail=metric.detail)]


def _calls(context: Context, variant: Variant, case: Case) -> list[Metric]:
    """First call, repeated call, history and wrapping of a calculator as it is deployed."""
    subject = variant.label(case.name)

    def repeats() -> Iterable[Metric]:
        fresh, atoms = variant.make(), case.atoms
        first = fresh(atoms)
        _forget(fresh)
        second = fresh(atoms)
        yield _metric(context, variant, "first call", subject, difference(first, second))
        other = atoms.copy()
        other.positions += 0.5 * np.random.default_rng(0).normal(size=other.positions.shape) / np.sqrt(len(atoms))
        fresh(other)
        yield _metric(context, variant, "repeated call", subject, difference(second, fresh(atoms)))
        yield _history(context, variant, case, subject)
        if atoms.pbc.any():
            yield from static.widened(
                check_invariance(fresh, atoms, subject=subject, only=("wrapping",)),
                context,
                "contract",
                WIDENING,
                resolution=variant.resolution,
            )

    return static.attempt("first call", subject, repeats, legal=case.legal)


def _history(context: Context, variant: Variant, case: Case, subject: str) -> Metric:
    """A calculator that followed a motion in small steps against one that has never seen another structure.

    What is left of former neighbors shows here. The steps of 0.03 Å are below any usual skin, their sum of 1.2 Å is above.
    """
    rng = np.random.default_rng(1)
    path = rng.normal(size=case.atoms.positions.shape)
    path *= 0.03 / np.linalg.norm(path, axis=1).max(initial=1e-300)
    following, moved = variant.make(), case.atoms.copy()
    worst, where = 0.0, ""
    checkpoints = (10, 20, 40)
    for step in range(checkpoints[-1] + 1):
        reported = following(moved)
        if step in checkpoints:
            error = difference(variant.make()(moved), reported)
            if not error <= worst:
                worst, where = error, f"after {step} steps of 0.03 Å"
        moved.positions += path
    return _metric(context, variant, "history", subject, worst, where)


def _metric(context: Context, variant: Variant, name: str, subject: str, value: float, detail: str = "") -> Metric:
    strict = 1e-10 if name == "history" else REPEAT_LIMIT
    upper = static.limit(context, "contract", name, strict, WIDENING, variant.resolution)
    return Metric(name, subject, value, _REPEAT_UNIT, upper=upper, detail=detail)


def difference(a: Evaluation, b: Evaluation) -> float:
    """Largest difference of energy, forces and strain derivatives, of max(1, the largest value)."""
    pairs = [(np.array([a.energy]), np.array([b.energy])), (a.forces, b.forces)]
    if a.strain_gradient is not None and b.strain_gradient is not None:
        pairs.append((a.strain_gradient, b.strain_gradient))
    return float(
        np.max([np.abs(x - y).max(initial=0.0) / max(1.0, float(np.abs(x).max(initial=0.0))) for x, y in pairs])
    )


def _forget(evaluator: object) -> None:
    """Make a calculator evaluate again what it has just evaluated: its results are dropped, nothing else."""
    results = getattr(getattr(evaluator, "calculator", None), "results", None)
    if isinstance(results, dict):
        results.clear()


def evaluations(context: Context) -> float:
    """Some 70 calls for each structure and calculator."""
    structures = (6 if context.tier is Tier.SMOKE else 12) * 10.0
    return 70.0 * structures * len(static.deployed(context)) + 2.0 * len(context.subject.elements)


SUITE = Suite(
    name="contract",
    title="Contract",
    purpose="The same question gets the same answer; no net force; an atom alone has no energy of interaction",
    category="A",
    run=run,
    evaluations=evaluations,
    tiers=ALL_TIERS,
)
