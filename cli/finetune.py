"""``hydrapot finetune``: a model for one's own labels, from a trained one."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hydrapot.cli.options import Head, Model, Threads


def finetune(
    model: Model,
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS",
            help="Structures with energies and forces: extended XYZ, or a store that `hydrapot data import` has made.",
        ),
    ],
    *,
    head: Head = None,
    functional: Annotated[
        str | None, typer.Option(help="Level of theory of LABELS, such as PBE.", show_default="that of a store")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Output directory.", show_default="runs/NAME-finetuned")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.", show_default="2000")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default="1e-3")] = None,
    encoder: Annotated[
        bool | None, typer.Option(help="Train the encoder too, or the head only.", show_default="encoder")
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.5, help="Share of LABELS to take errors on.", show_default="0.1"),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of division and training.", show_default="0")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output directory.")] = False,
    only_prepare: Annotated[
        bool, typer.Option("--only-prepare", help="Write configuration and division, for `hydrapot train`, and stop.")
    ] = False,
    threads: Threads = None,
) -> None:
    """Fit a head of MODEL, and its encoder, to labels of your own.

    The new model has one head, named after LABELS. Its reference energies are fitted to what the head to start from leaves, so
    that another zero of energy costs nothing; or they are those of isolated atoms in LABELS, where that head has such too.
    Configuration and division are written beside the model; `hydrapot train` takes them for anything else, also on many
    processes.
    """
    from rich.console import Console

    from hydrapot.cli.reporting import INTERRUPTED, STOPPED
    from hydrapot.potential.errors import ConfigurationError
    from hydrapot.training.config import load_config
    from hydrapot.training.data.names import dataset_name
    from hydrapot.training.finetune import FinetuneOptions, prepare_finetuning, prepared_finetuning
    from hydrapot.training.launch import find_launch
    from hydrapot.training.run import train

    launch = find_launch()
    if launch.world > 1:
        raise ConfigurationError(
            "hydrapot finetune is one process: for many, let one --only-prepare, then start hydrapot train on the finetune.yaml"
            " that it writes"
        )
    out = out or Path("runs") / f"{dataset_name(labels)}-finetuned"
    options = FinetuneOptions(head, functional, steps, learning_rate, encoder, held_out, seed)
    prepare = prepared_finetuning if resume else prepare_finetuning
    path = prepare(model, labels, out=out, options=options)
    config, console = load_config(path), Console(stderr=True)
    if only_prepare:
        command = ["hydrapot", "train", path.name, "--data", str(labels.parent.resolve()), "-o", "."]
        console.print(f"in {out}, on any number of processes: {shlex.join(command)}", highlight=False, soft_wrap=True)
        return
    result = train(
        config,
        data=labels.parent,
        manifest_path=out / config.split,
        out=out,
        resume=resume,
        threads=threads,
        console=console,
        launch=launch,
    )
    (name, metrics), before = next(iter(result.metrics.items())), result.before
    for quantity, unit, title in (
        ("energy_mae_mev_per_atom", "meV/atom", "energy"),
        ("force_mae_mev_per_a", "meV/Å", "forces"),
        ("stress_mae_gpa", "GPa", "stress"),
    ):
        if quantity in metrics:
            start = f"{before[name][quantity]:9.3g} →" if before else ""
            console.print(f"{title:7s} MAE {start} {metrics[quantity]:.3g} {unit}", highlight=False)
    console.print(f"{result.stop_reason}; model: {result.checkpoint}, head {name}", highlight=False)
    if not result.finished:
        raise typer.Exit(INTERRUPTED.get(result.signal or "", STOPPED))
