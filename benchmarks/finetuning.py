"""Few labels: fine-tuning a trained model beside training from scratch, on datasets that it has never seen.

    python benchmarks/finetuning.py --data DIR --steps 1000          # 50, 200 and 1,000 labels; half an hour on two cores
    python benchmarks/finetuning.py --data DIR --labels 50 --tasks fitsnap_WBe=mvl_snap_NbMoTaW

DIR holds extended-XYZ files; a task is FILE=HEAD, the head to start from. A dataset is divided once, by trajectory where it has
enough of them; the labels are a random choice (--seed) of the training side, and errors are on at most 300 structures of the
other. All variants make the same number of steps with batches of the same limits, and errors are those of the last step:

    zero-shot    the head to start from as it is, with reference energies fitted to the labels
    fine-tuned   hydrapot finetune
    head only    hydrapot finetune --no-encoder
    scratch      the same architecture from random weights, at the usual learning rate of training (2e-3)
"""

import json
import os
import platform
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from rich.console import Console
from rich.table import Table

from hydrapot.potential.metadata import LevelOfTheory
from hydrapot.training.config import load_config
from hydrapot.training.data.extxyz import read_extxyz
from hydrapot.training.data.frames import Frames
from hydrapot.training.data.splits import apply, make_manifest
from hydrapot.training.data.store_layout import StoreAttributes
from hydrapot.training.data.store_writer import StoreWriter
from hydrapot.training.finetune import FinetuneOptions, prepare_finetuning
from hydrapot.training.metrics import Metrics, relative_force_errors
from hydrapot.training.run import train

TASKS = [
    "physnet_phoh_mp2_avtz=botnet_3bpa",
    "spice_dipeptides_atomization=qm22_b3lyp_molecules",
    "si_defects_mogroup=mlearn_LiSiGeMoNiCu",
    "fitsnap_WBe=mvl_snap_NbMoTaW",
]
VALIDATION = 300
SCRATCH_RATE = 2e-3

console = Console(width=None if sys.stdout.isatty() else 140)


def divide(frames: Frames, *, seed: int) -> tuple[Frames, Frames]:
    """Structures to draw labels from, and those that errors are taken on."""
    manifest = make_manifest([frames], fraction=0.2, seed=seed, by="groups")
    training, held = apply(manifest, frames)
    rng = np.random.default_rng(seed)
    return frames.subset(training), frames.subset(np.sort(rng.permutation(held)[:VALIDATION]))


def write_store(path: Path, training: Frames, held: Frames, isolated: Frames) -> None:
    """A divided store of some labels."""
    attributes = StoreAttributes(
        level_of_theory=LevelOfTheory(functional="of the dataset"),
        licence="none",
        attribution="none",
        references="isolated" if len(isolated) else "fit",
    )
    with StoreWriter(path, name=path.stem, attributes=attributes) as writer:
        writer.append(training, split="train")
        writer.append(held, split="validation")
        if len(isolated):
            writer.append(isolated, split="isolated")


def covers(isolated: Frames, frames: Frames) -> bool:
    """Whether there is a free atom of every element."""
    return set(np.unique(frames.numbers).tolist()) <= set(isolated.numbers.tolist())


def run(
    variant: str, model: str, head: str, store: Path, out: Path, *, steps: int, rate: float | None, seed: int
) -> tuple[Metrics, Metrics]:
    """Errors before the first step (of variants that start from the model) and after the last."""
    options = FinetuneOptions(head=head, steps=steps, learning_rate=rate, encoder=variant != "head only", seed=seed)
    path = prepare_finetuning(model, store, out=out, options=options)
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["run"] |= {"validate_every": steps, "compile": False}
    if variant == "scratch":
        del document["start"]
        document["optimizer"]["learning_rate"] = SCRATCH_RATE
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    config = load_config(path)
    result = train(config, data=store.parent, manifest_path=out / config.split, out=out, console=Console(quiet=True))
    return next(iter(result.before.values()), {}), next(iter(result.metrics.values()))


def main(
    data: Annotated[Path, typer.Option(help="Folder of extended-XYZ files.")],
    model: Annotated[str, typer.Option(help="Model to start from.")] = "hydrapot-s",
    tasks: Annotated[list[str] | None, typer.Option(help="FILE=HEAD, without suffix.")] = None,
    labels: Annotated[list[int] | None, typer.Option(min=10, help="Numbers of labels.")] = None,
    steps: Annotated[int, typer.Option(min=10, help="Of every training.")] = 2_000,
    rate: Annotated[float | None, typer.Option(help="Learning rate of fine-tuning.", show_default="the usual")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option("-o", help="Folder of the result.")] = Path("runs/finetuning"),
) -> None:
    """Train all variants on all tasks, and compare."""
    out.mkdir(parents=True, exist_ok=True)
    command = f"python {shlex.join(sys.argv)}"
    hardware = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    console.print(f"{command}\n{hardware}; load {os.getloadavg()[0]:.1f}")
    rows: list[dict[str, Any]] = []
    variants = ("fine-tuned", "head only", "scratch")
    table = Table("dataset", "labels", *(f"{v} forces" for v in ("zero-shot", *variants)), "meV/atom: the same four")
    for task in tasks or TASKS:
        name, _, head = task.partition("=")
        (file,) = data.glob(f"{name}.extxyz*")
        frames = read_extxyz(file)
        isolated = frames.subset(frames.isolated)
        training, held = divide(frames, seed=seed)
        for count in labels or [50, 200, 1000]:
            if count > len(training):
                continue
            chosen = np.sort(np.random.default_rng([seed, count]).permutation(len(training))[:count])
            some = training.subset(chosen)
            with tempfile.TemporaryDirectory() as folder:
                store = Path(folder) / f"{name}.store"
                write_store(
                    store, some, held, isolated if covers(isolated, frames) else isolated.subset(np.array([], int))
                )
                row: dict[str, Any] = {"dataset": name, "labels": count, "head": head}
                for variant in variants:
                    where = Path(folder) / variant
                    before, after = run(variant, model, head, store, where, steps=steps, rate=rate, seed=seed)
                    row[variant] = after
                    if before:
                        row["zero-shot"] = before
            rows.append(row)
            four = ("zero-shot", *variants)
            forces = [f"{relative_force_errors({'x': row[v]})['x']:.3f}" for v in four]
            energies = " / ".join(f"{row[v]['energy_mae_mev_per_atom']:.3g}" for v in four)
            table.add_row(name, str(count), *forces, energies)
            console.print(name, count, *forces, energies)
            document = {"command": command, "hardware": hardware, "steps": steps, "seed": seed, "rows": rows}
            (out / "finetuning.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
