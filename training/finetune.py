"""Fine-tuning: from a trained model and some labels of one's own to a model for them, with settings that suit few labels.

What is special about it is a configuration: the architecture and a head to start from are the model's
(:mod:`~hydrapot.training.start`), and steps, rates and batches are small. It is written beside the results, so that a run can be
repeated, or changed and continued by ``hydrapot train``.
"""

import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml
from pydantic import ValidationError

from hydrapot.potential.container import write_atomically
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.load import load
from hydrapot.potential.metadata import LevelOfTheory
from hydrapot.training.config import TrainConfig, load_config
from hydrapot.training.data.extxyz import read_extxyz
from hydrapot.training.data.frames import Frames
from hydrapot.training.data.names import dataset_name
from hydrapot.training.data.source import read_all
from hydrapot.training.data.splits import SplitManifest, load_manifest, make_manifest, save_manifest
from hydrapot.training.data.store import Store, is_store
from hydrapot.training.progress import STATE_FILE

logger = logging.getLogger(__name__)

CONFIG_FILE, SPLIT_FILE = "finetune.yaml", "split.json"
#: Steps from which compiling the step (about a minute) pays.
_WORTH_COMPILING = 5_000


class FinetuneOptions(NamedTuple):
    """What may be asked of a fine-tuning; None is the usual.

    Attributes
    ----------
    head
        Head of the model to start from; None only for a model that has a single one.
    functional
        Level of theory of the labels. A store knows its own; for a file it has to be said.
    steps, learning_rate
        Length of the run (2,000), and its peak rate (1e-3).
    encoder
        Whether the encoder is trained too (yes).
    held_out
        Share of the structures that errors are taken on (0.1); a store that is divided keeps its division.
    seed
        Of division and training (0).
    """

    head: str | None = None
    functional: str | None = None
    steps: int | None = None
    learning_rate: float | None = None
    encoder: bool | None = None
    held_out: float | None = None
    seed: int | None = None


class _Labels(NamedTuple):
    #: Entry of the dataset in the configuration, but for references.
    entry: dict[str, Any]
    references: str
    #: Structures to divide; None of a store that is divided.
    frames: Frames | None


def prepare_finetuning(model: str, labels: Path, *, out: Path, options: FinetuneOptions) -> Path:
    """Divide the labels, and write the configuration of a fine-tuning into `out`.

    Parameters
    ----------
    model
        Name of a shipped model, or path of a checkpoint.
    labels
        Extended-XYZ file, or store.
    out
        Folder of the run, created if needed; a configuration in it that never came to a saved state is replaced.
    options
        See there.

    Returns
    -------
    The configuration, for :func:`~hydrapot.training.run.train` with the folder of `labels` as data directory.

    Raises
    ------
    CheckpointError, UnknownHeadError
        The model, or the head to start from.
    ConfigurationError
        The level of theory of a file is not said, `out` holds a run, an option is out of range, or nothing can be held out.
    DatasetError
        The labels cannot be read.
    """
    if (out / STATE_FILE).exists():
        raise ConfigurationError(f"{out} holds a run: go on with --resume, or choose another -o")
    potential = load(model)
    head = potential.check_head(options.head)
    found = _of_store(labels, options) if is_store(labels) else _of_file(labels, options)
    references = found.references
    if potential.references[head].mode == "fit":
        # The head predicts relative to fitted energies; with those of free atoms it would begin electronvolts off.
        references = "fit"
    name, steps, seed = dataset_name(labels), options.steps or 2_000, options.seed or 0
    document = {
        "name": f"{name}-finetuned",
        "split": SPLIT_FILE,
        "start": {"model": _absolute(model), "heads": {name: head}, "train_encoder": options.encoder is not False},
        "model": potential.config.model_dump(mode="json"),
        # Errors of energies count from the beginning: the start is good.
        "objective": {"energy": 1.0},
        "optimizer": {
            "learning_rate": 1e-3 if options.learning_rate is None else options.learning_rate,
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
        "datasets": [{"file": labels.name, "references": references, **found.entry}],
    }
    try:
        TrainConfig.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    manifest = (
        None if found.frames is None else _divide(labels, found.frames, held_out=options.held_out or 0.1, seed=seed)
    )
    out.mkdir(parents=True, exist_ok=True)
    if manifest is not None:
        save_manifest(manifest, out / SPLIT_FILE)
    text = "# Written by hydrapot finetune. Again with other settings: hydrapot train finetune.yaml --data DIR -o OUT\n"
    path = out / CONFIG_FILE
    write_atomically(path, (text + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)).encode())
    return path


def prepared_finetuning(model: str, labels: Path, *, out: Path, options: FinetuneOptions) -> Path:
    """The configuration of a run that is to be continued, which must be what is asked for.

    Raises
    ------
    ConfigurationError
        There is none, or it says otherwise than the arguments.
    """
    path = out / CONFIG_FILE
    if not (out / STATE_FILE).exists() or not path.exists():
        raise ConfigurationError(f"nothing to resume: {out} holds no state of a fine-tuning; leave out --resume")
    config = load_config(path)
    (dataset,) = config.datasets
    start = config.start
    there = {
        "MODEL": None if start is None else start.model,
        "LABELS": dataset.file,
        "--head": None if start is None else start.heads.get(dataset.name),
        "--functional": dataset.level_of_theory.functional,
        "--steps": config.run.steps,
        "--learning-rate": config.optimizer.learning_rate,
        "--encoder": start is None or start.train_encoder,
        "--seed": config.run.seed,
        "--held-out": load_manifest(out / SPLIT_FILE).fraction if (out / SPLIT_FILE).exists() else "of the store",
    }
    asked = {
        "MODEL": _absolute(model),
        "LABELS": labels.name,
        "--head": options.head,
        "--functional": options.functional,
        "--steps": options.steps,
        "--learning-rate": options.learning_rate,
        "--encoder": options.encoder,
        "--seed": options.seed,
        "--held-out": options.held_out,
    }
    for name, value in asked.items():
        if value is not None and value != there[name]:
            raise ConfigurationError(
                f"{path} was written for {name} {there[name]}, not {value}: resume with that, or leave it out"
            )
    return path


def _divide(labels: Path, frames: Frames, *, held_out: float, seed: int) -> SplitManifest:
    """Whole trajectories where some are small enough for the share, else blocks of frames of long ones, too."""
    ways: tuple[Literal["groups", "blocks"], ...] = ("groups", "blocks")
    for by in ways:
        manifest = make_manifest([frames], fraction=held_out, seed=seed, by=by)
        division = manifest.datasets[frames.name]
        if division.n_validation and division.n_train:
            return manifest
        if by == "groups":
            logger.info(
                "trajectories in %s are too long to hold out whole ones only: of the longest, blocks of frames are",
                labels,
            )
    raise ConfigurationError(
        f"{labels}: {int((~frames.isolated).sum())} structures cannot be divided into some to train on and some to hold"
        " out: give at least ten of one trajectory, or a store with the splits train and validation"
    )


def _absolute(model: str) -> str:
    """Checkpoints by their full path: the configuration lies in another folder."""
    return str(Path(model).expanduser().resolve()) if model.endswith(".safetensors") else model


def _of_file(path: Path, options: FinetuneOptions) -> _Labels:
    if not options.functional:
        raise ConfigurationError(
            f"say --functional, such as PBE: what level of theory the labels in {path} are of, which no file tells"
        )
    frames = read_extxyz(path)
    entry = {
        "level_of_theory": LevelOfTheory(functional=options.functional).model_dump(),
        "licence": "not stated",
        "attribution": "not stated",
    }
    computed = set(frames.subset(frames.isolated).numbers.tolist())
    needed = set(np.unique(frames.subset(~frames.isolated).numbers).tolist())
    return _Labels(entry, "isolated" if needed <= computed else "fit", frames)


def _of_store(path: Path, options: FinetuneOptions) -> _Labels:
    with Store(path) as store:
        attributes, divided = store.attributes, {"train", "validation"} <= set(store.splits)
        frames = None if divided else read_all(store.view(next(iter(store.splits))))
    theory = attributes.level_of_theory
    if options.functional not in (None, theory.functional):
        raise ConfigurationError(
            f"{path} holds labels of {theory.functional}, not {options.functional}: leave out --functional"
        )
    entry = {
        "level_of_theory": theory.model_dump(),
        "licence": attributes.licence,
        "attribution": attributes.attribution,
    }
    return _Labels(entry, attributes.references, frames)
