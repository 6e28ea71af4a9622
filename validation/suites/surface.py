"""Surface energies of low-index facets.

Energies of relaxed slabs of increasing thickness lie on a line, E(N) = 2 γ A + N e, whose intercept is the surface energy;
its slope is the energy of the crystal as the slabs see it (V. Fiorentini, M. Methfessel, *J. Phys.: Condens. Matter* 8,
6525 (1996)). A bulk energy from another cell would let γ drift with the thickness. The slope must nevertheless agree with the
crystal, and the last two pairs of slabs must agree with each other.
"""

from functools import partial
from typing import Any

import numpy as np
from ase import Atoms

from hydrapot.validation.answers import energy, refusal
from hydrapot.validation.crystals import crystals
from hydrapot.validation.guarded import PotentialFailure, failed, guarded
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.slabs import Facet, facet, facets, same_sides, thickness
from hydrapot.validation.suite import Context, Suite, Tier

#: eV/Å.
FMAX = 0.01
#: J/m² in eV/Å².
_JOULE = 16.021766
#: meV/atom between the slope of the slabs' energies and the crystal. EMT and EAM: below 0.5 from three thicknesses on.
BULK_LIMIT = 5.0
#: J/m² between the surface energies of the last two pairs of thicknesses.
CHANGE_LIMIT = 0.1
#: Å; slabs of less are surface throughout.
_THINNEST = 8.0
#: Å; the thickest is at least this, and so much more than the thinnest that its middle sees no surface, where atoms allow it.
_THICKEST = 18.0
_THICKNESSES = {Tier.SMOKE: 3, Tier.STANDARD: 3, Tier.FULL: 4}
_STEPS = 200


def run(context: Context) -> Outcome:
    """Low-index facets of every crystal of the domain."""
    metrics: list[Metric] = []
    figures: list[Figure] = []
    found = crystals(context.structures)
    if not found:
        return Outcome([skipped("surface energy", "crystals", "no structure of the domain is a crystal", unit="J/m²")])
    for label, atoms in found.items():
        metrics += _crystal(context, label, atoms, figures)
    note = (
        "Slabs keep the lattice constants of the relaxed crystal and are not reconstructed. Each is cut at the widest gap "
        "between its planes; facets whose two sides differ are left out."
    )
    return Outcome(metrics, figures, [note])


def _crystal(context: Context, label: str, atoms: Atoms, figures: list[Figure]) -> list[Metric]:
    calculator = guarded(context.subject.calculator())
    refused = refusal(calculator, atoms, "surface energy", label, unit="J/m²")
    if refused is not None:
        return [refused]
    crystal, _ = relaxed(atoms, calculator, fmax=1e-3, cell=True, max_steps=150)
    metrics: list[Metric] = []
    for miller in facets(crystal):
        subject = f"{label} ({''.join(map(str, miller))})"
        stack = facet(crystal, miller)
        repeats = _repeats(context, stack)
        if len(repeats) < 3:
            reason = f"three slabs of at most {context.max_atoms} atoms: a period has {len(stack.period)}"
            metrics.append(skipped("surface energy", subject, reason, unit="J/m²"))
            continue
        if not same_sides(stack.slab(repeats[-1], vacuum=10.0)):
            reason = "its two sides differ (polar, or two terminations)"
            metrics.append(skipped("surface energy", subject, reason, unit="J/m²"))
            continue
        try:
            result = context.piece(f"surface {subject} {repeats}", partial(_slabs, context, crystal, stack, repeats))
        except PotentialFailure as error:
            metrics.append(failed("surface energy", subject, error, unit="J/m²"))
            continue
        metrics += _judge(context, subject, result, figures)
    return metrics


def _repeats(context: Context, stack: Facet) -> list[int]:
    """Thicknesses in periods: the thickest that the tier allows, and thinner ones by equal steps."""
    most = context.max_atoms // len(stack.period)
    count = _THICKNESSES[context.tier]
    least = 1 + int(
        np.ceil(_THINNEST / stack.height)
    )  # the outermost planes of n periods are up to n − 1 periods apart
    target = int(np.ceil(max(_THICKEST, context.subject.receptive_field + _THINNEST) / stack.height))
    # Where the tier allows no thick slabs, thin ones are better than none; `bulk energy from slabs` tells whether they do.
    least = max(1, min(least, most - count + 1))
    step = max(1, (min(most, target) - least) // (count - 1))
    return [n for n in (least + k * step for k in range(count)) if n <= most]


def _slabs(context: Context, crystal: Atoms, stack: Facet, repeats: list[int]) -> dict[str, Any]:
    """Energies of slabs, relaxed and not, as plain numbers."""
    calculator = guarded(context.subject.calculator())
    bulk = energy(calculator, crystal) / len(crystal)
    vacuum = max(context.subject.cutoff + 3.0, 8.0)  # no pair across it, also when the surface relaxes outward
    rows = []
    for n in repeats:
        slab = stack.slab(n, vacuum=vacuum)
        final, converged = relaxed(slab, calculator, fmax=FMAX, max_steps=_STEPS)
        rows.append(
            {
                "atoms": len(slab),
                "thickness": thickness(slab),
                "unrelaxed": energy(calculator, slab) - len(slab) * bulk,
                "relaxed": energy(calculator, final) - len(slab) * bulk,
                "converged": converged,
            }
        )
    return {"area": stack.area, "rows": rows}


def _judge(context: Context, subject: str, result: dict[str, Any], figures: list[Figure]) -> list[Metric]:
    rows, area = result["rows"], result["area"]
    count = np.array([row["atoms"] for row in rows], dtype=float)
    slope, intercept = np.polyfit(count, [row["relaxed"] for row in rows], 1)
    _, unrelaxed = np.polyfit(count, [row["unrelaxed"] for row in rows], 1)
    to_joule = _JOULE / (2 * area)
    excess = np.array([row["relaxed"] for row in rows])
    pairs = to_joule * (excess[:-1] - np.diff(excess) / np.diff(count) * count[:-1])
    unfinished = [row["atoms"] for row in rows if not row["converged"]]
    span = f"{rows[0]['thickness']:.1f} to {rows[-1]['thickness']:.1f} Å"
    detail = f"{len(rows)} slabs, {span}; {1000 * intercept / (2 * area):.1f} meV/Å²"
    value = intercept * to_joule
    if unfinished:
        value, detail = float("nan"), f"the slab of {unfinished[0]} atoms did not relax to {FMAX} eV/Å, or fell apart"
    figures.append(
        Figure(
            f"Slabs of {subject}",
            "atoms",
            "(E − N e) / 2A, J/m²",
            [
                Series(state, count.tolist(), [row[state] * to_joule for row in rows])
                for state in ("relaxed", "unrelaxed")
            ],
        )
    )
    return [
        Metric("surface energy", subject, float(value), "J/m²", lower=0.0, detail=detail),
        Metric("surface energy, unrelaxed", subject, float(unrelaxed * to_joule), "J/m²", detail="same slabs, as cut"),
        Metric(
            "surface relaxation energy", subject, min(row["unrelaxed"] - row["relaxed"] for row in rows), "eV",
            lower=-1e-3, detail="least of the slabs: a relaxation lowers the energy",
        ),
        Metric(
            "bulk energy from slabs", subject, 1000.0 * abs(float(slope)), "meV/atom",
            upper=context.limit("surface", "bulk energy from slabs", BULK_LIMIT),
            detail="slope of the slabs' energies minus the energy of the crystal",
        ),
        Metric(
            "surface energy change with thickness", subject, float(abs(pairs[-1] - pairs[-2])), "J/m²",
            upper=context.limit("surface", "surface energy change with thickness", CHANGE_LIMIT),
            detail="of the last two pairs of slabs: " + ", ".join(f"{p:.3f}" for p in pairs) + " J/m²",
        ),
    ]  # fmt: skip


def evaluations(context: Context) -> float:
    """Evaluations times atoms: three facets, three thicknesses, some 20 steps each."""
    return sum(3.0 * 20.0 * 1.8 * context.max_atoms for _ in crystals(context.structures))


SUITE = Suite(
    name="surface",
    title="Surface energies",
    purpose="Energies of low-index surfaces are positive and converge with the thickness of the slab.",
    category="B",
    run=run,
    evaluations=evaluations,
    tiers=frozenset({Tier.STANDARD, Tier.FULL}),
    requires=("spglib",),
)
