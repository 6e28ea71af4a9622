"""The suite ``relaxation``: stable crystals pass, saddle points, blow-ups and broken potentials are named."""

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from hydrapot.validation.domain import StructureSource
from hydrapot.validation.metrics import Verdict
from hydrapot.validation.suites.relaxation import SUITE
from tests.crystal_helpers import COPPER, UNSTABLE, Altered, context_of, metric, not_a_number, raises

pytest.importorskip("spglib")

FORCE = "largest force after relaxation"


def test_copper_keeps_its_structure():
    outcome = SUITE.run(context_of())
    assert outcome.verdict is Verdict.PASS
    assert metric(outcome, "space group after displacement").value == 225
    # a 3.62 -> 3.5898 Å
    assert metric(outcome, "volume change").value == pytest.approx(100 * ((3.5898 / 3.62) ** 3 - 1), abs=0.02)


def test_symmetry_that_is_only_kept_by_symmetry_is_found():
    """CsCl-type CuAl of EMT is a saddle point: its forces vanish, its symmetry does not survive a displacement."""
    outcome = SUITE.run(context_of(EMT, UNSTABLE))
    assert metric(outcome, FORCE).verdict is Verdict.PASS
    assert metric(outcome, "space group").verdict is Verdict.PASS
    assert metric(outcome, "space group after displacement").verdict is Verdict.FAIL


def test_a_lattice_constant_far_off_fails():
    outcome = SUITE.run(context_of(EMT, COPPER.model_copy(update={"a": 3.75})))
    assert metric(outcome, FORCE).verdict is Verdict.PASS
    assert metric(outcome, "volume change").verdict is Verdict.FAIL


def test_a_crystal_that_flies_apart_fails():
    def flip(results, atoms):
        results["forces"] *= -1
        results["stress"] *= -1

    outcome = SUITE.run(context_of(lambda: Altered(flip)))
    found = metric(outcome, FORCE)
    assert found.verdict is Verdict.FAIL
    assert "not converged" in found.detail


@pytest.mark.parametrize(("change", "words"), [(not_a_number, "not finite"), (raises, "element 29")])
def test_a_broken_potential_fails_and_does_not_raise(change, words):
    outcome = SUITE.run(context_of(lambda: Altered(change)))
    assert outcome.verdict is Verdict.FAIL
    assert words in metric(outcome, FORCE).detail


def test_molecules_relax_without_a_cell_and_atoms_do_not_apply():
    sources = (StructureSource(name="N2", molecule="N2"), StructureSource(name="atom", molecule="O"))
    outcome = SUITE.run(context_of(EMT, *sources, elements=("N", "O")))
    assert metric(outcome, FORCE, "N2").verdict is Verdict.PASS
    assert metric(outcome, FORCE, "atom").verdict is Verdict.NOT_APPLICABLE


def test_without_a_stress_crystals_do_not_apply():
    class NoStress(LennardJones):
        implemented_properties = ("energy", "forces")

    outcome = SUITE.run(context_of(NoStress))
    assert outcome.verdict is Verdict.NOT_APPLICABLE


def test_work_is_estimated_within_a_factor_of_two():
    counts = []

    def count(results, atoms):
        counts.append(len(atoms))

    context = context_of(lambda: Altered(count))
    SUITE.run(context)
    assert 0.5 < SUITE.evaluations(context) / np.sum(counts) < 2.0
