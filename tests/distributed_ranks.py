"""What `test_distributed_store.py` runs on several ranks: `python -m tests.distributed_ranks CASE,CASE STORE`."""

import sys
import threading
import time
from pathlib import Path

import mpi4py
import numpy as np
import pytest

if sys.argv[1] in {"funneled", "serialized"}:
    mpi4py.rc.thread_level = sys.argv[1]

from mpi4py import MPI

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.data.collective import aborting, together
from hydrapot.training.data.distributed import DistributedSource
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.source import FramesSource, Source
from hydrapot.training.data.store import Store
from tests.store_helpers import as_float32, assert_same, random_frames

N = 400
COMM = MPI.COMM_WORLD


def expected():
    return random_frames(N, seed=8)


def expect_error(call, *words):
    """The same message on all ranks that call."""
    with pytest.raises(DatasetError) as caught:
        call()
    assert [word for word in words if word not in str(caught.value)] == []


def read_everywhere(source, truth, *, seed):
    """Random batches, all of it, single structures, and nothing; ranks at their own pace."""
    assert isinstance(source, Source)
    assert source.counts.tolist() == truth.counts.tolist()
    rng = np.random.default_rng([seed, COMM.rank])
    for size in (*rng.integers(1, 60, 12).tolist(), 1, 0):
        indices = rng.integers(0, len(truth), size)
        assert_same(source.read(indices), truth.subset(indices))
        time.sleep(rng.uniform(0, 0.002))
    assert_same(source.read(np.arange(len(truth))), truth)


def exact(path):
    """Every width and transport gives what the store gives."""
    with Store(path) as store:
        truth, view = as_float32(expected()), store.view("all")
        for width in (1, 2, COMM.size):
            for transport in ("shared", "rma", "auto"):
                with DistributedSource(view, COMM, width=width, transport=transport) as source:
                    assert source.transport == ("rma" if transport == "rma" else "shared")
                    read_everywhere(source, truth, seed=width)
                    memory = source.memory
                    assert abs(memory.records - memory.copy / width) < 2_000  # an equal share, but for one structure
                    assert COMM.allreduce(memory.records) == memory.copy * COMM.size // width
    # Exact to the last bit from memory, and more ranks than structures.
    for truth in (expected(), expected().subset(np.arange(2))):
        for transport in ("shared", "rma"):
            with DistributedSource(FramesSource(truth), COMM, transport=transport) as source:
                read_everywhere(source, truth, seed=0)
                counts = source.counts
            COMM.Barrier()
            assert counts.tolist() == truth.counts.tolist()  # what a sampler keeps outlives the source


def threads(path):
    """A thread fetches while the main thread talks MPI, and several fetch at once."""
    truth = as_float32(expected())
    with Store(path) as store, DistributedSource(store.view("all"), COMM, transport="rma") as source:
        assert source.prefetchable
        wrong = []

        def work(seed):
            try:
                read_everywhere(source, truth, seed=seed)
            except BaseException as error:  # noqa: BLE001
                wrong.append(error)

        running = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
        for thread in running:
            thread.start()
        for _ in range(200):
            COMM.allreduce(1)
        for thread in running:
            thread.join()
        together(COMM, lambda: None if not wrong else 1 / 0)


def funneled(path):
    """An MPI that one thread may call: others are told, and shared memory needs no call."""
    truth = as_float32(expected())
    for transport in ("rma", "shared"):
        with Store(path) as store, DistributedSource(store.view("all"), COMM, transport=transport) as source:
            assert source.prefetchable == (transport == "shared")
            read_everywhere(source, truth, seed=0)
            outcome = []

            def work():
                try:
                    outcome.append(len(source.read(np.arange(5))))  # noqa: B023
                except DatasetError as error:
                    outcome.append(str(error))  # noqa: B023

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            if transport == "shared":
                assert outcome == [5]
            else:
                assert "main thread only" in outcome[0]


def errors(path):
    """One rank fails, all ranks say so."""
    truth = expected()
    source = FramesSource(truth)
    expect_error(lambda: DistributedSource(source, COMM, width=3), "replication width 3 does not divide 4 ranks")

    class Failing(FramesSource):
        def read(self, indices):
            if COMM.rank == 2:
                raise DatasetError("the disk of this rank is gone")
            return super().read(indices)

    expect_error(lambda: DistributedSource(Failing(truth), COMM), "rank 2", "the disk of this rank is gone")
    shorter = FramesSource(truth.subset(np.arange(N - (COMM.rank == 1))))
    expect_error(lambda: DistributedSource(shorter, COMM), "different datasets")
    with DistributedSource(source, COMM) as distributed:
        expect_error(lambda: distributed.read(np.array([3, N])), f"no structure {N}: it holds {N}")
        expect_error(distributed.__reduce__, "stays in its process")
    expect_error(lambda: distributed.read(np.array([0])), "closed")


def configured(path):
    """What a training run opens with `data: {structures: distributed, width: 2}`."""
    from hydrapot.training.config import DataConfig
    from hydrapot.training.datasets import OpenedDataset, _place

    data = DataConfig(structures="distributed", width=2)
    with Store(path) as store:
        view = store.view("all")
        opened = OpenedDataset(
            name="set", training=view, validation=view, isolated=view.read(np.arange(0)), label="group", content=""
        )
        _place(opened, path, data=data, cache_dir=path.parent, world=COMM.size)
        read_everywhere(opened.training, as_float32(expected()), seed=1)
        assert opened.training.width == 2
        opened.close()
        with pytest.raises(ConfigurationError, match="MPI to know all 8 processes, and it knows 4"):
            _place(opened, path, data=data, cache_dir=path.parent, world=8)


def dies(path):
    """The others wait for a rank that failed: it ends them."""
    if COMM.rank == 1:
        raise DatasetError("structure 17 cannot be read")
    COMM.Barrier()


CASES = {
    "exact": exact,
    "threads": threads,
    "errors": errors,
    "configured": configured,
    "funneled": funneled,
    "dies": dies,
}

if __name__ == "__main__":
    for case in sys.argv[1].split(","):
        with aborting(COMM):
            CASES[case](Path(sys.argv[2]))
        COMM.Barrier()
        sys.stdout.write(f"{case} passed\n")
