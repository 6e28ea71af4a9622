"""A split is worth what it keeps apart: blocks, duplicates, isolated atoms, and the data it was made for."""

import time

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from hydrapot.training.data import DatasetError, splits
from hydrapot.training.data.duplicates import same_structure
from tests.data_helpers import frames_of


def trajectory(start, n, *, seed, group="md"):
    """Return n frames, each another geometry, labelled so that no two look alike."""
    rng = np.random.default_rng(seed)
    structures = []
    for k in range(n):
        atoms = start.copy()
        atoms.positions += rng.normal(0, 0.1, (len(atoms), 3))
        atoms.info["group"] = group
        atoms.calc = SinglePointCalculator(atoms, energy=float(k), forces=rng.normal(0, 1, (len(atoms), 3)))
        structures.append(atoms)
    return structures


def make(*datasets, **options):
    return splits.make_manifest(datasets, **({"seed": 1} | options))


def test_one_trajectory_gives_one_contiguous_block_and_is_called_interpolation():
    frames = frames_of(trajectory(molecule("H2O"), 100, seed=0))
    manifest = make(frames)
    train, validation = splits.apply(manifest, frames)
    assert len(validation) == 10
    assert (np.diff(validation) == 1).all()
    assert sorted([*train, *validation]) == list(range(100))
    assert manifest.datasets["set"].label == "interpolation"


def test_long_trajectories_are_sampled_in_at_most_four_blocks():
    frames = frames_of(trajectory(ase.Atoms("H2", [[0, 0, 0], [0, 0, 1]]), 1000, seed=0))
    _, validation = splits.apply(make(frames), frames)
    assert len(validation) == 100
    assert 1 < (np.diff(validation) > 1).sum() + 1 <= 4
    assert validation[0] < 250
    assert validation[-1] >= 750


def test_a_long_trajectory_is_divided_in_linear_time():
    """A trajectory of rMD17 has 100,000 frames: to look at all of them for each that is held out takes minutes."""
    held_out, begin = {}, time.process_time()
    splits._hold_out_blocks(np.arange(100_000), held_out, quota=10_000, rng=np.random.default_rng(0))
    assert time.process_time() - begin < 10.0
    chosen = np.array(sorted(held_out))
    assert all(held_out.values())
    assert len(chosen) == 10_000
    assert (np.diff(chosen) > 1).sum() <= 3


def test_every_group_and_composition_is_represented():
    structures = []
    for k, name in enumerate(["H2O", "CH4", "NH3"]):
        for group in ("cold", "hot"):
            structures += trajectory(molecule(name), 30, seed=k + 10 * (group == "hot"), group=group)
    frames = frames_of(structures)
    manifest = make(frames)
    _, validation = splits.apply(manifest, frames)
    assert np.bincount(validation // 30).tolist() == [3] * 6
    assert manifest.datasets["set"].label == "group"


def test_small_systems_are_held_out_whole():
    structures = []
    for k in range(40):
        structures += trajectory(molecule("H2O") + ase.Atoms(f"H{k + 1}", np.eye(k + 1, 3) * 9), 3, seed=k)
    frames = frames_of(structures)
    train, validation = splits.apply(make(frames), frames)
    assert len(validation) == 12
    assert not set(train // 3) & set(validation // 3)


def test_no_element_loses_its_training_structures():
    """Protects rare elements: random choice over 60 systems would often take one of the three with helium."""
    structures = []
    for k in range(60):
        extra = "He" if k < 3 else "Ne"
        structures += trajectory(
            ase.Atoms([*["H"] * (k + 1), extra], np.random.default_rng(k).normal(0, 3, (k + 2, 3))), 1, seed=k
        )
    frames = frames_of(structures)
    for seed in range(20):
        manifest = make(frames, seed=seed)
        train, validation = splits.apply(manifest, frames)
        assert len(validation) == 6
        assert (frames.compositions()[train, 2] > 0).sum() == 3
        assert splits.elements_missing_from_training(manifest, {"set": frames}) == {}


def test_duplicates_across_datasets_stay_on_one_side():
    shared = trajectory(molecule("H2O"), 60, seed=0)
    small = frames_of(shared[10:40], name="small")
    large = frames_of(shared, name="large")
    manifest = make(large, small)
    held_out = {}
    for frames in (small, large):
        train, validation = splits.apply(manifest, frames)
        held_out[frames.name] = set(frames.hashes[validation])
        assert not held_out[frames.name] & set(frames.hashes[train])
    assert held_out["small"] <= held_out["large"]
    assert len(held_out["small"]) == 3
    assert len(held_out["large"]) == 6


def test_the_same_strain_along_another_axis_is_the_same_structure():
    strained = []
    for axis in (0, 1, 0):
        crystal = bulk("Cu", cubic=True)
        crystal.cell[axis, axis] *= 1.01 if len(strained) < 2 else 1.02
        crystal.calc = SinglePointCalculator(
            crystal, energy=-14.9 + 0.01 * (len(strained) == 2), forces=np.zeros((4, 3))
        )
        strained.append(crystal)
    (classes,) = same_structure([frames_of(strained)])
    assert classes[0] == classes[1] != classes[2]


def test_isolated_atoms_are_on_neither_side():
    atoms = [ase.Atoms(symbol, [[0, 0, 0]]) for symbol in "HO"]
    for atom in atoms:
        atom.info["config_type"] = "isolated_atom"
        atom.calc = SinglePointCalculator(atom, energy=-1.0)
    frames = frames_of([*atoms, *trajectory(molecule("H2O"), 20, seed=0)])
    manifest = make(frames)
    train, validation = splits.apply(manifest, frames)
    assert set(range(22)) - set(train) - set(validation) == {0, 1}
    assert manifest.datasets["set"].n_isolated == 2


def test_one_atom_crystals_are_ordinary_structures():
    crystals = []
    for k in range(20):
        crystal = bulk("Cu", a=3.5 + 0.01 * k)
        crystal.calc = SinglePointCalculator(crystal, energy=0.1 * k)
        crystals.append(crystal)
    train, validation = splits.apply(make(frames := frames_of(crystals)), frames)
    assert (len(train), len(validation)) == (18, 2)


def test_the_result_is_reproducible_and_the_seed_matters():
    frames = frames_of(trajectory(molecule("H2O"), 100, seed=0))
    assert make(frames) == make(frames)
    assert len({tuple(make(frames, seed=seed).datasets["set"].validation) for seed in range(5)}) > 1


def test_written_manifest_is_read_back(tmp_path):
    frames = frames_of(trajectory(molecule("H2O"), 30, seed=0))
    manifest = make(frames)
    splits.save_manifest(manifest, tmp_path / "splits.json")
    assert splits.load_manifest(tmp_path / "splits.json") == manifest
    assert splits.apply(manifest, frames)[1].tolist() == splits.apply(make(frames), frames)[1].tolist()


def test_a_manifest_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    """A split is decided once: `--overwrite` on a full disk must not leave half of either."""
    manifest = make(frames_of(trajectory(molecule("H2O"), 30, seed=0)))
    splits.save_manifest(manifest, tmp_path / "split.json")
    before = (tmp_path / "split.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device", "split.json")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="No space"):
        splits.save_manifest(manifest.model_copy(update={"seed": 7}), tmp_path / "split.json")
    assert (tmp_path / "split.json").read_bytes() == before


def test_changed_data_are_refused():
    """A manifest for other data would quietly move validation structures into training."""
    structures = trajectory(molecule("H2O"), 30, seed=0)
    manifest = make(frames_of(structures))
    for changed in (
        structures[:-1],
        [*structures, *trajectory(molecule("H2O"), 1, seed=9)],
        trajectory(molecule("H2O"), 30, seed=5),
    ):
        with pytest.raises(DatasetError, match="not the one that the split manifest was made for"):
            splits.apply(manifest, frames_of(changed))
    with pytest.raises(DatasetError, match="no dataset 'new'"):
        splits.apply(manifest, frames_of(structures, name="new"))


def test_file_order_does_not_matter_to_apply():
    structures = trajectory(molecule("H2O"), 30, seed=0)
    frames = frames_of(structures)
    manifest = make(frames)
    backwards = frames_of(structures[::-1])
    _, validation = splits.apply(manifest, frames)
    _, reversed_validation = splits.apply(manifest, backwards)
    assert sorted(29 - reversed_validation) == validation.tolist()


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 2, "seed": 1, "fraction": 0.1, "datasets": {}}'])
def test_files_that_are_no_manifest(tmp_path, content):
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(DatasetError, match=r"splits\.json is no split manifest") as caught:
        splits.load_manifest(tmp_path / "splits.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="cannot read split manifest"):
        splits.load_manifest(tmp_path / "missing.json")


def test_the_committed_manifest_belongs_to_the_committed_configuration(pytestconfig):
    yaml = pytest.importorskip("yaml")
    examples = pytestconfig.rootpath / "examples"
    manifest = splits.load_manifest(examples / "pretrain_s.splits.json")
    configured = yaml.safe_load((examples / "pretrain_s.yaml").read_text())["datasets"]
    assert sorted(manifest.datasets) == sorted(entry["file"].removesuffix(".extxyz.xz") for entry in configured)
    for split in manifest.datasets.values():
        assert 0.09 < split.n_validation / (split.n_train + split.n_validation) < 0.13
