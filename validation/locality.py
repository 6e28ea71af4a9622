"""Energies are local: fragments add up, isolated atoms have none, a neighbor leaves without a trace."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from hydrapot.potential.graph import build_graph
from hydrapot.validation.evaluators import Evaluator, PotentialEvaluator
from hydrapot.validation.results import CheckResult, at_least, at_most, unmeasured

#: eV/atom.
ADDITIVITY_LIMIT = 1e-10
#: The energy falls at least as δ to this power at a distance δ inside the cutoff, the force as the second.
ENERGY_EXPONENT, FORCE_EXPONENT = 2.9, 1.9
#: Å inside the cutoff.
DISTANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)


def check_additivity(evaluator: Evaluator, first: Atoms, second: Atoms, *, subject: str) -> CheckResult:
    """Two molecules beyond the receptive field of each other: just beyond, and a micrometer away."""
    separate = [evaluator(first), evaluator(second)]
    expected = sum(e.energy for e in separate)
    forces = np.concatenate([e.forces for e in separate])
    reach = np.ptp(first.positions[:, 0]) + np.ptp(second.positions[:, 0])
    worst, detail = 0.0, ""
    for gap in (evaluator.receptive_field + 1e-3, 1e4):
        moved = second.copy()
        moved.positions[:, 0] += first.positions[:, 0].max() - second.positions[:, 0].min() + gap
        together = evaluator(first + moved)
        error = max(abs(together.energy - expected) / len(forces), float(np.abs(together.forces - forces).max()))
        if not error <= worst:
            worst, detail = error, f"at a gap of {gap:g} Å, fragments {reach:.1f} Å long"
    return at_most("additivity", subject, worst, ADDITIVITY_LIMIT, "eV/atom, eV/Å", detail)


def check_isolated_atoms(evaluator: Evaluator, *, elements: Sequence[int] | None = None) -> CheckResult:
    """An atom alone has exactly no interaction energy and no force, in free space or a large periodic cell.

    For a potential the total energy has to equal the reference energy too, bit for bit.
    """
    elements = evaluator.elements if elements is None else elements
    worst, detail = 0.0, f"{len(elements)} elements"
    side = evaluator.cutoff + 0.1
    for z in elements:
        free = Atoms([z], positions=[[0.3, -0.2, 0.1]])
        for atoms in (free, Atoms([z], positions=[[0.3, -0.2, 0.1]], cell=[side] * 3, pbc=True)):
            result = evaluator(atoms)
            error = max(abs(result.energy), float(np.abs(result.forces).max()))
            if isinstance(evaluator, PotentialEvaluator):
                total = float(evaluator.predict([atoms]).energy[0])
                error = max(error, abs(total - float(evaluator.potential.references[evaluator.head].values[z])))
            if not error <= worst:
                worst, detail = error, f"largest for {atoms.symbols[0]}"
    return at_most("isolated atoms", "each element", worst, 0.0, "eV, eV/Å", detail)


def check_cutoff_of_dimer(evaluator: Evaluator, a: int, b: int, *, subject: str) -> list[CheckResult]:
    """A pair alone at the cutoff."""
    axis = np.array([0.48, 0.6, 0.64])

    def force(delta: float) -> float:
        dimer = Atoms([a, b], positions=[np.zeros(3), (evaluator.cutoff - delta) * axis])
        return float(evaluator(dimer).forces[1] @ axis)

    return _exponents(force, subject=subject)


def check_cutoff_of_fragments(evaluator: Evaluator, first: Atoms, second: Atoms, *, subject: str) -> list[CheckResult]:
    """Two molecules of which a single pair of atoms is about to come within the cutoff.

    The pair is embedded, yet nothing else changes: the net force on one of them is the pure signal, over
    rounding noise that is measured beyond the cutoff.
    """
    first, second = first.copy(), second.copy()
    # The atoms that lead along x face each other; the others lie at least 0.1 Å farther apart than this pair.
    lead, follow = int(first.positions[:, 0].argmax()), int(second.positions[:, 0].argmin())
    first.positions -= first.positions[lead]
    second.positions -= second.positions[follow]

    def force(delta: float) -> float:
        moved = second.copy()
        moved.positions[:, 0] += evaluator.cutoff - delta
        pairs = np.linalg.norm(first.positions[:, None] - moved.positions[None], axis=2).ravel()
        if np.sort(pairs)[1] < evaluator.cutoff + 1e-2:
            return float("nan")
        return float(evaluator(first + moved).forces[len(first) :, 0].sum())

    return _exponents(force, subject=subject)


def check_cutoff_of_edge(evaluator: PotentialEvaluator, atoms: Atoms, *, subject: str) -> list[CheckResult]:
    """One edge in the middle of a structure, stretched to the cutoff by itself, all others as they are.

    The derivative with respect to that edge alone carries no rounding of the other edges, so the whole range
    of δ can be resolved, in any surroundings.
    """
    potential, head = evaluator.potential, evaluator.head
    graph = build_graph(atoms, cutoff=evaluator.cutoff)
    lengths = torch.linalg.vector_norm(graph.edge_vectors, dim=1)
    edge = int(torch.where(graph.edge_mask, lengths, 0.0).argmax())
    reverse = int(graph.reverse[edge])
    unit = graph.edge_vectors[edge] / lengths[edge]

    def force(delta: float) -> float:
        vectors = graph.edge_vectors.clone()
        vectors[edge] = (evaluator.cutoff - delta) * unit
        vectors[reverse] = -(evaluator.cutoff - delta) * unit
        vectors.requires_grad_()
        energy = potential.interaction_energies(graph.with_edge_vectors(vectors), head=head).sum()
        (gradient,) = torch.autograd.grad(energy, vectors)
        return -float((gradient[edge] - gradient[reverse]) @ unit)

    return _exponents(force, subject=subject)


def _exponents(force: Callable[[float], float], *, subject: str) -> list[CheckResult]:
    """Exponents of energy and force from the force on a pair at a distance δ inside the cutoff.

    The energy is the work of that force: directly it would be 1e-16 eV at δ = 1e-4 Å, that is rounding;
    forces and work agree with energies by the checks ``forces`` and ``continuity``. Distances where the
    signal is not 100 times the noise (the force beyond the cutoff, ideally 0) are left out; with less than
    one decade left, the check does not pass.
    """
    deltas = np.array(DISTANCES)
    noise = max(abs(force(-d)) for d in (1e-4, 1e-3, 1e-2))
    forces = np.array([abs(force(d)) for d in deltas])
    nodes, weights = np.polynomial.legendre.leggauss(6)
    work = np.array(
        [abs(0.5 * d * sum(w * force(0.5 * d * (1 + x)) for x, w in zip(nodes, weights, strict=True))) for d in deltas]
    )
    clear = forces > 100 * noise
    limits = {"cutoff energy": ENERGY_EXPONENT, "cutoff force": FORCE_EXPONENT}
    seen = f"|F| = {', '.join(f'{f:.1e}' for f in forces)} eV/Å at δ = {', '.join(f'{d:g}' for d in deltas)} Å"
    if not np.isfinite(forces).all() or clear.sum() < 3 or not deltas[clear].max() >= 10 * deltas[clear].min():
        reason = f"the signal drowns in {noise:.1e} eV/Å of noise: {seen}"
        return [unmeasured(name, subject, limit, "power of δ", reason) for name, limit in limits.items()]
    detail = f"at least; {seen}, {int(clear.sum())} of {len(deltas)} clear of noise"
    return [
        at_least(name, subject, _slope(deltas[clear], values[clear]), limits[name], "power of δ", detail)
        for name, values in (("cutoff energy", work), ("cutoff force", forces))
    ]


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.polynomial.polynomial.polyfit(np.log(x), np.log(y), 1)[1])
