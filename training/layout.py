"""Who holds which parameters, and how sums over processes are formed: the seam that parallel layouts fill.

A run computes with ``potential``, updates ``tensors`` and knows nothing else of where the rest of the model is. With one
process every operation here is the identity. Parameters go by the names that they have in the whole model, whoever holds
them: a training state is written and read by name, so that it fits every layout.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.model import Potential
from hydrapot.training.step import Batch

TASK_KINDS = ("task", "task+data")


class LayoutConfig(BaseModel):
    """How the work is laid out over processes; with one process every kind is the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["single", "data", "task", "task+data", "sharded"] = Field(
        default="data",
        description="single: one process, or an error. data: every process holds the whole model. task: the encoder on "
        "every process, each branch of heads on one. task+data: each branch on a group of processes. sharded: parameters, "
        "averages and moments divided over all processes (FSDP2).",
    )
    branches: list[list[str]] | None = Field(
        default=None, description="For task layouts: the datasets of each branch; by default one branch per dataset."
    )
    bucket_megabytes: float = Field(default=32.0, gt=0, description="Size of one message of a sum over processes.")
    timeout_minutes: float = Field(
        default=10.0, gt=0, description="A process that waits longer than this for the others gives up."
    )


class Entry(NamedTuple):
    """A tensor of the training state: its key there, the parameter that it belongs to, and what this process holds."""

    key: str
    parameter: str
    value: Tensor


@dataclass(frozen=True)
class Share:
    """Every `of`-th number, from `first` on; none if `first` is not below `of`."""

    first: int
    of: int

    def __contains__(self, number: int) -> bool:
        return number % self.of == self.first


class Layout:
    """One process that holds everything; the base of the others.

    Parameters
    ----------
    potential
        The whole model, the same on every process.

    Attributes
    ----------
    potential
        What this process computes with: the whole model, or one with some of its heads.
    names, tensors
        The trained parameters that this process updates: names in the whole model, and storage (which may be a shard).
    heads
        Names of the heads of ``potential``.
    rank, world
        Of this process, and how many there are.
    """

    def __init__(self, potential: Potential, *, rank: int = 0, world: int = 1) -> None:
        self.potential = potential
        self.rank, self.world = rank, world
        named = [(name, p) for name, p in potential.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.tensors: list[Tensor] = [p for _, p in named]

    @property
    def main(self) -> bool:
        """Whether it is this process that writes and speaks."""
        return self.rank == 0

    @property
    def heads(self) -> list[str]:
        """Names of the heads that this process computes."""
        return self.potential.heads

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.tensors[0].device

    def adopt(self, batch: Batch) -> Batch:
        """A batch, whose heads are numbered as in the whole model, as this process computes it."""
        return batch.to(self.device)

    def share(self, head: str) -> Share:
        """Of numbered pieces of work for `head`, those that this process does."""
        del head
        return Share(self.rank, self.world)

    def whole(self) -> AbstractContextManager[None]:
        """Context in which the parameters of ``potential`` are whole tensors that gradients can be taken for."""
        return nullcontext()

    def gradient_shapes(self) -> Sequence[Tensor]:
        """Tensors of the shapes that gradients have before :meth:`reduce`; to be asked within :meth:`whole`."""
        return [p for p in self.potential.parameters() if p.requires_grad]

    def reduce(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Sum of the gradients of all processes, for each of ``tensors``."""
        return list(gradients)

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Length of the whole gradient, of which `gradients` is what :meth:`reduce` returned."""
        return torch.nn.utils.get_total_norm(gradients)

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes; the same bits on each."""
        return values

    def gather(self, entries: Iterable[Entry]) -> dict[str, Tensor]:
        """Whole tensors by key, on the CPU and copied, on the main process; nothing on the others."""
        return {entry.key: entry.value.detach().cpu().clone() for entry in entries}

    def check(self) -> None:
        """Raise if processes that hold the same weights do not, to the last bit.

        Raises
        ------
        SimulationError
            A process has drifted away from the others (faulty memory, another library or processor).
        """

    def place(self, parameter: str, whole: Tensor) -> Tensor:
        """What this process holds of a tensor that belongs to `parameter` and has its shape."""
        del parameter
        return whole


def branch_numbers(config: LayoutConfig, datasets: Sequence[str]) -> list[list[int]] | None:
    """Datasets of each branch, by number; None where all share the parts of a batch.

    They say which structures a part of a batch holds, and apply with one process as with many.

    Raises
    ------
    ConfigurationError
        A dataset is in no branch, in two, or unknown.
    """
    if config.kind not in TASK_KINDS:
        if config.branches is not None:
            raise ConfigurationError(f"layout.branches belong to the task layouts, layout.kind is {config.kind}")
        return None
    if config.branches is None:
        return [[k] for k in range(len(datasets))]
    listed = [name for branch in config.branches for name in branch]
    for name in listed:
        if name not in datasets:
            raise ConfigurationError(f"layout.branches names {name!r}, which is no dataset of this configuration")
    for name in datasets:
        if listed.count(name) != 1:
            raise ConfigurationError(f"layout.branches holds {name!r} {listed.count(name)} times, not once")
    return [[list(datasets).index(name) for name in branch] for branch in config.branches]
