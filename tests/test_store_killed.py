"""Kill -9 while a store is being written: it is not there, and the import that goes on loses and doubles nothing."""

import multiprocessing
import os
import resource
import signal
import time

import numpy as np
import pytest

from hydrapot.training.data.frames import DatasetError
from tests.store_helpers import ATTRIBUTES, assert_same, random_frames

pytest.importorskip("adios2")
from hydrapot.training.data.store import Store
from hydrapot.training.data.store_writer import StoreWriter

BATCH, BATCHES, SPLIT = 5, 24, 90
KILLS = 10


def frames():
    return random_frames(BATCH * BATCHES, seed=3)


def import_all(path, *, commits, pace=0.0):
    """What an importer does: batches into two splits, a commit every few of them (or none), resuming."""
    data = frames()
    options = {"name": "set", "attributes": ATTRIBUTES, "precision": "float64", "chunk_bytes": 2_000}
    with StoreWriter(path, **options, resume=True) as writer:
        if writer.finished:
            return
        for batch in range((writer.cursor or {}).get("batches", 0), BATCHES):
            here = np.arange(BATCH * batch, BATCH * (batch + 1))
            for split, rows in (("train", here[here < SPLIT]), ("validation", here[here >= SPLIT])):
                writer.append(data.subset(rows), split=split)
            if commits and batch % 3 == 2:
                writer.commit({"batches": batch + 1})
            time.sleep(pace)


def import_shard(path, *, shard, shards):
    """One of several importers, each with every so-many-th batch; as ranks of an MPI job would be."""
    options = {"name": "set", "attributes": ATTRIBUTES, "precision": "float64", "chunk_bytes": 2_000}
    with StoreWriter(path, **options, shard=shard, shards=shards, resume=True) as writer:
        for batch in range((writer.cursor or {}).get("next", shard), 0 if writer.finished else BATCHES, shards):
            writer.append(frames().subset(np.arange(BATCH * batch, BATCH * (batch + 1))))
            writer.commit({"next": batch + shards})
            time.sleep(0.002)


def import_onto_a_full_disk(path):
    """A limit of the size of files stands for a disk that is full in the middle of a write."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    with pytest.raises(DatasetError, match="cannot be written"):  # noqa: SIM117 (what is left of it is looked at here)
        with StoreWriter(path, name="set", attributes=ATTRIBUTES) as writer:
            writer.append(random_frames(300, seed=2))
    assert not path.exists()


@pytest.fixture(scope="module")
def start():
    """Starts imports from a clean process that has loaded everything: killing comes at a moment of the writing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_store_killed"])
    context.Process(target=os.getpid).start()

    def start(path, *, target=import_all, **options):
        process = context.Process(target=target, args=(path,), kwargs=options)
        process.start()
        return process

    return start


def wait_for(condition, *, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.0005)
    assert condition()


def check(path):
    data = frames()
    with Store(path) as store:
        store.verify()
        assert_same(store.read_range(0, SPLIT, split="train"), data.subset(np.arange(SPLIT)))
        n = len(data)
        assert_same(store.read_range(0, n - SPLIT, split="validation"), data.subset(np.arange(SPLIT, n)))
        known = {chunk.file for chunks in store._chunks.values() for chunk in chunks}
    assert {str(found.relative_to(path)) for found in path.glob("*/*")} == known  # no leftovers
    assert {found.name for found in path.iterdir()} == {"index.json", "shard-00000"}


@pytest.mark.parametrize("commits", [True, False], ids=["resumable", "in one go"])
def test_killed_ten_times_in_one_import(tmp_path, start, commits):
    """The same import, killed ten times at random moments of its writing (also while it resumes), then left alone.

    At no time between is there a store to be seen, unless it is the whole one.
    """
    path, rng = tmp_path / "set.store", np.random.default_rng(5 + commits)
    kills = 0
    for _ in range(KILLS):
        process = start(path, commits=commits, pace=0.005)
        wait_for(lambda: path.exists() or not process.is_alive())  # noqa: B023 (called here)
        time.sleep(rng.uniform(0.0, 0.12))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if (path / "index.json").exists():
            check(path)
            break
        with pytest.raises(DatasetError, match=r"no such store|unfinished|not a dataset store"):
            Store(path)
    assert kills >= (3 if commits else KILLS)
    import_all(path, commits=commits)
    check(path)


def test_killed_at_ten_moments_of_a_write(tmp_path, start):
    """Each time from the beginning, at moments spread over the whole write: when so and so many chunks are there."""
    import_all(tmp_path / "whole.store", commits=True)
    chunks = len(list((tmp_path / "whole.store").glob("*/*.bp")))
    rng, killed = np.random.default_rng(7), 0
    for k in range(KILLS):
        path = tmp_path / f"{k}.store"
        process = start(path, commits=True, pace=0.002)
        wait_for(lambda: len(list(path.glob("*/*.bp"))) >= k * chunks // KILLS and path.exists())  # noqa: B023
        time.sleep(rng.uniform(0, 0.004))
        process.kill()
        process.join()
        if not (path / "index.json").exists():
            killed += 1
            with pytest.raises(DatasetError):
                Store(path)
        import_all(path, commits=True)
        check(path)
    assert killed > KILLS / 2


def test_shards_written_at_once_and_one_killed(tmp_path, start):
    """Several processes make one store; it appears when the last has finished, also when one had to begin again."""
    path, shards = tmp_path / "set.store", 3
    processes = [start(path, target=import_shard, shard=k, shards=shards) for k in range(shards)]
    wait_for((path / "shard-00001.json").exists)
    processes[1].kill()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL, 0]
    with pytest.raises(DatasetError, match="unfinished"):
        Store(path)
    again = start(path, target=import_shard, shard=1, shards=shards)
    again.join()
    assert again.exitcode == 0
    data = frames()
    order = np.concatenate(
        [np.arange(BATCH * batch, BATCH * (batch + 1)) for k in range(shards) for batch in range(k, BATCHES, shards)]
    )
    with Store(path) as store:
        store.verify()
        assert_same(store.read_range(0, len(data), split="all"), data.subset(order))


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, start):
    """In a process of its own: ADIOS2 ends the process when its clean-up fails too."""
    process = start(tmp_path / "set.store", target=import_onto_a_full_disk)
    process.join()
    assert process.exitcode == 0
