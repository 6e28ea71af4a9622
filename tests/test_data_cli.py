"""`hydrapot data` as a user meets it: files in, store, tables, figures and manifests out; errors in one line."""

import json
import shutil
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from hydrapot.cli.main import app_main
from hydrapot.training.data.datasets import Dataset, concatenate
from hydrapot.training.data.extxyz import read_extxyz
from hydrapot.training.data.inspection import inspect
from hydrapot.training.data.splits import apply, load_manifest
from hydrapot.training.data.statistics import statistics
from hydrapot.training.data.store import Store

pytest.importorskip("adios2")
h5py = pytest.importorskip("h5py")

ABOUT = ["--functional", "PBE", "--licence", "CC0-1.0", "--attribution", "made up"]


@pytest.fixture
def hydrapot(capsys, monkeypatch, tmp_path):
    """Run the command line; returns exit code, standard output and standard error."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            app_main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


def labelled(atoms, energy, forces, **info):
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    atoms.info.update(info)
    return atoms


@pytest.fixture
def alloys(tmp_path):
    """Six trajectories of Cu, Au and CuAu₃ with E = −3.5 n(Cu) − 3.2 n(Au) + noise."""
    rng = np.random.default_rng(5)
    frames = []
    for run in range(6):
        for _ in range(20):
            atoms = bulk("Cu", cubic=True)
            atoms.numbers[: run % 3 + 1] = 79
            atoms.positions += rng.normal(scale=0.08, size=(4, 3))
            n_gold = int((atoms.numbers == 79).sum())
            energy = -3.5 * (4 - n_gold) - 3.2 * n_gold + rng.normal(scale=0.02)
            frames.append(labelled(atoms, energy, rng.normal(size=(4, 3)), group=f"run{run}"))
    ase.io.write(tmp_path / "alloys.extxyz", frames)
    return tmp_path / "alloys.extxyz"


def test_from_file_to_store_to_split_to_references(hydrapot, alloys, tmp_path):
    store, manifest, references = tmp_path / "alloys.store", tmp_path / "split.json", tmp_path / "references.json"
    code, out, _ = hydrapot("data", "import", alloys, "-o", store, *ABOUT, "--code", "VASP", "--precision", "float64")
    assert code == 0
    assert "alloys.extxyz  extxyz         120    480" in out
    assert "no geometry occurs twice" in out

    code, out, _ = hydrapot("data", "inspect", store, alloys)
    assert code == 0
    facts = dict(line.split("  ", 1) for line in out.replace("name ", "name  ").splitlines() if "  " in line)
    assert facts["elements"].strip() == "Cu 120, Au 120"
    for text in (
        "PBE (VASP)",
        "CC0-1.0",
        "made up",
        "energy 120, forces 120, stress 0",
        "groups           6",
        "TTT 120",
    ):
        assert text in out
    assert "a file does not say" in out

    code, out, _ = hydrapot("data", "split", store, "-o", manifest, "--fraction", "0.2", "--seed", "3")
    assert code == 0
    assert f"wrote {manifest}" in out
    with Store(store) as opened:
        frames = opened.read_range(0, 120, split="all")
    training, validation = apply(load_manifest(manifest), frames)
    assert len(validation) == 20
    assert not set(frames.group[training]) & set(frames.group[validation])
    np.testing.assert_array_equal(training, apply(load_manifest(manifest), Dataset(store).frames())[0])

    code, out, _ = hydrapot("data", "references", store, "--split", manifest, "-o", references)
    assert code == 0
    found = json.loads(references.read_text())["alloys"]
    assert found["values"]["Cu"] == pytest.approx(-3.5, abs=0.01)
    assert found["values"]["Au"] == pytest.approx(-3.2, abs=0.01)
    assert found["determined"] == ["Cu", "Au"]
    assert "100 training structures" in out


def test_references_see_the_training_side_only(hydrapot, alloys, tmp_path):
    """Held-out energies are made absurd: the references do not move."""
    manifest, first, second = tmp_path / "split.json", tmp_path / "a.json", tmp_path / "b.json"
    hydrapot("data", "split", alloys, "-o", manifest)
    hydrapot("data", "references", alloys, "--split", manifest, "-o", first)
    _, validation = apply(load_manifest(manifest), read_extxyz(alloys, cache_dir=tmp_path / "cache"))
    structures = ase.io.read(alloys, index=":")
    for i in validation:
        structures[i].calc.results["energy"] += 1000.0
    ase.io.write(alloys, structures)
    code, _, _ = hydrapot("data", "references", alloys, "--split", manifest, "-o", second)
    assert code == 0
    assert first.read_text() == second.read_text()


def test_isolated_and_zero_references(hydrapot, alloys, tmp_path):
    structures = ase.io.read(alloys, index=":")
    for symbol, energy in (("Cu", -0.25), ("Au", -0.125)):
        structures.append(labelled(Atoms(symbol), energy, np.zeros((1, 3)), config_type="isolated_atom"))
    ase.io.write(alloys, structures)
    manifest = tmp_path / "split.json"
    hydrapot("data", "split", alloys, "-o", manifest)
    code, out, _ = hydrapot("data", "references", alloys, "--split", manifest, "--mode", "isolated")
    assert code == 0
    assert "-0.250000" in out
    assert "-0.125000" in out
    code, out, _ = hydrapot("data", "references", alloys, "--split", manifest, "--mode", "zero")
    assert code == 0
    assert out.count("0.000000") == 2


def test_frames_of_a_small_trajectory_do_not_straddle(hydrapot, tmp_path):
    rng = np.random.default_rng(2)
    frames = []
    for run in range(12):
        for _ in range(4):
            atoms = molecule("H2O")
            atoms.positions += rng.normal(scale=0.05, size=(3, 3))
            frames.append(labelled(atoms, -14.0, rng.normal(size=(3, 3)), group=f"t{run}"))
    ase.io.write(tmp_path / "water.extxyz", frames)
    hydrapot("data", "split", tmp_path / "water.extxyz", "-o", tmp_path / "s.json", "--fraction", "0.25")
    read = read_extxyz(tmp_path / "water.extxyz", cache_dir=tmp_path / "cache")
    training, validation = apply(load_manifest(tmp_path / "s.json"), read)
    assert len(validation) == 12
    assert not set(read.group[training]) & set(read.group[validation])


def test_statistics_and_figures(hydrapot, alloys, tmp_path):
    code, out, _ = hydrapot("data", "stats", alloys, "-o", tmp_path / "figures")
    assert code == 0
    assert "median (1 % … 99 %)" in out
    png = (tmp_path / "figures" / "alloys.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert len(png) > 20_000
    (document,) = json.loads((tmp_path / "figures" / "stats.json").read_text())
    assert document["atoms"]["values"] == [4.0] * 5
    assert document["pressure"]["count"] == 0
    assert abs(document["energy"]["values"][2]) < 0.01, "the references are taken off"
    assert document["force"]["count"] == 480


def test_statistics_of_a_known_crystal(tmp_path):
    """Copper: nearest neighbors at a/√2, 12 of them; next at a: 18 within 4 Å."""
    crystal = bulk("Cu", cubic=True) * (2, 2, 2)
    crystal.calc = SinglePointCalculator(crystal, energy=-100.0, forces=np.zeros((32, 3)), stress=np.full(6, -0.01))
    ase.io.write(tmp_path / "cu.extxyz", crystal)
    found = statistics(Dataset(tmp_path / "cu.extxyz"), cutoff=4.0).distributions
    np.testing.assert_allclose(found["distance"].values, 3.61 / np.sqrt(2), rtol=1e-9)
    assert set(found["neighbors"].values) == {18.0}
    assert found["pressure"].values == pytest.approx([0.01 * 160.2176634])
    assert (found["energy"].values == 0).all()


def test_problems_are_named(hydrapot, alloys):
    structures = ase.io.read(alloys, index=":")
    structures[7].calc.results["forces"][0] = 500.0
    ase.io.write(alloys, structures)
    alloys.write_text(alloys.read_text() + "1\nProperties=species:S:1:pos:R:3 energy=-1 length_unit=bohr\nH 0 0 0\n")
    code, out, _ = hydrapot("data", "inspect", alloys, "--all")
    assert code == 0
    assert "2 structures would be left out" in out
    assert "frame 7    absurd forces" in out
    assert "unknown units" in out
    looked = inspect(Dataset(alloys), limit=50)
    assert looked.problems["absurd forces"] == 1


def test_about_file_and_options(hydrapot, alloys, tmp_path):
    about = tmp_path / "about.yaml"
    about.write_text(
        "level_of_theory: {functional: RPBE, code: VASP, energy_kind: free}\nlicence: MIT\nattribution: someone\n"
        "references: isolated\n"
    )
    code, _, err = hydrapot(
        "data", "import", alloys, "-o", tmp_path / "a.store", "--about", about, "--functional", "PBE"
    )
    assert code == 0, err
    attributes = Store(tmp_path / "a.store").attributes
    assert (attributes.level_of_theory.functional, attributes.level_of_theory.energy_kind) == ("PBE", "free")
    assert (attributes.licence, attributes.references) == ("MIT", "isolated")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("level_of_theory: {functional: PBE}\n", "say --licence, --attribution"),
        ("level_of_theory: {functional: PBE, code: 3}\nlicence: MIT\nattribution: a\n", "code"),
        ("level_of_theory: {functional: PBE, xc: PBE}\nlicence: MIT\nattribution: a\n", "xc"),
        ("level_of_theory: PBE\n", "level_of_theory has fields: functional"),
        ("licence: MIT\nowner: me\nattribution: a\nlevel_of_theory: {functional: PBE}\n", "owner"),
        ("- a\n", "a mapping with level_of_theory"),
        ("a: [\n", "about.yaml"),
    ],
)
def test_nothing_about_a_dataset_is_guessed(hydrapot, alloys, tmp_path, text, message):
    (tmp_path / "about.yaml").write_text(text)
    code, out, err = hydrapot("data", "import", alloys, "-o", tmp_path / "a.store", "--about", tmp_path / "about.yaml")
    assert code == 1
    assert not out
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "a.store").exists()


def test_import_of_a_published_layout(hydrapot, tmp_path):
    with h5py.File(tmp_path / "ani1x-release.h5", "w") as file:
        group = file.create_group("H2O1")
        group["atomic_numbers"] = np.array([8, 1, 1], np.uint8)
        group["coordinates"] = np.stack([molecule("H2O").positions * s for s in (1.0, 1.02)]).astype(np.float32)
        group["wb97x_dz.energy"] = np.array([-76.3, -76.2])
        group["wb97x_dz.forces"] = np.zeros((2, 3, 3), np.float32)
    code, out, err = hydrapot("data", "import", tmp_path / "ani1x-release.h5", "-o", tmp_path / "ani.store", *ABOUT)
    assert code == 0, err
    assert "ani1x" in out
    with Store(tmp_path / "ani.store") as store:
        assert store.read_range(0, 2, split="all").energy[0] == pytest.approx(-76.3 * 27.211386245988, rel=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "{file}", "-o", "{tmp}/a.store", "--format", "xyz", *ABOUT], "there are extxyz"),
        (["import", "{file}", "-o", "{tmp}/a.store", "--energy", "E", *ABOUT], "extxyz has energy, free_energy"),
        (["import", "{tmp}/none", "-o", "{tmp}/a.store", *ABOUT], "No such file"),
        (["import", "{file}", "-o", "{tmp}/a", *ABOUT], "NAME.store"),
        (["import", "{file}", "-o", "{tmp}/a.store", "--cell", "1 2", *ABOUT], "nine numbers"),
        (["import", "{file}", "-o", "{tmp}/a.store", "--require", "dipole", *ABOUT], "label 'dipole'"),
        (["inspect", "{tmp}/none"], "No such file"),
        (["inspect", "{tmp}/none.store"], "none.store"),
        (["references", "{file}", "--split", "{tmp}/none.json"], "none.json"),
        (["split", "{file}", "{file}", "-o", "{tmp}/s.json"], "two datasets of one name"),
        (["split", "{file}", "-o", "{file}"], "exists: a split is decided once"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(hydrapot, alloys, tmp_path, arguments, message):
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, err = hydrapot("data", *(a.format(file=alloys, tmp=tmp_path) for a in arguments))
    assert code == 1
    assert not out
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_help_names_all_verbs(hydrapot):
    code, out, _ = hydrapot("data", "--help")
    assert code == 0
    for verb in ("import", "inspect", "stats", "split", "references"):
        assert verb in out
    assert "--min-distance" in hydrapot("data", "import", "--help")[1]


# --- datasets ---


def test_samples_of_stores_are_spread_and_of_files_come_first(hydrapot, alloys, tmp_path):
    hydrapot("data", "import", alloys, "-o", tmp_path / "a.store", *ABOUT)
    assert Dataset(tmp_path / "a.store").sample(6).group.tolist() == [f"run{i}" for i in range(6)]
    assert set(Dataset(alloys).sample(6).group) == {"run0"}
    assert len(Dataset(alloys).sample(1000)) == 120


def test_concatenation_keeps_every_column(alloys, tmp_path):
    frames = read_extxyz(alloys, cache_dir=tmp_path / "cache")
    joined = concatenate([frames.subset(range(50)), frames.subset(range(50, 120))], name="alloys")
    for column, value in vars(frames).items():
        np.testing.assert_array_equal(getattr(joined, column), value, err_msg=column)


# --- slow: the command itself, with processes of its own ---


@pytest.mark.slow
def test_killed_command_with_processes(tmp_path):
    """SIGKILL of `hydrapot data import -j 2` at ten random moments: its processes end, too, and the rest is imported."""
    rng = np.random.default_rng(8)
    for f in range(4):
        frames = []
        for k in range(400):
            atoms = bulk("Cu", cubic=True)
            atoms.positions += rng.normal(scale=0.08, size=(4, 3))
            frames.append(labelled(atoms, -float(10_000 * f + k), rng.normal(size=(4, 3))))
        ase.io.write(tmp_path / f"part{f}.extxyz", frames)
    command = [sys.executable, "-c", "from hydrapot.cli.main import app_main; app_main()", "data", "import"]
    command += [str(path) for path in sorted(tmp_path.glob("*.extxyz"))]
    command += ["-j", "2", "--commit-every", "10", "--name", "cu", *ABOUT, "-o"]
    start = time.perf_counter()
    subprocess.run([*command, str(tmp_path / "whole.store")], check=True, capture_output=True)
    duration = time.perf_counter() - start
    whole = Store(tmp_path / "whole.store")
    store = tmp_path / "killed.store"
    killed = busy = 0
    while killed < 10:
        with (tmp_path / "errors").open("w") as errors:
            process = subprocess.Popen([*command, str(store), "--resume"], stdout=subprocess.DEVNULL, stderr=errors)
            try:
                process.wait(timeout=rng.uniform(0.4, 1.0) * duration)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
            process.wait()
        said = (tmp_path / "errors").read_text()
        if process.returncode == 0:
            assert Store(store).content == whole.content
            shutil.rmtree(store)
        elif process.returncode == 1:
            # The processes of the one before are about to notice that it is gone, and hold their shards until then.
            assert "another process is writing this shard" in said
            busy += 1
            assert busy < 30
            time.sleep(1.0)
        else:
            assert process.returncode == -9, said
    for _ in range(30):
        last = subprocess.run([*command, str(store), "--resume"], check=False, capture_output=True, text=True)
        if "another process" not in last.stderr:
            break
        time.sleep(1.0)
    assert last.returncode == 0, last.stderr
    assert Store(store).content == whole.content
    energies = np.concatenate([frames.energy for frames in Store(store).iterate(split="all")])
    np.testing.assert_array_equal(energies, -np.concatenate([10_000.0 * f + np.arange(400) for f in range(4)]))
