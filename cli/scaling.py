"""``hydrapot scaling``: matched trainings on several numbers of processes, a cost model, and what it predicts."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Mode(StrEnum):
    """What stays the same."""

    strong = "strong"
    weak = "weak"


def _numbers(text: str, option: str) -> list[int]:
    try:
        values = [int(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 1,2,4", param_hint=option) from error
    if any(value < 1 for value in values):
        raise typer.BadParameter(f"{text!r}: numbers of processes are 1 or more", param_hint=option)
    return values


def scaling(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="CONFIG|RUN…", help="Training configuration; with --from, folders of finished runs."),
    ],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory for scaling.json, scaling.png and the runs.")],
    data: Annotated[Path | None, typer.Option(help="Directory of the dataset files.", show_default=False)] = None,
    from_: Annotated[bool, typer.Option("--from", help="Read finished runs instead of making them.")] = False,
    processes: Annotated[str, typer.Option(help="Numbers of processes.")] = "1,2",
    mode: Annotated[
        Mode | None,
        typer.Option(help="strong: the same batches; weak: the same work for each process.", show_default="strong"),
    ] = None,
    steps: Annotated[int, typer.Option(min=8, help="Of each run; the first quarter does not count.")] = 60,
    launcher: Annotated[
        str, typer.Option(help="mpiexec, torchrun, srun, or a command line with {processes}.")
    ] = "mpiexec",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each process.", show_default="cores over processes")
    ] = None,
    predict: Annotated[str, typer.Option(help="Numbers of processes to predict: 64,512,4096.")] = "",
    latency: Annotated[
        float | None, typer.Option(min=0.0, help="µs of a stage of an all-reduce there.", show_default="as fitted")
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(min=1e-6, help="GB/s of each process in an all-reduce there.", show_default="as fitted"),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a field of the configuration: run.compile=false.")
    ] = None,
) -> None:
    """Measure how a training scales, fit a cost model and predict larger machines.

    Runs the same short training on each number of processes through your launcher, or reads runs that were made before
    (on a cluster, by jobs of their own; see `hydrapot job`): `hydrapot scaling --from RUN1 RUN2 -o OUT`.
    """
    from hydrapot.cli.columns import print_columns
    from hydrapot.cli.reporting import say
    from hydrapot.cli.train import parse_overrides
    from hydrapot.training.config import load_config
    from hydrapot.training.scaling import read_point
    from hydrapot.training.scaling_report import (
        analyze,
        caveats,
        parameter_lines,
        point_rows,
        prediction_rows,
        published_lines,
        write_analysis,
    )
    from hydrapot.training.scaling_runs import run_matched

    wanted = _numbers(predict, "--predict")
    chosen = mode.value if mode else None
    if from_:
        points = [read_point(folder) for folder in sources]
    else:
        if len(sources) != 1 or data is None:
            raise typer.BadParameter("give one CONFIG and --data DIR, or --from with folders of finished runs")
        settings = parse_overrides(set_ or [])
        points = run_matched(
            sources[0],
            load_config(sources[0], overrides=settings),
            data=data,
            out=out,
            processes=_numbers(processes, "--processes"),
            mode=(mode or Mode.strong).value,
            steps=steps,
            launcher=launcher,
            threads=threads,
            settings=settings,
            started=lambda n, command: say(f"note: {n} processes: {command}"),
        )
        chosen = (mode or Mode.strong).value
    analysis = analyze(
        points,
        mode=chosen,  # type: ignore[arg-type]
        processes=wanted,
        latency=None if latency is None else 1e-6 * latency,
        bandwidth=None if bandwidth is None else 1e9 * bandwidth,
    )
    write_analysis(analysis, out=out, command=shlex.join(["hydrapot", *sys.argv[1:]]))

    typer.echo(f"{analysis.mode} scaling; ms of a step by what it is spent on")
    measured = point_rows(analysis)
    print_columns(measured, numbers=list(measured[0]))
    typer.echo("\ncost model")
    for line in parameter_lines(analysis.model):
        typer.echo(f"  {line}")
    if wanted:
        typer.echo("\npredicted")
        print_columns(prediction_rows(analysis), numbers=["processes", "ms/step", "efficiency", "beyond"])
    typer.echo("")
    for line in caveats(analysis):
        typer.echo(line)
    typer.echo("\npublished")
    for line in published_lines():
        typer.echo(f"  {line}")
    say(f"note: wrote {out / 'scaling.json'} and {out / 'scaling.png'}")
