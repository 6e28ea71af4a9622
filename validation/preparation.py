"""Structures to test on where the domain names none: what the potential was made for, near its own minimum."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.collections import g2
from ase.data import atomic_numbers
from ase.filters import FrechetCellFilter
from ase.neighborlist import neighbor_list
from ase.optimize import BFGS
from scipy.optimize import minimize_scalar

from hydrapot.validation.domain import Domain
from hydrapot.validation.prototypes import KNOWN_DISTANCES, NON_METALS, prototypes_of, scaled, usual_distance
from hydrapot.validation.structures import cluster
from hydrapot.validation.subject import Subject

logger = logging.getLogger(__name__)

#: A relaxation that changes the volume more than this, or brings atoms closer (Å), has left every minimum.
_MOST_VOLUME_RATIO, _LEAST_DISTANCE = 4.0, 0.4
#: Mean number of elements in a training structure up to which a head knows elements rather than compounds.
_ELEMENTAL = 1.2
#: What is chosen among the elements of a calculator of which no frequencies are known.
_PARTNERS = tuple(atomic_numbers[symbol] for symbol in ("O", "F", "Cl", "N", "S", "C"))
_METALS = tuple(atomic_numbers[symbol] for symbol in ("Mg", "Na", "Ca", "Al", "Ti", "Li", "Si", "Fe", "Ni", "Cu"))
#: Metals that make a 1:1 salt with a partner.
_SALTS = {
    8: ("Mg", "Ca", "Sr", "Ba", "Mn", "Fe", "Co", "Ni", "Zn", "Cd", "Be", "Ti", "V", "Cu"),
    16: ("Mg", "Ca", "Sr", "Ba", "Mn", "Fe", "Co", "Ni", "Zn", "Cd", "Be"),
    9: ("Li", "Na", "K", "Rb", "Cs", "Ag"),
    17: ("Li", "Na", "K", "Rb", "Cs", "Ag", "Cu"),
}
#: Nearest distances of usual minima, in sums of covalent radii.
_USUAL = (0.8, 1.4)
#: Lattices within this part of the energy on a coarse scan compete; those within so many eV/atom are equal.
_COMPETING, _EQUAL = 0.05, 2e-3


def relaxed(
    atoms: Atoms, calculator: Calculator, *, fmax: float = 1e-3, cell: bool = False, max_steps: int = 500
) -> tuple[Atoms, bool]:
    """A relaxed copy, and whether it converged.

    Parameters
    ----------
    atoms
        Left as it is. The copy has no calculator.
    fmax
        eV/Å; with `cell` also the bound on the strain derivatives, eV/atom.
    cell
        Relax the cell too, where there are three periodic directions.
    max_steps
        Steps of BFGS.

    Returns
    -------
    The last structure that is sane, and False when `max_steps` did not suffice, when the structure flew apart or
    collapsed, or when the calculator failed; nothing is raised.
    """
    copy = atoms.copy()
    copy.calc = calculator
    sane = atoms.copy()
    volume = atoms.get_volume() if atoms.pbc.all() else 1.0
    try:
        target: Any = FrechetCellFilter(copy) if cell and atoms.pbc.all() else copy
        with BFGS(target, logfile=None, maxstep=0.1) as optimizer:
            for converged in optimizer.irun(fmax=fmax, steps=max_steps):
                if not _is_sane(copy, volume=volume, size=_size(atoms)):
                    return sane, False
                sane.set_cell(copy.cell.array)
                sane.positions[:] = copy.positions
                done = bool(converged)
    except Exception as error:  # noqa: BLE001 - whatever a calculator or the algebra of an optimizer raises
        logger.debug("relaxation of %s stopped: %s", atoms.symbols, error)
        return sane, False
    return sane, done


def default_structures(subject: Subject, domain: Domain) -> dict[str, Atoms]:
    """Small structures of the subject's elements, each close to a minimum of the subject.

    A crystal for a head that was trained on periodic structures, a molecule for one that saw others (both for a head that
    saw both), and a crystal for any other calculator.

    * Crystals: of one element, the lattice of lowest energy among fcc, bcc, diamond and hcp; of the commonest
      non-metal with a metal of matching valence, among rock salt, CsCl and zinc blende; of two metals also the
      ordered fcc alloy; α-quartz of Si and O; perovskite where a head knows three elements, one of them oxygen.
    * Molecules: of the g2 set the one whose published geometry has the least forces, that is the one which the
      training data resemble most.

    Always the same for the same subject. Names are such as ``Cu-fcc``, ``MgO-rocksalt``, ``CH3OH``.
    """
    with warnings.catch_warnings():  # what a head was not trained on is what is looked for here
        warnings.simplefilter("ignore")
        return _made(subject, domain)


def _made(subject: Subject, domain: Domain) -> dict[str, Atoms]:
    calculator = subject.calculator()
    elements = _by_frequency(subject, domain)
    info = subject.head_info
    seen = set(info.periodicity) if info is not None else set()
    structures: dict[str, Atoms] = {}
    if not seen or any("T" in directions for directions in seen):
        for group in _compositions(subject, elements):
            structures.update(_crystal(calculator, group, cutoff=subject.cutoff, usual_only=info is not None))
    if "FFF" in seen:
        structures.update(_molecule(calculator, elements, cutoff=subject.cutoff))
    return structures


def _by_frequency(subject: Subject, domain: Domain) -> list[int]:
    """Atomic numbers, the commonest in the training data first."""
    wanted = {atomic_numbers[symbol] for symbol in domain.elements} if domain.elements else set(subject.elements)
    known = [z for z in subject.elements if z in wanted] or list(subject.elements)
    if subject.head_info is None:
        return known
    counts = {atomic_numbers[s]: n for s, n in subject.head_info.structures_per_element.items()}
    return sorted(known, key=lambda z: (-counts.get(z, 0), z))


def _compositions(subject: Subject, elements: Sequence[int]) -> list[tuple[int, ...]]:
    """Elements of the crystals to make."""
    if len(elements) == 1:
        return [(elements[0],)]
    info = subject.head_info
    if info is not None and info.structures:
        per_structure = sum(info.structures_per_element.values()) / info.structures
        if per_structure < _ELEMENTAL:
            return [(z,) for z in elements[:2]]
        if len(elements) == 3 and 8 in elements and per_structure > 2.8:
            return [tuple(elements)]
    metals = [z for z in elements if z not in NON_METALS]
    others = [z for z in elements if z in NON_METALS]
    if metals and others:
        if info is None:
            metals, others = _sorted_by(metals, _METALS), _sorted_by(others, _PARTNERS)
        return [_salt(metals, others)]
    if info is None:  # of metals that mix somehow, or of noble gases: also one of them by itself
        return [(elements[0],), (elements[0], elements[1])]
    return [(elements[0], elements[1])]


def _salt(metals: Sequence[int], others: Sequence[int]) -> tuple[int, int]:
    """The commonest partner with the commonest metal of matching valence."""
    partner = others[0]
    fitting = {atomic_numbers[symbol] for symbol in _SALTS.get(partner, ())}
    return next((z for z in metals if z in fitting), metals[0]), partner


def _sorted_by(elements: Sequence[int], preferred: Sequence[int]) -> list[int]:
    return [*(z for z in preferred if z in elements), *(z for z in elements if z not in preferred)]


# --- crystals ---------------------------------------------------------------------------------------------------------
def _crystal(calculator: Calculator, elements: tuple[int, ...], *, cutoff: float, usual_only: bool) -> dict[str, Atoms]:
    """The prototype of lowest energy per atom, relaxed; at its usual distances where no minimum is found.

    With `usual_only` no minimum is looked for at other distances, which matter for model potentials only.
    """
    prototypes = prototypes_of(elements)
    usual = usual_distance(elements, cutoff=cutoff)
    minima = {
        name: found
        for name, unit in prototypes.items()
        if (found := _bracket(calculator, unit, usual=usual, cutoff=None if usual_only else cutoff)) is not None
    }
    usual_ones = {n: m for n, m in minima.items() if _is_usual(m.distance / usual)} or minima
    if not usual_ones:
        name, unit = next(iter(prototypes.items()))
        logger.info("no minimum of the energy of %s over the volume", name)
        finished, _ = relaxed(scaled(unit, KNOWN_DISTANCES.get(name, 1.1 * usual)), calculator, max_steps=60)
        return {name: finished}
    lowest = min(m.energy for m in usual_ones.values())
    refined = {
        name: _refined(calculator, prototypes[name], minimum)
        for name, minimum in usual_ones.items()
        if minimum.energy < lowest + _COMPETING * max(1.0, abs(lowest))
    }
    lowest = min(m.energy for m in refined.values())
    name = next(n for n, m in refined.items() if m.energy < lowest + _EQUAL)  # cubic ones come first
    atoms = scaled(prototypes[name], refined[name].distance)
    finished, converged = relaxed(atoms, calculator, cell=True, max_steps=60)
    return {name: finished if converged else atoms}


def _is_usual(ratio: float) -> bool:
    return _USUAL[0] < ratio < _USUAL[1]


@dataclass(frozen=True)
class _Minimum:
    """Of the energy (eV/atom) over the nearest distance (Å), with distances on either side of it."""

    energy: float
    distance: float
    bounds: tuple[float, float]


def _energy_at(calculator: Calculator, unit: Atoms, distance: float) -> float:
    """Energy per atom (eV); NaN where the calculator raises."""
    atoms = scaled(unit, distance)
    atoms.calc = calculator
    try:
        return float(atoms.get_potential_energy()) / len(atoms)
    except Exception:  # noqa: BLE001 - calculators raise what they like
        return float("nan")


def _bracket(calculator: Calculator, unit: Atoms, *, usual: float, cutoff: float | None) -> _Minimum | None:
    """The innermost minimum at usual distances; where there is none, the lowest within the cutoff, if that is given.

    A hole where atoms overlap, or a wave far out, is not what the potential was made for, however deep.
    """
    near = np.geomspace(0.78 * usual, 1.45 * usual, 11)
    ranges = [near]
    if cutoff is not None:
        ranges.append(np.geomspace(min(0.75 * usual, 0.3 * cutoff), min(2.2 * usual, 0.95 * cutoff), 16))
    for distances in ranges:
        energies = np.array([_energy_at(calculator, unit, float(d)) for d in distances])
        inner = range(1, len(distances) - 1)
        minima = [k for k in inner if energies[k] < energies[k - 1] and energies[k] < energies[k + 1]]
        if minima:
            break
    else:
        return None
    k = minima[0] if distances is near else min(minima, key=lambda k: float(energies[k]))
    around = slice(k - 1, k + 2)
    parabola = np.polynomial.Polynomial.fit(distances[around], energies[around], 2)
    vertex = float(parabola.deriv().roots()[0])
    return _Minimum(float(parabola(vertex)), vertex, (float(distances[k - 1]), float(distances[k + 1])))


def _refined(calculator: Calculator, unit: Atoms, minimum: _Minimum) -> _Minimum:
    found = minimize_scalar(
        lambda distance: _energy_at(calculator, unit, distance),
        bounds=minimum.bounds,
        method="bounded",
        options={"xatol": 1e-3},
    )
    if not np.isfinite(found.fun):
        return minimum
    return _Minimum(float(found.fun), float(found.x), minimum.bounds)


# --- molecules --------------------------------------------------------------------------------------------------------
def _molecule(calculator: Calculator, elements: Sequence[int], *, cutoff: float) -> dict[str, Atoms]:
    """The molecule of g2 with the least forces, relaxed; a cluster where none is made of the elements."""
    allowed = set(elements)
    needed = set(elements[: min(len(elements), 3)])
    best: tuple[float, str, Atoms] | None = None
    for name in sorted(g2.names):
        atoms = molecule(name)
        present = set(atoms.numbers.tolist())
        if len(atoms) < 3 or not needed <= present <= allowed or atoms.get_initial_magnetic_moments().any():
            continue
        force = _largest_force(calculator, atoms)
        if force is not None and (best is None or force < best[0]):
            best = (force, name, atoms)
    if best is None:
        atoms = cluster(list(elements[:2]), cutoff=cutoff, size=4, seed=1)
        name = f"{atoms.symbols.get_chemical_formula()}-cluster"
    else:
        _, name, atoms = best
    finished, converged = relaxed(atoms, calculator, max_steps=100)
    return {name: finished if converged else atoms}


def _largest_force(calculator: Calculator, atoms: Atoms) -> float | None:
    copy = atoms.copy()
    copy.calc = calculator
    try:
        return float(np.abs(copy.get_forces()).max())
    except Exception:  # noqa: BLE001 - calculators raise what they like
        return None


# --- guards -----------------------------------------------------------------------------------------------------------
def _size(atoms: Atoms) -> float:
    return float(np.ptp(atoms.positions, axis=0).max()) if len(atoms) > 1 else 0.0


def _is_sane(atoms: Atoms, *, volume: float, size: float) -> bool:
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return False
    if atoms.pbc.all() and not 1 / _MOST_VOLUME_RATIO < abs(atoms.get_volume()) / volume < _MOST_VOLUME_RATIO:
        return False
    if not atoms.pbc.any() and _size(atoms) > 2.0 * size + 5.0:
        return False
    return len(neighbor_list("d", atoms, _LEAST_DISTANCE)) == 0
