"""The state of a training run: weights, optimizer, average and position in the stream of batches.

It is kept by the names of the parameters in the whole model and does not say how many processes wrote it, or in which
layout: any other reads it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hydrapot.potential.errors import CheckpointError, ConfigurationError
from hydrapot.training.averaging import MovingAverage
from hydrapot.training.config import TrainConfig
from hydrapot.training.data.sampler import Position
from hydrapot.training.gradients import GradientRule
from hydrapot.training.layout import Entry, Layout, branch_numbers
from hydrapot.training.optimizer import make_optimizer
from hydrapot.training.state import flatten_optimizer, load_state, restore_optimizer, without_prefix

STATE_FILE = "state.safetensors"


class Snapshot(NamedTuple):
    """A training state, detached from the run that goes on."""

    tensors: dict[str, Tensor]
    document: dict[str, Any]


class Progress:
    """How far a run is, and everything that its next step depends on.

    Parameters
    ----------
    config
        The run.
    layout
        What this process holds.
    rule
        Makes gradients; its state is part of the run's.
    split
        Digest of the split.
    parts
        Of a global batch.
    start
        Content hash of the model that the run starts from, or None.
    """

    def __init__(
        self,
        config: TrainConfig,
        layout: Layout,
        rule: GradientRule,
        *,
        split: str,
        parts: int,
        start: str | None = None,
    ) -> None:
        self.config, self.layout, self.rule, self.split, self.parts = config, layout, rule, split, parts
        self.start = start
        self.optimizer = make_optimizer(layout.tensors, config.optimizer)
        self.average = MovingAverage(layout.tensors, decay=config.optimizer.ema_decay)
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        self.position = Position()

    def snapshot(self) -> Snapshot:
        """Copy of the state; every process takes part, the main one gets the tensors."""
        layout, named = self.layout, dict(zip(self.layout.names, self.layout.tensors, strict=True))
        entries = [Entry(f"weights/{n}", n, p) for n, p in named.items()]
        entries += [Entry(f"average/{n}", n, v) for n, v in zip(named, self.average.values, strict=True)]
        for key, value in flatten_optimizer(self.optimizer, named).items():
            entries.append(Entry(f"optimizer/{key}", key.rpartition("/")[0], value))
        tensors = layout.gather(entries)
        if layout.main:
            tensors |= {f"rule/{key}": value.detach().cpu().clone() for key, value in self.rule.state().items()}
        document = {
            "config": self.config.model_dump(mode="json"),
            "step": self.step,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "updates": self.average.updates,
            "position": asdict(self.position),
            "parts": self.parts,
            "split": self.split,
            "start": self.start,
        }
        return Snapshot(tensors, document)

    def load(self, path: Path) -> None:
        """Restore the state; what may differ is the length and bookkeeping of the run, and its layout.

        Raises
        ------
        ConfigurationError
            The state belongs to another model, other data or another seed.
        CheckpointError
            The file is damaged, or lacks a parameter.
        """
        tensors, document = load_state(path)
        theirs = TrainConfig.model_validate(document["config"])
        for section, mine in _identity(self.config).items():
            if mine != _identity(theirs)[section]:
                raise ConfigurationError(f"{path} was written by a run with another {section!r}: resume with that one")
        if document.get("parts", 1) != self.parts:
            raise ConfigurationError(
                f"{path} was written by a run with {document.get('parts', 1)} parts a batch: leave sampler.parts out, or set"
                " it to that"
            )
        if document.get("start") != self.start:  # reference energies and scales come from there
            raise ConfigurationError(
                f"{path} was written by a run that started from another model than what start.model is now: resume with that one"
            )
        if document["split"] != self.split:
            raise ConfigurationError(
                f"{path} was written by a run with another split: validation would see what was trained on"
            )
        named = dict(zip(self.layout.names, self.layout.tensors, strict=True))
        weights, averages = without_prefix("weights", tensors), without_prefix("average", tensors)
        missing = sorted(named.keys() - (weights.keys() & averages.keys()))
        if missing:
            raise CheckpointError(f"{path} holds no {missing[0]}: it belongs to another model")
        with torch.no_grad():
            for (name, parameter), average in zip(named.items(), self.average.values, strict=True):
                parameter.copy_(self.layout.place(name, weights[name]))
                average.copy_(self.layout.place(name, averages[name]))
        self._load_optimizer(without_prefix("optimizer", tensors), named, weights)
        self.rule.restore(without_prefix("rule", tensors))
        self.step, self.seconds = int(document["step"]), float(document["seconds"])
        self.skipped = int(document.get("skipped", 0))
        self.average.updates = int(document["updates"])
        self.position = Position(**document["position"])

    def _load_optimizer(
        self, state: Mapping[str, Tensor], named: Mapping[str, Tensor], weights: Mapping[str, Tensor]
    ) -> None:
        """Of the optimizer's state of the whole model, what this process holds."""
        own: dict[str, Tensor] = {}
        for key, value in state.items():
            name = key.rpartition("/")[0]
            if name in named:
                own[key] = self.layout.place(name, value) if value.ndim else value
            elif name not in weights:  # neither of this process nor of another
                raise CheckpointError(f"optimizer state {key!r} belongs to no parameter of this model")
        restore_optimizer(self.optimizer, named, own)


def stored_parts(path: Path) -> int:
    """Parts of a global batch of the run that wrote a state: batches stay the same on another number of processes."""
    return int(load_state(path)[1].get("parts", 1))


def _identity(config: TrainConfig) -> dict[str, Any]:
    """What must be the same in a resumed run; its length, rates, bookkeeping, processes and texts may differ."""
    names = [d.name for d in config.datasets]
    return {
        "model": config.model,
        # Where the model lies may change, which one it is may not: its hash is compared besides.
        "start": None if config.start is None else config.start.model_copy(update={"model": ""}),
        "objective": config.objective,
        "balancing": config.balancing.model_copy(update={"measure_every": 0}),
        "run.precision": config.run.precision,
        "sampler": config.sampler.model_copy(update={"parts": None}),  # the state holds what this came to
        "layout.branches": branch_numbers(config.layout, names),
        "run.seed": config.run.seed,
        "datasets": [
            (d.file, d.references, d.prior, d.weight, d.sampling, d.targets, d.noise, d.ramp) for d in config.datasets
        ],
    }
