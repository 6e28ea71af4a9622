"""A store gives back what was written, to the last bit, from any place, and says so when it cannot."""

import contextlib
import json
import os
import pickle
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydrapot.training.data import store_chunk, store_columns
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.source import Source, read_all
from tests.store_helpers import ATTRIBUTES, as_float32, assert_same, random_frames

pytest.importorskip("adios2")
from hydrapot.training.data.store import Store, is_store
from hydrapot.training.data.store_index import finish
from hydrapot.training.data.store_layout import SourceFile
from hydrapot.training.data.store_writer import StoreWriter


def write(path, parts, *, name="set", **options):
    """`parts`: pairs of split and frames."""
    with StoreWriter(path, name=name, attributes=ATTRIBUTES, **options) as writer:
        for split, frames in parts:
            writer.append(frames, split=split)
    return Store(path)


@pytest.fixture(scope="module")
def frames():
    return random_frames(300, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, frames):
    """A store of several chunks a split, which most tests only read."""
    path = tmp_path_factory.mktemp("store") / "set.store"
    parts = [("train", frames.subset(np.arange(200))), ("validation", frames.subset(np.arange(200, 300)))]
    write(path, parts, precision="float64", chunk_bytes=6_000).close()
    return path


@pytest.fixture
def damaged(tmp_path, folder):
    """A copy that may be harmed."""
    return shutil.copytree(folder, tmp_path / "damaged.store")


# --- what comes back ---


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    chunk_bytes=st.sampled_from([3_000, 10**8]),
    precision=st.sampled_from(["float32", "float64"]),
    data=st.data(),
)
def test_frames_come_back_to_the_last_bit(tmp_path, n, seed, chunk_bytes, precision, data):
    """Any gaps in the labels, any cut into pieces and chunks, any order of reading; NaN stays NaN, −0.0 stays −0.0."""
    frames = random_frames(n, seed=seed)
    frames.positions[0] *= -0.0
    cut = data.draw(st.integers(0, n))
    path = tmp_path / f"{n}-{seed}-{chunk_bytes}-{precision}-{cut}.store"
    shutil.rmtree(path, ignore_errors=True)
    pieces = [frames.subset(np.arange(cut)), frames.subset(np.arange(cut, n))]
    expected = as_float32(frames) if precision == "float32" else frames
    with write(path, [("all", p) for p in pieces], precision=precision, chunk_bytes=chunk_bytes) as store:
        assert_same(store.read_range(0, n, split="all"), expected)
        wanted = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=12)), np.int64)
        assert_same(store.read(wanted, split="all"), expected.subset(wanted))
        store.verify()


@pytest.mark.parametrize("deferred", [True, False])
def test_splits_chunks_and_single_structures(folder, frames, deferred):
    with Store(folder, deferred=deferred) as store:
        assert (store.name, store.precision, len(store)) == ("set", "float64", 300)
        assert store.attributes == ATTRIBUTES
        assert sum(len(chunks) for chunks in store._chunks.values()) > 4
        for split, offset, n in (("train", 0, 200), ("validation", 200, 100)):
            mine = frames.subset(np.arange(offset, offset + n))
            info = store.splits[split]
            assert (info.structures, info.atoms) == (n, len(mine.numbers))
            assert info.energies == (~np.isnan(mine.energy)).sum()
            assert (info.forces, info.stresses) == (mine.has_forces.sum(), mine.has_stress.sum())
            assert store.counts(split).tolist() == mine.counts.tolist()
            for i in (0, 7, n - 1):
                assert_same(store.read(np.array([i]), split=split), mine.subset([i]))
            assert_same(store.read(np.arange(n)[::-1], split=split), mine.subset(np.arange(n)[::-1]))
            blocks = list(store.iterate(split=split, structures=33))
            assert [len(block) for block in blocks][:-1] == [33] * (len(blocks) - 1)
            assert np.concatenate([block.energy for block in blocks]).tobytes() == mine.energy.tobytes()


def test_view_is_a_source(folder, frames):
    view = Store(folder).view("train")
    assert isinstance(view, Source)
    assert (view.name, len(view)) == ("set", 200)
    assert_same(read_all(view, chunk=64), frames.subset(np.arange(200)))
    assert len(view.read(np.empty(0, np.int64))) == 0
    with pytest.raises(ValueError, match="read-only"):
        view.counts[0] = 1


def test_precision_does_not_change_identity(tmp_path, frames):
    """The hash is stored, not computed from rounded positions: splits made before and after the import agree."""
    with write(tmp_path / "a.store", [("all", frames)], precision="float32") as store:
        found = store.read_range(0, len(frames), split="all")
    assert found.hashes.tolist() == frames.hashes.tolist()
    assert found.energy.tobytes() == frames.energy.tobytes()
    assert np.abs(found.positions - frames.positions).max() < 1e-5


def test_content_names_the_numbers(tmp_path, frames):
    first = write(tmp_path / "a.store", [("all", frames)]).content
    assert write(tmp_path / "b.store", [("all", frames)], name="other").content == first
    changed = replace(frames, energy=np.nextafter(frames.energy, np.inf))
    assert write(tmp_path / "c.store", [("all", changed)]).content != first


def test_many_names_are_decoded_when_asked_for(folder, frames, monkeypatch):
    """A dataset with a name per molecule does not hold them all as strings."""
    monkeypatch.setattr(store_columns, "_DECODED_BYTES", 0)
    view = Store(folder).view("train")
    indices = np.array([5, 199, 5, 0, 77])
    assert view.read(indices).group.tolist() == frames.group[indices].tolist()
    assert {reader.names._array for reader in view.store._readers.values()} == {None}


def test_threads_read_at_once(folder, frames):
    store, wrong = Store(folder, open_chunks=2), []
    assert len(store._chunks["train"]) > 3

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(30):
            indices = rng.integers(0, 200, 20)
            try:
                assert_same(store.read(indices, split="train"), frames.subset(indices))
            except BaseException as error:  # noqa: BLE001 (shown below)
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(store._readers) <= 2


def test_one_read_of_more_chunks_than_files_may_be_open(damaged, frames, monkeypatch):
    """A sample of a whole dataset: an import of OMat24 has more chunks than a process may open files."""
    store, opened = Store(damaged, open_chunks=2), []
    read = store_chunk.ChunkReader.read_into

    def watch(*arguments, **options):
        read(*arguments, **options)
        opened.append({target for target in _open_files() if target.startswith(f"{damaged}/")})

    monkeypatch.setattr(store_chunk.ChunkReader, "read_into", watch)
    indices = np.random.default_rng(0).permutation(200)
    assert_same(store.read(indices, split="train"), frames.subset(indices))
    assert len(opened) == len(store._chunks["train"]) > 3
    assert all(1 <= len(files) <= 2 for files in opened)


def _open_files():
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            yield str(descriptor.readlink())


def test_pickled_and_forked(folder, frames):
    """Workers get the store by pickle or fork; shared file handles would mix up what parent and child read."""
    view = Store(folder).view("validation")
    expected = frames.subset(np.arange(200, 300))
    assert_same(read_all(view), expected)
    assert_same(read_all(pickle.loads(pickle.dumps(view))), expected)  # noqa: S301 (our own bytes)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for _ in range(20):
                assert_same(read_all(view), expected)
            status = 0
        finally:
            os._exit(status)
    for _ in range(20):
        assert_same(read_all(view), expected)
    assert os.waitpid(child, 0)[1] == 0


# --- shards ---


def test_shards_become_one_store(tmp_path, frames):
    """Written in any order; visible only with the last one; the order of the structures is that of the shards."""
    path = tmp_path / "set.store"
    pieces = np.array_split(np.arange(len(frames)), 3)
    for shard in (2, 0, 1):
        if shard != 2:
            with pytest.raises(DatasetError, match=r"unfinished \(\d of 3 shards are complete\)"):
                Store(path)
        with StoreWriter(path, name="set", attributes=ATTRIBUTES, shard=shard, shards=3, precision="float64") as writer:
            writer.add_source(SourceFile(name=f"part{shard}.xyz", sha256="0" * 64))
            writer.append(frames.subset(pieces[shard]))
    with Store(path) as store:
        assert_same(store.read_range(0, len(frames), split="all"), frames)
        assert [source.name for source in store.attributes.provenance] == ["part0.xyz", "part1.xyz", "part2.xyz"]
    assert finish(path)
    assert not list(path.glob("shard-*.json"))


def test_a_shard_may_be_empty(tmp_path, frames):
    path = tmp_path / "set.store"
    with StoreWriter(path, name="set", attributes=ATTRIBUTES, shard=1, shards=2):
        pass
    with StoreWriter(path, name="set", attributes=ATTRIBUTES, shard=0, shards=2) as writer:
        writer.append(frames)
    assert len(Store(path)) == len(frames)


def test_nothing_at_all_is_no_store(tmp_path):
    with (
        pytest.raises(DatasetError, match="not one structure"),
        StoreWriter(tmp_path / "a.store", name="a", attributes=ATTRIBUTES),
    ):
        pass
    with pytest.raises(DatasetError):
        Store(tmp_path / "a.store")


def test_two_writers_of_one_shard(tmp_path, frames):
    with StoreWriter(tmp_path / "a.store", name="a", attributes=ATTRIBUTES) as writer:
        with pytest.raises(DatasetError, match="another process"):
            StoreWriter(tmp_path / "a.store", name="a", attributes=ATTRIBUTES, resume=True)
        writer.append(frames)
    assert len(Store(tmp_path / "a.store")) == len(frames)


def test_shards_have_to_agree(tmp_path, frames):
    path = tmp_path / "a.store"
    with StoreWriter(path, name="a", attributes=ATTRIBUTES, shards=2) as writer:
        writer.append(frames)
    other = ATTRIBUTES.model_copy(update={"licence": "MIT"})
    with (
        pytest.raises(DatasetError, match="another licence"),
        StoreWriter(path, name="a", attributes=other, shard=1, shards=2) as writer,
    ):
        writer.append(frames)


# --- interrupted ---


def interrupt(writer, frames):
    with contextlib.suppress(KeyboardInterrupt), writer:
        writer.append(frames)
        raise KeyboardInterrupt


def test_an_exception_leaves_nothing(tmp_path, frames):
    path = tmp_path / "a.store"
    writer = StoreWriter(path, name="a", attributes=ATTRIBUTES, chunk_bytes=2_000)
    interrupt(writer, frames)
    assert not path.exists()


def test_an_exception_keeps_what_was_committed(tmp_path, frames):
    path = tmp_path / "a.store"
    options = {"name": "a", "attributes": ATTRIBUTES, "precision": "float64"}
    first, second = np.arange(100), np.arange(100, 300)
    writer = StoreWriter(path, **options)
    assert writer.cursor is None
    writer.append(frames.subset(first))
    writer.commit({"done": 100})
    interrupt(writer, frames.subset(second))
    with pytest.raises(DatasetError, match="unfinished"):
        Store(path)
    with pytest.raises(DatasetError, match="unfinished import is there"):
        StoreWriter(path, **options)
    with StoreWriter(path, **options, resume=True) as writer:
        assert writer.cursor == {"done": 100}
        writer.append(frames.subset(second))
    assert_same(Store(path).read_range(0, 300, split="all"), replace(frames, name="a"))
    with pytest.raises(DatasetError, match="exists"):
        StoreWriter(path, **options)
    with StoreWriter(path, **options, resume=True) as writer:
        assert writer.finished
        with pytest.raises(DatasetError, match="finished"):
            writer.append(frames)


def test_a_disk_too_small_is_noticed_before_writing(tmp_path, frames, monkeypatch):
    monkeypatch.setattr(store_chunk.shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(DatasetError, match=r"bytes needed, 10,000 free"):
        write(tmp_path / "a.store", [("all", frames)])
    assert not (tmp_path / "a.store").exists()


# --- refused ---


@pytest.mark.parametrize("file", ["data.0", "md.0", "md.idx", "mmd.0"])
def test_truncation_is_noticed_on_opening(damaged, file):
    victim = next(damaged.glob(f"shard-*/train-*.bp/{file}"))
    victim.write_bytes(victim.read_bytes()[:-8])
    with pytest.raises(DatasetError, match=f"{file}: truncated"):
        Store(damaged)


def test_a_lost_file_is_noticed_on_opening(damaged):
    shutil.rmtree(next(damaged.glob("shard-*/*.bp")))
    with pytest.raises(DatasetError, match="No such file"):
        Store(damaged)


@pytest.mark.parametrize("file", ["md.0", "md.idx", "mmd.0"])
def test_flipped_bits_of_metadata_never_reach_adios2(damaged, file):
    flip(next(damaged.glob(f"shard-*/train-*.bp/{file}")))
    with pytest.raises(DatasetError, match=f"{file}: altered"):
        Store(damaged).verify()


def test_every_flipped_bit_of_the_data_is_found(damaged):
    """Bits anywhere in the file: whichever column they belong to."""
    rng = np.random.default_rng(0)
    victim = next(damaged.glob("shard-*/train-*.bp/data.0"))
    original = victim.read_bytes()
    missed = 0
    for _ in range(30):
        at = int(rng.integers(len(original)))
        flip(victim, at=at)
        try:
            with Store(damaged) as store:
                store.verify()
            missed += 1  # alignment between the columns belongs to none
        except DatasetError as error:
            assert "data" in str(error) or "column" in str(error)  # noqa: PT017 (either outcome is looked at)
        victim.write_bytes(original)
    assert missed <= 1
    Store(damaged).verify()


def flip(file, *, at=None):
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 4
    file.write_bytes(content)


def edit(store, change, *, sign=False):
    from hydrapot.training.data.store_layout import _checksum

    file = store / "index.json"
    plain = json.loads(file.read_text(encoding="utf-8"))
    change(plain)
    if sign:
        plain["checksum"] = _checksum(plain)
    file.write_text(json.dumps(plain), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(version=99), "store version 99"),
        (lambda p: p["attributes"]["units"].update(energy="Ha"), "energy in Ha, expected eV"),
        (lambda p: p["attributes"]["units"].pop("stress"), "stress in None"),
        (lambda p: p["attributes"].update(licence=""), "licence"),
        (lambda p: p.update(format="something"), "damaged"),
        (lambda p: p.update(extra=1), "extra"),
    ],
)
def test_an_index_of_another_kind(damaged, change, message):
    edit(damaged, change, sign=True)
    with pytest.raises(DatasetError, match=message):
        Store(damaged)


def test_an_altered_index(damaged):
    edit(damaged, lambda p: p["attributes"].update(licence="MIT"))
    with pytest.raises(DatasetError, match="altered since it was written"):
        Store(damaged)


def test_what_is_not_a_store(tmp_path):
    with pytest.raises(DatasetError, match="no such store"):
        Store(tmp_path / "no.store")
    with pytest.raises(DatasetError, match="not a dataset store"):
        Store(tmp_path)
    assert is_store(tmp_path / "no.store")
    assert not is_store(tmp_path)


def test_structures_that_are_not_there(folder):
    store = Store(folder)
    with pytest.raises(DatasetError, match="no split 'test': it has train, validation"):
        store.view("test")
    for bad in (200, -1):
        with pytest.raises(DatasetError, match=f"no structure {bad}: it holds 200"):
            store.read(np.array([3, bad]), split="train")


@pytest.mark.parametrize(
    ("column", "rows", "value", "message"),
    [
        ("positions", 0, np.nan, "structure 0: positions not finite"),
        ("cells", 5, np.inf, "structure 5: cells not finite"),
        ("energy", 7, np.inf, "structure 7: energy neither finite nor missing"),
        ("stress", (3, 0, 0), np.inf, "structure 3: stress neither finite nor missing"),
        ("forces", (0, 0), np.inf, "structure 0: forces neither finite nor missing"),
        ("hashes", 2, "not a hash", "'not a hash' is no structure hash"),
        ("numbers", 0, 119, "atomic numbers"),
        ("positions", 0, 12345.678901, "float32 cannot hold its positions"),
        ("forces", slice(0, 1), 1e39, "float32 cannot hold its forces"),
    ],
)
def test_what_a_store_does_not_take(tmp_path, column, rows, value, message):
    frames = random_frames(20, seed=4)
    frames.forces[np.isnan(frames.forces)] = 1.0
    getattr(frames, column)[rows] = value
    with pytest.raises(DatasetError, match=message):
        write(tmp_path / "a.store", [("all", frames)])
    assert not (tmp_path / "a.store").exists()


def test_forces_on_some_atoms_only(tmp_path):
    frames = random_frames(20, seed=4)
    i = int(np.flatnonzero(frames.has_forces & (frames.counts > 1))[0])
    frames.forces[frames.offsets[i + 1] - 1] = np.nan
    with pytest.raises(DatasetError, match=f"structure {i}: forces neither finite nor missing"):
        write(tmp_path / "a.store", [("all", frames)])


def test_bad_arguments(tmp_path, frames):
    options = {"name": "a", "attributes": ATTRIBUTES}
    with pytest.raises(DatasetError, match="shard 2 of 2"):
        StoreWriter(tmp_path / "a.store", **options, shard=2, shards=2)
    with pytest.raises(DatasetError, match="precision 'float16'"):
        StoreWriter(tmp_path / "a.store", **options, precision="float16")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot write"):
        StoreWriter(tmp_path / "file", **options)
    with pytest.raises(DatasetError, match="split"):
        write(tmp_path / "a.store", [("../x", frames)])
