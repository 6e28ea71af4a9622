"""A dataset held in the memory of many processes: each keeps a part, any of them fetches any structure.

The ranks of a communicator are divided into groups of ``width`` consecutive ranks; each group holds one full copy, every
rank of it an equal share of the bytes. ``width = 1`` is a copy on every rank, ``width = world size`` one copy in all:
more memory for shorter ways. A structure is one record (`hydrapot.training.data.records`) and is fetched without its
owner taking part (one-sided MPI):

``shared``
    All ranks of the group are on one node: the records are in memory that they share, and reading them is indexing.
``rma``
    One ``MPI_Get`` a structure, all of a batch in flight together, one flush. The window is allocated by MPI
    (``MPI_Win_allocate``): a window over memory of our own would wait until the owner happens to call MPI.
"""

import logging
import os
import threading
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.data.collective import aborting, check_memory, load_mpi, together
from hydrapot.training.data.frames import DatasetError, Frames
from hydrapot.training.data.records import pack, record_sizes, unpack
from hydrapot.training.data.source import SelectedSource, Source
from hydrapot.training.data.store import StoreView
from hydrapot.training.data.store_columns import GROUP, Columns, Names, decode, encode
from hydrapot.training.data.store_layout import Precision

log = logging.getLogger(__name__)

__all__ = ["DistributedSource", "MemoryUse", "Transport", "aborting", "load_mpi", "together"]

Transport = Literal["auto", "shared", "rma"]

_BLOCK = 8_192  # structures read at once while loading
_calls = threading.Lock()  # MPI calls of all distributed sources, where MPI cannot take two at a time


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that a rank, or a node, holds of one distributed source."""

    records: int  # of this rank: its share of the structures
    node_index: int  # of this rank's node, once for all of its ranks: sizes and addresses of all structures
    names: int  # of this rank: names of the groups
    copy: int  # of a group of ranks: one full copy of the structures


class DistributedSource:
    """One dataset, or one side of its split, spread over the memory of ranks; a `hydrapot.training.data.source.Source`.

    Making and closing it are collective. Reading is not: each rank reads what and when it likes.

    Parameters
    ----------
    source
        Where the structures are loaded from, on every rank: each reads its share once. The view of a store is read in
        large pieces; any other source works too.
    comm
        mpi4py communicator.
    width
        Ranks that hold one full copy between them; has to divide the number of ranks. All of them if not given.
    transport
        ``auto``: shared memory where all ranks of a group are on one node, otherwise one-sided messages.
    precision
        Of positions and forces in memory. If not given, that of the store; float64 for other sources.

    Attributes
    ----------
    transport
        ``shared`` or ``rma``.
    prefetchable
        Whether a thread may read while another calls MPI. If not, read where the other calls are made, in turn with them.
    memory
        What is held.

    Raises
    ------
    DatasetError
        On all ranks, when any of them fails: a width that does not divide, a source that cannot be read, or not enough
        memory.
    """

    transport: Literal["shared", "rma"]

    def __init__(
        self,
        source: Source,
        comm: Any,
        *,
        width: int | None = None,
        transport: Transport = "auto",
        precision: Precision | None = None,
    ) -> None:
        MPI = load_mpi()
        width = comm.size if width is None else width
        together(comm, lambda: _check_width(width, comm.size))
        self._mpi, self.width, self.name = MPI, width, source.name
        self.precision: Precision = _precision_of(source) if precision is None else precision
        self._comm = comm
        self._group = comm.Split(comm.rank // width, comm.rank)
        self._node = comm.Split_type(MPI.COMM_TYPE_SHARED, comm.rank)
        self._windows: list[Any] = []
        self._records: Any = None
        self._process, self._level = os.getpid(), MPI.Query_thread()
        self._lock = threading.Lock() if self._level == MPI.THREAD_MULTIPLE else _calls
        try:
            self._build(source, transport)
        except DatasetError:  # on all ranks, see `together`
            self.close()
            raise
        self.prefetchable = self.transport == "shared" or self._level == MPI.THREAD_MULTIPLE

    def _build(self, source: Source, transport: Transport) -> None:
        comm, width = self._comm, self.width
        self._counts, self._ends = self._index(source, comm)
        total = int(self._ends[-1])
        # Equal shares of the bytes, cut between structures.
        self._firsts = np.searchsorted(self._ends, total * np.arange(width + 1) // width).astype(np.int64)
        self._bases = self._ends[self._firsts]
        start, stop = (int(i) for i in self._firsts[self._group.rank : self._group.rank + 2])
        mine = int(self._ends[stop] - self._ends[start])
        on_node = self._node.allreduce(mine)
        together(comm, lambda: check_memory(self.name, on_node))
        self.transport = self._choose(comm, transport, shareable=self._is_within_node())
        memory = self._allocate(total, mine)
        names = together(comm, lambda: self._load(source, memory, start, stop))
        self._names = self._join_names(memory, names, start, stop)
        # What was written has to be in memory before anybody reads it (MPI's unified model).
        self._records.Sync()
        comm.Barrier()
        self._records.Sync()
        self.memory = MemoryUse(
            records=mine, node_index=self._counts.nbytes + self._ends.nbytes, names=self._names.nbytes, copy=total
        )
        log.info(
            "%s: %d structures over %d ranks (%s), %.1f MiB on rank %d, index %.1f MiB a node",
            self.name, len(self), width, self.transport, mine / 2**20, comm.rank, self.memory.node_index / 2**20,
        )  # fmt: skip

    # --- as a source ---

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of atoms of each structure, (n,); one array for all ranks of a node, read-only."""
        return self._counts

    def __len__(self) -> int:
        return len(self._counts)

    def read(self, indices: NDArray[np.integer[Any]]) -> Frames:
        """Return the structures ``indices`` (k,), in that order, wherever they are.

        Raises
        ------
        DatasetError
            No such structure; a closed source; or a thread that this MPI library does not allow to call it.
        """
        chosen = np.asarray(indices, np.int64).reshape(-1)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            bad = int(chosen[(chosen < 0) | (chosen >= len(self))][0])
            raise DatasetError(f"dataset {self.name!r} has no structure {bad}: it holds {len(self)}")
        if not self._windows:
            raise DatasetError(f"dataset {self.name!r}: the distributed store is closed")
        counts, starts = self._counts[chosen], self._ends[chosen]
        if self.transport == "shared":
            columns = unpack(self._memory, starts, counts, precision=self.precision)
        else:
            columns = self._fetch(chosen, starts, counts)
        return decode(columns, name=self.name, group=self._names.take(columns.table[:, GROUP].astype(np.int64)))

    def _fetch(self, chosen: NDArray[np.int64], starts: NDArray[np.int64], counts: NDArray[np.int64]) -> Columns:
        self._check_thread()
        sizes = self._ends[chosen + 1] - starts
        places = np.cumsum(sizes) - sizes
        owner = np.searchsorted(self._firsts, chosen, side="right") - 1
        addresses = starts - self._bases[owner]
        buffer = np.empty(int(sizes.sum()) // 8, np.float64).view(np.uint8)  # aligned
        view, byte, get = memoryview(buffer.data), self._mpi.BYTE, self._records.Get
        wanted = zip(places.tolist(), sizes.tolist(), owner.tolist(), addresses.tolist(), strict=True)
        try:
            with self._lock:
                for place, size, rank, address in wanted:
                    get((view[place : place + size], byte), rank, address)
                self._records.Flush_all()
        except self._mpi.Exception as error:
            raise DatasetError(f"dataset {self.name!r}: MPI could not fetch structures ({error})") from error
        return unpack(buffer, places, counts, precision=self.precision)

    def _check_thread(self) -> None:
        if os.getpid() != self._process:
            raise DatasetError(f"dataset {self.name!r}: MPI does not survive fork: read it in a thread instead")
        if self._level < self._mpi.THREAD_SERIALIZED and threading.current_thread() is not threading.main_thread():
            raise DatasetError(
                f"dataset {self.name!r}: this MPI allows calls from the main thread only: switch prefetching off, or"
                " start MPI with THREAD_MULTIPLE"
            )

    # --- making it ---

    def _index(self, source: Source, comm: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sizes and addresses of all structures, once a node: 16 bytes each, which ranks × structures would multiply."""
        leader = self._node.rank == 0
        n = together(comm, lambda: len(source))
        if len(set(comm.allgather((n, source.name)))) > 1:
            raise DatasetError(f"dataset {source.name!r}: the ranks see different datasets: check their paths")
        if n == 0:
            raise DatasetError(f"dataset {source.name!r} is empty")
        counts = self._shared(n)
        ends = self._shared(n + 1)

        def fill() -> None:
            if leader:
                counts[:] = source.counts
                ends[0] = 0
                np.cumsum(record_sizes(counts, precision=self.precision), out=ends[1:])

        together(comm, fill)
        for window in self._windows:
            window.Sync()
        self._node.Barrier()
        for array in (counts, ends):
            array.flags.writeable = False
        return counts, ends

    def _shared(self, n: int) -> NDArray[np.int64]:
        """Array of the whole node, in the memory of its first rank."""
        window = self._mpi.Win.Allocate_shared(8 * n if self._node.rank == 0 else 0, 8, comm=self._node)
        self._keep(window)
        memory, _ = window.Shared_query(0)
        return np.frombuffer(memory, np.int64, count=n)

    def _keep(self, window: Any) -> Any:
        window.Lock_all(self._mpi.MODE_NOCHECK)
        self._windows.append(window)
        return window

    def _is_within_node(self) -> bool:
        """Whether all ranks of the group are on this node, on all ranks of the group."""
        MPI = self._mpi
        relation = MPI.Group.Intersection(self._group.Get_group(), self._node.Get_group()).Get_size()
        return bool(self._group.allreduce(relation == self._group.size, MPI.LAND))

    def _choose(self, comm: Any, transport: Transport, *, shareable: bool) -> Literal["shared", "rma"]:
        if transport == "auto":
            return "shared" if shareable else "rma"

        def check() -> None:
            if transport == "shared" and not shareable:
                raise DatasetError(
                    f"a copy over {self.width} ranks is on more than one node: shared memory needs a smaller width"
                )

        together(comm, check)
        return transport

    def _allocate(self, total: int, mine: int) -> NDArray[np.uint8]:
        """Window of the records; returns this rank's part of it."""
        if self.transport == "shared":
            # In one piece, so that an address is enough; each rank fills its part, which thereby is in memory near it.
            window = self._mpi.Win.Allocate_shared(total if self._group.rank == 0 else 0, 1, comm=self._group)
            memory, _ = window.Shared_query(0)
            self._memory = np.frombuffer(memory, np.uint8, count=total)
            base = int(self._bases[self._group.rank])
            part = self._memory[base : base + mine]
        else:
            window = self._mpi.Win.Allocate(mine, 1, comm=self._group)
            part = np.frombuffer(window.tomemory(), np.uint8, count=mine)
        self._records = self._keep(window)
        return part

    def _load(self, source: Source, memory: NDArray[np.uint8], start: int, stop: int) -> list[str]:
        """Fill this rank's part; returns the names of its groups, which the records count."""
        known: dict[str, int] = {}
        for first in range(start, stop, _BLOCK):
            last = min(first + _BLOCK, stop)
            columns, groups = encode(source.read(np.arange(first, last)), precision=self.precision)
            if not np.array_equal(columns.counts, self._counts[first:last]):
                raise DatasetError(f"dataset {self.name!r}: it changed while it was read")
            numbers = np.array([known.setdefault(group, len(known)) for group in groups], np.float64)
            columns.table[:, GROUP] = numbers[columns.table[:, GROUP].astype(np.int64)]
            pack(columns, memory, self._ends[first:last] - self._ends[start], precision=self.precision)
        return list(known)

    def _join_names(self, memory: NDArray[np.uint8], names: list[str], start: int, stop: int) -> Names:
        """Names of all parts; those of this part get the numbers behind those of the parts before."""
        parts = self._group.allgather(names)
        index = {name: k for k, name in enumerate(dict.fromkeys(name for part in parts for name in part))}
        numbers = np.array([index[name] for name in names], np.float64)
        cells = memory.view(np.float64)
        at = (self._ends[start:stop] - self._ends[start]) // 8 + GROUP
        cells[at] = numbers[cells[at].astype(np.int64)] if len(at) else 0.0
        return Names.of(list(index))

    def close(self) -> None:
        """Give the memory of the structures back; collective. Frames that were read, and `counts`, stay valid."""
        windows, self._windows = self._windows, []
        for window in windows:
            window.Unlock_all()
            if window is self._records:  # the index stays until MPI ends: samplers hold arrays of it
                window.Free()
        self._memory = np.empty(0, np.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise DatasetError(f"dataset {self.name!r}: a distributed store stays in its process: read it in a thread")


def _precision_of(source: Source) -> Precision:
    while isinstance(source, SelectedSource):
        source = source.source
    return source.store.precision if isinstance(source, StoreView) else "float64"


def _check_width(width: int, size: int) -> None:
    if width < 1 or size % width:
        raise DatasetError(f"replication width {width} does not divide {size} ranks: give a divisor")
