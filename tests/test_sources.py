"""Where structures live during training changes nothing in training: memory, store on disk, kept lists or new ones."""

import bz2
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.references import zero_references
from hydrapot.potential.repulsion import ZBLRepulsion
from hydrapot.training.config import load_config
from hydrapot.training.data import census as census_module
from hydrapot.training.data.census import Census, take_census
from hydrapot.training.data.compact import compact_edges
from hydrapot.training.data.contents import Contents, contents_of, merged
from hydrapot.training.data.extxyz import read_extxyz
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.labels import interaction_labels
from hydrapot.training.data.neighborhoods import Budget
from hydrapot.training.data.prepared import StreamedDataset, make_batch, normalizers, prepare
from hydrapot.training.data.sampler import Position
from hydrapot.training.data.source import FramesSource, SelectedSource, concatenate, read_all
from hydrapot.training.data.splits import apply, load_manifest, make_manifest, save_manifest
from hydrapot.training.datasets import open_datasets
from hydrapot.training.feed import PreparedFeed, make_sampler
from hydrapot.training.objective import ObjectiveConfig
from hydrapot.training.prefetch import Prefetched
from hydrapot.training.run import STATE_FILE, train
from hydrapot.training.setup import set_up
from hydrapot.training.step import Batch, EagerStep
from tests.store_helpers import ATTRIBUTES, assert_same
from tests.training_helpers import write_datasets

pytest.importorskip("adios2")
from hydrapot.training.data.store_writer import StoreWriter

NAMES = ("copper", "molecules")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets as extended XYZ, and the same as stores that are divided in the same way."""
    folder = tmp_path_factory.mktemp("project")
    write_datasets(folder)
    manifest = load_manifest(folder / "split.json")
    (folder / "stores").mkdir()
    for name in NAMES:
        frames = read_extxyz(folder / "data" / f"{name}.extxyz", cache_dir=folder / "cache")
        sides = dict(zip(("train", "validation"), apply(manifest, frames), strict=True))
        path = folder / "stores" / f"{name}.store"
        with StoreWriter(path, name=name, attributes=ATTRIBUTES, precision="float64") as writer:
            for split, side in sides.items():
                writer.append(frames.subset(side), split=split)
    text = (folder / "train.yaml").read_text()
    # No split manifest is named, and none is in the place of the default.
    (folder / "stores.yaml").write_text(text.replace(".extxyz", ".store").replace("split: split.json\n", ""))
    return folder


def _set_up(project: Path, *, stores: bool, **overrides):
    overrides = {k.replace("__", "."): v for k, v in overrides.items()}
    config = load_config(project / ("stores.yaml" if stores else "train.yaml"), overrides=overrides)
    data = project / ("stores" if stores else "data")
    manifest = (data if stores else project) / config.split
    return config, set_up(config, data=data, manifest_path=manifest, cache_dir=project / "cache")


def _first_work(config, setup, *, parts: int, steps: int):
    sampler = make_sampler(setup, config, parts=parts, branches=None)
    feed = PreparedFeed(setup, config, sampler=sampler, parts=range(parts))
    feed.start(Position())
    try:
        return [next(feed) for _ in range(steps)]
    finally:
        feed.close()


def _same_batch(a: Batch, b: Batch) -> None:
    for x, y in ((a.graph, b.graph), (a.targets._asdict(), b.targets._asdict())):
        left, right = (v if isinstance(v, dict) else vars(v) for v in (x, y))
        assert left.keys() == right.keys()
        for key, value in left.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, right[key]), key
            else:
                assert value == right[key], key
    assert torch.equal(a.head_index, b.head_index)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("mode", ["memory", "file"])
def test_batches_from_a_store_are_those_from_memory(project: Path, mode: str, parts: int) -> None:
    """Same sequence and the same tensors, to the last bit: labels, references, repulsion and neighbor lists included."""
    overrides = {"sampler__edge_slots": 700, "model__repulsion": "zbl"}
    config, memory = _set_up(project, stores=False, **overrides)
    other, streamed = _set_up(
        project, stores=True, data__structures=mode, data__neighbor_gib=0.0, data__workers=3, **overrides
    )
    assert any(isinstance(d, StreamedDataset) for d in streamed.training.values()) == (mode == "file")
    assert max(np.abs(d.sample.repulsion_energy).max() for d in memory.training.values()) > 1e-3
    assert memory.scales == streamed.scales
    for mine, theirs in zip(memory.potential.parameters(), streamed.potential.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert memory.potential.info.heads == streamed.potential.info.heads
    expected = _first_work(config, memory, parts=parts, steps=12)
    found = _first_work(other, streamed, parts=parts, steps=12)
    for a, b in zip(expected, found, strict=True):
        assert a.following == b.following
        assert len(a.batches) == len(b.batches) == parts
        for x, y in zip(a.batches, b.batches, strict=True):
            _same_batch(x, y)
    streamed.close()


def test_a_run_on_stores_ends_with_the_weights_of_the_run_on_files(project: Path, tmp_path: Path) -> None:
    from safetensors.torch import load as parse

    weights = []
    for stores in (False, True):
        overrides = {"run.steps": 6, "run.validate_every": 6}
        if stores:
            overrides |= {"data.structures": "file", "data.workers": 2, "data.neighbor_gib": 0.0}
        config = load_config(project / ("stores.yaml" if stores else "train.yaml"), overrides=overrides)
        out = tmp_path / str(stores)
        train(
            config,
            data=project / ("stores" if stores else "data"),
            manifest_path=(project / "stores" if stores else project) / config.split,
            out=out,
            threads=1,
            cache_dir=project / "cache",
            console=Console(quiet=True),
        )
        weights.append({k: v for k, v in parse((out / STATE_FILE).read_bytes()).items() if k.startswith("weights/")})
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_losses_and_gradients_of_parts_add_up_to_the_whole(project: Path) -> None:
    """With the normalizers of the global batch, the sum over parts is what one process would compute."""
    _, setup = _set_up(project, stores=False)
    config = ObjectiveConfig()
    datasets, scales = list(setup.training.values()), list(setup.scales.values())
    rows = np.array([[d, i] for i in range(7) for d in (0, 1)])
    step = EagerStep(setup.potential.double(), config=config)

    def made(part, normalized=None):
        arguments = {"scales": scales, "weights": [1.0, 2.0], "cutoff": 4.0, "normalized": normalized}
        return step(Batch(*make_batch(part, datasets, **arguments)))

    whole, gradient = made(rows)
    parts = [rows[:3], rows[3:4], rows[4:]]
    shared = normalizers(parts, datasets, weights=[1.0, 2.0])
    pieces = [made(part, shared) for part in parts]
    for k in range(len(whole)):
        assert float(sum(losses[k] for losses, _ in pieces)) == pytest.approx(float(whole[k]), rel=1e-12)
    for k, expected in enumerate(gradient):
        total = sum(gradients[k] for _, gradients in pieces)
        torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-13)
    assert normalizers(parts, datasets, weights=[0.0, 1.0])[0] == 7  # a dataset without weight does not count
    without = normalizers(parts, datasets, weights=[1.0, 2.0], targets=[[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(without, [7.0, *shared[1:]])  # nor does a label whose factor is 0


def test_labels_do_not_depend_on_company(project: Path) -> None:
    """Alone, in a batch or in a whole dataset: what remains of the labels has the same bits."""
    frames = read_extxyz(project / "data" / "copper.extxyz", cache_dir=project / "cache")
    other = read_extxyz(project / "data" / "molecules.extxyz", cache_dir=project / "cache")
    frames = replace(frames, positions=frames.positions * 0.8, cells=frames.cells * 0.8)
    both = concatenate([frames, other])
    edges = [compact_edges(both.structure(i), cutoff=4.0) for i in range(len(both))]
    how = {"references": zero_references([1, 6, 8, 29]), "repulsion": ZBLRepulsion(cutoff=4.0)}
    whole = interaction_labels(both, edges, **how)
    assert (whole.repulsion.energy > 0.1).sum() > 20
    for i in (0, 5, 23, 24, 40):
        alone = interaction_labels(both.subset([i]), [edges[i]], **how)
        atoms = slice(both.offsets[i], both.offsets[i + 1])
        assert alone.energy[0] == whole.energy[i]
        np.testing.assert_array_equal(alone.forces, whole.forces[atoms])
        np.testing.assert_array_equal(alone.strain[0], whole.strain[i])


def test_lists_are_kept_as_far_as_memory_allows(project: Path) -> None:
    frames = read_extxyz(project / "data" / "copper.extxyz", cache_dir=project / "cache")
    how = {"references": zero_references([29]), "repulsion": ZBLRepulsion(cutoff=4.0), "cutoff": 4.0}
    unlimited, limit = prepare(frames, **how), Budget(20_000)
    limited, nothing = prepare(frames, budget=limit, **how), prepare(frames, budget=Budget(0), **how)
    assert len(unlimited.lists) == len(frames)
    assert 0 < len(limited.lists) < len(frames)
    assert limit.used <= 20_000
    assert len(nothing.lists) == 0
    chosen = np.array([3, 20, 3, 11])
    for kind in (limited, nothing):
        a, b = unlimited.take(chosen), kind.take(chosen)
        assert all(
            np.array_equal(x, y) for p, q in zip(a.edges, b.edges, strict=True) for x, y in zip(p, q, strict=True)
        )
        np.testing.assert_array_equal(a.energy, b.energy)


# --- sources ---


def test_a_selection_reads_what_it_selects(project: Path) -> None:
    frames = read_extxyz(project / "data" / "molecules.extxyz", cache_dir=project / "cache")
    source = FramesSource(frames)
    selection = SelectedSource(source, np.array([5, 2, 9]))
    np.testing.assert_array_equal(selection.counts, frames.counts[[5, 2, 9]])
    assert_same(selection.read(np.array([2, 0, 2])), frames.subset([9, 5, 9]))
    assert_same(read_all(selection, chunk=2), frames.subset([5, 2, 9]))
    for bad in (3, -1):
        with pytest.raises(DatasetError, match=f"no structure {bad}: it holds 3"):
            selection.read(np.array([0, bad]))


def test_a_store_that_is_not_divided_is_refused_unless_a_manifest_divides_it(project: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in NAMES:
        frames = read_extxyz(project / "data" / f"{name}.extxyz", cache_dir=project / "cache")
        with StoreWriter(data / f"{name}.store", name=name, attributes=ATTRIBUTES, precision="float64") as writer:
            writer.append(frames)
    config = load_config(project / "stores.yaml")
    with pytest.raises(ConfigurationError, match="hydrapot data split"):
        set_up(config, data=data, manifest_path=tmp_path / "none.json")
    setup = set_up(config, data=data, manifest_path=project / "split.json")
    _, expected = _set_up(project, stores=False)
    assert setup.split == expected.split
    for name in NAMES:
        assert_same(setup.training[name].sample.frames, expected.training[name].sample.frames)


@pytest.mark.parametrize("structures", ["memory", "file"])
def test_reference_atoms_are_not_trained_on(project: Path, tmp_path: Path, structures: str) -> None:
    """A store that was divided by hand says which they are, by its split `isolated`; among the others they are refused."""
    for name in NAMES:
        frames = read_extxyz(project / "data" / f"{name}.extxyz", cache_dir=project / "cache")
        marked = frames.subset([0, 1])
        if name == NAMES[1]:
            marked = replace(marked, isolated=np.array([False, True]))
        with StoreWriter(tmp_path / f"{name}.store", name=name, attributes=ATTRIBUTES) as writer:
            writer.append(frames.subset(np.arange(2, len(frames))), split="train")
            writer.append(marked, split="train")
            writer.append(frames.subset([0]), split="validation")
    config = load_config(project / "stores.yaml", overrides={"data.structures": structures})
    with pytest.raises(ConfigurationError, match=r"molecules, structure \d+: an isolated .* split 'isolated'"):
        set_up(config, data=tmp_path, manifest_path=tmp_path / "none.json")


def test_datasets_may_lie_in_folders_within_the_data_directory(project: Path, tmp_path: Path) -> None:
    """Heads are called like the files, wherever these lie and however they are compressed."""
    config = load_config(project / "stores.yaml")
    (tmp_path / "below").mkdir()
    datasets = []
    for d in config.datasets:
        text = (project / "data" / f"{d.name}.extxyz").read_bytes()
        (tmp_path / "below" / f"{d.name}.extxyz.bz2").write_bytes(bz2.compress(text))
        datasets.append(d.model_copy(update={"file": f"below/{d.name}.extxyz.bz2"}))
    config = config.model_copy(update={"datasets": datasets})
    opened = open_datasets(config, data=tmp_path, manifest_path=project / "split.json", cache_dir=tmp_path)
    assert tuple(opened) == NAMES
    assert all(len(dataset.training) for dataset in opened.values())


def test_a_store_may_have_another_name_than_its_folder(project: Path, tmp_path: Path) -> None:
    """`hydrapot data import --name`; the manifest knows the dataset by that name, the configuration by its folder."""
    parts = []
    for name in NAMES:
        frames = read_extxyz(project / "data" / f"{name}.extxyz", cache_dir=project / "cache")
        parts.append(replace(frames, name=f"{name} of 2026"))
        with StoreWriter(tmp_path / f"{name}.store", name=parts[-1].name, attributes=ATTRIBUTES) as writer:
            writer.append(frames)
    manifest = make_manifest(parts, seed=0)
    save_manifest(manifest, tmp_path / "split.json")
    opened = open_datasets(load_config(project / "stores.yaml"), data=tmp_path, manifest_path=tmp_path / "split.json")
    assert {name: len(dataset.validation) for name, dataset in opened.items()} == {
        name: manifest.datasets[f"{name} of 2026"].n_validation for name in NAMES
    }


def test_one_of_several_processes_without_mpi_cannot_distribute(project: Path) -> None:
    pytest.importorskip("mpi4py")
    config = load_config(project / "stores.yaml", overrides={"data.structures": "distributed"})
    with pytest.raises(ConfigurationError, match="mpiexec or srun"):
        set_up(config, data=project / "stores", manifest_path=project / "none.json", share=(0, 2))


# --- census ---


def test_neighbors_are_counted_once_for_each_cutoff(project: Path, tmp_path: Path, monkeypatch) -> None:
    """Counting costs a neighbor list of every structure; it is kept beside the dataset, never in it."""
    frames = read_extxyz(project / "data" / "copper.extxyz", cache_dir=project / "cache")
    source, how = FramesSource(frames), {"folder": tmp_path, "key": "content"}
    monkeypatch.setattr(census_module, "PIECE", 10)
    fresh = take_census(source, cutoff=4.0, workers=2, **how)
    edges = [compact_edges(frames.structure(i), cutoff=4.0) for i in range(len(frames))]
    np.testing.assert_array_equal(fresh.degrees.all(), [e.counts.max() for e in edges])
    np.testing.assert_array_equal(fresh.edges.all(), [len(e.senders) for e in edges])
    np.testing.assert_array_equal(fresh.atoms.all(), frames.counts)
    assert fresh.contents == contents_of(frames)
    calls = []
    counted = census_module.compact_edges
    monkeypatch.setattr(census_module, "compact_edges", lambda *a, **k: calls.append(1) or counted(*a, **k))
    kept = take_census(source, cutoff=4.0, **how)
    assert not calls
    some = np.array([17, 3, 23, 3])
    np.testing.assert_array_equal(kept.edges[some], fresh.edges.all()[some])
    assert kept.contents == fresh.contents
    take_census(source, cutoff=4.5, **how)
    assert len(calls) == len(frames)
    # Two processes begin in different places and leave out what is there.
    damaged = next(tmp_path.glob("*4.000000*")) / "000001.npy"
    damaged.unlink()  # rather than writing into what is mapped above
    damaged.write_bytes(b"half a fi")
    calls.clear()
    again = take_census(source, cutoff=4.0, share=(1, 2), **how)
    assert len(calls) == 10
    np.testing.assert_array_equal(again.degrees.all(), fresh.degrees.all())


def test_a_census_of_many_pieces_holds_no_file_open(project: Path, tmp_path: Path, monkeypatch) -> None:
    """500 million structures are 4,000 files of a census; a process may open 1,024."""
    frames = read_extxyz(project / "data" / "copper.extxyz", cache_dir=project / "cache")
    monkeypatch.setattr(census_module, "PIECE", 1)
    kept = take_census(FramesSource(frames), cutoff=4.0, folder=tmp_path)
    held = [path for fd in Path("/proc/self/fd").iterdir() if str(tmp_path) in (path := _target(fd))]
    assert not held
    assert str(tmp_path) in Path("/proc/self/maps").read_text()  # on the disk nevertheless, not in memory
    np.testing.assert_array_equal(kept.atoms[np.array([20, 3])], frames.counts[[20, 3]])
    with pytest.raises(ValueError, match="read-only"):
        kept.atoms._pieces[0][0] = 0


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:  # the one that lists them
        return ""


@pytest.mark.parametrize(
    ("moved", "message"), [(0.0, "at one place"), (127 * 3.7 * 2, "wrap the positions into the cell")]
)
def test_a_structure_without_neighbor_list_is_named(project: Path, moved: float, message: str) -> None:
    """Among millions, and whichever way structures are counted."""
    frames = read_extxyz(project / "data" / "copper.extxyz", cache_dir=project / "cache")
    positions = frames.positions.copy()
    first = frames.offsets[17]
    positions[first + 1] = positions[first] + [moved, 0.0, 0.0]
    frames = replace(frames, positions=positions)
    wanted = rf"'copper', structure 17 \(hash {frames.hashes[17]}\): .*{message}"
    with pytest.raises(DatasetError, match=wanted):
        take_census(FramesSource(frames), cutoff=4.0, folder=None)
    with pytest.raises(DatasetError, match=wanted):
        prepare(frames, references=zero_references([29]), repulsion=ZBLRepulsion(cutoff=4.0), cutoff=4.0)


def test_summaries_of_parts_add_up_and_survive_their_file(project: Path) -> None:
    frames = concatenate(
        [read_extxyz(project / "data" / f"{n}.extxyz", cache_dir=project / "cache") for n in reversed(NAMES)]
    )
    whole = contents_of(frames)
    parts = [contents_of(frames.subset(np.arange(a, a + 12)), first=a) for a in range(0, 48, 12)]
    assert merged(parts) == whole
    assert Contents.from_json(whole.to_json()) == whole
    assert whole.examples[29][0] == 24


def test_a_census_of_nothing_has_nothing() -> None:
    assert len(Census([], Contents())) == 0


# --- prefetching ---


def test_items_keep_their_order_whoever_makes_them() -> None:
    rng = np.random.default_rng(0)
    delays = rng.uniform(0, 0.01, 40)

    def make(k: int) -> int:
        time.sleep(delays[k])
        return k

    ahead = Prefetched(lambda: iter(range(40)), make, depth=8, workers=6)
    assert list(ahead) == list(range(40))
    with pytest.raises(StopIteration):
        next(ahead)
    ahead.close()


def test_an_error_in_a_worker_ends_the_run_with_that_error() -> None:
    """A structure that cannot be read must not hang the processes or be left out: it is named where it was due."""

    def make(k: int) -> int:
        if k == 5:
            raise DatasetError("structure 5 is damaged")
        return k

    ahead = Prefetched(lambda: iter(range(100)), make, depth=4, workers=3)
    assert [next(ahead) for _ in range(5)] == list(range(5))
    with pytest.raises(DatasetError, match="structure 5 is damaged"):
        next(ahead)
    ahead.close()

    def broken():
        yield 1
        raise ConfigurationError("no more structures")

    ahead = Prefetched(broken, lambda k: k, depth=2)
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="no more structures"):
            next(ahead)
    ahead.close()


def test_no_more_than_the_depth_is_made_ahead_and_closing_ends_the_threads() -> None:
    made: list[int] = []

    def endless():
        k = 0
        while True:
            yield k
            k += 1

    ahead = Prefetched(endless, lambda k: made.append(k) or k, depth=3, workers=2)
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert 3 <= len(made) <= 4
    ahead.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_time_spent_waiting_is_known() -> None:
    slow = Prefetched(lambda: iter(range(3)), lambda k: time.sleep(0.1) or k, depth=1)
    list(slow)
    assert 0.2 < slow.waited < 1.0
    slow.close()
    fast = Prefetched(lambda: iter(range(3)), lambda k: k, depth=3)
    time.sleep(0.2)
    list(fast)
    assert fast.waited < 0.05
    fast.close()
