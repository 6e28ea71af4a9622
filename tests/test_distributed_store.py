"""Any rank gets any structure exactly, however the copies are spread; and nobody waits for a rank that failed."""

from types import SimpleNamespace

import pytest

from tests.mpi_helpers import MPIEXEC, mpi, python
from tests.store_helpers import ATTRIBUTES, random_frames

pytest.importorskip("adios2")
pytest.importorskip("mpi4py")
if MPIEXEC is None:
    pytest.skip("needs mpiexec", allow_module_level=True)

from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.store_writer import StoreWriter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("distributed") / "set.store"
    with StoreWriter(path, name="set", attributes=ATTRIBUTES, chunk_bytes=60_000) as writer:
        writer.append(random_frames(400, seed=8))
    return path


@pytest.mark.parametrize(("cases", "ranks"), [("exact,threads,errors,configured", 4), ("funneled", 2)])
def test_on_ranks(folder, cases, ranks):
    """Each case is a function of `distributed_ranks.py`, whose docstring says what it shows."""
    done = mpi(ranks, python("-m", "tests.distributed_ranks", cases, folder))
    for case in cases.split(","):
        assert done.stdout.count(f"{case} passed") == ranks


def test_a_dead_rank_ends_the_job(folder):
    done = mpi(3, python("-m", "tests.distributed_ranks", "dies", folder), check=False, timeout=60)
    assert done.returncode != 0
    assert "passed" not in done.stdout
    assert "rank 1: DatasetError: structure 17 cannot be read" in done.stderr


def test_one_process_without_a_launcher(folder):
    """The same code on a laptop: one rank that holds everything."""
    from mpi4py import MPI

    from hydrapot.training.data.distributed import DistributedSource
    from hydrapot.training.data.store import Store

    with Store(folder) as store, DistributedSource(store.view("all"), MPI.COMM_SELF) as source:
        assert source.read(source.counts[:0]).name == "set"
        assert len(source) == 400
        assert source.memory.records == source.memory.copy > 0


def test_more_than_the_memory_is_refused(monkeypatch, caplog):
    """Shared memory that does not exist would end the process only when it is written to."""
    from hydrapot.training.data import collective

    collective.check_memory("set", 1)
    with pytest.raises(DatasetError, match=r"1048576.00 GiB on a node, .* GiB are available: spread it"):
        collective.check_memory("set", 2**50)
    assert not caplog.records
    monkeypatch.setattr(collective.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    collective.check_memory("set", 1)
    assert "--shm-size" in caplog.text
