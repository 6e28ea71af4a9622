"""How much each label of a dataset counts, and when: per-target weights, fidelity curriculum, known noise.

Everything acts on the targets of a batch before the loss, structure by structure, from the number of its head.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hydrapot.training.data.prepared import Scales
from hydrapot.training.objective import ObjectiveConfig, weigh_energies
from hydrapot.training.step import Batch


class TargetWeights(BaseModel):
    """Factors on the errors of one dataset, target by target."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    energy: float = Field(default=1.0, ge=0, description="Factor on energy errors.")
    forces: float = Field(default=1.0, ge=0, description="Factor on force errors.")
    stress: float = Field(default=1.0, ge=0, description="Factor on virial errors.")


class Noise(BaseModel):
    """Uncertainty of the labels of one dataset: smaller errors are not worth a gradient of full length."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    energy: float = Field(default=0.0, ge=0, description="eV per atom.")
    forces: float = Field(default=0.0, ge=0, description="eV/Å, length of the vector.")
    stress: float = Field(default=0.0, ge=0, description="eV per atom: stress × volume / atoms.")


class Ramp(BaseModel):
    """A factor on all errors of one dataset that changes in the course of the run: a step of a fidelity curriculum."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    begin: float = Field(default=0.0, ge=0, le=1, description="Share of the steps before which the factor is `first`.")
    end: float = Field(default=0.5, ge=0, le=1, description="Share of the steps after which the factor is `last`.")
    first: float = Field(default=0.0, ge=0, description="Factor at the beginning.")
    last: float = Field(default=1.0, ge=0, description="Factor at the end.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end < self.begin:
            raise ValueError("end comes before begin")
        return self

    def factor(self, share: float) -> float:
        """Factor when `share` of the steps, 0 … 1, are done; linear in between."""
        if share < self.begin:
            return self.first
        if share >= self.end:
            return self.last
        return self.first + (self.last - self.first) * (share - self.begin) / (self.end - self.begin)


class DatasetEmphasis(NamedTuple):
    """What the configuration says of one dataset."""

    targets: TargetWeights
    noise: Noise
    ramp: Ramp | None


class Emphasis:
    """Weighs the labels of batches whose heads are numbered as in the whole model.

    Parameters
    ----------
    datasets
        Of every head, in order.
    scales
        Of every head, in the same order.
    config
        Weights of the three terms.
    """

    def __init__(
        self, datasets: Sequence[DatasetEmphasis], *, scales: Sequence[Scales], config: ObjectiveConfig
    ) -> None:
        self.config = config
        self.ramps = [d.ramp for d in datasets]
        self.targets = torch.tensor([[d.targets.energy, d.targets.forces, d.targets.stress] for d in datasets]).double()
        self.noise = torch.tensor(
            [
                [d.noise.energy / s.energy, d.noise.forces / s.forces, d.noise.stress / s.strain]
                for d, s in zip(datasets, scales, strict=True)
            ]
        ).double()
        self._plain = bool((self.targets == 1).all() and (self.noise == 0).all() and not any(self.ramps))

    def __call__(self, batch: Batch, *, share: float, fade: float) -> Batch:
        """The batch with weights and noise that belong to a stage of the run.

        Parameters
        ----------
        batch
            On any device.
        share
            Of the steps that are done, 0 … 1.
        fade
            Learning rate over its plateau (:func:`hydrapot.training.schedule.fade`).
        """
        targets = weigh_energies(batch.targets, config=self.config, fade=fade)
        if self._plain:
            return batch._replace(targets=targets)
        ramp = torch.tensor([1.0 if r is None else r.factor(share) for r in self.ramps], dtype=torch.float64)
        head = batch.head_index
        factor = (self.targets * ramp[:, None]).to(head.device)[head]
        return batch._replace(
            targets=targets._replace(
                energy_weight=targets.energy_weight * factor[:, 0],
                force_weight=targets.force_weight * factor[batch.graph.batch, 1],
                strain_weight=targets.strain_weight * factor[:, 2],
                noise=self.noise.to(head.device)[head],
            )
        )
