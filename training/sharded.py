"""Parameters, averages and moments divided over all processes: FSDP2 on the model as a whole.

A loss of forces differentiates twice through the network, and wrapping layer by layer frees weights that the second pass
still needs. Only the root is wrapped, therefore: a process gathers all weights for a step, makes gradients of its parts, and
gives all but its share away. What stays divided between steps, and is most of the memory of an optimizer with two moments
and an average, is everything else. Gradients are summed by scattering them (one message each way), as FSDP2 lays shards out:
along the first dimension, in pieces of equal size, the last ones smaller or empty.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from hydrapot.potential.model import Potential
from hydrapot.training.buckets import buckets
from hydrapot.training.layout import Entry, Layout


class ShardedLayout(Layout):
    """Every process updates its share of every parameter.

    Parameters
    ----------
    potential
        The whole model, the same on every process; changed in place.
    rank, world
        Of this process.
    bucket_megabytes
        Size of one message.
    """

    def __init__(self, potential: Potential, *, rank: int, world: int, bucket_megabytes: float) -> None:
        self._device = next(potential.parameters()).device
        self.mesh = init_device_mesh(self._device.type, (world,), mesh_dim_names=("shard",))
        self.group = self.mesh.get_group()
        self.megabytes = bucket_megabytes
        fully_shard(potential, mesh=self.mesh)
        super().__init__(potential, rank=rank, world=world)
        self.sharded = [cast(DTensor, t) for t in self.tensors]
        self._by_name = dict(zip(self.names, self.sharded, strict=True))
        # The optimizer sees plain tensors, which share their storage with the shards.
        self.tensors = [nn.Parameter(t.to_local()) for t in self.sharded]

    @property
    def device(self) -> torch.device:
        """As in :class:`Layout`."""
        return self._device

    @contextmanager
    def whole(self) -> Iterator[None]:
        """As in :class:`Layout`."""
        module = cast(FSDPModule, self.potential)
        module.unshard()
        try:
            yield
        finally:
            module.reshard()

    def reduce(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """As in :class:`Layout`: of each sum only this process's share."""
        padded = [_padded(g, self.world) for g in gradients]
        result: list[Tensor] = []
        for members in buckets(padded, megabytes=self.megabytes):
            flat = torch.cat([padded[k] for k in members], dim=1)
            own = flat.new_empty(flat.shape[1])
            _reduce_scatter(own, flat.reshape(-1), group=self.group)
            pieces = own.split([padded[k].shape[1] for k in members])
            for k, piece in zip(members, pieces, strict=True):
                shape = self.tensors[k].shape
                result.append(piece[: shape.numel()].view(shape))
        return result

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """As in :class:`Layout`."""
        squares = torch.stack([g.double().square().sum() for g in gradients]).sum()
        return self.total(squares).sqrt().to(gradients[0].dtype)

    def total(self, values: Tensor) -> Tensor:
        """As in :class:`Layout`."""
        result = values.clone()
        dist.all_reduce(result, group=self.group)
        return result

    def gather(self, entries: Iterable[Entry]) -> dict[str, Tensor]:
        """As in :class:`Layout`: one tensor after the other is put together."""
        found = {}
        for key, parameter, value in entries:
            whole = self._whole(parameter, value.detach()) if value.ndim else value.detach()
            if self.main:
                found[key] = whole.cpu().clone()
        return found

    def place(self, parameter: str, whole: Tensor) -> Tensor:
        """As in :class:`Layout`."""
        shard = self._by_name[parameter].to_local()
        rows = _rows(whole.shape[0], self.world)
        return whole[self.rank * rows : self.rank * rows + shard.shape[0]]

    def _whole(self, parameter: str, shard: Tensor) -> Tensor:
        like = self._by_name[parameter]
        return DTensor.from_local(
            shard, self.mesh, [Shard(0)], run_check=False, shape=like.shape, stride=like.stride()
        ).full_tensor()


def _rows(count: int, world: int) -> int:
    """Rows of a full shard of a tensor of `count` rows."""
    return -(-count // world)


def _padded(gradient: Tensor, world: int) -> Tensor:
    """The shards of all processes one below the other, each a row, filled up with zeros."""
    rows = _rows(gradient.shape[0], world)
    result = gradient.new_zeros(world * rows, *gradient.shape[1:])
    result[: gradient.shape[0]] = gradient
    return result.view(world, -1)


def _reduce_scatter(own: Tensor, flat: Tensor, *, group: dist.ProcessGroup) -> None:
    # Renamed in torch 2.13; the old name warns there.
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    scatter(own, flat, group=group)
