"""Atoms repel at short distance: a wall, monotone, without holes that a fast atom or a random start would fall into.

Dimers from 1.2 down to 0.3 sums of the covalent radii, and crystals compressed to a quarter of their volume. Data of
equilibrium structures know nothing of either, which is why networks without a repulsive term often turn attractive there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hydrapot.potential.errors import HydrapotError
from hydrapot.validation import static
from hydrapot.validation.evaluators import Evaluator
from hydrapot.validation.guarded import PotentialFailure
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.structures import perfect_crystal, radius, representative
from hydrapot.validation.suite import ALL_TIERS, Context, Suite, Tier

Array = NDArray[np.float64]

#: Distances of a dimer, in sums of the covalent radii, outermost first.
REDUCED = np.linspace(1.2, 0.3, 31)
#: Here every pair has to repel: bonds are hardly shorter than 0.6 (Cr2), and atoms in MD not closer than 0.5.
CLOSE = 0.5
#: eV; by which a dimer at CLOSE lies above its minimum, if an atom of 10 eV shall not pass. Controls: EMT at least 3, EAM 6.
HEIGHT = 1.0
#: eV/Å; a smaller force has no sign. Tails of dimers may oscillate by less.
NOISE = 0.02
#: eV above the minimum; a wall is not judged further in than this, where no thermal atom gets.
CEILING = 50.0
#: eV/atom; a crystal's energy that falls by less on the way inwards does not fall: shallow wiggles of soft crystals.
_SHALLOW = 1e-3
#: V/V₀ of a compressed crystal.
VOLUMES = np.linspace(1.0, 0.25, 16)


@dataclass(frozen=True)
class Wall:
    """What one dimer shows.

    Attributes
    ----------
    pair
        Symbols.
    flips
        Changes of the force's sign beyond those of one minimum.
    attracts
        Whether it attracts when close.
    height
        eV; energy when close above the minimum outside of that.
    barrier
        eV; what has to be climbed from outside to the lowest hole; infinite without one.
    """

    pair: str
    flips: int
    attracts: bool
    height: float
    barrier: float = np.inf


def run(context: Context) -> Outcome:
    """Dimers of the elements (each with itself in the smoke tier, all pairs above) and compressed crystals."""
    exact = static.evaluator(context)
    known = static.elements(context)
    pairs = [(z, z) for z in known] if context.tier is Tier.SMOKE else list(combinations_with_replacement(known, 2))
    with static.quiet():
        metrics, figures = _dimers(context, exact, pairs)
        metrics += _solids(context, exact, figures)
    return Outcome(metrics, figures)


def wall(pair: str, distances: Array, energies: Array, forces: Array, *, close: float) -> Wall:
    """Flips, sign and height from a curve, outermost distance first; `forces` on the pair, positive when it repels.

    One change from attraction to repulsion on the way inwards is the minimum; every other change of sign is a flip.
    """
    if not (np.isfinite(energies).all() and np.isfinite(forces).all()):
        return Wall(pair, len(forces), attracts=True, height=float("nan"), barrier=0.0)
    at = int(np.argmin(np.abs(distances - close)))
    height = float(energies[at] - energies[: at + 1].min())
    # Up to where the wall is as high as anything gets.
    above = np.flatnonzero(energies - np.minimum.accumulate(energies) > CEILING)
    end = int(above[0]) + 1 if len(above) else len(energies)
    energies, forces, distances = energies[:end], forces[:end], distances[:end]
    clear = np.flatnonzero(np.abs(forces) > NOISE)
    signs = np.sign(forces[clear])
    changes = np.flatnonzero(np.diff(signs))
    first_minimum = bool(len(changes)) and signs[changes[0]] < 0
    flips = len(changes) - (1 if first_minimum else 0)
    # From repulsion to attraction on the way inwards: the rim of a hole.
    rims = [int(clear[k]) for k in changes if signs[k] > 0]
    barrier = min((float(energies[k] - energies[: k + 1].min()) for k in rims), default=np.inf)
    inside = distances <= close + 1e-9
    return Wall(pair, flips, bool((forces[inside] < NOISE).any()), height, barrier)


def _dimers(context: Context, exact: Evaluator, pairs: Sequence[tuple[int, int]]) -> tuple[list[Metric], list[Figure]]:
    axis = np.array([0.36, 0.48, 0.8])
    walls: list[Wall] = []
    curves: dict[str, tuple[Array, Array]] = {}
    refused: dict[str, str] = {}
    for a, b in pairs:
        distances = REDUCED * (radius(a) + radius(b))
        distances = distances[distances < 0.98 * context.subject.cutoff]
        name = str(Atoms([a, b]).symbols)
        dimers = [Atoms([a, b], positions=[np.zeros(3), d * axis]) for d in distances]
        try:
            results = exact.many(dimers)
        except (PotentialFailure, HydrapotError) as error:
            refused[name] = " ".join(str(error).split())[:120]
            continue
        energies = np.array([r.energy for r in results])
        forces = np.array([0.5 * (r.forces[1] - r.forces[0]) @ axis for r in results])
        walls.append(wall(name, distances, energies, forces, close=CLOSE * (radius(a) + radius(b))))
        curves[name] = (distances / (radius(a) + radius(b)), energies)
    metrics = []
    if refused:
        pair, reason = next(iter(refused.items()))
        line = f"{len(refused)} of {len(pairs)} pairs refused, e.g. {pair}: {reason}"
        if context.subject.head_info is not None:
            metrics.append(
                Metric("dimers refused", f"{len(pairs)} pairs", len(refused), "pairs", upper=0.0, detail=line)
            )
        else:
            metrics.append(skipped("dimers refused", f"{len(pairs)} pairs", line))
    if not walls:
        return metrics, []
    metrics += _summary(context, walls)
    return metrics, [_figure(walls, curves)]


def _summary(context: Context, walls: Sequence[Wall]) -> list[Metric]:
    subject = f"{len(walls)} pairs"
    flipping = sorted((w for w in walls if w.flips > 0), key=lambda w: -w.flips)
    attracting = [w for w in walls if w.attracts]
    lowest = min(walls, key=lambda w: w.height if np.isfinite(w.height) else -np.inf)

    def named(some: Sequence[Wall]) -> str:
        return "" if not some else f"{', '.join(w.pair for w in some[:12])}{' …' if len(some) > 12 else ''}"

    return [
        Metric(
            "dimers whose force flips",
            subject,
            len(flipping),
            "pairs",
            upper=context.limit("walls", "dimers whose force flips", 0.0),
            detail=named(flipping),
        ),
        Metric("force flips", subject, sum(w.flips for w in walls), "flips"),
        _barrier(subject, walls),
        Metric(
            "dimers that attract when close",
            subject,
            len(attracting),
            "pairs",
            upper=context.limit("walls", "dimers that attract when close", 0.0),
            detail=named(attracting) or f"closer than {CLOSE} sums of covalent radii",
        ),
        Metric(
            "height of the wall",
            subject,
            lowest.height,
            "eV",
            lower=context.limit("walls", "height of the wall", HEIGHT),
            detail=f"lowest: {lowest.pair}, at {CLOSE} sums of covalent radii above its minimum",
        ),
    ]


def _barrier(subject: str, walls: Sequence[Wall]) -> Metric:
    lowest = min(walls, key=lambda w: w.barrier)
    if not np.isfinite(lowest.barrier):
        return skipped("barrier before a hole", subject, f"no hole below {CEILING:g} eV", unit="eV")
    return Metric("barrier before a hole", subject, lowest.barrier, "eV", detail=f"lowest: {lowest.pair}")


def _figure(walls: Sequence[Wall], curves: dict[str, tuple[Array, Array]]) -> Figure:
    """The worst walls and one ordinary; energies on a scale that shows both well and wall."""
    order = sorted(walls, key=lambda w: (-w.flips, not w.attracts, w.height if np.isfinite(w.height) else -np.inf))
    shown = [w.pair for w in order[:5]] + ([order[-1].pair] if len(order) > 5 else [])
    series = [Series(pair, curves[pair][0].tolist(), np.arcsinh(curves[pair][1]).tolist()) for pair in shown]
    return Figure("Dimers with the weakest walls", "distance (sums of covalent radii)", "arsinh(energy / eV)", series)


def _solids(context: Context, exact: Evaluator, figures: list[Figure]) -> list[Metric]:
    solids: dict[str, Atoms] = {}
    for name, atoms in list(context.structures.items())[: 3 if context.tier is Tier.SMOKE else 8]:
        if atoms.pbc.all():
            solids[name] = context.repeated(name, max_atoms=8)
    if not solids:
        chosen = representative(static.elements(context), count=1)
        solids["made crystal"] = perfect_crystal(chosen, cutoff=context.subject.cutoff)
    metrics: list[Metric] = []
    series: list[Series] = []
    for name, atoms in solids.items():
        cells = []
        for ratio in VOLUMES:
            cell = atoms.copy()
            cell.set_cell(atoms.cell.array * ratio ** (1.0 / 3.0), scale_atoms=True)
            cells.append(cell)
        metrics += static.attempt(
            "falls of the energy",
            name,
            lambda name=name, cells=cells: _compressed(context, exact, name, cells, series),  # type: ignore[misc]
        )
    if series:
        figures.append(Figure("Compressed crystals", "V/V₀", "arsinh(energy / (eV/atom))", series))
    return metrics


def _compressed(
    context: Context, exact: Evaluator, name: str, cells: Sequence[Atoms], series: list[Series]
) -> list[Metric]:
    energies = np.array([exact(cell).energy / len(cell) for cell in cells])
    series.append(Series(name, VOLUMES.tolist(), np.arcsinh(energies).tolist()))
    # From the first rise on the way inwards the energy has to rise at every step: a second minimum is a collapsed crystal.
    inwards = np.diff(energies)
    rises = np.flatnonzero(inwards > _SHALLOW)
    start = int(rises[0]) if len(rises) else len(inwards)
    lowest = int(np.argmin(energies[: start + 1]))
    falls = int((inwards[start:] < -_SHALLOW).sum()) if np.isfinite(energies).all() else len(inwards)
    rise = float(energies[-1] - energies[lowest])
    return [
        Metric(
            "falls of the energy",
            f"{name} compressed",
            falls,
            "of 15 steps",
            upper=context.limit("walls", "falls of the energy", 0.0),
            detail=f"down to V/V₀ = {VOLUMES[-1]:.2f}; minimum at {VOLUMES[lowest]:.2f}",
        ),
        Metric(
            "rise on compression",
            f"{name} compressed",
            rise,
            "eV/atom",
            lower=context.limit("walls", "rise on compression", HEIGHT),
            detail=f"from the minimum to V/V₀ = {VOLUMES[-1]:.2f}",
        ),
    ]


def evaluations(context: Context) -> float:
    """31 distances for each pair, 16 volumes for each crystal."""
    n = len(static.elements(context))
    pairs = n if context.tier is Tier.SMOKE else n * (n + 1) // 2
    return 2.0 * len(REDUCED) * pairs + 8.0 * len(VOLUMES) * 5


SUITE = Suite(
    name="walls",
    title="Walls",
    purpose="Atoms repel at short distance, so that no trajectory falls into a hole that the data never showed",
    category="A",
    run=run,
    evaluations=evaluations,
    tiers=ALL_TIERS,
)
