"""``hydrapot finetune``: a model for one's own labels, from a trained one."""

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
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 2_000,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Peak learning rate.")] = 5e-4,
    encoder: Annotated[bool, typer.Option(help="Train the encoder too, or the head only.")] = True,
    held_out: Annotated[float, typer.Option(min=0.01, max=0.5, help="Share of LABELS to take errors on.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of division and training.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output directory.")] = False,
    threads: Threads = None,
) -> None:
    """Fit a head of MODEL, and its encoder, to labels of your own.

    The new model has one head, named after LABELS. Reference energies are taken from isolated atoms in LABELS if there is
    one of each element, and fitted otherwise, so that another zero of energy costs nothing. Configuration and division are
    written beside the model; `hydrapot train` takes them for anything else.
    """
    from rich.console import Console

    from hydrapot.cli.reporting import INTERRUPTED, STOPPED
    from hydrapot.potential.errors import ConfigurationError
    from hydrapot.training.config import load_config
    from hydrapot.training.data.extxyz import dataset_name
    from hydrapot.training.finetune import CONFIG_FILE, prepare_finetuning
    from hydrapot.training.run import train

    out = out or Path("runs") / f"{dataset_name(labels).removesuffix('.store')}-finetuned"
    if not resume:
        prepare_finetuning(
            model,
            labels,
            head=head,
            out=out,
            functional=functional,
            steps=steps,
            learning_rate=learning_rate,
            train_encoder=encoder,
            held_out=held_out,
            seed=seed,
        )
    elif not (out / CONFIG_FILE).exists():
        raise ConfigurationError(f"nothing to resume: {out / CONFIG_FILE} does not exist")
    config = load_config(out / CONFIG_FILE)
    console = Console(stderr=True)
    result = train(
        config,
        data=labels.parent,
        manifest_path=out / config.split,
        out=out,
        resume=resume,
        threads=threads,
        console=console,
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
