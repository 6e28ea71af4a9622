"""Training that starts from a trained model: its encoder for all heads, and its heads for those that are mapped to them.

A head that is mapped begins as a copy. With fitted reference energies it also begins *right*: they are fitted to what the copied
head leaves of the total energies, so that another zero of energy, or a shift by composition between two levels of theory,
is taken up before the first step. What the new data do not determine stays as the model has it.
"""

import logging
from dataclasses import replace
from typing import Self

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from hydrapot.potential.backbones.blocked import fastest_message_sum
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.load import load
from hydrapot.potential.metadata import ModelConfig
from hydrapot.potential.model import Potential
from hydrapot.potential.references import ReferenceEnergies
from hydrapot.training.data.compact import assemble, compact_edges
from hydrapot.training.data.frames import Frames

logger = logging.getLogger(__name__)

#: Structures, evenly spaced, that reference energies are fitted to.
_STRUCTURES = 2_000
#: Atoms evaluated together.
_BATCH_ATOMS = 512


class StartConfig(BaseModel):
    """Weights to begin with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        description="Name of a shipped model, or path of a checkpoint relative to this file, of the same architecture."
    )
    heads: dict[str, str] = Field(
        default={},
        description="Dataset → head of that model which its head begins as a copy of; other heads begin at random.",
    )
    train_encoder: bool = Field(
        default=True, description="Train the encoder too; false trains heads only, on features as they are."
    )


class Start:
    """The model that a run begins from.

    Parameters
    ----------
    config
        What the configuration says.
    potential
        That model, in float64.
    """

    def __init__(self, config: StartConfig, potential: Potential) -> None:
        self.config, self.potential = config, potential

    @classmethod
    def load(cls, config: StartConfig, *, architecture: ModelConfig, datasets: list[str]) -> Self:
        """Read the model and see that it fits the run.

        Parameters
        ----------
        config
            What the configuration says.
        architecture
            Of the run.
        datasets
            Names of its heads.

        Raises
        ------
        CheckpointError
            The model cannot be read.
        ConfigurationError
            It has another architecture, or a dataset is mapped that is not trained on.
        UnknownHeadError
            A dataset is mapped to a head that it does not have.
        """
        potential = load(config.model, dtype=torch.float64)
        theirs, ours = (_fields(c) for c in (potential.config, architecture))
        for name, value in theirs.items():
            if ours[name] != value:
                raise ConfigurationError(
                    f"model.{name} is {ours[name]} and {value} in {config.model}, from which the run starts: set it to that"
                )
        for dataset, head in config.heads.items():
            if dataset not in datasets:
                raise ConfigurationError(f"start.heads names {dataset!r}, which is none of the datasets")
            potential.check_head(head)
        return cls(config, potential)

    def copied(self, dataset: str) -> str | None:
        """Head that the head of `dataset` begins as a copy of; None for one that begins at random."""
        return self.config.heads.get(dataset)

    def left_over(self, frames: Frames, *, head: str) -> tuple[Frames, dict[str, float]]:
        """What `head` leaves of the total energies, and the reference energies that it has had itself.

        Fitted to the first and drawn to the second, reference energies are those with which `head` is best as it is.

        Parameters
        ----------
        frames
            Training structures; without elements that the head has no reference energy of, its own are for the others.

        Returns
        -------
        The same structures, at most some thousand of them, with the remaining energies (eV); symbol → eV.
        """
        step = -(-len(frames) // _STRUCTURES)
        some = frames.subset(np.arange(0, len(frames), max(step, 1)))
        known: ReferenceEnergies = self.potential.references[head]
        own = {chemical_symbols[z]: float(known.values[z]) for z in known.elements.tolist()}
        new = sorted({chemical_symbols[z] for z in np.unique(some.numbers).tolist()} - own.keys())
        if new:
            logger.warning("head %r, from which the run starts, was not trained on %s", head, ", ".join(new))
        return replace(some, energy=some.energy - self._interaction(some, head=head)), own

    @torch.no_grad()
    def _interaction(self, frames: Frames, *, head: str) -> NDArray[np.float64]:
        """Interaction energies by `head`, ``(n,)`` eV; NaN for isolated atoms, which have none."""
        potential, found = self.potential, np.full(len(frames), np.nan)
        sums = fastest_message_sum(torch.device("cpu"), potential.dtype)
        wanted = np.flatnonzero(~frames.isolated & np.isfinite(frames.energy)).tolist()
        while wanted:
            batch: list[int] = []
            atoms = 0
            while wanted and (not batch or atoms < _BATCH_ATOMS):
                batch.append(wanted.pop())
                atoms += int(frames.counts[batch[-1]])
            structures = [frames.structure(i) for i in batch]
            lists = [compact_edges(s, cutoff=potential.cutoff) for s in structures]
            graph = assemble(structures, lists, cutoff=potential.cutoff)
            energies = potential.network_energies(graph, head=head, message_sum=sums) + potential.repulsion(graph)
            total = torch.zeros(len(batch), dtype=torch.float64).index_add_(0, graph.batch, energies)
            found[batch] = total.numpy()
        return found

    def apply(self, potential: Potential) -> None:
        """Copy encoder, conditioning and mapped heads; the scales of these heads too, which their weights belong to."""
        source = dict(self.potential.named_parameters())
        heads = {name: self.potential.head(head) for name, head in self.config.heads.items()}
        with torch.no_grad():
            for name, parameter in potential.named_parameters():
                if not name.startswith("energy_heads."):
                    parameter.copy_(source[name])
                    parameter.requires_grad_(self.config.train_encoder)
            for name, head in heads.items():
                own = potential.head(name)
                own.scale = head.scale
                own.load_state_dict(head.state_dict())


def _fields(architecture: ModelConfig) -> dict[str, object]:
    """Fields of an architecture by dotted name."""
    flat: dict[str, object] = {}
    for name, value in architecture.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            flat[name] = value
    return flat
