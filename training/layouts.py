"""From configuration and processes to the layout of a run."""

from collections.abc import Sequence

from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.model import Potential
from hydrapot.training.data.sampler import GlobalSampler
from hydrapot.training.layout import TASK_KINDS, Layout, LayoutConfig, branch_numbers
from hydrapot.training.processes import Processes
from hydrapot.training.replicated import DataLayout, TaskLayout, broadcast
from hydrapot.training.sharded import ShardedLayout


def check_layout(config: LayoutConfig, *, datasets: Sequence[str], world: int) -> None:
    """Raise for what cannot work, before anything is read.

    Raises
    ------
    ConfigurationError
        The layout does not fit the processes or the datasets.
    """
    branches = branch_numbers(config, datasets)
    if config.kind == "single" and world > 1:
        raise ConfigurationError(f"layout.kind is single, but {world} processes were started: choose data")
    if config.kind == "task" and branches is not None and world not in {1, len(branches)}:
        raise ConfigurationError(
            f"layout.kind is task: {len(branches)} branches need as many processes, not {world}; task+data divides more"
            " processes over the branches"
        )


def make_layout(config: LayoutConfig, potential: Potential, *, processes: Processes, sampler: GlobalSampler) -> Layout:
    """Lay the model out over the processes; all of them call this together.

    Parameters
    ----------
    config
        The layout.
    potential
        The whole model, with initial weights; may be changed or not be used any more.
    processes
        Those of the run.
    sampler
        Says which process meets structures of which datasets.
    """
    rank, world = processes.rank, processes.world
    potential.to(processes.device)
    if world > 1:
        broadcast(potential)
    layout: Layout
    if world == 1:
        layout = Layout(potential)
    elif config.kind == "sharded":
        layout = ShardedLayout(potential, rank=rank, world=world, bucket_megabytes=config.bucket_megabytes)
    elif config.kind in TASK_KINDS:
        layout = TaskLayout(
            potential,
            rank=rank,
            world=world,
            bucket_megabytes=config.bucket_megabytes,
            holders=_holders(potential, config, sampler, world=world),
        )
    else:
        layout = DataLayout(potential, rank=rank, world=world, bucket_megabytes=config.bucket_megabytes)
    return layout


def _holders(potential: Potential, config: LayoutConfig, sampler: GlobalSampler, *, world: int) -> dict[str, list[int]]:
    """Processes that compute structures of each head."""
    branches = branch_numbers(config, potential.heads)
    if branches is None:
        return {name: list(range(world)) for name in potential.heads}
    meets = [{int(sampler.branch_of_part[p]) for p in sampler.part(rank, world)} for rank in range(world)]
    holders = {}
    for k, branch in enumerate(branches):
        for dataset in branch:
            holders[potential.heads[dataset]] = [rank for rank in range(world) if k in meets[rank]]
    return holders
