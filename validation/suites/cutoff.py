"""A neighbor comes and goes without a trace: no jump of energy or force at the cutoff, or where neighbors change ranks.

Paths on which the set of neighbors changes:

* a dimer, and two molecules, from just beyond the cutoff inwards;
* an atom of a crystal on its way to the octahedral hole: many neighbors cross the cutoff and change their order;
* an atom of a compressed crystal, with more neighbors than any usual cap, on the same way: for every n up to their
  number, another atom becomes the n-th nearest.

Along each, energy differences are compared with the work of the forces in ever smaller panels (a jump stays, everything
else falls), and the largest change of the force is followed into ever smaller intervals. For a checkpoint of ours energy
and force also have to vanish as the third and second power of the distance to the cutoff; of a foreign calculator, whose
exact cutoff is not known, that is not asked.
"""

from collections.abc import Iterable

import numpy as np
from ase import Atoms
from ase.build import bulk
from numpy.typing import NDArray

from hydrapot.potential.errors import HydrapotError
from hydrapot.validation import static
from hydrapot.validation.derivatives import check_continuity
from hydrapot.validation.evaluators import Evaluator, PotentialEvaluator
from hydrapot.validation.guarded import PotentialFailure
from hydrapot.validation.locality import check_cutoff_of_dimer, check_cutoff_of_edge, check_cutoff_of_fragments
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.static import Widening
from hydrapot.validation.structures import bond, cluster, representative, spacing
from hydrapot.validation.suite import ALL_TIERS, Context, Suite, Tier

Array = NDArray[np.float64]

#: eV, of max(1 eV/Å, largest force along the path) · 1 Å: a jump of the energy, which every crossing adds to a trajectory.
#: At 1e-6 eV, ten crossings per atom and picosecond of random sign are 3e-6 eV/atom after one picosecond.
ENERGY_LIMIT = 1e-6
#: Of max(1 eV/Å, largest force): change of the force within an interval of 1e-6 Å, above what its slope gives.
FORCE_LIMIT = 1e-4
_INTERVAL, _COARSE_INTERVAL = 1e-6, 1e-3  # Å
_COARSE_ABOVE = 1e-10
WIDENING = {"energy jump": Widening(200, 1e-4), "force jump": Widening(3e4, 3e-3)}
#: Neighbors of an atom of the compressed crystal, at least; caps of published potentials are 12, 20, 32, 50, 64.
NEIGHBORS = {Tier.SMOKE: 100, Tier.STANDARD: 140, Tier.FULL: 200}
_SAMPLES = 160
#: eV/Å; where forces are larger, a network is asked about what no trajectory reaches, and extrapolates wildly (hydrapot-s with
#: 100 neighbors of Cu: 1e7 eV/Å). Fewer neighbors have to do then.
_MODERATE = 3e2


def run(context: Context) -> Outcome:
    """Jumps along the paths; exponents at the cutoff for a checkpoint."""
    exact = static.evaluator(context)
    metrics: list[Metric] = []
    figures: list[Figure] = []
    for name, atoms, direction, length in paths(context):
        metrics += static.attempt(
            "energy jump",
            name,
            lambda name=name, atoms=atoms, direction=direction, length=length: _jumps(  # type: ignore[misc]
                context, exact, atoms, direction, length=length, subject=name, figures=figures
            ),
            legal=static.is_legal(context, atoms) and len(atoms) > 2,
        )
    if isinstance(exact, PotentialEvaluator):
        metrics += static.attempt("cutoff energy", "", lambda: _exponents(context, exact))
    else:
        reason = "the exact cutoff of a foreign calculator is not known"
        metrics += [skipped(name, "dimer", reason) for name in ("cutoff energy", "cutoff force")]
    return Outcome(metrics, figures)


def paths(context: Context) -> list[tuple[str, Atoms, Array, float]]:
    """Name, structure, direction of every atom (a unit vector for those that move) and length (Å) of each path."""
    known, cutoff = static.elements(context), context.subject.cutoff
    chosen = representative(known)
    found: list[tuple[str, Atoms, Array, float]] = []
    pairs = [(z, z) for z in chosen] + ([(chosen[0], chosen[-1])] if len(chosen) > 1 else [])
    for a, b in pairs[:1] + pairs[-1:] if context.tier is Tier.SMOKE and len(pairs) > 1 else pairs:
        dimer = Atoms([a, b], positions=[[0, 0, 0], [cutoff + 0.07, 0, 0]])
        found.append((f"dimer {dimer.symbols}", dimer, _only(dimer, [1], [-1.0, 0.0, 0.0]), 0.4 * cutoff))
    first = cluster(chosen, cutoff=cutoff, size=5, seed=context.seeds[0])
    second = cluster(chosen[::-1], cutoff=cutoff, size=4, seed=context.seeds[0] + 1)
    second.positions[:, 0] += first.positions[:, 0].max() - second.positions[:, 0].min() + cutoff + 0.07
    moving = list(range(len(first), len(first) + len(second)))
    both = first + second
    found.append(("two molecules", both, _only(both, moving, [-1.0, 0.0, 0.0]), 0.4 * cutoff))
    way = np.array([0.99, 0.11, 0.09])
    crystal = static.made(context)["crystal"]
    found.append(("crystal", crystal, _only(crystal, [0], way), 0.4 * float(crystal.cell.lengths()[0])))
    for name in list(context.structures)[: 1 if context.tier is Tier.SMOKE else 3]:
        atoms = context.repeated(name, max_atoms=16)
        if atoms.pbc.all() and len(atoms) > 1:
            atoms.positions += 0.03 * np.random.default_rng(context.seeds[0]).normal(size=atoms.positions.shape)
            found.append((name, atoms, _only(atoms, [0], way), 1.0))
    found.append(_dense_path(context, chosen, way))
    return found


def _dense_path(context: Context, chosen: list[int], way: Array) -> tuple[str, Atoms, Array, float]:
    """The path in a compressed crystal: as many neighbors as asked for, or as the potential bears."""
    exact, most = static.evaluator(context), NEIGHBORS[context.tier]
    for neighbors in (most, most * 3 // 4, most // 2, most // 3):
        dense = compressed(chosen, cutoff=context.subject.cutoff, neighbors=neighbors, seed=context.seeds[0])
        direction, length = _only(dense, [0], way), 0.2 * float(dense.cell.lengths()[0])
        middle, end = dense.copy(), dense.copy()
        middle.positions += 0.5 * length * direction
        end.positions += length * direction
        try:
            with static.quiet():
                forces = max(float(np.abs(exact(atoms).forces).max()) for atoms in (dense, middle, end))
        except (PotentialFailure, HydrapotError):
            break  # reported by the attempt to go along the path
        if forces < _MODERATE:
            break
    return f"crystal of {neighbors} neighbors", dense, direction, length


def compressed(elements: list[int], *, cutoff: float, neighbors: int, seed: int = 0) -> Atoms:
    """A rattled fcc crystal, cubic cell, with at least so many neighbors within the cutoff, but not denser than it has to."""
    # (4π/3) r³ · √2/d³ neighbors at a nearest distance d; one shell more than that for safety.
    densest = cutoff * (4.0 * np.pi * np.sqrt(2.0) / 3.0 / (1.1 * neighbors)) ** (1.0 / 3.0)
    distance = min(float(densest), spacing(elements, cutoff=cutoff))
    crystal = bulk("Cu", a=np.sqrt(2.0) * distance, cubic=True)
    # One element: the smallest, which is compressed least.
    smallest = min(elements, key=lambda z: bond(z, z, cutoff=cutoff))
    crystal.numbers[:] = smallest
    crystal.positions += 0.02 * distance * np.random.default_rng(seed).normal(size=crystal.positions.shape)
    return crystal


def _only(atoms: Atoms, moving: list[int], direction: Iterable[float]) -> Array:
    field = np.zeros((len(atoms), 3))
    unit = np.array(list(direction))
    field[moving] = unit / np.linalg.norm(unit)
    return field


def _jumps(
    context: Context,
    exact: Evaluator,
    atoms: Atoms,
    direction: Array,
    *,
    length: float,
    subject: str,
    figures: list[Figure],
) -> list[Metric]:
    upper = static.limit(context, "cutoff", "energy jump", ENERGY_LIMIT, WIDENING)
    # A tenth of the limit: what is found is then a jump, not what the quadrature leaves.
    check = check_continuity(exact, atoms, direction, length=length, subject=subject, limit=0.1 * upper)
    jump, place, (ts, along) = force_jump(
        exact, atoms, direction, length=length, interval=_interval(context.subject.resolution)
    )
    if len(figures) < 6:
        line = Series("force along the path", ts.tolist(), along.tolist())
        figures.append(Figure(f"Neighbors come and go: {subject}", "path (Å)", "force along the path (eV/Å)", [line]))
    return [
        Metric(
            "energy jump",
            subject,
            check.measured,
            "eV, of max(1, largest force · Å/eV)",
            upper=upper,
            detail=check.detail,
        ),
        Metric(
            "force jump",
            subject,
            jump,
            "of max(1 eV/Å, largest force)",
            upper=static.limit(context, "cutoff", "force jump", FORCE_LIMIT, WIDENING),
            detail=f"largest change within {_interval(context.subject.resolution):g} Å, at {place:.5f} Å on the path",
        ),
    ]


def _interval(resolution: float) -> float:
    return _COARSE_INTERVAL if resolution > _COARSE_ABOVE else _INTERVAL


def force_jump(
    evaluator: Evaluator, atoms: Atoms, direction: Array, *, length: float, interval: float
) -> tuple[float, float, tuple[Array, Array]]:
    """The largest change of any force within `interval` (Å) along a path, of max(1, largest force); where; and a curve.

    From samples along the path the three intervals with the largest *second* difference of the forces (a jump stands out
    there, a steep slope does not), each halved down to `interval`; what the mean slope of its surroundings
    would give is taken off.
    """

    def forces(ts: Array) -> Array:
        structures = []
        for t in ts:
            moved = atoms.copy()
            moved.positions += t * direction
            structures.append(moved)
        return np.array([r.forces for r in evaluator.many(structures)])

    ts = np.linspace(0.0, length, _SAMPLES)
    sampled = forces(ts)
    scale = max(1.0, float(np.abs(sampled).max()))
    steps = np.diff(sampled, axis=0)
    surprise = np.zeros(len(steps))
    bend = np.abs(np.diff(steps, axis=0)).max(axis=(1, 2))
    surprise[:-1] = bend
    surprise[1:] = np.maximum(surprise[1:], bend)
    # A jump shows in two neighboring second differences, so that it is among the three or four largest.
    worst, place = 0.0, 0.0
    for k in np.argsort(-np.nan_to_num(surprise, nan=np.inf))[:4]:
        low, high = float(ts[k]), float(ts[k + 1])
        ends = sampled[k], sampled[k + 1]
        while high - low > interval:
            middle = 0.5 * (low + high)
            (center,) = forces(np.array([middle]))
            left, right = np.abs(center - ends[0]).max(), np.abs(ends[1] - center).max()
            if not right > left:
                high, ends = middle, (ends[0], center)
            else:
                low, ends = middle, (center, ends[1])
        width = high - low
        before, after = forces(np.array([low - width, high + width]))
        slope = 0.5 * ((ends[0] - before) + (after - ends[1]))
        change = float(np.abs(ends[1] - ends[0] - slope).max()) / scale
        if not change <= worst:
            worst, place = change, low
    return worst, place, (ts, np.sum(sampled * direction, axis=(1, 2)))


def _exponents(context: Context, exact: PotentialEvaluator) -> list[Metric]:
    chosen, cutoff = representative(static.elements(context)), context.subject.cutoff
    pairs = [(a, b) for a in chosen for b in chosen if a <= b]
    if context.tier is Tier.SMOKE:
        pairs = [(chosen[0], chosen[-1])]
    checks = []
    for a, b in pairs:
        checks += check_cutoff_of_dimer(exact, a, b, subject=f"dimer {Atoms([a, b]).symbols}")
    first = cluster(chosen, cutoff=cutoff, size=5, seed=1)
    second = cluster(chosen[::-1], cutoff=cutoff, size=4, seed=2)
    checks += check_cutoff_of_fragments(exact, first, second, subject="two molecules")
    checks += check_cutoff_of_edge(exact, static.made(context)["crystal"], subject="one edge of a crystal")
    return static.widened(checks, context, "cutoff", WIDENING)


def evaluations(context: Context) -> float:
    """Panels and samples of some seven paths."""
    return (5 if context.tier is Tier.SMOKE else 9) * (_SAMPLES + 6 * 50 + 150) * 6.0


SUITE = Suite(
    name="cutoff",
    title="Cutoff",
    purpose="No jump of energy or force where a neighbor enters, leaves or changes its rank",
    category="A",
    run=run,
    evaluations=evaluations,
    tiers=ALL_TIERS,
)
