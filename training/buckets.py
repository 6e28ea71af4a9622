"""Sums of lists of tensors over a group of processes, in a few large messages.

Tensors are laid into flat buffers of a given size; all sums are started before the first is waited for, so that the
messages of one list travel beside each other and beside those of the next.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class PendingSum:
    """A sum that has been started; :meth:`finish` gives it.

    Parameters
    ----------
    tensors
        Summands of this process, on one device.
    group
        Processes that take part; each brings tensors of the same shapes.
    megabytes
        Size of a message; a single larger tensor is a message of its own.
    """

    def __init__(self, tensors: Sequence[Tensor], *, group: dist.ProcessGroup, megabytes: float) -> None:
        self.tensors = list(tensors)
        self._pending: list[tuple[list[int], Tensor, dist.Work | None]] = []
        for members in buckets(self.tensors, megabytes=megabytes):
            flat = torch.cat([self.tensors[k].reshape(-1) for k in members])
            self._pending.append((members, flat, dist.all_reduce(flat, group=group, async_op=True)))

    def finish(self) -> list[Tensor]:
        """The sums, in the order and of the shapes of the tensors."""
        result = list(self.tensors)
        for members, flat, work in self._pending:
            if work is not None:
                work.wait()
            sizes = [self.tensors[k].numel() for k in members]
            for k, piece in zip(members, flat.split(sizes), strict=True):
                result[k] = piece.view(self.tensors[k].shape)
        return result


def buckets(tensors: Sequence[Tensor], *, megabytes: float) -> Iterator[list[int]]:
    """Numbers of consecutive tensors of one dtype that fit into a message."""
    limit = megabytes * 2**20
    members: list[int] = []
    size = 0
    for k, tensor in enumerate(tensors):
        more = tensor.numel() * tensor.element_size()
        if members and (size + more > limit or tensor.dtype != tensors[members[0]].dtype):
            yield members
            members, size = [], 0
        members.append(k)
        size += more
    if members:
        yield members
