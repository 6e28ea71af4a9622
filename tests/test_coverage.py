"""Advice on heads: in a sensible order, never contradicting what evaluation does, never choosing."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from hydrapot.potential import UnknownElementError, UnknownHeadError, build_graph
from hydrapot.potential.coverage import coverage, coverage_of_atoms, head_coverage, structure_warnings
from hydrapot.potential.errors import HydrapotError
from hydrapot.potential.metadata import CheckpointInfo
from hydrapot.potential.model import Potential
from hydrapot.potential.references import zero_references
from tests.potential_helpers import METALS, MOLECULES, tiny_info, tiny_potential

CRYSTAL, MOLECULE = (True, True, True), (False, False, False)


@pytest.fixture(scope="module")
def potential():
    return tiny_potential()


def several_heads(**changes):
    """Copies of the metals head under other names, each with fields replaced."""
    metals = tiny_info().heads[METALS].model_copy(update={"references": "zero"})
    heads = {name: metals.model_copy(update=fields) for name, fields in changes.items()}
    info = CheckpointInfo(architecture=tiny_info().architecture, heads=heads)
    return Potential(info, references={name: zero_references([8, 29]) for name in heads})


def test_what_a_head_knows_of_a_crystal(potential):
    metals = head_coverage(potential, head=METALS, numbers=[29, 8, 8], pbc=CRYSTAL)
    assert metals.covered
    assert metals.missing == ()
    assert metals.rare == {"O": 9}
    assert metals.periodicity_seen
    assert metals.determined
    assert metals.force_error == 0.1 + 0.2
    assert metals.info.pressure_range == (-1.5, 1000.1)


def test_missing_elements_are_listed_once_and_all(potential):
    molecules = head_coverage(potential, head=MOLECULES, numbers=[29, 26, 29, 8], pbc=CRYSTAL)
    assert not molecules.covered
    assert molecules.missing == ("Cu", "Fe")
    assert not molecules.periodicity_seen


def test_an_element_with_ten_structures_is_not_rare():
    heads = several_heads(nine={"structures_per_element": {"Cu": 9}}, ten={"structures_per_element": {"Cu": 10}})
    assert head_coverage(heads, head="nine", numbers=[29], pbc=CRYSTAL).rare == {"Cu": 9}
    assert head_coverage(heads, head="ten", numbers=[29], pbc=CRYSTAL).rare == {}


def errors(mae, *, of):
    """Force error in meV/Å, and that of predicting no forces."""
    return {"force_mae_mev_per_a": mae, "baseline_force_mae_mev_per_a": of}


def test_a_head_no_better_than_a_guess_is_called_that():
    """A set of relaxed crystals has small absolute errors whatever the model does: the ratio tells."""
    heads = several_heads(useless={"metrics": errors(9.0, of=2.0)}, useful={"metrics": errors(90.0, of=900.0)})
    useless, useful = (head_coverage(heads, head=n, numbers=[29], pbc=CRYSTAL) for n in ("useless", "useful"))
    assert any("no better than a guess" in line for line in useless.warnings)
    assert not any("guess" in line for line in useful.warnings)


def test_order_covering_first_then_periodicity_then_force_error():
    heads = several_heads(
        unknown={"structures_per_element": {"O": 50}, "metrics": errors(1.0, of=100.0)},
        molecules={"periodicity": ["FFF"], "metrics": errors(2.0, of=100.0)},
        unmeasured={"metrics": {}},
        rough={"metrics": errors(9.0, of=10.0)},
        fine={"metrics": errors(90.0, of=1000.0)},
    )
    order = [item.head for item in coverage(heads, numbers=[29], pbc=CRYSTAL)]
    assert order == ["fine", "rough", "unmeasured", "molecules", "unknown"]


def test_which_axes_are_periodic_does_not_matter():
    """A slab is a slab whichever axis its normal is."""
    heads = several_heads(slabs={"periodicity": ["TTF"]})
    assert head_coverage(heads, head="slabs", numbers=[29], pbc=(False, True, True)).periodicity_seen
    assert not head_coverage(heads, head="slabs", numbers=[29], pbc=CRYSTAL).periodicity_seen


@pytest.mark.parametrize("head", [METALS, MOLECULES])
@pytest.mark.parametrize(("charge", "spin"), [(0, None), (0, 3), (-1, 2), (1, 2), (-1, None), (0, 1)])
@pytest.mark.parametrize("symbols", ["Cu", "OH", "O2"])
@pytest.mark.parametrize("pbc", [CRYSTAL, MOLECULE])
def test_covered_means_that_evaluation_accepts_the_structure(potential, head, charge, spin, symbols, pbc):
    """The advice and the refusal are separate code; a user must never meet one that contradicts the other."""
    atoms = Atoms(symbols, positions=np.arange(3 * len(Atoms(symbols))).reshape(-1, 3), cell=np.eye(3) * 9, pbc=pbc)
    atoms.info["charge"] = charge
    if spin is not None:
        atoms.info["spin"] = spin
    try:
        potential.check_supported(build_graph(atoms, cutoff=potential.cutoff), head=head)
    except HydrapotError:
        accepted = False
    else:
        accepted = True
    advice = {item.head: item for item in coverage_of_atoms(potential, atoms)}
    assert advice[head].covered is accepted


def test_the_zero_of_the_energy_is_known_only_where_the_data_fix_it(potential):
    """H and O occurred 2:1 only: water is determined, any other ratio is not."""
    assert head_coverage(potential, head=MOLECULES, numbers=[1, 1, 8], pbc=MOLECULE).determined
    assert head_coverage(potential, head=MOLECULES, numbers=[6, 6, 1, 1, 8], pbc=MOLECULE).determined
    assert not head_coverage(potential, head=MOLECULES, numbers=[1, 8], pbc=MOLECULE).determined
    assert not head_coverage(potential, head=MOLECULES, numbers=[1, 1], pbc=MOLECULE).determined


def test_no_warnings_where_there_is_nothing_to_warn_of(potential):
    assert structure_warnings(potential, bulk("Cu"), head=METALS) == []
    assert structure_warnings(potential, molecule("H2O"), head=MOLECULES) == []


def test_each_warning_names_its_reason_in_one_line(potential):
    oxide = bulk("CuO", crystalstructure="rocksalt", a=4.2)
    (rare,) = structure_warnings(potential, oxide, head=METALS)
    assert "O in only 9 training structures" in rare
    (periodicity,) = structure_warnings(potential, Atoms("Cu"), head=METALS)
    assert "3 periodic directions" in periodicity
    assert "this one has 0" in periodicity
    (zero,) = structure_warnings(potential, molecule("OH"), head=MOLECULES)
    assert "zero of the energy" in zero
    assert not any("\n" in line for line in (rare, periodicity, zero))


def test_a_head_without_recorded_periodicity_warns(potential):
    heads = several_heads(silent={"periodicity": []})
    (line,) = structure_warnings(heads, bulk("Cu"), head="silent")
    assert "unrecorded" in line


def test_bad_input_is_named(potential):
    with pytest.raises(UnknownHeadError, match="nonsense"):
        structure_warnings(potential, bulk("Cu"), head="nonsense")
    with pytest.raises(UnknownElementError, match="0 is not"):
        coverage(potential, numbers=[0], pbc=CRYSTAL)


def test_an_empty_structure_is_covered_by_every_head(potential):
    assert all(item.covered for item in coverage(potential, numbers=[], pbc=MOLECULE))
