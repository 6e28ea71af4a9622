"""Relaxation: does the potential keep the structures of the domain, and their symmetry?

Every structure is relaxed to 1e-3 eV/Å, crystals with their cell. A crystal begins once as given, where forces by
symmetry keep the symmetry of any invariant potential, and once displaced at random, from where only a potential whose
minimum has that symmetry comes back to it.
"""

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError

from hydrapot.validation.crystals import is_crystal, primitive_cell, space_group
from hydrapot.validation.guarded import GuardedCalculator, PotentialFailure, failed, guarded
from hydrapot.validation.metrics import Metric, Outcome, skipped
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.stability import stability
from hydrapot.validation.suite import Context, Suite, Tier

#: eV/Å.
FMAX = 1e-3
MAX_STEPS = 500
#: GPa; what is left of the stress of a relaxed cell. The optimizer's criterion is FMAX on Volume × stress per atom, in eV:
#: 0.01 GPa for 16 Å³ per atom.
STRESS_LIMIT = 0.1
#: %; of a structure that the domain gives. Functionals differ by 5 %; a potential that swells a crystal by 10 % does
#: not know it.
VOLUME_LIMIT = 10.0
#: Å; standard deviation of a random displacement of every coordinate.
RATTLE = 0.05
#: Å; below the displacement, above what a force of FMAX leaves at a soft spring constant of 0.05 eV/Å².
TOLERANCE = 0.03


def run(context: Context) -> Outcome:
    """Relax every structure of the domain."""
    metrics: list[Metric] = []
    for name, atoms in context.structures.items():
        if len(atoms) == 1 and not atoms.pbc.any():
            metrics.append(skipped("largest force after relaxation", name, "a single atom", unit="eV/Å"))
            continue
        metrics += _structure(context, name, atoms)
    note = (
        f"Space groups are found with a tolerance of {TOLERANCE} Å (spglib); displaced: every coordinate by "
        f"{RATTLE} Å (standard deviation) before the relaxation."
    )
    return Outcome(metrics, notes=[note])


def _structure(context: Context, name: str, atoms: Atoms) -> list[Metric]:
    calculator = guarded(context.subject.calculator())
    cell = is_crystal(atoms)
    try:
        # `relaxed` raises nothing; what the potential says to the structure as given names the reason.
        for quantity in ("forces", *(("stress",) if cell else ())):
            calculator.ask(quantity, atoms)
    except PotentialFailure as error:
        return [failed("largest force after relaxation", name, error, unit="eV/Å")]
    except PropertyNotImplementedError:
        return [
            skipped("largest force after relaxation", name, "the potential has no forces or no stress", unit="eV/Å")
        ]
    final, converged = _relax(context, atoms, calculator)
    state = f"relaxed with{'' if cell else 'out'} the cell"
    metrics = [_force(context, name, final, converged=converged, detail=state)]
    if cell:
        metrics += _crystal(context, name, atoms, final)
        metrics.append(_displaced(context, name, final))
    return metrics


def _relax(context: Context, atoms: Atoms, calculator: GuardedCalculator) -> tuple[Atoms, bool]:
    fmax = context.limit("relaxation", "largest force after relaxation", _fmax(context))
    final, converged = relaxed(atoms, calculator, fmax=fmax, cell=is_crystal(atoms), max_steps=MAX_STEPS)
    final.calc = calculator
    return final, converged


def _fmax(context: Context) -> float:
    # Forces of single precision carry an error of some 1e-6 of the largest contributions, about 10 eV/Å each.
    return max(FMAX, min(1e-2, 1e3 * context.subject.resolution))


def _force(context: Context, name: str, final: Atoms, *, converged: bool, detail: str) -> Metric:
    limit = context.limit("relaxation", "largest force after relaxation", _fmax(context))
    try:
        force = float(np.linalg.norm(final.get_forces(), axis=1).max())
    except PotentialFailure as error:
        return failed("largest force after relaxation", name, error, unit="eV/Å")
    if not converged:
        # The cell may be what did not converge: then the force alone would look fine.
        detail = f"not converged in {MAX_STEPS} steps, or blown up; largest force {force:.2g} eV/Å"
        return Metric("largest force after relaxation", name, float("nan"), "eV/Å", upper=limit, detail=detail)
    return Metric("largest force after relaxation", name, force, "eV/Å", upper=limit, detail=detail)


def _crystal(context: Context, name: str, atoms: Atoms, final: Atoms) -> list[Metric]:
    """Stress, volume and space group of a crystal that was relaxed from where it was given."""
    try:
        stress = float(np.abs(final.get_stress()).max() / units.GPa)
    except PotentialFailure as error:
        return [failed("largest stress after relaxation", name, error, unit="GPa")]
    change = 100.0 * (final.get_volume() / atoms.get_volume() - 1.0)
    given = bool(context.domain.structures)  # default structures have guessed lattice constants
    limit = context.limit("relaxation", "volume change", VOLUME_LIMIT) if given else None
    before, after = space_group(atoms, tolerance=TOLERANCE), space_group(final, tolerance=TOLERANCE)
    return [
        Metric("largest stress after relaxation", name, stress, "GPa", upper=STRESS_LIMIT),
        Metric(
            "volume change", name, change, "%", lower=None if limit is None else -limit, upper=limit,
            detail=f"{final.get_volume() / len(final):.4f} Å³/atom"
        ),
        _symmetry("space group", name, before, after, "relaxed from the structure as given"),
    ]  # fmt: skip


def _displaced(context: Context, name: str, final: Atoms) -> Metric:
    """Whether the relaxed structure comes back to its symmetry after a random displacement of all atoms."""
    quantity = "space group after displacement"
    before = space_group(final, tolerance=TOLERANCE)
    if before[0] <= 2:
        return skipped(quantity, name, f"{before[1]}: no symmetry that could be lost", unit="number")
    # Two atoms at least: a displacement of a single atom is a translation.
    cell = primitive_cell(final)
    if len(cell) < 4:
        cell = cell.repeat(2)
    if len(cell) > context.max_atoms:
        return skipped(quantity, name, f"{len(cell)} atoms in the cell, more than this tier allows", unit="number")
    cell.info = dict(final.info)
    cell.positions += RATTLE * np.random.default_rng(context.seeds[0]).normal(size=(len(cell), 3))
    back, converged = _relax(context, cell, guarded(context.subject.calculator()))
    detail = "relaxed from displaced atoms" + ("" if converged else "; not converged")
    return stability(context, _symmetry(quantity, name, before, space_group(back, tolerance=TOLERANCE), detail))


def _symmetry(quantity: str, name: str, before: tuple[int, str], after: tuple[int, str], detail: str) -> Metric:
    words = f"{before[1]} before, {after[1]} after; {detail}"
    return Metric(quantity, name, after[0], "number", lower=before[0], upper=before[0], detail=words)


def evaluations(context: Context) -> float:
    """Evaluations times atoms: some 15 steps as given, 38 displaced (at least eight atoms)."""
    return sum(
        15 * len(a) + (38 * min(max(len(a), 8), context.max_atoms) if is_crystal(a) else 0)
        for a in context.structures.values()
    )


SUITE = Suite(
    name="relaxation",
    title="Relaxation",
    purpose="The structures of the domain are minima of the potential, with their symmetry.",
    category="B",
    run=run,
    evaluations=evaluations,
    tiers=frozenset({Tier.STANDARD, Tier.FULL}),
    requires=("spglib",),
)
