"""Relaxation of positions and cells, and evaluation of files."""

import json
from itertools import pairwise

import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential import ConfigurationError, InvalidStructureError, SimulationError, UnknownElementError
from hydrapot.workflows import evaluate_file, iterate_structures, read_structure, relax
from tests.engine_helpers import CRYSTALS, MOLECULES, small_potential


def crystal(strain=1.03, rattle=0.05):
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell * strain, scale_atoms=True)
    atoms.rattle(rattle, seed=2)
    atoms.calc = EMT()
    return atoms


@pytest.mark.parametrize("optimizer", ["FIRE", "LBFGS", "BFGS"])
def test_positions(optimizer):
    atoms = crystal()
    cell = atoms.cell.array.copy()
    result = relax(atoms, fmax=0.001, optimizer=optimizer)
    assert result.converged
    assert result.status == "converged"
    assert np.linalg.norm(atoms.get_forces(), axis=1).max() <= 0.001
    assert result.max_forces[-1] <= 0.001 < result.max_forces[0]
    assert result.energies[-1] < result.energies[0]
    np.testing.assert_array_equal(atoms.cell.array, cell)


@pytest.mark.parametrize("cell", ["full", "isotropic", "shape"])
@pytest.mark.parametrize("pressure", [0.0, 5.0])
def test_cell_and_pressure(cell, pressure):
    atoms = crystal()
    volume = atoms.get_volume()
    if cell == "shape":
        if pressure:
            with pytest.raises(ConfigurationError, match="pressure"):
                relax(atoms, cell=cell, pressure=pressure)
            return
        atoms.set_cell(atoms.cell.array @ np.diag([1.02, 1, 1 / 1.02]), scale_atoms=True)
    result = relax(atoms, cell=cell, pressure=pressure, fmax=0.002, smax=0.02, optimizer="LBFGS")
    assert result.converged
    stress = atoms.get_stress(voigt=False) / units.GPa
    if cell == "shape":
        assert atoms.get_volume() == pytest.approx(volume, rel=1e-6)
        np.testing.assert_allclose(stress - np.trace(stress) / 3 * np.eye(3), 0, atol=0.02)
    else:
        assert -np.trace(stress) / 3 == pytest.approx(pressure, abs=0.02)
        assert atoms.get_volume() < volume
    if cell == "full":
        np.testing.assert_allclose(stress, -pressure * np.eye(3), atol=0.02)
    if cell == "isotropic":
        np.testing.assert_allclose(atoms.cell.array / atoms.cell.array[0, 0], np.eye(3), atol=1e-9)


def test_outputs_and_resume(tmp_path):
    short = relax(crystal(), fmax=1e-4, max_steps=4, output=tmp_path / "r")
    assert short.status == "not converged"
    assert not short.converged
    assert len(read(tmp_path / "r.traj", index=":")) == 5
    with pytest.raises(ConfigurationError, match="exists already"):
        relax(crystal(), output=tmp_path / "r")
    atoms = crystal()
    result = relax(atoms, fmax=1e-4, output=tmp_path / "r", resume=True)
    assert result.converged
    assert result.energies[0] == pytest.approx(short.energies[-1])
    frames = read(tmp_path / "r.traj", index=":")
    assert len(frames) == 5 + result.summary["results"]["steps"]
    assert all(np.abs(a.positions - b.positions).max() > 0 for a, b in pairwise(frames))
    final = read(tmp_path / "r.extxyz")
    np.testing.assert_allclose(final.positions, atoms.positions, atol=1e-7)
    assert final.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    summary = json.loads((tmp_path / "r.json").read_text())
    assert summary["schema"] == "hydrapot relax"
    assert summary["status"] == "converged"
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    other = bulk("Al")
    other.calc = EMT()
    with pytest.raises(ConfigurationError, match="another structure"):
        relax(other, output=tmp_path / "r", resume=True)
    fresh = relax(crystal(), fmax=1e-4, output=tmp_path / "new", resume=True)
    assert fresh.converged
    stopped = relax(crystal(), output=tmp_path / "s", stop=lambda: True)
    assert stopped.status == "interrupted"
    assert {p.name for p in tmp_path.glob("s.*")} == {"s.traj", "s.extxyz", "s.json", "s.png"}


def test_notice_when_the_head_was_trained_without_stress(caplog):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = HydrapotCalculator(small_potential(), head=CRYSTALS)
    result = relax(atoms, cell="full", max_steps=1)
    assert any("without stress" in line for line in result.summary["notices"])
    assert "without stress" in caplog.text
    caplog.clear()
    result = relax(atoms, max_steps=1)
    assert not any("without stress" in line for line in result.summary["notices"])
    assert result.summary["notices"][0] == "head 'crystals': PBE (VASP)"


def test_what_makes_no_sense(tmp_path):
    out = {"output": tmp_path / "r"}
    for wrong, word in (
        ({"fmax": 0.0}, "fmax"),
        ({"optimizer": "Newton"}, "Newton"),
        ({"cell": "round"}, "round"),
        ({"max_steps": -1}, "max_steps"),
        ({"pressure": float("nan"), "cell": "full"}, "pressure"),
        ({"pressure": 1.0}, "pressure"),
    ):
        with pytest.raises(ConfigurationError, match=word):
            relax(crystal(), **wrong, **out)
    water = molecule("H2O")
    with pytest.raises(ConfigurationError, match="calculator"):
        relax(water)
    water.calc = HydrapotCalculator(small_potential(), head=MOLECULES)
    with pytest.raises(InvalidStructureError, match="periodic in all three"):
        relax(water, cell="full", **out)
    water.positions[0] = np.inf
    with pytest.raises(InvalidStructureError, match="atom 0"):
        relax(water, **out)
    assert not list(tmp_path.iterdir())


def test_a_structure_that_falls_apart_stops_the_run(tmp_path, monkeypatch):
    atoms = crystal()
    relaxed = EMT.get_potential_energy
    monkeypatch.setattr(
        EMT,
        "get_potential_energy",
        lambda self, *a, **k: relaxed(self, *a, **k) + (1e3 if (tmp_path / "r.traj").exists() else 0),
    )
    with pytest.raises(SimulationError, match=r"stopped at step 1: the energy rose by 250 eV/atom.*r\.traj"):
        relax(atoms, output=tmp_path / "r")
    assert len(read(tmp_path / "r.traj", index=":")) == 1


def labelled_file(path, model):
    frames = []
    for k, atoms in enumerate([bulk("Cu", cubic=True), bulk("Cu", cubic=True).repeat((2, 1, 1)), molecule("C2H6")]):
        atoms.rattle(0.05, seed=k)
        truth = atoms.copy()
        truth.calc = HydrapotCalculator(model, head=CRYSTALS, dtype="float64")
        labels = {"energy": truth.get_potential_energy() + 0.01 * len(atoms), "forces": truth.get_forces() + 0.002}
        if atoms.pbc.all():
            labels["stress"] = truth.get_stress() + 0.1 * units.GPa
        atoms.calc = SinglePointCalculator(atoms, **labels) if k != 1 else None
        frames.append(atoms)
    write(path, frames)
    return frames


@pytest.mark.filterwarnings("ignore:head 'crystals' was trained on structures:UserWarning")
def test_errors_against_labels(tmp_path):
    model = small_potential()
    labelled_file(tmp_path / "labels.extxyz", model)
    calc = HydrapotCalculator(model, head=CRYSTALS, dtype="float64")
    result = evaluate_file(calc, tmp_path / "labels.extxyz", output=tmp_path / "out")
    assert result.errors == pytest.approx(
        {
            "energy_mae_mev_per_atom": 10,
            "energy_rmse_mev_per_atom": 10,
            "energy_frames": 2,
            "forces_mae_mev_per_a": 2,
            "forces_rmse_mev_per_a": 2,
            "forces_frames": 2,
            "stress_mae_gpa": 0.1,
            "stress_rmse_gpa": 0.1,
            "stress_frames": 1,
        },
        rel=1e-3,  # the text of extended XYZ has eight decimals
    )
    frames = read(tmp_path / "out.extxyz", index=":")
    reference = list(iterate_structures(tmp_path / "labels.extxyz"))
    for frame, structure in zip(frames, reference, strict=True):
        structure.calc = calc
        assert frame.get_potential_energy() == pytest.approx(structure.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(frame.get_forces(), structure.get_forces(), atol=1e-7)
        if frame.pbc.all():
            np.testing.assert_allclose(frame.get_stress(), structure.get_stress(), atol=1e-7)
    assert "label_forces" in frames[0].arrays
    summary = json.loads((tmp_path / "out.json").read_text())
    assert [f["formula"] for f in summary["frames"]] == ["Cu4", "Cu8", "C2H6"]
    assert summary["frames"][0]["energy_error_mev_per_atom"] == pytest.approx(-10, rel=1e-3)
    assert any("PBE (VASP)" in line for line in summary["notices"])
    assert any("periodic directions" in line for line in summary["notices"])
    with pytest.raises(ConfigurationError, match="exists already"):
        evaluate_file(calc, tmp_path / "labels.extxyz", output=tmp_path / "out")
    part = evaluate_file(calc, f"{tmp_path / 'labels.extxyz'}@1:")
    assert [len(f) for f in part.frames] == [8, 8]


def test_evaluation_names_file_and_structure(tmp_path):
    calc = HydrapotCalculator(small_potential(), head=CRYSTALS)
    write(tmp_path / "a.extxyz", [bulk("Cu"), bulk("Au")])
    with pytest.raises(UnknownElementError, match=r"a\.extxyz, structure 1: .*Au"):
        evaluate_file(calc, tmp_path / "a.extxyz", output=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_reading(tmp_path):
    write(tmp_path / "a.traj", [bulk("Cu"), bulk("Ag")])
    assert read_structure(tmp_path / "a.traj").get_chemical_formula() == "Ag"
    assert read_structure(f"{tmp_path / 'a.traj'}@0").get_chemical_formula() == "Cu"
    (tmp_path / "empty.xyz").write_text("0\n\n")
    (tmp_path / "odd.cif").write_text("nonsense")
    for name, word in (
        ("no.cif", "no such file"),
        ("empty.xyz", "without atoms"),
        ("odd.cif", "cannot be read"),
        ("a.traj@7", "cannot be read"),
        ("a.traj@:", "several"),
    ):
        with pytest.raises(InvalidStructureError, match=word) as error:
            read_structure(tmp_path / name)
        assert name.partition("@")[0] in str(error.value)
        assert "\n" not in str(error.value)
