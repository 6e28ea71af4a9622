"""The physical contract: what every potential keeps, with random weights as with trained ones.

``run_contract`` runs all of it on one head. Each check is a function of its own, on any evaluator, in

* :mod:`~hydrapot.validation.derivatives`: ``forces``, ``stress``, ``continuity``, ``smoothness``;
* :mod:`~hydrapot.validation.symmetry`: ``rotation``, ``inversion``, ``permutation``, ``translation``,
  ``wrapping``, ``supercell``, ``cell choice``, ``vacuum``;
* :mod:`~hydrapot.validation.locality`: ``additivity``, ``isolated atoms``, ``cutoff energy``, ``cutoff
  force``;
* :mod:`~hydrapot.validation.consistency`: ``determinism``, ``batch``, ``net force``, ``net torque``,
  ``stress symmetry``, ``empty structure``, ``signal``, ``charge and spin``.

The limits stand in those modules. Everything is in float64. Energies are interaction energies: reference
energies are removed.
"""

from collections.abc import Mapping

import numpy as np
from ase import Atoms

from hydrapot.potential.model import Potential
from hydrapot.validation.consistency import (
    check_batch,
    check_charge,
    check_determinism,
    check_empty,
    check_signal,
    check_sums,
)
from hydrapot.validation.derivatives import check_continuity, check_forces, check_smoothness, check_stress
from hydrapot.validation.evaluators import Evaluator, PotentialEvaluator
from hydrapot.validation.locality import (
    check_additivity,
    check_cutoff_of_dimer,
    check_cutoff_of_edge,
    check_cutoff_of_fragments,
    check_isolated_atoms,
)
from hydrapot.validation.results import CheckResult
from hydrapot.validation.structures import (
    cluster,
    perfect_crystal,
    representative,
    standard_structures,
)
from hydrapot.validation.symmetry import check_invariance

_QUICK_STRUCTURES = ("molecule", "skewed", "slab")


def run_contract(
    potential: Potential,
    *,
    head: str | None = None,
    structures: Mapping[str, Atoms] | None = None,
    quick: bool = False,
) -> list[CheckResult]:
    """All checks on one head of a potential.

    Parameters
    ----------
    potential
        The model; evaluated in float64 whatever its precision, and left as it is.
    head
        Name of the head; may be None only if there is one.
    structures
        What derivatives, symmetries and sums are checked on; :func:`standard_structures` of the head's
        elements when absent. They must not be charged.
    quick
        Only a molecule, a small skewed cell and a slab unless `structures` are given; one pair at the cutoff.

    Returns
    -------
    One result per check and subject, failed ones included: see :func:`~hydrapot.validation.results.failures`.

    Raises
    ------
    UnknownHeadError, UnknownElementError
    """
    evaluator = PotentialEvaluator(potential, head=head)
    results = check_evaluator(evaluator, structures=structures, quick=quick)
    made = standard_structures(evaluator.elements, cutoff=evaluator.cutoff)
    results += check_cutoff_of_edge(evaluator, made["molecule"] if quick else made["crystal"], subject="edge")
    results.append(check_charge(evaluator, made["molecule"], made["crystal"]))
    return results


def check_evaluator(
    evaluator: Evaluator, *, structures: Mapping[str, Atoms] | None = None, quick: bool = False
) -> list[CheckResult]:
    """The part of the contract that needs energies and derivatives only; arguments as for `run_contract`."""
    made = standard_structures(evaluator.elements, cutoff=evaluator.cutoff)
    chosen = made if structures is None else dict(structures)
    if quick and structures is None:
        chosen = {name: made[name] for name in _QUICK_STRUCTURES}
    results = [check_determinism(evaluator, chosen)]  # before anything else: a first call may be special
    for name, atoms in chosen.items():
        if len(atoms) > 1:  # an atom in its own lattice has no force: nothing would be shown
            results.append(check_forces(evaluator, atoms, subject=name))
        if evaluator(atoms).strain_gradient is not None:
            results.append(check_stress(evaluator, atoms, subject=name))
        results += check_invariance(evaluator, atoms, subject=name)
        results += check_sums(evaluator, atoms, subject=name)
    results += check_locality(evaluator, quick=quick)
    results.append(check_batch(evaluator, chosen))
    results.append(check_empty(evaluator))
    results.append(check_signal(evaluator, chosen))
    return results


def check_locality(evaluator: Evaluator, *, quick: bool = False) -> list[CheckResult]:
    """Additivity, isolated atoms, the cutoff, continuity and smoothness, on structures of their own."""
    elements, cutoff = representative(evaluator.elements), evaluator.cutoff
    first, second = (
        cluster(elements, cutoff=cutoff, size=5, seed=1),
        cluster(elements[::-1], cutoff=cutoff, size=4, seed=2),
    )
    results = [
        check_additivity(evaluator, first, second, subject="two molecules"),
        check_isolated_atoms(evaluator),
        check_smoothness(evaluator, perfect_crystal(elements, cutoff=cutoff), subject="perfect crystal"),
    ]
    pairs = [(elements[0], elements[-1])] if quick else [(a, b) for a in elements for b in elements if a <= b]
    for a, b in pairs:
        pair = Atoms([a, b])
        results += check_cutoff_of_dimer(evaluator, a, b, subject=f"dimer {pair.symbols}")
    results += check_cutoff_of_fragments(evaluator, first, second, subject="two molecules")

    a, b = elements[0], elements[-1]
    apart = Atoms([a, b], positions=[[0, 0, 0], [cutoff + 0.05, 0, 0]])
    inward = np.array([[0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    length = 0.4 * cutoff
    results.append(check_continuity(evaluator, apart, inward, length=length, subject=f"dimer {apart.symbols}"))
    crystal = standard_structures(elements, cutoff=cutoff)["crystal"]
    # Towards the octahedral hole: the order of neighbors by distance changes many times.
    path = np.zeros((len(crystal), 3))
    path[0] = [0.99, 0.1, 0.1]
    length = 0.4 * float(crystal.cell.lengths()[0])
    results.append(check_continuity(evaluator, crystal, path, length=length, subject="crystal"))
    return results
