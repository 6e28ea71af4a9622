"""The suite ``parity``: engines that agree pass, wrong adapters are caught, engines that are missing never pass."""

import numpy as np
import pytest
from ase.calculators.emt import EMT

from hydrapot.potential import native
from hydrapot.potential.checkpoint import save
from hydrapot.validation import engines as registry
from hydrapot.validation.domain import Domain, StructureSource
from hydrapot.validation.engines import ASEEngine, EngineResult, MissingEngine, engines, register
from hydrapot.validation.guarded import PotentialFailure
from hydrapot.validation.metrics import Verdict
from hydrapot.validation.subject import CheckpointSubject
from hydrapot.validation.suite import Context, Tier
from hydrapot.validation.suites import parity
from hydrapot.validation.suites.parity import LIMITS, SUITE, structures
from tests.contract_helpers import random_potential
from tests.crystal_helpers import Altered, context_of, metric, not_a_number

RUN = "energy difference along a run"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(parity, "_STEPS", {Tier.SMOKE: 20})
    monkeypatch.setattr(parity, "_MAX_ATOMS", 8)
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))


def context(factory=EMT, asked=("ase",)):
    made = context_of(factory, tier=Tier.SMOKE)
    return Context(made.subject, made.domain, Tier.SMOKE, engines=asked)


class Adapter(ASEEngine):
    """What an adapter of an MD program looks like, with room for its mistakes."""

    def __init__(self, subject, change=lambda result, _atoms, _species: result, resolution=1e-16):
        super().__init__("adapter", subject.calculator, resolution=resolution, reuse=False)
        self.change = change

    def evaluate(self, atoms, *, species):
        assert set(atoms.numbers) <= set(species)
        return self.change(super().evaluate(atoms, species=species), atoms, species)


def run_with(change, **settings):
    register("adapter", lambda subject: [Adapter(subject, change, **settings)])
    return SUITE.run(context(asked=("adapter",)))


def test_structures_are_those_that_adapters_get_wrong():
    made = structures(context())
    atoms, species = made["missing species"]
    assert set(atoms.numbers) < set(species)
    assert made["permuted types"][1] == made["crystal"][1][::-1]
    assert sorted(made["permuted atoms"][0].numbers) == sorted(made["crystal"][0].numbers)
    angles = made["triclinic"][0].cell.angles()
    assert np.all(np.abs(angles - 90.0) > 3.0)
    assert made["primitive"][0].cell.lengths().max() < context().subject.cutoff
    assert made["slab"][0].pbc.tolist() == [True, True, False]
    scaled = made["outside the cell"][0].get_scaled_positions(wrap=False)
    assert scaled.min() < -1.0
    assert scaled.max() > 1.5


def test_a_control_agrees_with_itself():
    outcome = SUITE.run(context())
    assert outcome.verdict is Verdict.PASS, outcome.metrics
    for name in LIMITS:
        assert metric(outcome, name).verdict is Verdict.PASS
    assert metric(outcome, RUN).value == 0.0


@pytest.mark.filterwarnings("ignore::UserWarning")  # nothing is recorded about the training of random weights
def test_paths_of_a_checkpoint_agree(tmp_path):
    path = tmp_path / "random.safetensors"
    save(random_potential(elements=["H", "O", "Cu"], channels=8, scale=2.0), path)
    copper = StructureSource(name="Cu", crystal="fcc", formula="Cu", a=3.6)
    made = Context(CheckpointSubject(str(path), head="a"), Domain(structures=(copper,)), Tier.SMOKE)
    outcome = SUITE.run(made)
    assert outcome.verdict is Verdict.PASS, [m for m in outcome.metrics if m.verdict is Verdict.FAIL]
    for path in ("ase, dense sums", "ase, blocked sums"):
        assert metric(outcome, "force difference", path).verdict is Verdict.PASS
        assert metric(outcome, "per-atom energy difference", path).verdict is Verdict.PASS
    compiled = native.reason_missing() is None
    found = metric(outcome, "force difference", "ase, native")
    assert found.verdict is (Verdict.PASS if compiled else Verdict.NOT_APPLICABLE)


def test_missing_engines_are_named_and_not_passed():
    outcome = SUITE.run(context(asked=("lammps", "openmm", "gromacs")))
    assert outcome.verdict is Verdict.NOT_APPLICABLE
    assert {m.verdict for m in outcome.metrics} == {Verdict.NOT_APPLICABLE}
    reasons = {m.subject: m.detail for m in outcome.metrics}
    assert set(reasons) >= {"lammps, 1 rank", "lammps, 2 ranks", "lammps, 4 ranks", "openmm", "gromacs"}
    assert "only a checkpoint" in reasons["lammps, 2 ranks"]
    assert "only a checkpoint" in reasons["openmm"]
    assert "not known" in reasons["gromacs"]


def test_one_missing_engine_does_not_hide_the_others():
    outcome = SUITE.run(context(asked=("ase", "openmm")))
    assert outcome.verdict is Verdict.PASS
    assert metric(outcome, "force difference", "openmm").verdict is Verdict.NOT_APPLICABLE


class Remembers(EMT):
    """Results of the first structure of as many atoms: a neighbor list that nobody rebuilds."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        first = self.kept.setdefault(len(atoms), self.results["forces"].copy())
        self.results["forces"] = 0.5 * (first + self.results["forces"])


def test_a_calculator_that_remembers_is_caught():
    outcome = SUITE.run(context(Remembers))
    assert metric(outcome, "force difference").verdict is Verdict.FAIL


def wrong_order(result, _atoms, _species):
    return EngineResult(result.energy, result.forces[::-1], result.stress, result.energies)


def wrong_stress(result, _atoms, _species):
    stress = None if result.stress is None else -result.stress
    return EngineResult(result.energy, result.forces, stress, result.energies)


def wrong_types(result, atoms, species):
    """Types numbered by the elements that are there, in ascending order."""
    if list(species) == sorted(species):
        return result
    return EngineResult(result.energy + 0.1, result.forces, result.stress, result.energies)


def wrong_shear(result, _atoms, _species):
    """Voigt order of another program."""
    stress = None if result.stress is None else result.stress[[0, 1, 2, 5, 4, 3]]
    return EngineResult(result.energy, result.forces, stress, result.energies)


@pytest.mark.parametrize(
    ("change", "name", "where"),
    [
        (wrong_order, "force difference", ""),
        (wrong_stress, "stress difference", ""),
        (wrong_shear, "stress difference", ""),
        (wrong_types, "energy difference", "permuted types"),
    ],
)
def test_a_wrong_adapter_is_caught(change, name, where):
    found = metric(run_with(change), name)
    assert found.verdict is Verdict.FAIL
    assert where in found.detail


def test_a_float32_engine_has_its_rounding_and_no_more():
    def rounded(result, _atoms, _species):
        return EngineResult(result.energy, result.forces.astype(np.float32).astype(float), result.stress, None)

    assert run_with(rounded, resolution=1e-7).verdict is Verdict.PASS
    assert metric(run_with(rounded), "force difference").verdict is Verdict.FAIL
    none = metric(run_with(rounded, resolution=1e-7), "per-atom energy difference")
    assert none.verdict is Verdict.NOT_APPLICABLE

    def bfloat(result, _atoms, _species):
        return EngineResult(result.energy, result.forces * (1 + 2.0**-8), result.stress, None)

    assert metric(run_with(bfloat, resolution=1e-2), "force difference").verdict is Verdict.FAIL


def test_an_engine_that_refuses_a_structure_fails():
    def refuses(result, atoms, _species):
        if not atoms.pbc.any():
            raise PotentialFailure("needs a box")
        return result

    outcome = run_with(refuses)
    assert metric(outcome, "energy difference").verdict is Verdict.FAIL
    assert "needs a box" in metric(outcome, "energy difference").detail


def test_a_structure_that_the_reference_refuses_is_not_compared():
    outcome = SUITE.run(context(lambda: Altered(not_a_number)))
    assert outcome.verdict is Verdict.NOT_APPLICABLE
    assert "no answer" in metric(outcome, "force difference").detail


def test_a_run_that_drifts_away_is_caught():
    class Drifts(Adapter):
        def nve(self, atoms, **settings):
            energies = super().nve(atoms, **settings)
            return energies + 1e-3 * len(atoms) * np.linspace(0.0, 1.0, len(energies))

    register("adapter", lambda subject: [Drifts(subject)])
    outcome = SUITE.run(context(asked=("adapter",)))
    assert metric(outcome, RUN).verdict is Verdict.FAIL
    assert outcome.figures


def test_the_registry_makes_every_rank():
    found = engines("lammps", context().subject)
    assert [e.name for e in found] == ["lammps, 1 rank", "lammps, 2 ranks", "lammps, 4 ranks"]
    assert all(isinstance(e, MissingEngine) and e.available() for e in found)
