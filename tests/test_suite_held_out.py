"""Errors on labelled structures: known errors are found, zeros of the energy removed, strangers left out."""

import lzma

import numpy as np
import pytest
from ase.build import bulk
from ase.units import GPa

from hydrapot.validation.metrics import Outcome, Verdict
from hydrapot.validation.suites.held_out import SUITE
from tests.accuracy_helpers import context, emt_subject, label, metric, rattled_copper, references


def test_exact_labels_give_no_error(tmp_path):
    data = references(tmp_path, [label(a) for a in rattled_copper(12)])
    outcome = SUITE.run(context(emt_subject(), **data))
    assert outcome.verdict is Verdict.PASS
    for name in ("energy MAE", "energy MAE, zero as given", "force RMSE", "stress MAE"):
        assert metric(outcome, name).value == pytest.approx(0.0, abs=1e-4)
    assert metric(outcome, "force cosine similarity").value == pytest.approx(1.0, abs=1e-12)
    assert len(outcome.figures) == 3
    assert Outcome.from_dict(outcome.as_dict()).verdict is Verdict.PASS


def test_known_errors_are_found_and_a_zero_of_the_energy_removed(tmp_path):
    """Labels 0.2 eV/atom off; forces 10 % too large, stress 1 GPa off: each number is known beforehand."""

    def change(results, atoms):
        results["forces"] = 1.1 * results["forces"]
        results["stress"] = results["stress"] + 1.0 * GPa

    labels = [label(a, shift=0.2) for a in rattled_copper(12)]
    outcome = SUITE.run(context(emt_subject(change), **references(tmp_path, labels)))
    assert metric(outcome, "energy MAE, zero as given").value == pytest.approx(200.0, rel=1e-6)
    assert metric(outcome, "energy MAE").value == pytest.approx(0.0, abs=1e-3)
    assert metric(outcome, "stress RMSE").value == pytest.approx(1.0, rel=1e-5)
    relative = metric(outcome, "relative force error")
    assert relative.value == pytest.approx(0.1, rel=1e-5)
    assert relative.verdict is Verdict.PASS
    assert relative.level_of_theory == "EMT"
    force = metric(outcome, "force MAE")
    low, high = force.interval
    exact = 100.0 * np.abs(np.concatenate([a.get_forces().ravel() for a in labels])).mean()
    assert low < force.value < high
    assert force.value == pytest.approx(exact, rel=1e-5)


def test_zero_forces_fail(tmp_path):
    def change(results, atoms):
        results["forces"] = 0.0 * results["forces"]

    data = references(tmp_path, [label(a) for a in rattled_copper(12)])
    relative = metric(SUITE.run(context(emt_subject(change), **data)), "relative force error")
    assert relative.value == pytest.approx(1.0)
    assert relative.verdict is Verdict.FAIL


def test_a_few_structures_do_not_decide(tmp_path):
    """Forces right in one structure of two, and zero in the other: the limit lies within the interval."""
    labels = [label(a) for a in rattled_copper(4, width=(0.05, 0.08))]
    strongest = [np.abs(a.get_forces()).max() for a in labels]

    def change(results, atoms):
        results["forces"] = results["forces"] * (np.abs(results["forces"]).max() > np.median(strongest))

    data = references(tmp_path, labels)
    outcome = SUITE.run(context(emt_subject(change), limits={"held_out/relative force error": 0.3}, **data))
    assert metric(outcome, "relative force error").verdict is Verdict.INCONCLUSIVE


def test_limits_come_from_the_domain(tmp_path):
    data = references(tmp_path, [label(a, shift=0.2) for a in rattled_copper(12)])
    outcome = SUITE.run(context(emt_subject(), limits={"held_out/energy MAE, zero as given": 50.0}, **data))
    assert metric(outcome, "energy MAE, zero as given").verdict is Verdict.FAIL


def test_a_potential_that_fails_on_structures_is_named(tmp_path):
    def change(results, atoms):
        if np.abs(results["forces"]).max() > 3.0:
            results["energy"] = np.nan

    data = references(tmp_path, [label(a) for a in rattled_copper(12)])
    lost = metric(SUITE.run(context(emt_subject(change), **data)), "structures without an answer")
    assert lost.verdict is Verdict.FAIL
    assert "energy not finite" in lost.detail


def test_unknown_elements_are_left_out_and_counted(tmp_path):
    strangers = [label(bulk("Ni", a=3.5, cubic=True))] * 3
    data = references(tmp_path, [*strangers, *(label(a) for a in rattled_copper(12))])
    outcome = SUITE.run(context(emt_subject(), **data))
    assert any("3 of 15 structures left out" in note for note in outcome.notes)
    only = references(tmp_path, strangers, name="nickel")
    outcome = SUITE.run(context(emt_subject(), **only))
    assert outcome.verdict is Verdict.NOT_APPLICABLE
    assert "none of 3 structures" in outcome.metrics[0].detail


def test_labels_under_other_names_and_compressed(tmp_path):
    """REF_energy, REF_forces and a virial in a compressed file are as good as ASE's own names."""
    lines = []
    for atoms in map(label, rattled_copper(12)):
        virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
        cell = " ".join(f"{x:.12f}" for x in atoms.cell.array.ravel())
        header = (
            f'Lattice="{cell}" pbc="T T T" REF_energy={atoms.get_potential_energy():.12f} '
            f'REF_virial="{" ".join(f"{x:.12f}" for x in virial.ravel())}" '
            "Properties=species:S:1:pos:R:3:REF_forces:R:3"
        )
        lines += [str(len(atoms)), header]
        for position, force in zip(atoms.positions, atoms.get_forces(), strict=True):
            lines.append("Cu " + " ".join(f"{x:.12f}" for x in (*position, *force)))
    (tmp_path / "other.extxyz.xz").write_bytes(lzma.compress("\n".join(lines).encode()))
    reference = {"name": "other", "file": "other.extxyz.xz", "level_of_theory": "EMT"}
    outcome = SUITE.run(context(emt_subject(), references={"held_out": [reference]}, folder=tmp_path))
    assert metric(outcome, "force MAE").value == pytest.approx(0.0, abs=1e-5)
    assert metric(outcome, "stress MAE").value == pytest.approx(0.0, abs=1e-5)
    assert metric(outcome, "energy MAE, zero as given").value == pytest.approx(0.0, abs=1e-5)


def test_without_data_it_does_not_apply(tmp_path):
    assert SUITE.run(context(emt_subject())).verdict is Verdict.NOT_APPLICABLE
    reference = {"name": "lost", "file": "lost.extxyz", "level_of_theory": "PBE"}
    outcome = SUITE.run(context(emt_subject(), references={"held_out": [reference]}, folder=tmp_path))
    assert outcome.verdict is Verdict.NOT_APPLICABLE
    assert "cannot be read" in outcome.metrics[0].detail
