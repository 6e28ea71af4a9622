"""Import into a store: what is read, what is left out, and that nothing is lost or doubled however it ends."""

import json
import os
import signal
import time

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.metadata import LevelOfTheory
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.importing import gather, import_dataset
from hydrapot.training.data.limits import Limits, left_out, nearest_distance
from hydrapot.training.data.readers import ReaderOptions
from hydrapot.training.data.store import Store
from hydrapot.training.data.store_layout import StoreAttributes
from tests.data_helpers import frames_of

pytest.importorskip("adios2")

ATTRIBUTES = StoreAttributes(
    level_of_theory=LevelOfTheory(functional="PBE", code="VASP"), licence="CC0-1.0", attribution="made up"
)


def crystals(n, *, seed, first=0):
    rng = np.random.default_rng(seed)
    found = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(scale=0.1, size=(4, 3))
        atoms.calc = SinglePointCalculator(
            atoms, energy=-1.0 * (first + k), forces=rng.normal(size=(4, 3)), stress=rng.normal(scale=0.01, size=6)
        )
        atoms.info["group"] = f"run{k // 10}"
        found.append(atoms)
    return found


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for f in range(3):
        ase.io.write(folder / f"part{f}.extxyz", crystals(60, seed=f, first=1000 * f))
    return sorted(folder.glob("*"))


def run(sources, store, **changes):
    return import_dataset(
        sources, store, **{"attributes": ATTRIBUTES, "progress": False, "precision": "float64", **changes}
    )


def energies(store):
    with Store(store) as opened:
        return np.concatenate([frames.energy for frames in opened.iterate(split="all")])


def test_everything_arrives_in_order(files, tmp_path):
    report = run(files, tmp_path / "cu.store")
    assert report.structures == 180
    expected = np.concatenate([np.arange(60.0) + 1000 * f for f in range(3)])
    np.testing.assert_array_equal(energies(tmp_path / "cu.store"), -expected)
    with Store(tmp_path / "cu.store") as store:
        frames = store.read(np.array([0, 179]), split="all")
        first = ase.io.read(files[0], index=0)
        np.testing.assert_array_equal(frames.structure(0).positions, first.positions)
        np.testing.assert_array_equal(frames.structure(0).forces, first.get_forces())
        np.testing.assert_array_equal(frames.stress[0], first.get_stress(voigt=False))
        assert frames.group.tolist() == ["run0", "run5"]
        assert store.name == "cu"
        assert store.attributes.level_of_theory.functional == "PBE"
        assert [source.name for source in store.attributes.provenance] == [
            "part0.extxyz",
            "part1.extxyz",
            "part2.extxyz",
        ]
        assert all(len(source.sha256) == 64 for source in store.attributes.provenance)


def test_processes_and_one_process_write_the_same(files, tmp_path):
    one = run(files, tmp_path / "one.store", name="cu")
    two = run(files, tmp_path / "two.store", name="cu", workers=2)
    assert one.content == two.content
    assert one == two


def test_report(files, tmp_path):
    bad = crystals(4, seed=9)
    bad[0].calc.results["forces"][0, 0] = 150.0
    bad[1].positions[1] = bad[1].positions[0] + [0.3, 0.0, 0.0]
    bad[2].calc.results["stress"][0] = 7.0
    del bad[3].calc.results["energy"], bad[3].calc.results["forces"], bad[3].calc.results["stress"]
    ase.io.write(tmp_path / "bad.extxyz", bad)
    text = (tmp_path / "bad.extxyz").read_text()
    (tmp_path / "bad.extxyz").write_text(text + files[0].read_text() + text.replace("energy=", "REF_energy="))
    report = run([tmp_path / "bad.extxyz", files[0]], tmp_path / "x.store")
    assert report.structures == 120
    assert report.rejected == {
        "unknown label": 3,
        "no labels": 2,
        "absurd forces": 1,
        "absurd stress": 1,
        "atoms too close": 1,
    }
    examples = {e.reason: (e.where, e.detail) for e in report.files[0].examples}
    assert examples["atoms too close"] == ("frame 1", "0.3000 Å")
    assert examples["absurd forces"][0] == "frame 0"
    assert float(examples["absurd forces"][1].split()[0]) == pytest.approx(150.0, rel=1e-3)
    assert (report.duplicates.geometries, report.duplicates.structures) == (60, 60)
    written = json.loads((tmp_path / "x.store" / "report.json").read_text())
    assert written["files"][0]["rejected"] == report.files[0].rejected
    assert not list((tmp_path / "x.store").glob("import*")), "nothing of the import is left"


def test_labels_that_are_required(files, tmp_path):
    report = run(files[:1], tmp_path / "a.store", limits=Limits(require=("stress",)))
    assert report.structures == 60
    with pytest.raises(ConfigurationError, match="required has to be read"):
        run(
            files[:1],
            tmp_path / "b.store",
            options=ReaderOptions(labels=("energy",)),
            limits=Limits(require=("stress",)),
        )
    with pytest.raises(ConfigurationError, match="label 'dipole'"):
        run(files[:1], tmp_path / "b.store", options=ReaderOptions(labels=("dipole",)))
    report = run(files[:1], tmp_path / "c.store", options=ReaderOptions(labels=("energy",)))
    assert report.files[0].forces == 0
    assert not (tmp_path / "b.store").exists()


# --- interruptions ---


class StoppedError(Exception):
    """Stands for whatever ends an import."""


def test_a_killed_import_goes_on_with_nothing_lost_or_doubled(files, tmp_path):
    """SIGKILL at ten random moments: what the store holds in the end is what an undisturbed import writes."""
    settings = {"name": "cu", "commit_every": 7, "duplicates": False}
    start = time.perf_counter()
    whole = run(files, tmp_path / "whole.store", **settings)
    duration = time.perf_counter() - start
    rng = np.random.default_rng()
    killed = attempt = 0
    while killed < 10:  # an import may be finished before its moment has come
        attempt += 1
        assert attempt < 100
        store = tmp_path / f"{attempt}.store"
        while True:
            child = os.fork()
            if child == 0:
                try:
                    run(files, store, resume=True, **settings)
                finally:
                    os._exit(0)
            time.sleep(rng.uniform(0.0, 0.8 * duration))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                killed += 1
            if (store / "report.json").exists():
                break
            if not (store / "index.json").exists():
                with pytest.raises(DatasetError):
                    Store(store)  # an unfinished store is not there
        report = run(files, store, resume=True, **settings)
        assert report.content == whole.content
        assert report == whole
        assert {path.name for path in store.iterdir() if path.is_file()} == {"index.json", "report.json"}
        np.testing.assert_array_equal(energies(store), energies(tmp_path / "whole.store"))


def test_an_interrupted_import_does_not_read_again_what_is_committed(files, tmp_path, monkeypatch):
    from hydrapot.training.data import importing_shard

    settings = {"name": "cu", "commit_every": 10}
    appended = []
    original = importing_shard.StoreWriter.append

    def fail_later(self, frames, *, split):
        if sum(appended) >= 35:
            raise StoppedError
        appended.append(len(frames))
        original(self, frames, split=split)

    monkeypatch.setattr(importing_shard.StoreWriter, "append", fail_later)
    with pytest.raises(StoppedError):
        run(files[:1], tmp_path / "x.store", **settings)
    assert sum(appended) == 40
    monkeypatch.setattr(importing_shard.StoreWriter, "append", original)
    counted = []
    monkeypatch.setattr(
        importing_shard.StoreWriter,
        "append",
        lambda self, frames, *, split: (counted.append(len(frames)), original(self, frames, split=split)),
    )
    with pytest.raises(DatasetError, match="--resume"):
        run(files[:1], tmp_path / "x.store", **settings)
    assert run(files[:1], tmp_path / "x.store", resume=True, **settings).structures == 60
    assert sum(counted) == 20
    np.testing.assert_array_equal(energies(tmp_path / "x.store"), -np.arange(60.0))


def test_resuming_what_is_finished_does_nothing(files, tmp_path):
    first = run(files, tmp_path / "x.store")
    with pytest.raises(DatasetError, match="exists: choose another name"):
        run(files, tmp_path / "x.store")
    assert run(files, tmp_path / "x.store", resume=True) == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": slice(0, 2)}, "other files"),
        ({"limits": Limits(max_force=1.0)}, "other limits"),
        ({"split": "train"}, "other settings"),
        ({"attributes": ATTRIBUTES.model_copy(update={"licence": "MIT"})}, "another licence"),
    ],
)
def test_an_import_is_not_resumed_as_another_one(files, tmp_path, monkeypatch, change, message):
    from hydrapot.training.data import importing_shard

    def stop(*_):
        raise StoppedError

    monkeypatch.setattr(importing_shard, "write_atomically", stop)
    with pytest.raises(StoppedError):
        run(files, tmp_path / "x.store", commit_every=10)
    monkeypatch.undo()
    sources = files[change.pop("sources", slice(None))]
    with pytest.raises(DatasetError, match=message):
        run(sources, tmp_path / "x.store", resume=True, commit_every=10, **change)


def test_a_truncated_file_ends_the_import_and_leaves_no_store(files, tmp_path):
    files[1].write_text(files[1].read_text()[:-300])
    with pytest.raises(DatasetError, match=r"part1\.extxyz, frame 59: the file ends in the middle"):
        run(files, tmp_path / "x.store")
    assert not (tmp_path / "x.store" / "index.json").exists()


@pytest.mark.parametrize("which", [0, 1])
def test_a_truncated_file_is_replaced_and_the_import_goes_on(files, tmp_path, which):
    """Also the part of it that was committed stays, and the store is the same as if the file had been whole."""
    whole = files[which].read_text()
    settings = {"name": "cu", "commit_every": 10}
    expected = run(files, tmp_path / "expected.store", **settings)
    files[which].write_text(whole[: len(whole) // 2 + 50])
    with pytest.raises(DatasetError, match="the file ends in the middle"):
        run(files, tmp_path / "x.store", **settings)
    other = ase.io.read(files[2], index=":")
    ase.io.write(files[which], other, format="extxyz")
    with pytest.raises(
        DatasetError, match=rf"part{which}\.extxyz is another file than the one that .*bring that one back"
    ):
        run(files, tmp_path / "x.store", resume=True, **settings)
    files[which].write_text(whole)
    assert run(files, tmp_path / "x.store", resume=True, **settings).content == expected.content
    with Store(tmp_path / "x.store") as found, Store(tmp_path / "expected.store") as wanted:
        assert found.attributes.provenance == wanted.attributes.provenance
    np.testing.assert_array_equal(energies(tmp_path / "x.store"), energies(tmp_path / "expected.store"))


def test_nothing_to_import_says_why(files, tmp_path):
    for file in files:
        file.write_text(file.read_text().replace("energy=", "length_unit=bohr energy="))
    with pytest.raises(DatasetError, match=r"all are left out as unknown units \(180\); part0\.extxyz, frame 0"):
        run(files, tmp_path / "x.store")
    assert not (tmp_path / "x.store").exists()


def test_an_error_stops_the_other_processes(tmp_path):
    """They end with what they have committed, and do not read on to the end of their files."""
    ase.io.write(tmp_path / "a.extxyz", crystals(30, seed=0))
    (tmp_path / "a.extxyz").write_text((tmp_path / "a.extxyz").read_text()[:-300])
    # The other one would take minutes.
    (tmp_path / "b.extxyz").write_text(
        "".join([(tmp_path / "a.extxyz").read_text().rpartition("\n4\n")[0] + "\n"] * 6000)
    )
    with pytest.raises(DatasetError, match=r"a\.extxyz, frame 29"):
        run([tmp_path / "a.extxyz", tmp_path / "b.extxyz"], tmp_path / "x.store", workers=2, commit_every=100)
    assert not (tmp_path / "x.store" / "import-00001.json").exists()


def test_a_dead_process_ends_the_import(files, tmp_path, monkeypatch):
    """A worker that the system kills (memory) is an error, not an endless wait."""
    monkeypatch.setattr("hydrapot.training.data.importing.run_task", _die)
    with pytest.raises(DatasetError, match=r"a process ended.*--resume"):
        run(files, tmp_path / "x.store", workers=2)


def _die(task):
    os.kill(os.getpid(), signal.SIGKILL)


# --- files ---


def test_folders(files, tmp_path):
    (files[0].parent / "README.md").write_text("no data\n")
    (files[0].parent / "deep").mkdir()
    (files[0].parent / "deep" / "part3.xyz").write_text(files[0].read_text())
    found = gather([files[0].parent], layout=None)
    assert [f.name for f in found] == [
        "data/deep/part3.xyz",
        "data/part0.extxyz",
        "data/part1.extxyz",
        "data/part2.extxyz",
    ]
    with pytest.raises(DatasetError, match="no file in it has a layout that is known as mptrj"):
        gather([files[0].parent], layout="mptrj")
    with pytest.raises(DatasetError, match="given twice"):
        gather([files[0].parent, files[0]], layout=None)


@pytest.mark.parametrize("name", ["x", "x.bp"])
def test_stores_are_called_so(files, tmp_path, name):
    with pytest.raises(ConfigurationError, match=r"NAME\.store"):
        run(files, tmp_path / name)


# --- limits ---


def test_positions_that_float32_would_move(tmp_path):
    atoms = crystals(3, seed=1)
    atoms[1].positions += 5000.0
    ase.io.write(tmp_path / "a.extxyz", atoms)
    report = run([tmp_path / "a.extxyz"], tmp_path / "a.store", precision="float32")
    assert report.rejected == {"positions beyond float32": 1}
    assert run([tmp_path / "a.extxyz"], tmp_path / "b.store", precision="float64").rejected == {}


def test_nearest_distance_sees_images():
    cell = np.diag([2.0, 9.0, 9.0])
    atom = np.zeros((1, 3))
    assert nearest_distance(atom, cell, np.array([True] * 3), cutoff=3.0) == pytest.approx(2.0)
    assert nearest_distance(atom, cell, np.array([False, True, True]), cutoff=3.0) == np.inf
    pair = np.array([[0.1, 0.0, 0.0], [1.9, 0.0, 0.0]])
    assert nearest_distance(pair, cell, np.array([True] * 3), cutoff=3.0) == pytest.approx(0.2)
    assert nearest_distance(pair, cell, np.array([False] * 3), cutoff=3.0) == pytest.approx(1.8)
    far = pair + 1e5
    assert nearest_distance(far, cell, np.array([False] * 3), cutoff=3.0) == pytest.approx(1.8)


def test_limits_can_be_switched_off():
    atoms = crystals(2, seed=1)
    atoms[0].calc.results["forces"][0, 0] = 1e3
    atoms[1].positions[1] = atoms[1].positions[0] + [0.3, 0.0, 0.0]
    frames = frames_of(atoms)
    assert sorted(left_out(frames, Limits())) == [0, 1]
    assert left_out(frames, Limits(max_force=None, min_distance=None)) == {}
    assert sorted(left_out(frames, Limits(max_atoms=3))) == [0, 1]
