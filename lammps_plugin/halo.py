"""Copies of rows from owners to ghosts, and sums back, over MPI: exact for images, any division of space, empty ranks.

Which process owns a ghost is found from atom tags alone, through a directory divided between the processes (tag modulo
number of processes), so that nothing is assumed of how the engine divides space and no process sees all atoms.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydrapot.lammps_plugin.errors import SharedError

Integers = NDArray[np.int64]


def send_each(comm: Any, pieces: list[Integers]) -> list[Integers]:
    """Send ``pieces[p]`` to every process p and return what each of them sent here."""
    counts = np.array([len(piece) for piece in pieces], dtype=np.int32)
    expected = np.empty_like(counts)
    comm.Alltoall(counts, expected)
    received = np.empty(int(expected.sum()), dtype=np.int64)
    comm.Alltoallv([np.concatenate(pieces), counts], [received, expected])
    return np.split(received, np.cumsum(expected)[:-1])


class TagHalo:
    """:class:`~hydrapot.potential.decomposed.Halo` between the processes of an MPI communicator; made collectively.

    Several ghosts of one atom, such as its images in a small cell, share one row on the way.

    Parameters
    ----------
    comm
        Communicator of mpi4py, exactly the processes that share the structure.
    tags
        ``(S,)`` identities of the atoms, own ones first, unique among the own atoms of all processes.
    n_local
        Number of own atoms.

    Raises
    ------
    SharedError
        On every process: an atom with two owners, or a ghost without one.
    """

    def __init__(self, comm: Any, tags: NDArray[Any], n_local: int) -> None:
        self.comm = comm
        self.n_local, self.n_ghosts = n_local, len(tags) - n_local
        self.tags = np.array(tags, dtype=np.int64)
        own = self.tags[:n_local]
        wanted, place = np.unique(self.tags[n_local:], return_inverse=True)
        owners = self._owners(own, wanted)
        by_owner = np.argsort(owners, kind="stable")
        self._incoming = np.bincount(owners, minlength=comm.size).astype(np.int32)
        requests = send_each(comm, np.split(wanted[by_owner], np.cumsum(self._incoming)[:-1]))
        self._outgoing = np.array([len(request) for request in requests], dtype=np.int32)
        order = np.argsort(own, kind="stable")
        asked = np.concatenate(requests)
        self._sent = torch.from_numpy(order[np.searchsorted(own, asked, sorter=order)] if len(asked) else asked)
        arrival = np.empty_like(by_owner)
        arrival[by_owner] = np.arange(len(by_owner))
        self._arrival = torch.from_numpy(arrival[place.reshape(-1)])

    def _owners(self, own: Integers, wanted: Integers) -> Integers:
        """Process that owns each of the atoms `wanted`."""
        size = self.comm.size
        lists = send_each(self.comm, [own[own % size == p] for p in range(size)])
        tags = np.concatenate(lists)
        ranks = np.repeat(np.arange(size), [len(part) for part in lists])
        order = np.argsort(tags, kind="stable")
        tags, ranks = tags[order], ranks[order]
        questions = send_each(self.comm, [wanted[wanted % size == p] for p in range(size)])
        answers = []
        missing = 0
        for question in questions:
            index = np.minimum(np.searchsorted(tags, question), max(len(tags) - 1, 0))
            found = tags[index] == question if len(tags) else np.zeros(len(question), dtype=bool)
            missing += int((~found).sum())
            answers.append(ranks[index] if len(tags) else np.zeros(len(question), dtype=np.int64))
        doubled = int((np.diff(tags) == 0).sum())
        problems = np.array([doubled, missing], dtype=np.int64)
        self.comm.Allreduce(problems.copy(), problems)
        if problems[0]:
            raise SharedError(
                f"{problems[0]} atoms have two owners: the processes do not share one structure (several partitions?)"
            )
        if problems[1]:
            raise SharedError(f"{problems[1]} ghost atoms belong to no process: atoms were lost")
        replies = send_each(self.comm, answers)
        owners = np.empty(len(wanted), dtype=np.int64)
        for p in range(size):
            owners[wanted % size == p] = replies[p]
        return owners

    def serves(self, tags: NDArray[Any], n_local: int) -> bool:
        """Whether this halo is still that of the atoms, on all processes; collective."""
        same = n_local == self.n_local and np.array_equal(tags, self.tags)
        changed = np.array([not same], dtype=np.int32)
        self.comm.Allreduce(changed.copy(), changed)
        return not changed[0]

    def to_ghosts(self, rows: Tensor) -> Tensor:
        """As in :class:`~hydrapot.potential.decomposed.Halo`."""
        sent = rows.detach().cpu().index_select(0, self._sent)
        arrived = sent.new_empty(int(self._incoming.sum()), rows.shape[1])
        self._alltoallv(sent, self._outgoing, arrived, self._incoming)
        return torch.cat([rows, arrived.index_select(0, self._arrival).to(rows.device)])

    def to_owners(self, rows: Tensor) -> Tensor:
        """As in :class:`~hydrapot.potential.decomposed.Halo`."""
        ghosts = rows[self.n_local :].detach().cpu()
        sent = ghosts.new_zeros(int(self._incoming.sum()), rows.shape[1]).index_add(0, self._arrival, ghosts)
        arrived = sent.new_empty(len(self._sent), rows.shape[1])
        self._alltoallv(sent, self._incoming, arrived, self._outgoing)
        added = arrived.new_zeros(self.n_local, rows.shape[1]).index_add(0, self._sent, arrived)
        return rows[: self.n_local] + added.to(rows.device)

    def _alltoallv(self, sent: Tensor, outgoing: Any, arrived: Tensor, incoming: Any) -> None:
        width = sent.shape[1]
        self.comm.Alltoallv(
            [sent.contiguous().numpy().reshape(-1), outgoing * width],
            [arrived.numpy().reshape(-1), incoming * width],
        )
