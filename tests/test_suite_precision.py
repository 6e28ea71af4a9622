"""The suite ``precision``: what rounds, how much, and which uses it is good enough for."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

from hydrapot.potential.checkpoint import save
from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation.domain import Domain, StructureSource
from hydrapot.validation.guarded import guarded
from hydrapot.validation.metrics import Verdict
from hydrapot.validation.precisions import TF32Products, precision_calculator, round_to_tf32
from hydrapot.validation.rounding import elastic_constants, fixed_path, frequencies, path_energies
from hydrapot.validation.subject import CheckpointSubject
from hydrapot.validation.suite import Context, Tier
from hydrapot.validation.suites.precision import SUITE, UNITS, USES
from hydrapot.validation.uses import USES as TABLE
from tests.contract_helpers import random_potential
from tests.crystal_helpers import context_of, metric

# Nothing is recorded about the training of random weights.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CRYSTAL = StructureSource(name="Cu", crystal="fcc", formula="Cu", a=3.6)
WATER = StructureSource(name="water", molecule="H2O")


# --- what rounds ------------------------------------------------------------------------------------------------------
def test_rounding_to_tf32():
    """10 bits of mantissa, to nearest, ties to even; what has no more bits, and what is not finite, stays."""
    exact = torch.tensor([0.0, 1.0, -1.5, 1 + 2.0**-10, 2.0**-120, torch.inf, -torch.inf])
    assert torch.equal(round_to_tf32(exact), exact)
    assert torch.isnan(round_to_tf32(torch.tensor([torch.nan]))).all()
    tie = torch.tensor([1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-11 + 2.0**-23])
    assert torch.equal(round_to_tf32(tie), torch.tensor([1.0, 1 + 2.0**-9, 1 + 2.0**-10]))
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    error = ((round_to_tf32(values) - values) / values).abs().max()
    assert 0.8 * 2.0**-11 < float(error) <= 2.0**-11


def test_products_are_rounded_forward_and_backward_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(8, 8, generator=generator).requires_grad_() for _ in range(2))
    grade = torch.randn(8, 8, generator=generator)
    with TF32Products():
        product = a @ b
        product.backward(grade)
        summed = a + b
        double = a.double() @ b.double()
    rounded = [round_to_tf32(x.detach()) for x in (a, b, grade)]
    torch.testing.assert_close(product, rounded[0] @ rounded[1], rtol=0, atol=0)
    torch.testing.assert_close(a.grad, rounded[2] @ rounded[1].T, rtol=0, atol=0)
    torch.testing.assert_close(summed, a + b, rtol=0, atol=0)
    torch.testing.assert_close(double, a.double() @ b.double(), rtol=0, atol=0)


def test_precisions_are_ordered_by_their_errors():
    potential = random_potential(elements=["Cu"])
    atoms = bulk("Cu").repeat(2)
    atoms.rattle(0.1, seed=0)
    found = {}
    for precision in ("f64", "f32", "tf32", "bf16"):
        atoms.calc = precision_calculator(potential, head="a", precision=precision)
        found[precision] = atoms.get_forces()
    scale = np.abs(found["f64"]).max()
    error = {p: float(np.abs(f - found["f64"]).max() / scale) for p, f in found.items()}
    assert 0.0 < error["f32"] < 1e-4
    assert 10 * error["f32"] < error["tf32"] < 0.02
    assert 2 * error["tf32"] < error["bf16"] < 0.2
    with pytest.raises(ConfigurationError, match="'f16' is not known"):
        precision_calculator(potential, head="a", precision="f16")


# --- properties -------------------------------------------------------------------------------------------------------
class Spring(Calculator):
    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        vector = self.atoms.positions[1] - self.atoms.positions[0]
        length = float(np.linalg.norm(vector))
        pull = 30.0 * (length - 1.2) * vector / length
        self.results = {"energy": 15.0 * (length - 1.2) ** 2, "forces": np.array([pull, -pull])}


def test_frequency_of_a_spring():
    """ω = √(k/μ), in THz."""
    atoms = Atoms("CO", positions=[[0, 0, 0], [1.2, 0, 0]])
    masses = atoms.get_masses()
    omega = np.sqrt(30.0 * masses.sum() / masses.prod())  # per ASE's unit of time
    expected = omega / (2 * np.pi) * units.fs * 1e3
    assert frequencies(atoms, Spring())[-1] == pytest.approx(expected, rel=1e-3)


def test_elastic_constants_of_copper():
    """EMT by the tests of its authors: 171.65, 114.82 and 89.00 GPa, with another cutoff."""
    found = elastic_constants(bulk("Cu", a=3.594), EMT())
    expected = np.diag([171.65] * 3 + [89.0] * 3) + 114.82 * np.kron([[1, 0], [0, 0]], 1 - np.eye(3))
    np.testing.assert_allclose(found, expected, atol=3.0)


def test_the_path_is_a_hop_into_a_vacancy_or_a_stretch():
    crystal = bulk("Cu", cubic=True)
    images = fixed_path(crystal.repeat(2))
    assert {len(image) for image in images} == {31}
    moved = np.linalg.norm(images[-1].positions - images[0].positions, axis=1)
    assert sorted(moved)[-2:] == pytest.approx([0.0, 0.5 * 3.61 / np.sqrt(2)])
    assert np.all(np.diff(path_energies(images, EMT())) > 0)
    stretched = fixed_path(Atoms("CO", positions=[[0, 0, 0], [1.2, 0, 0]]))
    assert stretched[-1].get_distance(0, 1) == pytest.approx(1.5)


# --- the suite --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("precision") / "random.safetensors"
    save(random_potential(elements=["H", "O", "Cu"], channels=8, scale=2.0), path)
    return str(path)


def context(checkpoint, *structures, precisions=("f64", "f32")):
    domain = Domain(structures=structures or (CRYSTAL,), temperature=(10.0, 50.0))
    return Context(CheckpointSubject(checkpoint, head="a"), domain, Tier.SMOKE, precisions=precisions)


@pytest.fixture(scope="module")
def outcome(checkpoint):
    return SUITE.run(context(checkpoint, precisions=("f64", "f32", "bf16")))


def of(outcome, precision, prefix=""):
    return {m.name: m for m in outcome.metrics if m.precision == precision and m.name.startswith(prefix)}


def test_every_use_has_a_verdict_per_precision(outcome):
    """The report's matrix reads these names."""
    assert set(USES) == {use.key for use in TABLE}
    for precision in ("f32", "bf16"):
        assert set(of(outcome, precision)) == {*UNITS, *(f"allowed: {use}" for use in USES)}
    assert {m.precision for m in outcome.metrics} == {"f32", "bf16"}
    assert len(outcome.figures) == 1


def test_bfloat16_is_refused_where_float32_is_allowed(outcome):
    single, half = of(outcome, "f32", "allowed"), of(outcome, "bf16", "allowed")
    for use in ("energies", "relaxation", "elastic", "phonons", "barriers"):
        assert single[f"allowed: {use}"].verdict is Verdict.PASS, single[f"allowed: {use}"]
    for use in ("relaxation", "phonons"):
        assert half[f"allowed: {use}"].verdict is Verdict.FAIL
    for name, small in of(outcome, "f32").items():
        if name.endswith("error"):
            assert small.value < 0.1 * of(outcome, "bf16")[name].value


def test_molecules_have_no_elastic_constants(checkpoint):
    found = of(SUITE.run(context(checkpoint, WATER)), "f32")
    assert found["allowed: elastic"].verdict is Verdict.NOT_APPLICABLE
    assert found["allowed: phonons"].value is not None
    assert "elastic constant error" not in found


def test_a_precision_that_does_not_exist_is_not_passed(checkpoint):
    found = SUITE.run(context(checkpoint, precisions=("f64", "f16")))
    assert found.verdict is Verdict.NOT_APPLICABLE
    assert "has no f16" in metric(found, "allowed: energies").detail


def test_a_calculator_with_a_single_precision_is_skipped():
    found = SUITE.run(context_of(tier=Tier.SMOKE))
    assert found.verdict is Verdict.NOT_APPLICABLE
    assert "single precision" in metric(found, "allowed: energies").detail


def test_a_potential_that_fails_is_a_failed_metric(checkpoint, monkeypatch):
    made = context(checkpoint)
    monkeypatch.setattr(made.subject, "calculator", lambda _precision=None: _Broken())
    found = SUITE.run(made)
    assert {m.verdict for m in found.metrics} == {Verdict.FAIL}
    assert all("not finite" in m.detail for m in found.metrics)


class _Broken(EMT):
    def calculate(self, *arguments, **settings):
        super().calculate(*arguments, **settings)
        self.results["forces"][:] = np.nan


def test_guarded_calculators_keep_interaction_energies(checkpoint):
    """The suites read energies without references through the guard."""
    atoms = bulk("Cu")
    atoms.calc = guarded(CheckpointSubject(checkpoint, head="a").calculator("f32"))
    atoms.get_forces()
    assert "interaction_energy" in atoms.calc.calculator.results
