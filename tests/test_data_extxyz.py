"""The reader decides what labels mean and a cache must not change it: signs, gaps, errors, invalidation."""

import bz2
import gzip
import logging
import lzma

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from hydrapot.potential.errors import HydrapotError
from hydrapot.training.data import DatasetError, cache, extxyz, read_extxyz, read_many

LATTICE = 'Lattice="4 0 0 0 4 0 0 0 4" pbc="T T T"'
PROPERTIES = "Properties=species:S:1:pos:R:3:forces:R:3"


def frame(comment="energy=-1.5", *, atoms=("H 0 0 0 0 0 0.25", "O 0 0 1 0 0 -0.25"), properties=PROPERTIES):
    return "\n".join([str(len(atoms)), f"{properties} {comment}", *atoms]) + "\n"


@pytest.fixture
def read(tmp_path):
    def read_text(text, name="set.extxyz"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return read_extxyz(path, cache_dir=tmp_path / "cache")

    return read_text


def test_labels_arrive_unchanged(read):
    frames = read(frame(f"{LATTICE} energy=-1.5 charge=-1 spin=2 group=md dataset=set"))
    assert frames.name == "set"
    assert frames.numbers.tolist() == [1, 8]
    assert frames.numbers.dtype == np.int16
    assert frames.positions.tolist() == [[0, 0, 0], [0, 0, 1]]
    assert frames.forces.tolist() == [[0, 0, 0.25], [0, 0, -0.25]]
    assert frames.cells[0].tolist() == np.diag([4.0, 4, 4]).tolist()
    assert frames.pbc.all()
    assert (frames.energy[0], frames.charge[0], frames.spin[0], frames.group[0]) == (-1.5, -1, 2, "md")
    assert not frames.isolated[0]


def test_missing_labels_are_nan_and_missing_spin_is_zero(read):
    bare = "Properties=species:S:1:pos:R:3"
    text = (
        frame("", atoms=("H 0 0 0",), properties=bare)
        + frame("")
        + frame("energy=-2", atoms=("He 0 0 0",), properties=bare)
    )
    frames = read(text)
    assert np.isnan(frames.energy).tolist() == [True, True, False]
    assert frames.has_forces.tolist() == [False, True, False]
    assert np.isnan(frames.forces).all(1).tolist() == [True, False, False, True]
    assert not frames.has_stress.any()
    assert frames.spin.tolist() == frames.charge.tolist() == [0, 0, 0]


def test_stress_is_the_strain_derivative_of_the_energy(tmp_path):
    """Protects sign, unit and Voigt order, on a sheared crystal whose six components all differ."""
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.05, seed=1)
    strain = np.array([[-0.04, 0.01, 0.02], [0.01, -0.02, 0.03], [0.02, 0.03, 0.01]])
    crystal.set_cell(crystal.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    crystal.calc = EMT()
    crystal.get_stress()
    ase.io.write(tmp_path / "cu.extxyz", crystal)
    stress = read_extxyz(tmp_path / "cu.extxyz", cache_dir=tmp_path).stress[0]

    step = 1e-4
    numerical = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            energies = []
            for sign in (1, -1):
                deformed = crystal.copy()
                change = np.zeros((3, 3))
                change[i, j] += sign * step / 2
                change[j, i] += sign * step / 2
                deformed.set_cell(crystal.cell.array @ (np.eye(3) + change), scale_atoms=True)
                deformed.calc = EMT()
                energies.append(deformed.get_potential_energy())
            numerical[i, j] = (energies[0] - energies[1]) / (2 * step * crystal.get_volume())
    np.testing.assert_allclose(stress, numerical, atol=1e-5)
    assert np.linalg.norm(stress) > 0.01


def test_stress_survives_the_way_back_to_atoms(read):
    stress = "0.1 0.4 0.5 0.4 0.2 0.6 0.5 0.6 0.3"
    frames = read(frame(f'{LATTICE} stress="{stress}"'))
    expected = np.array(stress.split(), float).reshape(3, 3)
    np.testing.assert_array_equal(frames.stress[0], expected)
    np.testing.assert_array_equal(frames.to_atoms(0).get_stress(voigt=False), expected)


def test_isolated_mark_decides_not_the_number_of_atoms(read):
    atom = ("H 0 0 0 0 0 0",)
    frames = read(frame("energy=-13 config_type=isolated_atom", atoms=atom) + frame(f"{LATTICE} energy=-1", atoms=atom))
    assert frames.isolated.tolist() == [True, False]


@pytest.mark.parametrize(("suffix", "compress"), [("xz", lzma.compress), ("gz", gzip.compress), ("bz2", bz2.compress)])
def test_compressed_files(tmp_path, suffix, compress):
    path = tmp_path / f"set.extxyz.{suffix}"
    path.write_bytes(compress(frame("energy=-1 dataset=set").encode()))
    assert read_extxyz(path, cache_dir=tmp_path).name == "set"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"truncated or corrupt"):
        read_extxyz(path, cache_dir=tmp_path)


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, bz2.compress])
def test_compression_is_told_by_the_content(tmp_path, compress):
    """As the streaming reader does: a file that can be imported can be split and trained on, whatever it is called."""
    path = tmp_path / "set.extxyz"
    path.write_bytes(compress(frame("energy=-1").encode()))
    assert read_extxyz(path, cache_dir=tmp_path).energy.tolist() == [-1.0]


def test_dots_in_the_name_survive():
    assert extxyz.dataset_name("dir/v1.2_run.extxyz.xz") == "v1.2_run"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (frame("energy=nan"), "energy is not finite"),
        (frame("energy=inf"), "energy is not finite"),
        (frame("energy=abc"), "energy is not a number"),
        (frame(atoms=("H 0 0 0 0 0 nan",)), "forces is not finite"),
        (frame(f'{LATTICE} stress="1 2 3"'), "not extended XYZ"),
        (frame('stress="1 0 0 0 1 0 0 0 1"'), "three periodic directions"),
        (
            frame(properties="Properties=species:S:1:pos:R:3:forces:R:1", atoms=("H 0 0 0 1",)),
            "forces has shape",
        ),
        (frame(atoms=("H 0 0 nan 0 0 0",)), "not finite"),
        (frame(atoms=("Qq 0 0 0 0 0 0",)), "not extended XYZ"),
        (frame(atoms=("X 0 0 0 0 0 0",)), "atomic number 0"),
        (frame('Lattice="1 0 0 2 0 0 0 0 1" pbc="T T T"'), "independent cell vectors"),
        (frame("energy=-1 energy_unit=Hartree"), "energy_unit=Hartree"),
        (frame("REF_energy=-1"), "unknown label 'REF_energy'"),
        (frame('energy=-1 virial="1 0 0 0 1 0 0 0 1"'), "unknown label 'virial'"),
        (frame("charge=0.5"), "charge=0.5"),
        (frame("spin=0"), "multiplicity"),
        (frame("energy=-1 config_type=isolated_atom"), "marked isolated_atom"),
        (frame("energy=-1 dataset=other"), "rename the file"),
        ("oops\n", "no number of atoms"),
        (frame().rsplit("\n", 2)[0] + "\n", "ends in the middle"),
    ],
)
def test_bad_frames_raise_one_line_that_names_file_and_frame(read, second, message):
    with pytest.raises(DatasetError, match=message) as caught:
        read(frame() + second)
    text = str(caught.value)
    assert "set.extxyz, frame 1" in text
    assert "\n" not in text
    assert isinstance(caught.value, HydrapotError)


def test_missing_and_empty_files(read, tmp_path):
    with pytest.raises(DatasetError, match=r"nothing\.extxyz: No such file"):
        read_extxyz(tmp_path / "nothing.extxyz", cache_dir=tmp_path)
    with pytest.raises(DatasetError, match="no frames"):
        read("")


@pytest.mark.parametrize(
    ("key", "meant"), [("total_charge", "charge"), ("total_spin", "spin"), ("multiplicity", "spin")]
)
def test_charges_under_other_names_are_not_dropped(read, key, meant):
    """As MACE and others call them: an ion that is read as a neutral molecule is learned wrong without a word."""
    with pytest.raises(DatasetError, match=f"frame 0: unknown label '{key}'; call it '{meant}'"):
        read(frame(f"energy=-1 {key}=1"))
    assert len(read(frame(f"energy=-1 {key}=1 {meant}=1"))) == 1


def test_second_read_does_not_parse(read, monkeypatch):
    first = read(frame(f"{LATTICE} energy=-1.5 spin=2 group=md"))
    monkeypatch.setattr(extxyz, "_parse", None)
    second = read(frame(f"{LATTICE} energy=-1.5 spin=2 group=md"))
    for column in ("name", "offsets", "numbers", "positions", "forces", "cells", "pbc", "energy", "stress"):
        np.testing.assert_array_equal(getattr(first, column), getattr(second, column))
    for column in ("charge", "spin", "isolated", "group", "hashes"):
        before, after = getattr(first, column), getattr(second, column)
        assert before.tolist() == after.tolist()
        assert before.dtype == after.dtype


def test_changed_content_is_parsed_again(read):
    assert read(frame("energy=-1")).energy[0] == -1
    assert read(frame("energy=-2")).energy[0] == -2


def test_damaged_cache_is_replaced(read, tmp_path, caplog):
    read(frame())
    (stored,) = (tmp_path / "cache").iterdir()
    whole = stored.read_bytes()
    stored.write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        assert len(read(frame())) == 1
    assert "damaged cache" in caplog.text
    assert cache.load(stored) is not None


def test_unwritable_cache_costs_only_time(tmp_path, caplog):
    (tmp_path / "set.extxyz").write_text(frame())
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        assert len(read_extxyz(tmp_path / "set.extxyz", cache_dir=tmp_path / "file")) == 1
    assert "cannot write the dataset cache" in caplog.text


def test_read_many_keeps_the_order_and_names(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.extxyz").write_text(frame())
    paths = [tmp_path / "b.extxyz", tmp_path / "a.extxyz"]
    assert list(read_many(paths, cache_dir=tmp_path, progress=False)) == ["b", "a"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.xyz").write_text(frame())
    with pytest.raises(DatasetError, match="share the name 'a'"):
        read_many([*paths, tmp_path / "other" / "a.xyz"], cache_dir=tmp_path, progress=False)


def test_read_many_in_processes_reports_errors(tmp_path):
    (tmp_path / "a.extxyz").write_text(frame())
    (tmp_path / "b.extxyz").write_text(frame("energy=nan"))
    both = read_many([tmp_path / "a.extxyz"], workers=2, cache_dir=tmp_path, progress=False)
    assert len(both["a"]) == 1
    with pytest.raises(DatasetError, match=r"b\.extxyz, frame 0"):
        read_many([tmp_path / "a.extxyz", tmp_path / "b.extxyz"], workers=2, cache_dir=tmp_path, progress=False)
