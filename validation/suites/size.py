"""Energies are extensive: fragments add up, a crystal of 8 N atoms has 8 energies of N, a distant atom changes nothing."""

import numpy as np
from ase import Atoms

from hydrapot.validation import static
from hydrapot.validation.evaluators import Evaluator
from hydrapot.validation.locality import check_additivity
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series
from hydrapot.validation.static import Case, Widening
from hydrapot.validation.structures import cluster, representative
from hydrapot.validation.suite import ALL_TIERS, Context, Suite, Tier

#: eV/atom and eV/Å; controls and hydrapot-s in float64: 1e-13.
LIMIT = 1e-9
#: Single precision: some 1e-7 eV/atom; a total of 1e4 eV in float32 would round by 1e-3 eV, which is the user's problem too.
WIDENING = dict.fromkeys(("additivity", "extensivity", "distant atom"), Widening(100, 1e-4))
_SIZES = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2))
_MAX_ATOMS = {Tier.SMOKE: 4, Tier.STANDARD: 8, Tier.FULL: 32}  # of the cell that is repeated eightfold


def run(context: Context) -> Outcome:
    """Two fragments, supercells, a distant atom."""
    exact = static.evaluator(context)
    chosen, cutoff = representative(static.elements(context)), context.subject.cutoff
    metrics: list[Metric] = []
    series: list[Series] = []
    for seed in context.seeds:
        fragments = [
            cluster(order, cutoff=cutoff, size=n, seed=2 * seed + n) for order, n in ((chosen, 5), (chosen[::-1], 4))
        ]
        metrics += static.attempt(
            "additivity",
            f"two molecules, seed {seed}",
            lambda fragments=fragments, seed=seed: static.widened(  # type: ignore[misc]
                [check_additivity(exact, *fragments, subject=f"two molecules, seed {seed}")],
                context,
                "size",
                WIDENING,
            ),
            legal=static.is_legal(context, fragments[0]),
        )
    most = _MAX_ATOMS[context.tier]
    for case in static.cases(context, standard=("crystal", "slab", "primitive"), max_atoms=most, seed=context.seeds[0]):
        if case.atoms.pbc.any():
            metrics += static.attempt(
                "extensivity",
                case.name,
                lambda case=case: [_extensivity(context, exact, case, series)],  # type: ignore[misc]
                legal=case.legal,
            )
    free = {name: atoms for name, atoms in context.structures.items() if not atoms.pbc.any()}
    free["made molecule"] = static.made(context)["molecule"]
    for name, atoms in free.items():
        metrics += static.attempt(
            "distant atom",
            name,
            lambda name=name, atoms=atoms: [_distant(context, exact, atoms, name)],  # type: ignore[misc]
            legal=context.subject.head_info is not None,  # an atom alone is in it
        )
    figure = Figure(
        "Energy per atom against that of the smallest cell",
        "atoms (of the smallest cell)",
        "difference (eV/atom)",
        series,
    )
    return Outcome(metrics, [figure] if series else [])


def _extensivity(context: Context, exact: Evaluator, case: Case, series: list[Series]) -> Metric:
    """Energies per atom and forces of supercells against those of the cell."""
    sizes = sorted({tuple(int(n) for n in np.where(case.atoms.pbc, size, 1)) for size in _SIZES})
    results = exact.many([case.atoms.repeat(size) for size in sizes])
    n, single = len(case.atoms), results[0]
    differences = [r.energy / (n * np.prod(size)) - single.energy / n for r, size in zip(results, sizes, strict=True)]
    forces = [
        float(np.abs(r.forces - np.tile(single.forces, (int(np.prod(size)), 1))).max())
        for r, size in zip(results, sizes, strict=True)
    ]
    series.append(Series(case.name, [float(np.prod(size)) for size in sizes], [float(d) for d in differences]))
    worst = float(np.max([np.abs(differences).max(), np.max(forces)]))
    return Metric(
        "extensivity",
        case.name,
        worst,
        "eV/atom, eV/Å",
        upper=static.limit(context, "size", "extensivity", LIMIT, WIDENING),
        detail=f"{n} → {n * int(np.prod(sizes[-1]))} atoms",
    )


def _distant(context: Context, exact: Evaluator, atoms: Atoms, subject: str) -> Metric:
    """An atom beyond the receptive field changes nothing but the sum of isolated atoms, which is not in the energy."""
    alone = exact(atoms)
    worst, where = 0.0, ""
    for number in {int(atoms.numbers[0]), int(atoms.numbers[-1])}:
        for gap in (exact.receptive_field + 0.01, 5.0 * exact.receptive_field):
            both = atoms + Atoms([number], positions=[atoms.positions.max(axis=0) + np.array([0.0, 0.0, gap])])
            result = exact(both)
            error = np.max(
                [
                    abs(result.energy - alone.energy) / len(both),
                    np.abs(result.forces[:-1] - alone.forces).max(),
                    np.abs(result.forces[-1]).max(),
                ]
            )
            if not error <= worst:
                worst, where = float(error), f"at {gap:.4g} Å"
    upper = static.limit(context, "size", "distant atom", LIMIT, WIDENING)
    return Metric("distant atom", subject, worst, "eV/atom, eV/Å", upper=upper, detail=where)


def evaluations(context: Context) -> float:
    """Supercells of up to eight cells."""
    return 15.0 * _MAX_ATOMS[context.tier] * 5 + 60.0 * len(context.seeds) + 100.0


SUITE = Suite(
    name="size",
    title="Size",
    purpose="Energies are extensive: fragments add up, supercells scale, a distant atom changes nothing",
    category="A",
    run=run,
    evaluations=evaluations,
    tiers=ALL_TIERS,
)
