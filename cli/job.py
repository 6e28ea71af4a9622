"""``hydrapot job``: a batch script for training on a cluster."""

from pathlib import Path
from typing import Annotated

import typer


def job(
    site: Annotated[str, typer.Argument(metavar="SITE", help="frontier, perlmutter, aurora, slurm or pbs.")],
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Training configuration (YAML).")],
    *,
    data: Annotated[Path, typer.Option(help="Directory of the dataset files, on a file system that all nodes share.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Output directory of the run; gets job.sh.")],
    nodes: Annotated[int, typer.Option(min=1, help="Nodes.")],
    walltime: Annotated[str, typer.Option(help="H:MM of one job.")],
    account: Annotated[str, typer.Option(help="Project to charge.", show_default=False)] = "",
    queue: Annotated[str, typer.Option(help="Queue, partition or QOS.", show_default="the site's usual one")] = "",
    stage: Annotated[bool, typer.Option("--stage", help="Copy the datasets to storage of each node first.")] = False,
    storage: Annotated[
        str, typer.Option(help="That storage: '/local/${USER}'.", show_default="the site's NVMe or memory")
    ] = "",
    tasks_per_node: Annotated[
        int | None, typer.Option(min=1, help="Processes of a node.", show_default="one for each GPU")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a process.", show_default="the site's")] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=0, help="For slurm and pbs.", show_default="none, or the site's")
    ] = None,
    environment: Annotated[
        Path | None, typer.Option(help="Shell file with modules and variables, read first.", show_default=False)
    ] = None,
    directive: Annotated[
        list[str] | None, typer.Option(help="Further line for the scheduler: '--reservation=NAME'.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Jobs in all, if one is not enough for the run.")] = 20,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a field of the configuration: run.steps=1000.")
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Show the script instead of writing it.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the script of an earlier call.")] = False,
) -> None:
    """Write a batch script that trains on a cluster.

    The run stops in time before the job ends, saves, and submits itself again with --resume until it is finished.
    """
    from hydrapot.cli.reporting import say
    from hydrapot.cli.train import parse_overrides
    from hydrapot.training.config import load_config
    from hydrapot.training.jobs import JobOptions, job_script, submit_command, write_job

    loaded = load_config(config, overrides=parse_overrides(set_ or []))
    options = JobOptions(
        nodes=nodes,
        walltime=walltime,
        account=account,
        queue=queue,
        tasks_per_node=tasks_per_node,
        threads=threads,
        gpus_per_node=gpus_per_node,
        stage=stage,
        storage=storage,
        environment=environment,
        directives=tuple(directive or ()),
        settings=tuple(set_ or ()),
        jobs=jobs,
    )
    if show:
        typer.echo(job_script(site, config, loaded, data=data, out=out, options=options), nl=False)
        return
    script = write_job(site, config, loaded, data=data, out=out, options=options, overwrite=overwrite)
    say(f"note: wrote {script}; look at its environment section, then: {submit_command(site)} {script}")
