"""What a calculator does not say about itself: its cutoff, its receptive field, the rounding of its numbers.

Everything is found from energies and forces of small structures. Calculators that refuse lone atoms, or structures without a
cell, are asked about the same atoms in a large periodic box.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation.structures import bond, cluster, representative, standard_structures

logger = logging.getLogger(__name__)

#: Å. Nothing further is looked for; a potential that reaches beyond is treated as if it ended here.
FARTHEST = 20.0
#: Å; step of the scan. A pair interacts visibly half a step inside of its cutoff.
_STEP = 0.5
#: Å; to this the end of an interaction is located.
_PRECISION = 1e-6
#: Å; a smooth interaction cannot be seen in its last few hundredths. A cutoff is hardly ever not a round number.
_ROUND, _UNSEEN = 0.1, 0.04
#: Å; longest bond from which the scale of structures is taken before the cutoff is known.
_USUAL_CUTOFF = 5.0
#: Longest chain of bridges that is tried, in cutoffs on either side of an atom.
_MOST_LAYERS = 6
#: Rounding below this is float64 with an unlucky sum, or a knot of a spline.
_DOUBLE_CLASS = 1e-10
_EPS64 = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class _Reply:
    energy: float
    forces: NDArray[np.float64]


def find_cutoff(calculator: Calculator, elements: Sequence[int]) -> float:
    """Largest distance at which two atoms interact, Å.

    Dimers of up to three of the elements (spread from the lightest to the heaviest) are brought in from
    :data:`FARTHEST`. An interaction that ends smoothly is lost in rounding shortly before its end; there the
    next multiple of 0.1 Å is returned when it is at most 0.04 Å further.

    Raises
    ------
    ConfigurationError
        Dimers cannot be evaluated, or atoms do not interact at all.
    """
    ends = [_end_of_dimer(calculator, a, b) for a, b in _pairs(elements)]
    found = max(ends)
    if found <= 0.0:
        raise ConfigurationError("the cutoff cannot be measured with dimers of these elements: state it with --cutoff")
    return found


def find_receptive_field(calculator: Calculator, elements: Sequence[int], *, cutoff: float) -> float:
    """Distance (Å) from which the energy of an atom can depend on another one, in whole cutoffs.

    In a zigzag chain whose atoms see their neighbors only, an atom is moved. Where forces change up to the
    k-th neighbor, energies reach half as far, since the two atoms may meet in the energy of one between them.
    Signals below the rounding are not seen: the result is a lower bound then.
    """
    hops = max(_farthest_hop(calculator, z, cutoff=cutoff) for z in representative(list(elements)))
    return cutoff * max(1, (hops + 1) // 2)


def find_resolution(calculator: Calculator, elements: Sequence[int], *, cutoff: float) -> float:
    """Rounding of energies (per 1 eV/atom, the order of a bond) and forces (per the largest, or 1 eV/Å).

    Returns
    -------
    2.2e-16 for a float64 calculator; for any other what was measured, at least the rounding of the type in
    which its numbers can be represented exactly. The measurement is the scatter (root mean square) of energies
    and forces about a cubic along a path of 2e-5 Å. A total energy that carries thousands of eV of reference
    energies in float32 thus counts as what it is: coarse.

    Raises
    ------
    ConfigurationError
        No test structure could be evaluated.
    """
    chosen = representative(list(elements))
    made = standard_structures(chosen, cutoff=cutoff)
    trials = (made["crystal"], made["skewed"], cluster(chosen, cutoff=cutoff, size=5, seed=3))
    found = [scatter for atoms in trials if (scatter := _scatter(calculator, atoms)) is not None]
    if not found:
        raise ConfigurationError("the calculator gives neither energy nor forces of simple structures of its elements")
    worst = max(found)
    return _EPS64 if worst < _DOUBLE_CLASS else worst


# --- dimers -----------------------------------------------------------------------------------------------------------
def _pairs(elements: Sequence[int]) -> list[tuple[int, int]]:
    chosen = representative(list(elements))
    pairs = [(z, z) for z in chosen]
    return pairs if len(chosen) == 1 else [*pairs, (chosen[0], chosen[-1])]


def _end_of_dimer(calculator: Calculator, a: int, b: int) -> float:
    """Where the interaction of a pair ends, Å; 0 when none is seen."""
    axis = np.array([2.0, 1.0, 0.7]) / np.linalg.norm([2.0, 1.0, 0.7])  # no component of the force vanishes

    def dimer(distance: float) -> Atoms:
        return Atoms([a, b], positions=[np.zeros(3), distance * axis])

    ask = _way_to_ask(calculator, dimer(bond(a, b, cutoff=_USUAL_CUTOFF)))
    if ask is None:
        pair = f"{chemical_symbols[a]}-{chemical_symbols[b]}"
        raise ConfigurationError(
            f"the calculator cannot evaluate a {pair} dimer, also not in a box: state --cutoff and --elements"
        )
    apart = [reply for d in (2.0, 2.3, 2.7) if (reply := ask(dimer(d * FARTHEST))) is not None]

    def interacts(distance: float) -> bool:
        reply = ask(dimer(distance))
        if reply is None:
            return False  # refused as two lone atoms
        if not apart:
            return True
        noise = float(np.ptp([r.energy for r in apart]))
        tolerance = 4.0 * noise + 8.0 * _EPS64 * abs(apart[0].energy) + 1e-300
        push = float(np.abs(reply.forces).max())
        usual = max(float(np.abs(r.forces).max()) for r in apart)
        return not (abs(reply.energy - apart[0].energy) <= tolerance and push <= 4.0 * usual + 1e-300)

    outside, inside = FARTHEST, FARTHEST
    while not interacts(inside):
        outside, inside = inside, inside - _STEP
        if inside < _STEP:
            return 0.0
    if inside == FARTHEST:
        logger.warning("atoms %g Å apart still interact: treated as the cutoff", FARTHEST)
        return FARTHEST
    while outside - inside > _PRECISION:
        middle = 0.5 * (outside + inside)
        outside, inside = (outside, middle) if interacts(middle) else (middle, inside)
    if not apart:
        return float(outside)
    return _rounded(outside, jump=_jumps(ask, dimer, inside, apart=apart[0].energy))


def _jumps(ask: "_Ask", dimer: Callable[[float], Atoms], inside: float, *, apart: float) -> bool:
    """Whether energy or force end in a step: a little further in they are hardly larger.

    A smooth one, of which up to :data:`_UNSEEN` is lost, grows there at least as (0.06/0.04)¹.
    """
    at_end, deeper = ask(dimer(inside)), ask(dimer(inside - 0.5 * _UNSEEN))
    if at_end is None or deeper is None:
        return False
    by_energy = abs(at_end.energy - apart) > 0.7 * abs(deeper.energy - apart)
    return by_energy or float(np.abs(at_end.forces).max()) > 0.7 * float(np.abs(deeper.forces).max())


def _rounded(distance: float, *, jump: bool) -> float:
    rounded = round(float(np.ceil((distance - _PRECISION) / _ROUND)) * _ROUND, 6)
    unseen = _UNSEEN if not jump else 1e-5
    return rounded if rounded - distance <= unseen else float(distance)


# --- chains -----------------------------------------------------------------------------------------------------------
def _farthest_hop(calculator: Calculator, number: int, *, cutoff: float) -> int:
    """Number of neighbors over which the force changes when the first atom of a chain moves."""
    size = 2 * _MOST_LAYERS + 2
    rng = np.random.default_rng(5)
    positions = np.zeros((size, 3))
    positions[:, 0] = 0.56 * cutoff * np.arange(size)  # next-nearest neighbors are 1.1 cutoffs apart
    positions[:, 1] = 0.1 * cutoff * (np.arange(size) % 2)
    positions += 0.005 * cutoff * rng.uniform(-1, 1, size=(size, 3))
    chain = Atoms([number] * size, positions=positions)
    ask = _way_to_ask(calculator, chain)
    if ask is None:
        return 1
    moved = chain.copy()
    moved.positions[0] += 0.04 * cutoff * np.array([0.6, -0.5, 0.62])
    shifted = []
    for _ in range(3):
        copy = chain.copy()
        copy.positions += rng.uniform(-1, 1, size=3)
        shifted.append(ask(copy))
    before, after = ask(chain), ask(moved)
    if before is None or after is None or any(reply is None for reply in shifted):
        return 1
    noise = max(float(np.abs(reply.forces - before.forces).max()) for reply in shifted if reply is not None)
    changed = np.flatnonzero(np.abs(after.forces - before.forces).max(axis=1) > 4.0 * noise + 1e-300)
    return int(changed.max()) if len(changed) else 0


# --- rounding ---------------------------------------------------------------------------------------------------------
def _scatter(calculator: Calculator, atoms: Atoms) -> float | None:
    """Scatter of energies and forces along a short path; None when they cannot be had."""
    ask = _way_to_ask(calculator, atoms)
    if ask is None:
        return None
    rng = np.random.default_rng(7)
    direction = rng.normal(size=(len(atoms), 3))
    direction /= np.abs(direction).max()
    t = np.linspace(-1.0, 1.0, 25)
    energies, forces = [], []
    for along in t:
        moved = atoms.copy()
        moved.positions += 1e-5 * along * direction
        reply = ask(moved)
        if reply is None:
            return None
        energies.append(reply.energy)
        forces.append(reply.forces.ravel())
    worst = 0.0
    pairs = (
        (np.array(energies)[:, None], float(len(atoms))),
        (np.array(forces), max(1.0, float(np.abs(forces).max()))),
    )
    for values, scale in pairs:
        centered = values - values[0]
        fitted = np.polynomial.chebyshev.chebval(t, np.polynomial.chebyshev.chebfit(t, centered, 3)).T
        worst = max(worst, float(np.sqrt(np.mean((centered - fitted) ** 2))) / scale, _type_rounding(values))
    return worst


def _type_rounding(values: NDArray[np.float64]) -> float:
    """Rounding of the smallest type that holds all numbers; 0 for float64."""
    nonzero = values[values != 0.0]
    if len(nonzero) < 4:
        return 0.0
    mantissa = np.frexp(nonzero)[0]
    for bits in (8, 11, 24):  # bfloat16, float16, float32
        if np.all(np.ldexp(mantissa, bits) % 1.0 == 0.0):
            return float(2.0 ** (1 - bits))
    return 0.0


# --- asking -----------------------------------------------------------------------------------------------------------
_Ask = Callable[[Atoms], _Reply | None]


def _way_to_ask(calculator: Calculator, example: Atoms) -> _Ask | None:
    """A function that evaluates structures like `example`, in a box if need be; None when neither works.

    It returns None where the calculator raises.
    """

    def plain(atoms: Atoms) -> _Reply | None:
        return _reply(calculator, atoms)

    def boxed(atoms: Atoms) -> _Reply | None:
        inside = atoms.copy()
        inside.center(vacuum=0.75 * FARTHEST)
        inside.pbc = True
        return _reply(calculator, inside)

    if plain(example) is not None:
        return plain
    return boxed if not example.pbc.any() and boxed(example) is not None else None


def _reply(calculator: Calculator, atoms: Atoms) -> _Reply | None:
    atoms = atoms.copy()
    atoms.calc = calculator
    try:
        with warnings.catch_warnings():  # structures that nobody trained on: the calculator may well complain
            warnings.simplefilter("ignore")
            reply = _Reply(float(atoms.get_potential_energy()), np.array(atoms.get_forces(), dtype=np.float64))
    except Exception as error:  # noqa: BLE001 - calculators raise what they like
        logger.debug("%s: %s", atoms.symbols, error)
        return None
    return reply if np.isfinite(reply.energy) and np.isfinite(reply.forces).all() else None
