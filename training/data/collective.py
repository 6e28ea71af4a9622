"""What ranks do together: start MPI, fail as one, end as one, and not ask for more memory than there is."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hydrapot.training.data.frames import DatasetError

log = logging.getLogger(__name__)

T = TypeVar("T")

#: s. mpiexec forwards what a process has written, and an abort can overtake it: on a busy machine last words got lost.
_WORDS = 0.2


def load_mpi() -> Any:
    """mpi4py's module ``MPI``, initialised.

    Raises
    ------
    DatasetError
        It is not installed, or finds no MPI library.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise DatasetError(
            f"the distributed store needs MPI ({' '.join(str(error).split())}): pip install 'hydrapot[training]',"
            " and an MPI library"
        ) from error
    return MPI


def together(comm: Any, action: Callable[[], T]) -> T:
    """Run `action`, which must not communicate, on all ranks; where it fails on one, all raise.

    Raises
    ------
    DatasetError
        With the message of the first rank that failed.
    """
    result: T | None = None
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:  # noqa: BLE001 (raised again below, on all ranks)
        failure = error
    messages = comm.allgather(None if failure is None else str(failure) or type(failure).__name__)
    for rank, message in enumerate(messages):
        if message is not None:
            raise DatasetError(message if comm.size == 1 else f"rank {rank}: {message}") from failure
    return result  # type: ignore[return-value]


@contextmanager
def aborting(comm: Any) -> Iterator[None]:
    """End the processes of all ranks when this one fails: the others would wait for it for ever."""
    try:
        yield
    except BaseException as error:
        if comm.size > 1 and not (isinstance(error, SystemExit) and not error.code):
            log.critical("rank %d: %s: %s", comm.rank, type(error).__name__, error)
            time.sleep(_WORDS)
            comm.Abort(1)
        raise


def check_memory(name: str, needed: int) -> None:
    """Raise while it can be said: shared memory that does not exist is only noticed when it is written to.

    Parameters
    ----------
    name
        Dataset, for the message.
    needed
        Bytes of all ranks of this node.

    Raises
    ------
    DatasetError
        More than the system has available.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return
    available = next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), needed)
    if needed > available:
        raise DatasetError(
            f"dataset {name!r}: {needed / 2**30:.2f} GiB on a node, {available / 2**30:.2f} GiB are available:"
            " spread it over more nodes, with a larger width"
        )
    shm = Path("/dev/shm")  # noqa: S108 (where MPI libraries put what ranks share)
    if shm.is_dir() and (free := shutil.disk_usage(shm).free) < needed:
        # Not an error: some libraries put it elsewhere.
        log.warning(
            "dataset %r: %.2f GiB on a node, but %s has %.2f GiB: should MPI use it, the job ends by SIGBUS;"
            " give the container more (--shm-size)", name, needed / 2**30, shm, free / 2**30,
        )  # fmt: skip
