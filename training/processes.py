"""The processes of one run: how they meet, what they compute on, and how they end together.

Nothing is left waiting: every exchange has a time limit, a process that fails leaves word before it goes, and one that is
killed breaks the connections of the others. Exactly one process then tells the user why.
"""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore, rendezvous  # type: ignore[attr-defined]

from hydrapot.potential.errors import ConfigurationError, SimulationError
from hydrapot.training.interfaces import gloo_interface
from hydrapot.training.launch import Launch

DeviceKind = Literal["auto", "cpu", "cuda", "xpu"]

_FAILURE, _HEARD = "hydrapot/failure", "hydrapot/heard"
#: Seconds that process 0, with which the store goes, waits at most for the others to find out who speaks.
_PATIENCE = 5.0
#: Begins a note on the error that the user is told.
_SPOKESMAN = "raised by process"
#: Communication libraries by device; RCCL answers to NCCL's name.
_BACKENDS = {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl"}


class SilentError(SimulationError):
    """Another process failed and has told the user why; this one ends too, and has nothing to add."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, of which this is one.

    Attributes
    ----------
    launch
        How they were started.
    device
        Where this one computes.
    store
        Where they leave word for each other; None for one process.
    """

    launch: Launch
    device: torch.device
    store: Store | None = None

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.launch.rank

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.launch.world

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.launch.main


@contextmanager
def joined(launch: Launch, *, device: DeviceKind = "auto", timeout_minutes: float = 10.0) -> Iterator[Processes]:
    """Context in which the processes of a run can communicate; with one process nothing is set up.

    Parameters
    ----------
    launch
        From :func:`hydrapot.training.launch.find_launch`.
    device
        What to compute on; "auto" takes a GPU if there is one.
    timeout_minutes
        Of every exchange.

    Raises
    ------
    ConfigurationError
        The device does not exist, or the processes cannot find each other.
    SilentError
        Another process failed and has said why.
    """
    place = find_device(launch, device)
    if launch.world == 1:
        yield Processes(launch, place)
        return
    timeout = timedelta(minutes=timeout_minutes)
    store, address = _meet(launch, timeout=timeout)
    processes = Processes(launch, place, PrefixStore("words", store))
    backend = _BACKENDS[place.type]
    interface = gloo_interface(store, address=address, world=launch.world) if backend == "gloo" else nullcontext()
    connected = failed = False
    try:
        with interface:
            dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.world, timeout=timeout)
            connected = True
            yield processes
            # Nobody takes the meeting point away while others still need it; and here too another may turn out to be gone.
            dist.barrier()
    except BaseException as error:
        failed = isinstance(error, Exception)
        _leave_word(processes, error, connected=connected)
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        if failed and launch.main:
            _wait_until_heard(processes)


def find_device(launch: Launch, wanted: DeviceKind) -> torch.device:
    """Device of this process: its share of those that the node has.

    Raises
    ------
    ConfigurationError
        There is none of the kind that is wanted.
    """
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "xpu": torch.xpu.device_count()}
    kind = next(k for k in ("cuda", "xpu", "cpu") if present[k]) if wanted == "auto" else wanted
    if not present[kind]:
        raise ConfigurationError(f"run.device is {kind}, but torch finds no such device here: use auto or cpu")
    if kind == "cpu":
        return torch.device("cpu")
    place = torch.device(kind, launch.local_rank % present[kind])
    torch.accelerator.set_device_index(place.index)
    return place


def thread_count(processes: Processes) -> int | None:
    """Threads of a process: the cores that it may use over the processes that share them; None for a single one.

    A launcher that binds each process to cores of its own gives each all of these; one that does not leaves all processes
    of a node the same cores, which are then divided; and none takes more than its launcher was asked for.
    """
    if processes.world == 1:
        return None
    own = (socket.gethostname(), tuple(sorted(os.sched_getaffinity(0))))
    everyone: list[tuple[str, tuple[int, ...]]] = [own] * processes.world
    dist.all_gather_object(everyone, own)
    share = max(1, len(own[1]) // everyone.count(own))
    return min(share, processes.launch.cores or share)


def _meet(launch: Launch, *, timeout: timedelta) -> tuple[Store, str]:
    """The store that all processes reach, and the address where it is."""
    if launch.launcher == "torchrun":
        store, _, _ = next(iter(rendezvous("env://", timeout=timeout)))
        # The agent's store outlives its processes: those started again must not find the addresses of the dead.
        return PrefixStore(f"attempt{launch.restarts}", store), launch.address or ""
    if launch.address is not None and launch.port is not None:
        try:
            store = TCPStore(launch.address, launch.port, launch.world, is_master=launch.main, timeout=timeout)
        except dist.DistNetworkError as error:
            raise ConfigurationError(
                f"process {launch.rank} cannot meet the others at {launch.address}:{launch.port} ({_first_line(error)}):"
                " set MASTER_ADDR and MASTER_PORT for all processes"
            ) from error
        return store, launch.address
    return _meet_by_mpi(launch, timeout=timeout)


def _meet_by_mpi(launch: Launch, *, timeout: timedelta) -> tuple[Store, str]:
    """Let MPI tell where process 0 listens."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ConfigurationError(
            f"{launch.launcher} started {launch.world} processes, which do not know where to meet: install mpi4py"
            " (hydrapot[training]), or set MASTER_ADDR and MASTER_PORT"
        ) from error
    world = MPI.COMM_WORLD
    if world.Get_size() != launch.world:
        raise ConfigurationError(
            f"{launch.launcher} started {launch.world} processes, mpi4py sees {world.Get_size()}: it was built for another"
            " MPI; set MASTER_ADDR and MASTER_PORT, or use the mpiexec that belongs to it"
        )
    store, meeting = None, None
    hosts = world.allgather(socket.gethostname())
    if launch.main:
        store = TCPStore("0.0.0.0", 0, launch.world, is_master=True, timeout=timeout, wait_for_workers=False)  # noqa: S104
        meeting = ("127.0.0.1" if len(set(hosts)) == 1 else socket.gethostname(), store.port)
    address, port = world.bcast(meeting)
    return store or TCPStore(address, port, launch.world, is_master=False, timeout=timeout), address


def _leave_word(processes: Processes, error: BaseException, *, connected: bool) -> None:
    """Claim to be the one that tells the user; raise what this process ends with, unless that is `error` itself.

    A process that fails by itself leaves word before its connections break, so that those who notice the break find it.
    """
    if isinstance(error, SilentError):
        return
    broken = _is_broken_connection(error)
    if not broken and not isinstance(error, Exception):
        return
    assert processes.store is not None  # noqa: S101 (several processes have one)
    mine = f"{processes.rank}"
    try:
        first = processes.store.compare_set(_FAILURE, "", mine).decode()
    except (RuntimeError, ValueError):
        # The store went with process 0; of the others the next one speaks.
        first = "1"
    if first != mine:
        with suppress(RuntimeError):  # process 0 had no more patience
            processes.store.add(_HEARD, 1)
        raise SilentError(f"process {first} of the run failed") from error
    note = f"{_SPOKESMAN} {processes.rank} of {processes.world} processes"
    if broken:
        told = (
            "another process of the run has died or does not answer: the run ends, its last state is intact; go on with"
            " --resume"
            if connected
            else "the processes have met, but cannot connect: unless one has died, name the network interface between the"
            " nodes in GLOO_SOCKET_IFNAME (on GPUs NCCL_SOCKET_IFNAME)"
        )
        found = SimulationError(f"{told} ({_first_line(error)})")
        found.add_note(note)
        raise found from error
    error.add_note(note)


def _wait_until_heard(processes: Processes) -> None:
    """Let the others, whose connections have just broken, find the word that this process or another has left."""
    assert processes.store is not None  # noqa: S101 (several processes have one)
    end = time.monotonic() + _PATIENCE
    with suppress(RuntimeError):  # a launcher's store may end before us
        while processes.store.add(_HEARD, 0) < processes.world - 1 and time.monotonic() < end:
            time.sleep(0.05)


def is_spokesman(error: BaseException) -> bool:
    """Whether `error` is the one that the processes have agreed to tell the user."""
    return any(note.startswith(_SPOKESMAN) for note in getattr(error, "__notes__", []))


def _is_broken_connection(error: BaseException) -> bool:
    # Gloo's errors have no class of their own.
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
