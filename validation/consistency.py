"""The same question gets the same answer; sums over atoms vanish; what was not trained raises."""

from collections.abc import Mapping

import numpy as np
from ase import Atoms

from hydrapot.potential.errors import UnsupportedChargeError
from hydrapot.potential.graph import build_graph
from hydrapot.potential.repulsion import NoRepulsion
from hydrapot.validation.evaluators import Evaluation, Evaluator, PotentialEvaluator
from hydrapot.validation.results import CheckResult, at_least, at_most

#: Relative to max(1, largest value): one structure alone against the same in a batch.
BATCH_LIMIT = 1e-12
#: eV/Å for the net force, eV for the torque and the antisymmetric part of ∂E/∂ε, of max(1, largest force).
SUM_LIMIT = 1e-10
#: eV/Å; a model without interaction does not pass. Less for a head whose training data have forces of less than 1 eV/Å.
SIGNAL = 0.1


def check_determinism(evaluator: Evaluator, structures: Mapping[str, Atoms]) -> CheckResult:
    """First call, second call, and a call after other structures: identical bits."""
    first = {name: evaluator(atoms) for name, atoms in structures.items()}
    worst, where = 0.0, "identical bits"
    for name, atoms in structures.items():
        for repeat in (evaluator(atoms), evaluator(atoms)):
            difference = _difference(first[name], repeat)
            if not difference <= worst:
                worst, where = difference, f"largest in {name}"
    return at_most("determinism", "all structures", worst, 0.0, "eV, eV/Å", where)


def check_batch(evaluator: Evaluator, structures: Mapping[str, Atoms]) -> CheckResult:
    """All structures in one call against each by itself."""
    batch = evaluator.many(list(structures.values()))
    worst, where = 0.0, ""
    for (name, atoms), together in zip(structures.items(), batch, strict=True):
        alone = evaluator(atoms)
        scale = max(1.0, abs(alone.energy), float(np.abs(alone.forces).max(initial=0.0)))
        difference = _difference(alone, together) / scale
        if not difference <= worst:
            worst, where = difference, f"largest in {name}"
    return at_most("batch", "all structures", worst, BATCH_LIMIT, "of max(1, max|value|)", where)


def check_sums(evaluator: Evaluator, atoms: Atoms, *, subject: str) -> list[CheckResult]:
    """No net force; no net torque on a molecule; ∂E/∂ε symmetric before anything symmetrized it."""
    result = evaluator(atoms)
    scale = max(1.0, float(np.abs(result.forces).max(initial=0.0)))
    net = float(np.abs(result.forces.sum(axis=0)).max())
    results = [at_most("net force", subject, net / scale, SUM_LIMIT, "eV/Å, of max(1, max|F|)")]
    if not atoms.pbc.any():
        arms = atoms.positions - atoms.positions.mean(axis=0)
        torque = float(np.abs(np.cross(arms, result.forces).sum(axis=0)).max())
        results.append(at_most("net torque", subject, torque / scale, SUM_LIMIT, "eV, of max(1, max|F|)"))
    gradient = result.strain_gradient if result.raw_strain_gradient is None else result.raw_strain_gradient
    if gradient is not None:
        skew = float(np.abs(gradient - gradient.T).max()) / max(1.0, float(np.abs(gradient).max()))
        results.append(at_most("stress symmetry", subject, skew, SUM_LIMIT, "of max(1 eV, max|∂E/∂ε|)"))
    return results


def check_empty(evaluator: Evaluator) -> CheckResult:
    """A structure without atoms has energy 0 and no forces, with and without a cell."""
    worst = 0.0
    for atoms in (Atoms(), Atoms(cell=[4.0] * 3, pbc=True)):
        result = evaluator(atoms)
        error = abs(result.energy) if result.forces.shape == (0, 3) else np.nan
        worst = max(worst, error) if np.isfinite(error) else error
    return at_most("empty structure", "no atoms", worst, 0.0, "eV")


def check_signal(evaluator: Evaluator, structures: Mapping[str, Atoms]) -> CheckResult:
    """The forces are not all but zero; of a potential only the learned part counts, not the repulsion."""
    largest, limit = 0.0, SIGNAL
    if isinstance(evaluator, PotentialEvaluator):
        # Data of relaxed structures hold forces of some meV/Å; a head that gives a tenth of them is not dead.
        metrics = evaluator.potential.info.heads[evaluator.head].metrics
        limit = min(limit, 0.1 * metrics.get("baseline_force_mae_mev_per_a", np.inf) / 1000.0)
    repulsion = evaluator.potential.repulsion if isinstance(evaluator, PotentialEvaluator) else None
    try:
        if isinstance(evaluator, PotentialEvaluator):
            evaluator.potential.repulsion = NoRepulsion()
        for atoms in structures.values():
            largest = max(largest, float(np.abs(evaluator(atoms).forces).max(initial=0.0)))
    finally:
        if isinstance(evaluator, PotentialEvaluator) and repulsion is not None:
            evaluator.potential.repulsion = repulsion
    return at_least("signal", "all structures", largest, limit, "eV/Å", "largest force, at least")


def check_charge(evaluator: PotentialEvaluator, molecule: Atoms, crystal: Atoms) -> CheckResult:
    """Charge 0 is the default to the last bit; values not trained on raise; so does a charged periodic cell.

    The measured number counts the rules that are broken.
    """
    potential, head = evaluator.potential, evaluator.head
    trained = set(potential.info.heads[head].charge_spin)
    neutral = molecule.copy()
    neutral.info["charge"] = 0
    broken = []
    if _difference(evaluator(molecule), evaluator(neutral)) != 0.0:
        broken.append("charge 0 is not the default")
    untrained = [(c, s) for c in (1, -1, 2, 7) for s in (None, 1, 2) if (c, s) not in trained]
    untrained += [(0, s) for s in (1, 2, 3, 11) if (0, s) not in trained]
    for charge, spin in untrained:
        charged = molecule.copy()
        charged.info["charge"] = charge
        if spin is not None:
            charged.info["spin"] = spin
        if not _raises(evaluator, charged):
            broken.append(f"charge {charge:+d}, spin {spin} was not trained on and is evaluated")
    for charge in sorted({1, *(c for c, _ in trained if c)}):
        periodic = crystal.copy()
        periodic.info["charge"] = charge
        if not _raises(evaluator, periodic):
            broken.append(f"charge {charge:+d} in a periodic cell is evaluated")
    return at_most("charge and spin", head, len(broken), 0, "rules broken", "; ".join(broken))


def _raises(evaluator: PotentialEvaluator, atoms: Atoms) -> bool:
    try:
        graph = build_graph(atoms, cutoff=evaluator.cutoff)
        evaluator.potential.check_supported(graph, head=evaluator.head)
    except UnsupportedChargeError:
        return True
    return False


def _difference(a: Evaluation, b: Evaluation) -> float:
    differences = [abs(a.energy - b.energy), float(np.abs(a.forces - b.forces).max(initial=0.0))]
    if a.strain_gradient is not None and b.strain_gradient is not None:
        differences.append(float(np.abs(a.strain_gradient - b.strain_gradient).max()))
    return float(np.max(differences))
