"""Machines that job scripts are written for: scheduler, processes of a node and their cores, launcher, storage of a node.

What is said of a machine is what its documentation and public job scripts for it say (Frontier: OLCF user documentation;
Aurora: ALCF user guides, "Running Jobs on Aurora"; Perlmutter: NERSC documentation; late 2025). Queues and modules change:
the scripts have a place for them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hydrapot.potential.errors import ConfigurationError

Scheduler = Literal["slurm", "pbs"]


@dataclass(frozen=True)
class Site:
    """One kind of machine.

    Attributes
    ----------
    scheduler
        What reads the head of the script.
    tasks_per_node
        Processes, one for each GPU, GCD or tile.
    threads
        Of a process.
    launcher
        Options of ``srun`` or ``mpiexec`` besides the numbers of nodes and processes.
    directives
        Further lines for the scheduler.
    storage
        Shell words for the fastest storage that a node has for itself.
    storage_directives
        Lines for the scheduler without which that storage is not there.
    storage_note
        What to know about it.
    environment
        Shell lines that the machine needs.
    hints
        Lines to start from, as comments.
    account
        Whether a job needs one.
    queue
        Queue, partition or quality of service, where there is a usual one.
    queue_option
        How the scheduler calls that.
    """

    scheduler: Scheduler
    tasks_per_node: int = 1
    threads: int = 1
    launcher: tuple[str, ...] = ()
    directives: tuple[str, ...] = ()
    storage: str = "${TMPDIR:-/tmp}"
    storage_directives: tuple[str, ...] = ()
    storage_note: str = ""
    environment: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    account: bool = False
    queue: str = ""
    queue_option: str = field(default="")


#: Cores of the twelve tiles of an Aurora node: eight each on the socket of its GPU; cores 0 and 52 belong to the system.
_AURORA_CORES = ":".join(f"{base + 8 * k}-{base + 8 * k + 7}" for base in (1, 53) for k in range(6))

SITES: Mapping[str, Site] = {
    "frontier": Site(
        scheduler="slurm",
        tasks_per_node=8,  # GCDs
        threads=7,  # of each 8 cores one belongs to the system
        launcher=("--cpus-per-task=7", "--gpus-per-task=1", "--gpu-bind=closest"),
        storage="/mnt/bb/${USER}",
        storage_directives=("--constraint=nvme",),
        storage_note="NVMe of each node, empty at the beginning of a job",
        hints=("module load rocm", "export NCCL_SOCKET_IFNAME=hsn0"),
        account=True,
        queue="batch",
        queue_option="--partition",
    ),
    "perlmutter": Site(
        scheduler="slurm",
        tasks_per_node=4,
        threads=16,
        launcher=("--cpus-per-task=32", "--cpu-bind=cores", "--gpus-per-node=4"),
        directives=("--constraint=gpu", "--gpus-per-node=4"),
        storage_note="GPU nodes have no disk: this is memory",
        hints=("module load pytorch",),
        account=True,
        queue="regular",
        queue_option="--qos",
    ),
    "aurora": Site(
        scheduler="pbs",
        tasks_per_node=12,  # tiles
        threads=8,
        launcher=(f"--cpu-bind=list:{_AURORA_CORES}",),
        directives=("-l place=scatter", "-l filesystems=home:flare"),
        storage="/tmp",  # noqa: S108 - of a node that one job has for itself
        storage_note="nodes have no disk: this is memory",
        # Each tile is a device of its own, and hydrapot takes the one of its number on the node.
        environment=("export ZE_FLAT_DEVICE_HIERARCHY=FLAT",),
        hints=("module load frameworks",),
        account=True,
        queue="prod",
        queue_option="-q",
    ),
    "slurm": Site(scheduler="slurm", queue_option="--partition", storage_note="as the cluster sets TMPDIR"),
    "pbs": Site(
        scheduler="pbs", directives=("-l place=scatter",), queue_option="-q", storage_note="as the cluster sets TMPDIR"
    ),
}


def find_site(name: str) -> Site:
    """The machine of that name.

    Raises
    ------
    ConfigurationError
        There is none.
    """
    if name not in SITES:
        raise ConfigurationError(
            f"no site {name!r}: there are {', '.join(SITES)}; slurm and pbs are for any cluster with that scheduler"
        )
    return SITES[name]
