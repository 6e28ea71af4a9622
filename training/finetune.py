"""Fine-tuning: from a trained model and some labels of one's own to a model for them, with settings that suit few labels.

What is special about it is a configuration: the architecture and a head to start from are the model's
(:mod:`~hydrapot.training.start`), and steps, rates and batches are small. It is written beside the results, so that a run can be
repeated, or changed and continued by ``hydrapot train``.
"""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hydrapot.potential.container import write_atomically
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.load import load
from hydrapot.potential.metadata import LevelOfTheory
from hydrapot.training.config import TrainConfig
from hydrapot.training.data.extxyz import dataset_name, read_extxyz
from hydrapot.training.data.frames import Frames
from hydrapot.training.data.source import read_all
from hydrapot.training.data.splits import make_manifest, save_manifest
from hydrapot.training.data.store import Store, is_store

CONFIG_FILE, SPLIT_FILE = "finetune.yaml", "split.json"
#: Steps from which compiling the step (about a minute) pays.
_WORTH_COMPILING = 5_000


def prepare_finetuning(
    model: str,
    labels: Path,
    *,
    head: str | None,
    out: Path,
    functional: str | None = None,
    steps: int = 2_000,
    learning_rate: float = 5e-4,
    train_encoder: bool = True,
    held_out: float = 0.1,
    seed: int = 0,
) -> Path:
    """Divide the labels, and write the configuration of a fine-tuning into `out`.

    Parameters
    ----------
    model
        Name of a shipped model, or path of a checkpoint.
    labels
        Extended-XYZ file, or store.
    head
        Head of the model to start from; may be None only if the model has a single one.
    out
        Folder of the run, created if needed.
    functional
        Level of theory of the labels. A store knows its own; for a file it has to be said.
    steps, learning_rate
        Length of the run, and its peak rate.
    train_encoder
        False trains the head only.
    held_out
        Share of the structures that errors are taken on; a store that is divided keeps its division.
    seed
        Of division and training.

    Returns
    -------
    The configuration, for :func:`~hydrapot.training.run.train` with the folder of `labels` as data directory.

    Raises
    ------
    CheckpointError, UnknownHeadError
        The model, or the head to start from.
    ConfigurationError
        The level of theory of a file is not said, `out` has been used, or nothing can be held out.
    DatasetError
        The labels cannot be read.
    """
    potential = load(model)
    start = potential.check_head(head)
    path = out / CONFIG_FILE
    if path.exists():
        raise ConfigurationError(f"{path} exists: go on with hydrapot train {path} --resume, or choose another -o")
    stored = is_store(labels)
    about, frames = _of_store(labels) if stored else _of_file(labels, functional=functional)
    name = labels.name.removesuffix(".store") if stored else dataset_name(labels)
    out.mkdir(parents=True, exist_ok=True)
    if frames is not None:
        manifest = make_manifest([frames], fraction=held_out, seed=seed)
        division = manifest.datasets[frames.name]
        if not division.n_validation or not division.n_train:
            raise ConfigurationError(
                f"{labels}: {len(frames)} structures are too few to train on some and hold out others: give more, or a store"
                " that is divided (hydrapot data split)"
            )
        save_manifest(manifest, out / SPLIT_FILE)
    document = {
        "name": name,
        "split": SPLIT_FILE,
        "start": {"model": _absolute(model), "heads": {name: start}, "train_encoder": train_encoder},
        "model": potential.config.model_dump(mode="json"),
        # Errors of energies count from the beginning: the start is good.
        "objective": {"energy": 1.0},
        "optimizer": {
            "learning_rate": learning_rate,
            "warmup_steps": min(100, steps // 10),
            "decay_fraction": 0.8,
            "ema_decay": 0.995,
        },
        "sampler": {"edge_slots": 16_000, "max_structures": 5},
        "run": {
            "steps": steps,
            "seed": seed,
            "validate_every": max(1, steps // 5),
            "compile": steps >= _WORTH_COMPILING,
        },
        "datasets": [{"file": labels.name, **about}],
    }
    TrainConfig.model_validate(document)
    text = (
        "# Written by hydrapot finetune. Go on, or again with other settings: hydrapot train finetune.yaml --data DIR\n"
    )
    write_atomically(path, (text + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)).encode())
    return path


def _absolute(model: str) -> str:
    """Checkpoints by their full path: the configuration lies in another folder."""
    return str(Path(model).expanduser().resolve()) if model.endswith(".safetensors") else model


def _of_file(path: Path, *, functional: str | None) -> tuple[dict[str, Any], Frames]:
    """What the configuration says of a file, and its structures."""
    frames = read_extxyz(path)
    if not functional:
        raise ConfigurationError(
            f"say --functional, such as PBE: what level of theory the labels in {path} are of, which no file tells"
        )
    theory = LevelOfTheory(functional=functional)
    about = {"level_of_theory": theory.model_dump(), "licence": "not stated", "attribution": "not stated"}
    return {**about, "references": _references(frames)}, frames


def _of_store(path: Path) -> tuple[dict[str, Any], Frames | None]:
    """The same of a store; no structures of one that is divided."""
    with Store(path) as store:
        attributes, divided = store.attributes, {"train", "validation"} <= set(store.splits)
        frames = None if divided else read_all(store.view(next(iter(store.splits))))
    about = {
        "level_of_theory": attributes.level_of_theory.model_dump(),
        "licence": attributes.licence,
        "attribution": attributes.attribution,
        "references": attributes.references,
    }
    return about, frames


def _references(frames: Frames) -> str:
    """Isolated atoms of all elements are used; otherwise a fit to what the head to start from leaves."""
    computed = set(frames.subset(frames.isolated).numbers.tolist())
    needed = set(np.unique(frames.subset(~frames.isolated).numbers).tolist())
    return "isolated" if needed <= computed else "fit"
