"""The physical contract holds for random weights and for the shipped checkpoint, and each check of it can fail."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from hydrapot.potential import load, shipped_models
from hydrapot.potential.backbones import painn
from hydrapot.potential.derivatives import forces_from_edge_gradient
from hydrapot.potential.errors import UnknownElementError, UnknownHeadError
from hydrapot.potential.graph import build_graph, collate
from hydrapot.validation.consistency import check_batch, check_determinism, check_sums
from hydrapot.validation.contract import check_evaluator, check_locality, run_contract
from hydrapot.validation.derivatives import check_forces, check_smoothness, check_stress
from hydrapot.validation.evaluators import CalculatorEvaluator, Evaluation, PotentialEvaluator
from hydrapot.validation.locality import check_cutoff_of_dimer
from hydrapot.validation.results import CheckResult, at_least, at_most, failures, unmeasured
from hydrapot.validation.structures import cluster, perfect_crystal, standard_structures
from hydrapot.validation.symmetry import check_invariance
from tests.contract_helpers import random_potential

SHIPPED = "hydrapot-s"

EVERY_CHECK = {
    *("forces", "stress", "continuity", "smoothness"),
    *("rotation", "inversion", "permutation", "translation", "wrapping", "supercell", "cell choice", "vacuum"),
    *("additivity", "isolated atoms", "cutoff energy", "cutoff force"),
    *("determinism", "batch", "net force", "net torque", "stress symmetry", "empty structure", "signal"),
    "charge and spin",
}


def report(results: list[CheckResult]) -> str:
    return "\n".join(map(str, results))


THOROUGH = {
    "default": {},
    "three layers": {"layers": 3, "channels": 8, "seed": 1},
    "heavy and light": {"elements": ["H", "U"], "seed": 2},
}
QUICK = {
    "one layer": {"layers": 1, "seed": 3},
    "wider and shorter": {"channels": 32, "cutoff": 4.0, "n_radial": 12, "seed": 4},
    "without repulsion": {"repulsion": "none", "seed": 5},
    "without conditioning": {"charge_spin": False, "seed": 6},
    "one element": {"elements": ["Cu"], "seed": 7},
    **{f"seed {k}": {"seed": k, "channels": 8} for k in (8, 9)},
}


@pytest.mark.parametrize("options", [*THOROUGH.values(), *QUICK.values()], ids=[*THOROUGH, *QUICK])
def test_random_weights_keep_the_contract(options):
    results = run_contract(random_potential(**options), quick=options in QUICK.values())
    assert failures(results) == [], report(failures(results))
    assert {r.name for r in results} == EVERY_CHECK


def test_a_float32_model_is_checked_in_float64_and_left_alone():
    potential = random_potential().float()
    results = run_contract(potential, quick=True)
    assert failures(results) == [], report(failures(results))
    assert potential.dtype == torch.float32


def test_a_charged_molecule_has_exact_derivatives():
    evaluator = PotentialEvaluator(random_potential())
    anion = cluster([8, 1], cutoff=5.0, size=5, seed=3)
    anion.info.update(charge=-1, spin=2)
    neutral = anion.copy()
    neutral.info.clear()
    assert evaluator(anion).energy != evaluator(neutral).energy
    results = [check_forces(evaluator, anion, subject="anion"), check_stress(evaluator, anion, subject="anion")]
    results += check_invariance(evaluator, anion, subject="anion")
    assert {"rotation", "vacuum"} <= {r.name for r in results}
    assert failures(results) == [], report(results)


#: Checked thoroughly. All heads share one encoder: a metal, molecules, and all elements show what is wrong with it.
SHOWN = {"mvl_snap_Cu", "qm22_b3lyp_molecules", "mattersim_highTP"}


def shipped_heads():
    if SHIPPED not in shipped_models():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{SHIPPED} is not in this checkout"))]
    heads = load(SHIPPED).heads
    assert set(heads) > SHOWN
    return [h if h in SHOWN else pytest.param(h, marks=pytest.mark.slow) for h in heads]


@pytest.fixture(scope="module")
def shipped():
    return load(SHIPPED, dtype=torch.float64)


@pytest.mark.parametrize("head", shipped_heads())
def test_shipped_checkpoint_keeps_the_contract(shipped, head):
    results = run_contract(shipped, head=head, quick=head not in SHOWN)
    assert failures(results) == [], report(failures(results))


def test_own_structures_and_names_are_used():
    potential = random_potential(heads=["a", "b"])
    water = molecule("H2O")
    results = run_contract(potential, head="b", structures={"water": water}, quick=True)
    assert failures(results) == [], report(failures(results))
    assert {r.subject for r in results if r.name == "forces"} == {"water"}
    with pytest.raises(UnknownHeadError, match="2 heads"):
        run_contract(potential)
    with pytest.raises(UnknownElementError, match="Au"):
        run_contract(potential, head="a", structures={"gold": Atoms("Au2", positions=[[0, 0, 0], [0, 0, 2.5]])})


def test_a_result_without_a_number_fails():
    assert not at_most("a", "b", np.nan, 1.0, "eV").passed
    assert not at_least("a", "b", np.nan, 1.0, "eV").passed
    assert not unmeasured("a", "b", 1.0, "eV", "drowned").passed
    assert str(at_most("forces", "water", 2.0, 1.0, "eV")) == "FAIL forces [water]: 2, limit 1 eV"


# ----------------------------------------------------------------------------------------------------------------------
# Controls: potentials of others, written by nobody here, keep what they promise.


def test_lennard_jones_keeps_the_contract_apart_from_its_cutoff():
    """ASE's smooth Lennard-Jones switches off like δ², so its cutoff alone is not smooth enough."""
    calculator = LennardJones(sigma=1.5, epsilon=1.0, rc=4.5, ro=3.0, smooth=True)
    evaluator = CalculatorEvaluator(calculator, cutoff=4.5, elements=[6])
    failed = failures(check_evaluator(evaluator))
    assert {r.name for r in failed} == {"cutoff energy", "cutoff force"}, report(failed)
    assert all(1.8 < r.measured < 2.2 for r in failed if r.name == "cutoff energy"), report(failed)


def test_emt_keeps_derivatives_and_symmetries():
    calculator = EMT()
    evaluator = CalculatorEvaluator(calculator, cutoff=6.5, elements=[29])
    crystal = standard_structures([29], cutoff=5.0)["crystal"]
    results = [check_forces(evaluator, crystal, subject="Cu"), check_stress(evaluator, crystal, subject="Cu")]
    results += check_invariance(evaluator, crystal, subject="Cu")
    assert failures(results) == [], report(results)


# ----------------------------------------------------------------------------------------------------------------------
# Seeded defects, each caught by the check that is named for it.


class Defective:
    """An evaluator that falsifies the results of another one; deliberately no `PotentialEvaluator`."""

    def __init__(self, inner, *, elements=(1, 8)):
        self.inner, self.elements = inner, elements
        self.cutoff, self.receptive_field = inner.cutoff, inner.receptive_field
        self.calls = 0

    def __call__(self, atoms):
        return self.many([atoms])[0]

    def many(self, structures):
        self.calls += 1
        return [self.falsify(a, r) for a, r in zip(structures, self.inner.many(structures), strict=True)]

    def falsify(self, atoms, result):
        raise NotImplementedError


class StressSign(Defective):
    def falsify(self, _atoms, result):
        return replace(result, strain_gradient=-result.strain_gradient)


class ShearDoubled(Defective):
    """Voigt's factor of two, applied once too often."""

    def falsify(self, _atoms, result):
        return replace(result, strain_gradient=result.strain_gradient * (2.0 - np.eye(3)))


class DirectForces(Defective):
    """A small force that is no gradient: it turns around an axis."""

    def falsify(self, atoms, result):
        curl = 1e-6 * np.cross(atoms.positions, [0.0, 0.0, 1.0])
        return replace(result, forces=result.forces + curl)


class ForceNoise(Defective):
    def falsify(self, _atoms, result):
        rng = np.random.default_rng(self.calls)
        return replace(result, forces=result.forces + 1e-8 * rng.normal(size=result.forces.shape))


class ForcesZeroed(Defective):
    def falsify(self, _atoms, result):
        return replace(result, forces=np.zeros_like(result.forces))


class NonExtensive(Defective):
    """A readout that depends on the number of atoms."""

    def falsify(self, atoms, result):
        return replace(result, energy=result.energy + 1e-6 * len(atoms) ** 2)


class IsolatedOffset(Defective):
    def falsify(self, atoms, result):
        return replace(result, energy=result.energy + 1e-14 * len(atoms))


class PreferredAxis(Defective):
    def falsify(self, atoms, result):
        return replace(result, energy=result.energy + 1e-7 * float(np.abs(np.diff(atoms.positions[:, 2])).sum()))


class Handed(Defective):
    """A chiral term: a triple product of the first three neighbors, invariant under rotation, not under inversion."""

    def falsify(self, atoms, result):
        if len(atoms) < 4:
            return result
        arms = atoms.positions[1:4] - atoms.positions[0]
        return replace(result, energy=result.energy + 1e-7 * float(np.linalg.det(arms)))


class OrderedAtoms(Defective):
    def falsify(self, atoms, result):
        return replace(result, energy=result.energy + 1e-7 * float(atoms.numbers @ np.arange(len(atoms))))


class Pinned(Defective):
    """An external field: energy depends on where the structure is."""

    def falsify(self, atoms, result):
        return replace(result, energy=result.energy + 1e-6 * float(np.cos(atoms.positions.sum())))


class NoWrapping(Defective):
    """Atoms more than three cells away lose their neighbors."""

    def many(self, structures):
        return [self.inner(atoms if self.inside(atoms) else atoms[:1]) for atoms in structures]

    def inside(self, atoms):
        return not atoms.pbc.all() or bool(np.all(np.abs(atoms.get_scaled_positions(wrap=False)) < 3))

    def falsify(self, atoms, result):
        raise NotImplementedError


class FirstCallWrong(Defective):
    def falsify(self, _atoms, result):
        return replace(result, energy=result.energy + (1e-12 if self.calls == 1 else 0.0))


class BatchWrong(Defective):
    """The second structure of a batch sees the first."""

    def many(self, structures):
        results = self.inner.many(structures)
        return [results[0], *(replace(r, energy=r.energy + 1e-9) for r in results[1:])]


class NetForce(Defective):
    def falsify(self, _atoms, result):
        return replace(result, forces=result.forces + 1e-9)


class Torque(Defective):
    def falsify(self, atoms, result):
        if len(atoms) < 2:
            return result
        forces = result.forces.copy()
        forces[0, 0] += 1e-7
        forces[1, 0] -= 1e-7
        return replace(result, forces=forces)


class SkewStress(Defective):
    def falsify(self, _atoms, result):
        skew = np.array([[0.0, 1e-6, 0.0], [-1e-6, 0.0, 0.0], [0.0, 0.0, 0.0]])
        return replace(result, raw_strain_gradient=result.strain_gradient + skew)


class NaNEnergy(Defective):
    def falsify(self, _atoms, result):
        return replace(result, energy=np.nan)


class TruncatedCutoff(Defective):
    """Neighbor lists of 0.9 cutoffs: what lies beyond is missing, and arrives with a jump."""

    def keep(self, graph):
        return torch.linalg.vector_norm(graph.edge_vectors, dim=1) < 0.9 * self.inner.cutoff

    def many(self, structures):
        inner = self.inner
        graph = collate([build_graph(a, cutoff=inner.cutoff) for a in structures], cutoff=inner.cutoff)
        filler = torch.tensor([inner.cutoff, 0.0, 0.0], dtype=torch.float64)
        leaf = graph.edge_vectors.clone().requires_grad_()
        vectors = torch.where(self.keep(graph)[:, None], leaf, filler)
        energies = inner.potential(graph.with_edge_vectors(vectors), head=inner.head)
        (gradient,) = torch.autograd.grad(energies.sum(), leaf)
        forces = forces_from_edge_gradient(gradient, graph).split([len(a) for a in structures])
        energy = torch.zeros(graph.n_graphs, dtype=torch.float64).index_add(0, graph.batch, energies.detach())
        return [Evaluation(e, f.numpy(), None) for e, f in zip(energy.tolist(), forces, strict=True)]


class NeighborCap(TruncatedCutoff):
    """The twelve nearest neighbors only, where both atoms agree."""

    def keep(self, graph):
        lengths = torch.linalg.vector_norm(graph.edge_vectors, dim=1).view(graph.n_atoms, graph.degree)
        near = (lengths.argsort(dim=1).argsort(dim=1) < 12).view(-1)
        return near & near[graph.reverse]


MADE = standard_structures([1, 8], cutoff=5.0)
SOME = {name: MADE[name] for name in ("molecule", "crystal")}


def derivatives(evaluator):
    return [check(evaluator, SOME["molecule"], subject="m") for check in (check_forces, check_stress)]


def symmetry(evaluator):
    return check_invariance(evaluator, SOME["molecule"], subject="m") + check_invariance(
        evaluator, SOME["crystal"], subject="c"
    )


def sums(evaluator):
    return check_sums(evaluator, SOME["molecule"], subject="m")


def locality(evaluator):
    return check_locality(evaluator, quick=True)


def determinism(evaluator):
    return [check_determinism(evaluator, SOME)]


def batch(evaluator):
    return [check_batch(evaluator, SOME)]


SUITES = [derivatives, symmetry, sums, locality, determinism, batch]
DEFECTS = {
    StressSign: (derivatives, "stress"),
    ShearDoubled: (derivatives, "stress"),
    DirectForces: (derivatives, "forces"),
    ForcesZeroed: (derivatives, "forces"),
    ForceNoise: (determinism, "determinism"),
    NonExtensive: (symmetry, "supercell"),
    PreferredAxis: (symmetry, "rotation"),
    Handed: (symmetry, "inversion"),
    OrderedAtoms: (symmetry, "permutation"),
    Pinned: (symmetry, "translation"),
    NoWrapping: (symmetry, "wrapping"),
    IsolatedOffset: (locality, "isolated atoms"),
    TruncatedCutoff: (locality, "continuity"),
    NeighborCap: (locality, "continuity"),
    FirstCallWrong: (determinism, "determinism"),
    BatchWrong: (batch, "batch"),
    NetForce: (sums, "net force"),
    Torque: (sums, "net torque"),
    SkewStress: (sums, "stress symmetry"),
}


@pytest.fixture(scope="module")
def sound():
    return PotentialEvaluator(random_potential(channels=8, elements=["H", "O"]))


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: d.__name__)
def test_a_seeded_defect_is_caught(sound, defect):
    suite, name = DEFECTS[defect]
    results = suite(defect(sound))
    assert name in {r.name for r in failures(results)}, report(results)


def test_the_sound_evaluator_fails_nothing(sound):
    class Sound(Defective):
        def falsify(self, _atoms, result):
            return result

    results = check_evaluator(Sound(sound), quick=True)
    assert failures(results) == [], report(failures(results))
    assert {name for _, name in DEFECTS.values()} <= {r.name for r in results}


def test_nan_passes_nothing(sound):
    results = check_evaluator(NaNEnergy(sound), quick=True)
    names = {r.name for r in results if r.passed}
    # What does not look at the energy may pass.
    assert names <= {
        "net force",
        "net torque",
        "stress symmetry",
        "smoothness",
        "signal",
        "cutoff energy",
        "cutoff force",
    }


def test_all_zero_weights_are_caught():
    potential = random_potential()
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.zero_()
    failed = {r.name for r in failures(run_contract(potential, quick=True))}
    assert "signal" in failed
    assert {"cutoff energy", "cutoff force"} <= failed  # a signal that is not there has no exponent


def test_a_sharp_cutoff_is_caught(monkeypatch):
    """A linear envelope: the Bessel functions vanish at the cutoff too, so the energy falls as δ², the force as δ."""
    monkeypatch.setattr("hydrapot.potential.radial.envelope", lambda r, *, cutoff: torch.relu(1.0 - r / cutoff))
    results = check_locality(PotentialEvaluator(random_potential()), quick=True)
    failed = [r for r in failures(results) if r.name.startswith("cutoff")]
    assert {(r.name, r.subject) for r in failed} >= {("cutoff energy", "two molecules"), ("cutoff force", "dimer HU")}
    assert all(0.8 < r.measured < 2.2 for r in failed), report(failed)


@pytest.mark.parametrize("softening", [1e-4, 1e-8])
def test_a_cusp_in_the_vector_norm_is_caught(monkeypatch, softening):
    monkeypatch.setattr(painn, "NORM_SOFTENING", softening)
    evaluator = PotentialEvaluator(random_potential())
    assert not check_smoothness(evaluator, perfect_crystal([29], cutoff=5.0), subject="Cu").passed


def test_a_truncated_neighbor_list_is_caught_by_the_cutoff_too(sound):
    """Nothing is left to fit at the cutoff: that must not pass."""
    failed = check_cutoff_of_dimer(TruncatedCutoff(sound), 1, 8, subject="OH")
    assert [(r.name, r.passed) for r in failed] == [("cutoff energy", False), ("cutoff force", False)]
    assert "drowns" in next(r.detail for r in failed if r.name == "cutoff force")


def test_charge_that_is_ignored_is_caught(monkeypatch):
    potential = random_potential()
    monkeypatch.setattr(type(potential), "check_supported", lambda *_, **__: None)
    failed = failures(run_contract(potential, quick=True))
    assert [r.name for r in failed] == ["charge and spin"]
    assert "charge +1, spin None was not trained on" in failed[0].detail
