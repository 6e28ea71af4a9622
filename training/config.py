"""Configuration of a training run; its descriptions are the documentation (``hydrapot train --help-config``)."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.load import load
from hydrapot.potential.metadata import LevelOfTheory, ModelConfig
from hydrapot.training.balancing import BalancingConfig
from hydrapot.training.data.names import dataset_name
from hydrapot.training.emphasis import Noise, Ramp, TargetWeights
from hydrapot.training.layout import LayoutConfig
from hydrapot.training.messages import Backend
from hydrapot.training.meter import TelemetryConfig
from hydrapot.training.objective import ObjectiveConfig
from hydrapot.training.precision import Precision
from hydrapot.training.start import StartConfig


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedErrors(_Section):
    """Errors of a published potential on one element of a dataset, to stand beside ours in the model card."""

    element: str = Field(description="Symbol.")
    model: str = Field(description="Name of the published model.")
    energy_rmse_mev_per_atom: float = Field(ge=0, description="meV per atom.")
    force_rmse_ev_per_a: float = Field(ge=0, description="eV/Å, per component.")
    source: str = Field(description="Publication, and how the figures came about.")


class DatasetConfig(_Section):
    """One dataset, which becomes one head of the same name."""

    file: str = Field(
        description="Extended-XYZ file or store within the data directory, e.g. water.extxyz.xz or water.store."
    )
    references: Literal["isolated", "zero", "fit"] = Field(
        description="Reference energies: from frames marked config_type=isolated_atom, zero, or a least-squares fit."
    )
    prior: dict[str, float] | None = Field(
        default=None,
        description="eV per atom of an element, towards which a fit is shrunk where the data do not determine it.",
    )
    level_of_theory: LevelOfTheory = Field(description="How the labels were computed.")
    licence: str = Field(description="Licence of the data.")
    attribution: str = Field(description="Where the data come from: repository and paper.")
    published: list[PublishedErrors] = Field(
        default=[], description="Published errors on the same data, for the model card."
    )
    weight: float = Field(default=1.0, ge=0, description="Factor on this dataset's errors in the objective.")
    targets: TargetWeights = Field(default_factory=TargetWeights)
    noise: Noise = Field(default_factory=Noise)
    ramp: Ramp | None = Field(
        default=None, description="How the factor on this dataset's errors changes during the run."
    )
    sampling: float = Field(
        default=1.0, ge=0, description="Factor on how often this dataset is drawn from, besides sampler.temperature."
    )

    @property
    def name(self) -> str:
        """Dataset and head name: the file name without its suffixes."""
        return dataset_name(self.file)


class DataConfig(_Section):
    """Where structures live during training, and how batches of them are made."""

    structures: Literal["memory", "file", "distributed"] = Field(
        default="memory",
        description="memory: every process holds all structures; file: they are read from the stores when a batch needs"
        " them; distributed: each process holds some of them, and the others fetch them from its memory.",
    )
    width: int | None = Field(
        default=None,
        ge=1,
        description="Of distributed structures: processes that hold one full copy between them, a divisor of their number;"
        " all of them if not given. Those of one node need no messages.",
    )
    neighbor_gib: float = Field(
        default=4.0,
        ge=0,
        description="GiB of neighbor lists that a process keeps; those of other structures are built for every batch.",
    )
    workers: int = Field(default=1, ge=1, description="Threads that make batches while the model computes.")
    prefetch: int = Field(default=4, ge=1, description="Batches that are kept ready.")
    sample: int = Field(
        default=50_000,
        ge=100,
        description="Training structures of a dataset, evenly spaced, that reference energies and scales are found from.",
    )
    validation: int = Field(
        default=20_000, ge=1, description="Validation structures of a dataset, evenly spaced, that errors are taken on."
    )


class OptimizerConfig(_Section):
    """AdamW with warm-up, plateau and final decay."""

    learning_rate: float = Field(default=2e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(default=1e-4, ge=0, description="Decoupled weight decay (matrices only).")
    warmup_steps: int = Field(default=300, ge=0, description="Linear warm-up from 0.")
    decay_fraction: float = Field(
        default=0.4, ge=0, le=1, description="Last share of the steps, over which the rate falls to zero (cosine)."
    )
    gradient_clip: float = Field(
        default=10.0, gt=0, description="Largest global gradient norm; longer gradients are scaled."
    )
    ema_decay: float = Field(
        default=0.999, ge=0, lt=1, description="Exponential moving average of the weights, used for output."
    )


class SamplerConfig(_Section):
    """How structures are drawn and packed into batches."""

    temperature: float = Field(
        default=0.5, ge=0, le=1, description="A dataset of n structures is drawn in proportion to n^temperature."
    )
    edge_slots: int = Field(
        default=24_000, ge=1, description="Largest atoms × neighbor slots of a batch, or of each of its parts."
    )
    max_structures: int = Field(
        default=24,
        ge=1,
        description="Largest number of structures of a batch (or of a part): small molecules get steps of their own.",
    )
    parts: int | None = Field(
        default=None,
        ge=1,
        description="Parts of a batch, equal in atoms and edges, which the processes share: a multiple of their number,"
        " which is the default. Batches depend on this, not on the number of processes.",
    )
    strata: int = Field(
        default=1,
        ge=1,
        description="Kinds of structures, by number of neighbors, that a batch of several parts mixes; divides the parts.",
    )
    window: int = Field(
        default=1 << 20, ge=1, description="Structures that are drawn, shuffled and packed into batches at a time."
    )


class RunConfig(_Section):
    """Length and bookkeeping of a run."""

    steps: int = Field(default=20_000, ge=1, description="Optimizer steps.")
    seed: int = Field(default=0, description="Of the initial weights and of the order of the data.")
    compile: bool = Field(
        default=True, description="Compile the training step (about a minute, then about 1.6 × as fast)."
    )
    backend: Backend = Field(
        default="auto",
        description="Code of the sums over neighbors: native (C++, on CPUs: several times faster and small in memory), torch, or"
        " auto: native where it can be used.",
    )
    precision: Precision = Field(
        default="float32",
        description="Of the network: float64, float32, tf32 (matrix products on NVIDIA GPUs) or bfloat16 (matrix products);"
        " geometry, labels and losses are in float64 always.",
    )
    validate_every: int = Field(default=1_000, ge=1, description="Steps between validations.")
    checkpoint_minutes: float = Field(default=5.0, gt=0, description="Minutes between saves of the training state.")
    device: Literal["auto", "cpu", "cuda", "xpu"] = Field(
        default="auto", description="What to compute on: auto takes a GPU where there is one."
    )
    walltime_minutes: float | Literal["scheduler"] | None = Field(
        default=None,
        description="Minutes that the job may take, or scheduler: what Slurm or PBS says in its variables. The run stops in"
        " time, to be resumed.",
    )
    walltime_margin_minutes: float = Field(
        default=5.0, ge=0, description="Minutes before the end of the job at which a run stops, to save and validate."
    )
    nonfinite_limit: int = Field(
        default=10,
        ge=0,
        description="Steps without a finite gradient: so many are skipped (batches kept in skipped/); one more ends the run.",
    )


class TrainConfig(_Section):
    """A complete training configuration."""

    name: str = Field(
        description="Name of the model: the checkpoint is <name>.safetensors; not state, since state.safetensors is taken."
    )
    model: ModelConfig = Field(
        default_factory=ModelConfig,
        description="Architecture; without this section that of start.model, if there is one.",
    )
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    balancing: BalancingConfig = Field(default_factory=BalancingConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    layout: LayoutConfig = Field(default_factory=LayoutConfig)
    run: RunConfig = Field(default_factory=RunConfig)
    telemetry: TelemetryConfig = Field(default_factory=TelemetryConfig)
    start: StartConfig | None = Field(default=None, description="A trained model to begin with; none if not given.")
    split: str = Field(
        default="split.json",
        description="Split manifest (JSON), relative to this file; not read where all datasets are stores that are divided.",
    )
    card: str | None = Field(
        default=None,
        description="Markdown file, relative to this file, that opens the model card: purpose, limits, licence.",
    )
    datasets: list[DatasetConfig] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if name != Path(name).name or name in {"", ".", "..", "state"}:
            raise ValueError(f"{name!r} cannot name a file <name>.safetensors beside the run's state.safetensors")
        return name


def _replace(document: dict[str, Any], dotted: str, value: Any, *, path: Path) -> None:
    """Set ``section.field``, or ``datasets.0.field`` within a list."""
    *sections, key = dotted.split(".")
    target: Any = document
    for section in sections:
        if isinstance(target, list):
            if not section.isdecimal() or int(section) >= len(target):
                raise ConfigurationError(f"{path}: {dotted}: {section!r} is no number of {len(target)} entries")
            target = target[int(section)]
        else:
            target = target.setdefault(section, {})
    if not isinstance(target, dict):
        raise ConfigurationError(
            f"{path}: {dotted}: not a field of this configuration (see hydrapot train --help-config)"
        )
    target[key] = value


def _resolve_start(document: dict[str, Any], *, folder: Path) -> None:
    """A checkpoint to start from is relative to the configuration, as other files are, and says the architecture."""
    start = document.get("start")
    if not isinstance(start, dict) or not isinstance(start.get("model"), str):
        return
    if start["model"].endswith(".safetensors"):
        document["start"] = start | {"model": str((folder / Path(start["model"]).expanduser()).resolve())}
    if "model" not in document:
        document["model"] = load(document["start"]["model"]).config.model_dump(mode="json")


def load_config(path: Path, *, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Read a YAML configuration.

    Parameters
    ----------
    path
        The file.
    overrides
        Dotted names and values that replace those of the file, e.g. ``{"run.steps": 100, "datasets.0.weight": 2.0}``.

    Raises
    ------
    ConfigurationError
        File missing, not YAML, a field unknown or out of range.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read configuration {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path} holds no configuration: expected name, split, datasets, …")
    for dotted, value in (overrides or {}).items():
        _replace(document, dotted, value, path=path)
    _resolve_start(document, folder=path.parent)
    try:
        config = TrainConfig.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{path}: {where}: {first['msg']} (see hydrapot train --help-config)") from error
    names = [d.name for d in config.datasets]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigurationError(f"{path}: dataset {twice[0]} is listed twice")
    _check_together(config, path=path)
    return config


def _check_together(config: TrainConfig, *, path: Path) -> None:
    """Raise for fields of which one would silently undo the other."""
    balancing = config.balancing
    measured = balancing.project or balancing.weights != "fixed" or balancing.measure_every
    if measured and config.start is not None and not config.start.train_encoder:
        raise ConfigurationError(
            f"{path}: balancing is of what heads ask of the encoder, which start.train_encoder: false leaves as it is: leave"
            " out one of them"
        )
    for d in config.datasets:
        if d.ramp is not None and config.balancing.weights != "fixed":
            raise ConfigurationError(
                f"{path}: balancing.weights {config.balancing.weights} follows the losses and would undo the ramp of dataset"
                f" {d.name}: leave out one of them"
            )
        if any(d.noise.model_dump().values()) and config.objective.loss in {"mae", "mse"}:
            raise ConfigurationError(
                f"{path}: the noise of dataset {d.name} widens a norm, and objective.loss {config.objective.loss} has no width:"
                " choose pseudo_huber or huber, or leave the noise out"
            )
