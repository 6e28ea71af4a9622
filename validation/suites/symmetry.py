"""Rotation, inversion, order and place of atoms, choice of cell: what must not change the energy, and turns forces."""

from hydrapot.validation import static
from hydrapot.validation.metrics import Metric, Outcome
from hydrapot.validation.static import Widening
from hydrapot.validation.suite import ALL_TIERS, Context, Suite, Tier
from hydrapot.validation.symmetry import check_invariance

_NAMES = ("rotation", "inversion", "permutation", "translation", "wrapping", "supercell", "cell choice", "vacuum")
#: eV/atom and eV/Å. Single precision leaves some 5e-7 eV/Å (hydrapot-s); with bfloat16 it would be 1e-2.
WIDENING = dict.fromkeys(_NAMES, Widening(100, 2e-4))


def run(context: Context) -> Outcome:
    """Every transformation that applies, for every structure and seed; as deployed for the made ones."""
    exact = static.evaluator(context)
    standard = ("molecule", "skewed", "slab") if context.tier is Tier.SMOKE else tuple(static.made(context))
    metrics: list[Metric] = []
    for seed in context.seeds if context.tier is not Tier.SMOKE else context.seeds[:1]:
        for case in static.cases(context, standard=standard, max_atoms=8, seed=seed):
            subject = f"{case.name}, seed {seed}"
            metrics += static.attempt(
                "rotation",
                subject,
                lambda case=case, subject=subject, seed=seed: static.widened(  # type: ignore[misc]
                    check_invariance(exact, case.atoms, subject=subject, seed=seed), context, "symmetry", WIDENING
                ),
                legal=case.legal,
            )
    for variant in static.deployed(context) if context.subject.head_info is not None else []:
        for name, atoms in static.made(context).items():
            metrics += static.attempt(
                "rotation",
                variant.label(name),
                lambda variant=variant, name=name, atoms=atoms: static.widened(  # type: ignore[misc]
                    check_invariance(variant.make(), atoms, subject=variant.label(name)),
                    context,
                    "symmetry",
                    WIDENING,
                    resolution=variant.resolution,
                ),
                legal=static.is_legal(context, atoms),
            )
    return Outcome(metrics)


def evaluations(context: Context) -> float:
    """Some 20 transformed structures, supercells among them, for each structure."""
    return 25.0 * 15.0 * (5 if context.tier is Tier.SMOKE else 9 * len(context.seeds)) + 15000.0


SUITE = Suite(
    name="symmetry",
    title="Symmetry",
    purpose="The result does not depend on orientation, order and place of atoms, or choice of cell",
    category="A",
    run=run,
    evaluations=evaluations,
    tiers=ALL_TIERS,
)
