"""``hydrapot train`` and ``hydrapot card``: train a model, and write what it was measured to be worth."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console


def parse_overrides(settings: list[str]) -> dict[str, Any]:
    """Fields of a configuration, by dotted name, from words of the form name=value."""
    parsed = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator:
            raise typer.BadParameter(f"{setting!r} is not of the form name=value, e.g. run.steps=1000")
        parsed[name] = yaml.safe_load(value)
    return parsed


def _show_fields(value: bool) -> None:
    if value:
        from hydrapot.training.config import TrainConfig
        from hydrapot.training.config_help import describe

        typer.echo(describe(TrainConfig))
        raise typer.Exit


def train(
    config: Annotated[Path, typer.Argument(help="Training configuration (YAML).", metavar="CONFIG")],
    data: Annotated[Path, typer.Option(help="Directory of the dataset files.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Output directory; runs/NAME by default.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue the run in the output directory.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Replace a field of the configuration: run.steps=1000.")
    ] = None,
    help_config: Annotated[  # noqa: ARG001 (its callback acts)
        bool,
        typer.Option("--help-config", callback=_show_fields, is_eager=True, help="List all fields of a configuration."),
    ] = False,
) -> None:
    """Train a potential with one head per dataset.

    By itself on one process, or by torchrun, mpiexec or srun on many; `layout` in the configuration says how they share
    the work.
    """
    from hydrapot.cli.parallel import ending_together
    from hydrapot.cli.reporting import INTERRUPTED, STOPPED
    from hydrapot.training.config import load_config
    from hydrapot.training.launch import find_launch
    from hydrapot.training.metrics import relative_force_errors
    from hydrapot.training.run import train as run_training

    launch = find_launch()
    with ending_together(launch):
        loaded = load_config(config, overrides=parse_overrides(set_ or []))
        console = Console(stderr=True, quiet=not launch.main)
        result = run_training(
            loaded,
            data=data,
            manifest_path=config.parent / loaded.split,
            out=out or Path("runs") / loaded.name,
            resume=resume,
            threads=threads,
            console=console,
            launch=launch,
            # A launcher's process is ours to end; one without may be that of a caller.
            last=launch.launcher != "none",
        )
    for head, value in sorted(relative_force_errors(result.metrics).items(), key=lambda item: item[1]):
        metrics = result.metrics[head]
        energy = metrics.get("energy_mae_mev_per_atom", float("nan"))
        console.print(
            f"{head:34s} energy {energy:8.1f} meV/atom   forces {metrics['force_mae_mev_per_a']:8.1f} meV/Å"
            f"  ({value:.1%} of the mean)  {result.splits[head]}",
            highlight=False,
        )
    console.print(f"{result.stop_reason}; model: {result.checkpoint}", highlight=False)
    # A torchrun that restarts what ends with an error must not restart a run that was asked to stop.
    if not result.finished and not launch.max_restarts:
        raise typer.Exit(INTERRUPTED.get(result.signal or "", STOPPED))


def card(
    model: Annotated[str, typer.Argument(help="Checkpoint file, or the name of a shipped model.", metavar="MODEL")],
    config: Annotated[
        Path, typer.Argument(help="Training configuration that names datasets and split.", metavar="CONFIG")
    ],
    data: Annotated[Path, typer.Option(help="Directory of the dataset files.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Markdown file to write.")],
) -> None:
    """Measure a model on the validation split of its datasets and write its model card."""
    from hydrapot.training.card import write_card
    from hydrapot.training.config import load_config

    loaded = load_config(config)
    opening = config.parent / loaded.card if loaded.card else None
    write_card(model, loaded, data=data, manifest_path=config.parent / loaded.split, out=out, opening=opening)
    Console(stderr=True).print(f"wrote {out}", highlight=False)
