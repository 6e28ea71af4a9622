"""As much of an mpi4py communicator as halos need, between threads."""

# ruff: noqa: N802 - names of mpi4py
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np


class Group:
    """What the communicators of a group of threads share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=30)
        self.board: list[Any] = [None] * size

    def gather(self, rank: int, value: Any) -> list[Any]:
        self.board[rank] = value
        self.barrier.wait()
        everything = list(self.board)
        self.barrier.wait()
        return everything


class ThreadComm:
    def __init__(self, group: Group, rank: int) -> None:
        self.group, self.rank, self.size = group, rank, group.size

    def Barrier(self) -> None:
        self.group.gather(self.rank, None)

    def Allreduce(self, source: np.ndarray, target: np.ndarray) -> None:
        target[:] = np.sum(self.group.gather(self.rank, source.copy()), axis=0)

    def Alltoall(self, source: np.ndarray, target: np.ndarray) -> None:
        target[:] = [row[self.rank] for row in self.group.gather(self.rank, source.copy())]

    def Alltoallv(self, source: list[np.ndarray], target: list[np.ndarray]) -> None:
        values, counts = source
        assert len(values) == counts.sum()
        pieces = np.split(values.copy(), np.cumsum(counts)[:-1])
        received = [row[self.rank] for row in self.group.gather(self.rank, pieces)]
        assert [len(piece) for piece in received] == target[1].tolist()
        target[0][:] = np.concatenate(received)


def run_ranks(size: int, function: Callable[[ThreadComm], Any]) -> list[Any]:
    """`function` on every rank; an exception of any is raised."""
    group = Group(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: function(ThreadComm(group, rank)), range(size)))
