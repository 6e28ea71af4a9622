"""Layouts in which every process holds the whole encoder: data parallel, and task parallel in groups of heads.

Losses of parts are normalized by the labels of the global batch, so gradients of processes simply add up: those of the
encoder over all processes, those of a head over the processes that hold it. With all heads everywhere this is data
parallelism; with each branch of heads on a group of its own it is the task parallelism of HydraGNN's multi-dataset
training (Lupo Pasini et al., arXiv:2506.21788), with gradients that are exactly those of one process.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from hydrapot.potential.errors import SimulationError
from hydrapot.potential.model import Potential
from hydrapot.training.buckets import PendingSum
from hydrapot.training.layout import Entry, Layout, Share
from hydrapot.training.step import Batch


class DataLayout(Layout):
    """The whole model on every process.

    Parameters
    ----------
    potential
        What this process computes with; weights that several processes hold are the same on all (:func:`broadcast`).
    rank, world
        Of this process.
    bucket_megabytes
        Size of one message.
    """

    def __init__(self, potential: Potential, *, rank: int, world: int, bucket_megabytes: float) -> None:
        super().__init__(potential, rank=rank, world=world)
        self.mesh: DeviceMesh = init_device_mesh(self.device.type, (world,), mesh_dim_names=("data",))
        self.group = self.mesh.get_group()
        self.megabytes = bucket_megabytes

    def reduce(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """As in :class:`Layout`."""
        return PendingSum(gradients, group=self.group, megabytes=self.megabytes).finish()

    def total(self, values: Tensor) -> Tensor:
        """As in :class:`Layout`."""
        result = values.clone()
        dist.all_reduce(result, group=self.group)
        return result

    def gather(self, entries: Iterable[Entry]) -> dict[str, Tensor]:
        """As in :class:`Layout`: the main process has everything."""
        return super().gather(entries) if self.main else {}

    def check(self) -> None:
        """As in :class:`Layout`."""
        _check_same(self.tensors, world=self.world, group=self.group)


class TaskLayout(DataLayout):
    """The encoder on every process, each head on the processes that compute its structures.

    Parameters
    ----------
    potential, rank, world, bucket_megabytes
        As for :class:`DataLayout`.
    holders
        Processes that hold each head, by its name; the first of them stands for the others when the model is gathered.
    """

    def __init__(
        self,
        potential: Potential,
        *,
        rank: int,
        world: int,
        bucket_megabytes: float,
        holders: Mapping[str, Sequence[int]],
    ) -> None:
        self.numbers = {name: k for k, name in enumerate(potential.heads)}
        self.holders = {name: list(ranks) for name, ranks in holders.items()}
        own = [name for name in potential.heads if rank in self.holders[name]]
        super().__init__(with_heads(potential, own), rank=rank, world=world, bucket_megabytes=bucket_megabytes)
        self.groups = _groups(self.holders, world=world, device=self.device)
        #: Head of each parameter; None for those that every process holds.
        owners = {
            f"{prefix}.{key}": name
            for name in own
            for prefix, module in potential.named_modules()
            if module is potential.head(name)
            for key, _ in module.named_parameters()
        }
        self.owner = [owners.get(name) for name in self.names]
        #: Number of each head here, by its number in the whole model; −1 for heads of others.
        self.local_number = torch.full((len(self.numbers),), -1, dtype=torch.int64, device=self.device)
        for k, name in enumerate(own):
            self.local_number[self.numbers[name]] = k

    def adopt(self, batch: Batch) -> Batch:
        """As in :class:`Layout`.

        Raises
        ------
        ValueError
            A structure of a head that this process does not hold.
        """
        batch = super().adopt(batch)
        local = self.local_number[batch.head_index]
        if bool((local < 0).any()):
            raise ValueError("a structure of a branch that another process computes")
        return batch._replace(head_index=local)

    def share(self, head: str) -> Share:
        """As in :class:`Layout`."""
        ranks = self.holders[head]
        return Share(ranks.index(self.rank), len(ranks)) if self.rank in ranks else Share(1, 1)

    def reduce(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """As in :class:`Layout`: sums of all groups under way at once."""
        parts: dict[tuple[int, ...], list[int]] = {}
        everyone = tuple(range(self.world))
        for k, owner in enumerate(self.owner):
            parts.setdefault(everyone if owner is None else tuple(self.holders[owner]), []).append(k)
        # Sorted: processes that share several groups enter them in one order. The encoder's first, it is the largest.
        order = sorted(parts, key=lambda ranks: (-len(ranks), ranks))
        pending = [
            PendingSum([gradients[k] for k in parts[r]], group=self._group(r), megabytes=self.megabytes) for r in order
        ]
        result = list(gradients)
        for ranks, started in zip(order, pending, strict=True):
            for k, total in zip(parts[ranks], started.finish(), strict=True):
                result[k] = total
        return result

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """As in :class:`Layout`."""
        shared = [g for g, owner in zip(gradients, self.owner, strict=True) if owner is None]
        heads = [
            g
            for g, owner in zip(gradients, self.owner, strict=True)
            if owner is not None and self.holders[owner][0] == self.rank
        ]
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        for gradient in heads:
            squares += gradient.double().square().sum()
        total = self.total(squares) + sum(g.double().square().sum() for g in shared)
        return total.sqrt().to(gradients[0].dtype)

    def gather(self, entries: Iterable[Entry]) -> dict[str, Tensor]:
        """As in :class:`Layout`: the first holder of each head sends it to the main process."""
        owners = dict(zip(self.names, self.owner, strict=True))
        found = {e.key: e.value.detach().cpu().clone() for e in entries if self._leads(owners[e.parameter])}
        leaders = sorted({ranks[0] for ranks in self.holders.values()} - {0})
        if self.main:
            for leader in leaders:
                received: list[Any] = [None]
                dist.recv_object_list(received, src=leader, group=self.group, device=self.device)
                found |= received[0]
            return found
        if self.rank in leaders:
            dist.send_object_list([found], dst=0, group=self.group, device=self.device)
        return {}

    def check(self) -> None:
        """As in :class:`Layout`, for the encoder."""
        shared = [t for t, owner in zip(self.tensors, self.owner, strict=True) if owner is None]
        _check_same(shared, world=self.world, group=self.group)

    def _leads(self, owner: str | None) -> bool:
        return self.main if owner is None else self.holders[owner][0] == self.rank

    def _group(self, ranks: tuple[int, ...]) -> dist.ProcessGroup:
        return self.group if len(ranks) == self.world else self.groups[ranks]


def with_heads(potential: Potential, heads: Sequence[str]) -> Potential:
    """A copy of the model that has only `heads`; the random state of torch is left alone."""
    state = torch.random.get_rng_state()
    own = Potential(
        potential.info.model_copy(update={"heads": {name: potential.info.heads[name] for name in heads}}),
        references={name: potential.references[name] for name in heads},
        scales={name: potential.head(name).scale for name in heads},
    ).to(device=next(potential.parameters()).device, dtype=potential.dtype)
    torch.random.set_rng_state(state)
    whole = dict(potential.named_parameters())
    with torch.no_grad():
        for name, parameter in own.named_parameters():
            parameter.copy_(whole[name])
            parameter.requires_grad_(whole[name].requires_grad)
    return own


def broadcast(potential: Potential) -> None:
    """Give weights and scales of process 0 to all: processors of different kinds round initial fits differently."""
    for parameter in potential.parameters():
        dist.broadcast(parameter.data, src=0)
    device = next(potential.parameters()).device
    scales = torch.tensor([potential.head(n).scale for n in potential.heads], dtype=torch.float64, device=device)
    dist.broadcast(scales, src=0)
    for name, scale in zip(potential.heads, scales.tolist(), strict=True):
        potential.head(name).scale = scale


def _groups(
    holders: Mapping[str, Sequence[int]], *, world: int, device: torch.device
) -> dict[tuple[int, ...], dist.ProcessGroup]:
    """Groups of the processes that share a head: rows of a mesh where they are equal, otherwise one by one.

    Every process takes part in making every group.
    """
    wanted = sorted({tuple(ranks) for ranks in holders.values()})
    size = len(wanted[0])
    if all(len(ranks) == size for ranks in wanted) and sorted(r for ranks in wanted for r in ranks) == list(
        range(world)
    ):
        mesh = DeviceMesh(device.type, torch.tensor(wanted), mesh_dim_names=("branch", "data"))
        own = tuple(mesh.mesh[mesh.get_coordinate()[0]].tolist())  # type: ignore[index]
        return {own: mesh["data"].get_group()}
    return {ranks: dist.new_group(list(ranks)) for ranks in wanted}


def _check_same(tensors: Sequence[Tensor], *, world: int, group: dist.ProcessGroup) -> None:
    if not tensors:  # the same on all processes
        return
    flat = torch.cat([t.detach().reshape(-1).view(torch.uint8) for t in tensors]).to(torch.int64)
    weights = torch.arange(flat.numel(), device=flat.device) % 65_521 + 1
    digest = (flat * weights).sum()
    extremes = torch.stack([digest, -digest])
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
    if int(extremes.sum()) != 0:
        raise SimulationError(
            f"the weights differ between the {world} processes of the run: one of them computes wrongly; resume from the"
            " last state on other nodes"
        )
