"""How many processes a run has, and which of them this one is, as its launcher says: torchrun, mpiexec, srun, or none.

The variables are those of torchrun, Open MPI, PALS (Cray), Hydra (MPICH, Intel MPI), Slurm and PMI.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hydrapot.potential.errors import ConfigurationError

Launcher = Literal["none", "torchrun", "mpiexec", "srun"]

#: Launcher; variables of rank, world, rank on this node, processes on this node; a variable that tells it from the others.
#: Hydra comes before Slurm, whose variables its processes inherit from the step that started it, one task per node; Slurm
#: before PMI, which it may speak. In a batch script, outside any step, SLURM_PROCID stands without SLURM_STEP_NUM_TASKS.
_VARIABLES: tuple[tuple[Launcher, str, str, str, str, str], ...] = (
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"),
    (
        "mpiexec",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "OMPI_COMM_WORLD_RANK",
    ),
    ("mpiexec", "PALS_RANKID", "PMI_SIZE", "PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE", "PALS_RANKID"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "", "SLURM_STEP_NODELIST"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "PMI_RANK"),
)


@dataclass(frozen=True)
class Launch:
    """What a launcher says about this process.

    Attributes
    ----------
    launcher
        Which one; "none" for a process started by itself.
    rank, world
        Number of this process, and of all.
    local_rank
        Number of this process on its node.
    address, port
        Where the processes meet, or None if the launcher does not say.
    restarts, max_restarts
        How often torchrun has restarted the processes, and may.
    cores
        That srun was asked for by ``--cpus-per-task``: without binding a process may run on all cores of its node, also on
        those that are not its own.
    """

    launcher: Launcher = "none"
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    address: str | None = None
    port: int | None = None
    restarts: int = 0
    max_restarts: int = 0
    cores: int | None = None

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0


def find_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """Read the launcher's variables.

    Raises
    ------
    ConfigurationError
        A variable is no number, or they contradict each other.
    """
    environment = os.environ if environment is None else environment
    for launcher, rank, world, local_rank, local_world, told_by in _VARIABLES:
        if not all(name in environment for name in (rank, world, told_by)):
            continue
        size, number = _number(environment, world), _number(environment, rank)
        if not 0 <= number < size:
            raise ConfigurationError(f"the launcher says {rank}={number} of {world}={size}: unset one of them")
        address, port = _meeting_point(launcher, environment)
        return Launch(
            launcher=launcher,
            rank=number,
            world=size,
            local_rank=_local_rank(environment, number, local_rank, local_world),
            address=address,
            port=port,
            restarts=_number(environment, "TORCHELASTIC_RESTART_COUNT") if launcher == "torchrun" else 0,
            max_restarts=_number(environment, "TORCHELASTIC_MAX_RESTARTS") if launcher == "torchrun" else 0,
            cores=_number(environment, "SLURM_CPUS_PER_TASK") or None if launcher == "srun" else None,
        )
    return Launch()


def _local_rank(environment: Mapping[str, str], rank: int, own: str, count: str) -> int:
    if own in environment:
        return _number(environment, own)
    return rank % _number(environment, count) if count in environment else rank


def _meeting_point(launcher: Launcher, environment: Mapping[str, str]) -> tuple[str | None, int | None]:
    """Address and port that the launcher or the user names, or that all processes can work out alike."""
    if "MASTER_ADDR" in environment and "MASTER_PORT" in environment:
        return environment["MASTER_ADDR"], _number(environment, "MASTER_PORT")
    if launcher == "srun":
        if environment["SLURM_PROCID"] == "0" and environment.get("SLURM_NODEID", "0") != "0":
            raise ConfigurationError(
                "srun has put process 0 on another node than the first, where the processes would meet: leave out"
                " --distribution=arbitrary, or set MASTER_ADDR and MASTER_PORT"
            )
        job = f"{environment.get('SLURM_JOB_ID', '0')}{environment.get('SLURM_STEP_ID', '0')}"
        # Of the dynamic ports; another step of the same job gets another one.
        return first_host(environment["SLURM_STEP_NODELIST"]), 49_152 + int(re.sub(r"\D", "", job) or 0) % 16_000
    return None, None


def first_host(nodes: str) -> str:
    """First of a list of hosts as Slurm writes it: ``nid[0012-0040,0077],login1`` → ``nid0012``."""
    match = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    return "".join(group or "" for group in match.groups()) if match else nodes


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "0")
    try:
        return int(value)
    except ValueError as error:
        raise ConfigurationError(f"the launcher's variable {name}={value!r} is no number") from error
