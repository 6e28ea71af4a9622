"""Structures to test on where the domain names none: what the potential was made for, near its own minimum."""

import logging
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.collections import g2
from ase.data import atomic_numbers
from ase.filters import FrechetCellFilter
from ase.neighborlist import neighbor_list
from ase.optimize import BFGS
from scipy.optimize import minimize_scalar

from hydrapot.validation.domain import Domain
from hydrapot.validation.structures import bond, cluster
from hydrapot.validation.subject import Subject

logger = logging.getLogger(__name__)

#: A relaxation that changes the volume more than this, or brings atoms closer (Å), has left every minimum.
_MOST_VOLUME_RATIO, _LEAST_DISTANCE = 4.0, 0.4
#: Mean number of elements in a training structure up to which a head knows elements rather than compounds.
_ELEMENTAL = 1.2
#: eV/Å per atom: forces below this are those of a structure that a potential was trained on.
_PARTNERS = tuple(atomic_numbers[symbol] for symbol in ("O", "F", "Cl", "N", "S", "C"))
_METALS = tuple(atomic_numbers[symbol] for symbol in ("Mg", "Na", "Ca", "Al", "Ti", "Li", "Si", "Fe", "Ni", "Cu"))
_NON_METALS = frozenset((1, 2, 5, 6, 7, 8, 9, 10, 15, 16, 17, 18, 34, 35, 36, 53, 54))
_LATTICES = ("fcc", "bcc", "diamond", "hcp")
_COMPOUNDS = ("rocksalt", "cesiumchloride", "zincblende")


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
        target = FrechetCellFilter(copy) if cell and atoms.pbc.all() else copy
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

    * Crystals: of one element, the lattice of lowest energy among fcc, bcc, diamond and hcp; of a metal with its
      commonest partner, among rock salt, CsCl and zinc blende; perovskite where a head knows three elements only, one of them
      oxygen.
    * Molecules: of the g2 set the one whose published geometry has the least forces, that is the one which the
      training data resemble most.

    Always the same for the same subject. Names are such as ``Cu-fcc``, ``MgO-rocksalt``, ``CH3OH``.
    """
    calculator = subject.calculator()
    elements = _by_frequency(subject, domain)
    info = subject.head_info
    seen = set(info.periodicity) if info is not None else set()
    structures: dict[str, Atoms] = {}
    if not seen or any("T" in directions for directions in seen):
        for group in _compositions(subject, elements):
            structures.update(_crystal(calculator, group, cutoff=subject.cutoff))
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
    metals = [z for z in elements if z not in _NON_METALS]
    others = [z for z in elements if z in _NON_METALS]
    if metals and others:
        if info is not None:
            return [(metals[0], others[0])]
        return [(_preferred(metals, _METALS), _preferred(others, _PARTNERS))]
    if info is None:  # of metals that mix somehow, or of noble gases: also one of them by itself
        return [(elements[0],), (elements[0], elements[1])]
    return [(elements[0], elements[1])]


def _preferred(elements: Sequence[int], preferred: Sequence[int]) -> int:
    return next((z for z in preferred if z in elements), elements[0])


# --- crystals ---------------------------------------------------------------------------------------------------------
def _crystal(calculator: Calculator, elements: tuple[int, ...], *, cutoff: float) -> dict[str, Atoms]:
    """The prototype of lowest energy per atom, relaxed; at its usual distances where no minimum is found."""
    prototypes = _prototypes(elements)
    usual = bond(elements[0], elements[-1], cutoff=cutoff)
    best: tuple[float, str, Atoms] | None = None
    for name, unit in prototypes.items():
        found = _least_energy(calculator, unit, usual=usual, cutoff=cutoff)
        if found is not None and (best is None or found[0] < best[0] - 1e-6):
            best = (found[0], name, found[1])
    if best is None:
        name, unit = next(iter(prototypes.items()))
        logger.info("no minimum of the energy for %s at usual distances", name)
        return {name: _scaled(unit, 1.15 * usual)}
    _, name, atoms = best
    finished, converged = relaxed(atoms, calculator, cell=True, max_steps=60)
    return {name: finished if converged else atoms}


def _prototypes(elements: tuple[int, ...]) -> dict[str, Atoms]:
    """Primitive cells with a nearest distance of 1 Å, by name."""
    made: dict[str, Atoms] = {}
    if len(elements) == 1:
        for lattice in _LATTICES:
            atoms = bulk("X", lattice, a=1.0, covera=float(np.sqrt(8 / 3))) if lattice == "hcp" else bulk("X", lattice, a=1.0)
            atoms.numbers[:] = elements[0]
            made[f"{atoms.symbols[0]}-{lattice}"] = atoms
    elif len(elements) == 2:
        for lattice in _COMPOUNDS:
            atoms = bulk("NaCl", lattice, a=1.0)
            atoms.numbers[:] = elements
            made[f"{''.join(atoms.symbols)}-{lattice}"] = atoms
    else:
        large, small = sorted((z for z in elements if z != 8), key=lambda z: -bond(z, z, cutoff=np.inf))
        atoms = Atoms(
            [large, small, 8, 8, 8],
            scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
            cell=np.eye(3),
            pbc=True,
        )
        made[f"{atoms.symbols.get_chemical_formula('metal')}-perovskite"] = atoms
    return {name: _scaled(atoms, 1.0) for name, atoms in made.items()}


def _scaled(atoms: Atoms, distance: float) -> Atoms:
    """A copy with the nearest distance `distance` (Å)."""
    copy = atoms.copy()
    nearest = float(neighbor_list("d", copy, 1.01 * float(copy.cell.lengths().max())).min())
    copy.set_cell(copy.cell.array * distance / nearest, scale_atoms=True)
    return copy


def _least_energy(calculator: Calculator, unit: Atoms, *, usual: float, cutoff: float) -> tuple[float, Atoms] | None:
    """Energy per atom (eV) and structure at the minimum over the volume; None without one."""

    def energy(distance: float) -> float:
        atoms = _scaled(unit, distance)
        atoms.calc = calculator
        try:
            value = float(atoms.get_potential_energy()) / len(atoms)
        except Exception:  # noqa: BLE001 - calculators raise what they like
            return float("nan")
        return value

    distances = np.geomspace(min(0.8 * usual, 0.3 * cutoff), min(2.2 * usual, 0.95 * cutoff), 14)
    energies = np.array([energy(float(d)) for d in distances])
    inner = range(1, len(distances) - 1)
    minima = [k for k in inner if energies[k] < energies[k - 1] and energies[k] < energies[k + 1]]
    # A hole where atoms overlap is not what the potential was made for, however deep.
    usual_ones = [k for k in minima if distances[k] > 0.75 * usual] or minima
    if not usual_ones:
        return None
    lowest = min(usual_ones, key=lambda k: float(energies[k]))
    found = minimize_scalar(
        energy, bounds=(float(distances[lowest - 1]), float(distances[lowest + 1])), method="bounded",
        options={"xatol": 1e-3},
    )
    return (float(found.fun), _scaled(unit, float(found.x))) if np.isfinite(found.fun) else None


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
