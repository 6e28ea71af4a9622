"""The use matrix never becomes green because something is missing, and says what stands against a use."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrapot.validation.domain import Domain
from hydrapot.validation.metrics import Metric, Outcome, Verdict, skipped
from hydrapot.validation.suites.precision import USES as PRECISION_USES
from hydrapot.validation.usematrix import Color, Column, matrix_of, use_matrix
from hydrapot.validation.uses import USES
from tests.results_helpers import make_document, sound_outcomes

F64, F32, LAMMPS = Column("ase", "f64"), Column("ase", "f32"), Column("lammps", "")
SUITES = sorted(sound_outcomes())
KEYS = [use.key for use in USES]


def matrix(outcomes, *, domain=None, precisions=("f64", "f32"), engines=("ase", "lammps"), errors=None):
    domain = domain or Domain(ensemble="nve")
    return use_matrix(outcomes, precisions=precisions, engines=engines, domain=domain, errors=errors)


def needed(use):
    """Suites without which a use cannot be green: those required, and the comparison where one suite alone has it."""
    return {*use.suites, *(use.accuracy if len(use.accuracy) == 1 else ())}


def test_everything_tested_and_passed_is_green_everywhere():
    found = matrix(sound_outcomes())
    assert found.columns == (F64, F32, LAMMPS)
    assert {cell.color for cells in found.rows.values() for cell in cells} == {Color.GREEN}
    assert set(found.allowed()) == {(key, column) for key in KEYS for column in found.columns}


@given(st.sets(st.sampled_from(SUITES)), st.data())
def test_no_cell_is_green_when_something_it_needs_is_missing_or_not_applicable(missing, data):
    outcomes = sound_outcomes()
    errors = {}
    for suite in missing:
        how = data.draw(st.sampled_from(["absent", "skipped", "without limits", "error"]))
        if how == "skipped":
            outcomes[suite] = Outcome([skipped(m.name, m.subject, "no reason") for m in outcomes[suite].metrics])
        elif how == "without limits":
            outcomes[suite] = Outcome([replace(m, lower=None, upper=None) for m in outcomes[suite].metrics])
        else:
            del outcomes[suite]
            if how == "error":
                errors[suite] = "out of memory"
    found = matrix(outcomes, errors=errors)
    for use in USES:
        cells = dict(zip(found.columns, found.rows[use.key], strict=True))
        lacking = needed(use) & missing
        if set(use.accuracy) <= missing:
            lacking |= set(use.accuracy)
        if lacking:
            assert {cell.color for cell in cells.values()} == {Color.GREY}
            assert all(cell.reasons for cell in cells.values())
        else:
            assert (cells[F32].color is Color.GREEN) == ("precision" not in missing) or set(use.accuracy) & missing
            assert (cells[LAMMPS].color is Color.GREEN) == ("parity" not in missing) or set(use.accuracy) & missing


@given(st.sampled_from(USES), st.data())
def test_one_failure_in_a_required_suite_makes_the_use_red_in_every_column(use, data):
    suite = data.draw(st.sampled_from(use.suites))
    outcomes = sound_outcomes()
    bad = Metric("anything", "MgO", 7.0, "eV", upper=1.0)
    outcomes[suite] = Outcome([*outcomes[suite].metrics, bad])
    found = matrix(outcomes)
    assert {cell.color for cell in found.rows[use.key]} == {Color.RED}
    assert suite in found.rows[use.key][0].reasons[0]
    assert "anything" in found.rows[use.key][0].reasons[0]


@given(st.sampled_from(USES), st.data())
def test_an_interval_that_contains_its_limit_makes_the_use_amber(use, data):
    suite = data.draw(st.sampled_from(use.suites))
    outcomes = sound_outcomes()
    outcomes[suite] = Outcome([*outcomes[suite].metrics, Metric("x", "MgO", 0.9, "eV", upper=1.0, interval=(0.8, 1.1))])
    assert outcomes[suite].verdict is Verdict.INCONCLUSIVE
    assert {cell.color for cell in matrix(outcomes).rows[use.key]} == {Color.AMBER}


def test_a_missing_comparison_is_grey_but_called_sound():
    outcomes = sound_outcomes()
    outcomes["phonons"] = Outcome([replace(m, level_of_theory="") for m in outcomes["phonons"].metrics])
    cell = matrix(outcomes).cell("phonons", F64)
    assert (cell.color, cell.sound, cell.word) == (Color.GREY, True, "sound only")
    del outcomes["jacobian"]
    assert not matrix(outcomes).cell("phonons", F64).sound


def test_an_energy_error_without_a_limit_is_no_comparison_of_energies():
    outcomes = sound_outcomes()
    force, energy = outcomes["held_out"].metrics
    outcomes["held_out"] = Outcome([force, replace(energy, upper=None)])
    cell = matrix(outcomes).cell("energies", F64)
    assert cell.color is Color.GREY
    assert "without a limit" in cell.reasons[0]


def test_a_bad_comparison_in_a_suite_that_is_not_required_still_counts():
    outcomes = sound_outcomes()
    outcomes["softening"] = Outcome([replace(outcomes["softening"].metrics[0], value=3.0)])
    assert matrix(outcomes).cell("nvt", F64).color is Color.RED
    assert matrix(outcomes).cell("elastic", F64).color is Color.GREEN


def test_a_wrong_stress_counts_only_for_uses_that_need_one():
    outcomes = sound_outcomes()
    force, stress = outcomes["gradient"].metrics
    outcomes["gradient"] = Outcome([force, replace(stress, value=9.0)])
    colors = {key: matrix(outcomes).cell(key, F64).color for key in KEYS}
    assert {key for key, color in colors.items() if color is Color.RED} == {u.key for u in USES if u.stress}
    outcomes["gradient"] = Outcome([force])
    colors = {key: matrix(outcomes).cell(key, F64).color for key in KEYS}
    assert {key for key, color in colors.items() if color is Color.GREY} == {u.key for u in USES if u.stress}


def test_what_a_suite_found_in_another_precision_counts_in_its_column_only():
    outcomes = sound_outcomes()
    bad = Metric("closed path", "MgO, seed 1, ASE f32", 7.0, "eV/atom", upper=1.0)
    outcomes["gradient"] = Outcome([*outcomes["gradient"].metrics, bad])
    found = matrix(outcomes)
    assert found.cell("nvt", F64).color is Color.GREEN
    assert found.cell("nvt", F32).color is Color.RED


def test_a_calculator_without_batches_lacks_nothing():
    outcomes = sound_outcomes()
    outcomes["contract"] = Outcome([*outcomes["contract"].metrics, skipped("batch", "all", "one structure at a time")])
    cell = matrix(outcomes).cell("energies", F64)
    assert cell.color is Color.GREEN
    assert cell.gaps
    outcomes["contract"] = Outcome([*outcomes["contract"].metrics, Metric("batch", "all", 3.0, "", upper=1.0)])
    assert matrix(outcomes).cell("energies", F64).color is Color.RED


def test_npt_needs_a_run_at_constant_pressure():
    outcomes = sound_outcomes()
    outcomes["md"] = Outcome(outcomes["md"].metrics[:1])
    found = matrix(outcomes)
    assert found.cell("npt", F64).color is Color.GREY
    assert found.cell("nvt", F64).color is Color.GREEN


def test_a_quantity_of_a_contract_suite_that_was_tested_nowhere_is_grey_and_one_left_out_somewhere_is_a_gap():
    outcomes = sound_outcomes()
    tested = outcomes["cutoff"].metrics
    outcomes["cutoff"] = Outcome([*tested, skipped("coordination cap", "MgO", "too few neighbors")])
    cell = matrix(outcomes).cell("energies", F64)
    assert cell.color is Color.GREY
    outcomes["cutoff"] = Outcome([*tested, skipped(tested[0].name, "NaCl", "too few neighbors")])
    cell = matrix(outcomes).cell("energies", F64)
    assert cell.color is Color.GREEN
    assert "too few neighbors" in cell.gaps[0]


def test_nve_is_judged_by_its_own_limit_when_the_domain_means_a_thermostat():
    outcomes = sound_outcomes()
    (slope,) = outcomes["nve"].metrics
    outcomes["nve"] = Outcome([replace(slope, value=0.02, interval=(0.019, 0.021))])
    thermostat = matrix(outcomes, domain=Domain(ensemble="nvt"))
    assert thermostat.cell("nvt", F64).color is Color.GREEN
    assert thermostat.cell("nve", F64).color is Color.RED


def test_a_precision_fails_only_for_the_uses_that_it_spoils():
    outcomes = sound_outcomes()
    metrics = [replace(m, value=4.0) if m.name == "allowed: phonons" else m for m in outcomes["precision"].metrics]
    outcomes["precision"] = Outcome(metrics)
    found = matrix(outcomes)
    assert found.cell("phonons", F32).color is Color.RED
    assert found.cell("phonons", F64).color is Color.GREEN
    assert found.cell("nvt", F32).color is Color.GREEN


def test_the_precision_suite_knows_every_use():
    assert list(PRECISION_USES) == KEYS


def test_a_precision_that_the_suite_did_not_measure_is_grey():
    found = matrix(sound_outcomes(), precisions=("f64", "bf16"))
    assert {found.cell(key, Column("ase", "bf16")).color for key in KEYS} == {Color.GREY}


def test_an_engine_without_parity_is_grey():
    found = matrix(sound_outcomes(), engines=("ase", "openmm"))
    assert {found.cell(key, Column("openmm", "")).color for key in KEYS} == {Color.GREY}


def test_a_document_gives_the_matrix_of_its_outcomes():
    outcomes = sound_outcomes()
    outcomes["phonons"] = "phonopy is not installed"
    found = matrix_of(make_document(outcomes, precisions=("f64", "f32", "bf16"), domain=Domain(ensemble="nve")))
    assert found.columns == (F64, F32, Column("ase", "bf16"), LAMMPS)
    assert "phonopy is not installed" in found.cell("phonons", F64).reasons[0]
    assert found.cell("elastic", F64).color is Color.GREEN


def test_a_calculator_has_one_column_in_its_own_precision():
    document = make_document()
    document = document.model_copy(update={"subject": document.subject.model_copy(update={"precisions": ("native",)})})
    assert matrix_of(document).columns[0] == Column("ase", "native")
    assert len(matrix_of(document).columns) == 2


@pytest.mark.parametrize("use", USES, ids=lambda use: use.key)
def test_every_required_suite_exists(use):
    assert {*use.suites, *use.accuracy} <= set(SUITES)
