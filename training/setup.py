"""From a configuration and a data directory to a model with random weights and prepared datasets."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols

from hydrapot.potential.conditioning import check_range
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.metadata import CheckpointInfo, HeadInfo
from hydrapot.potential.model import Potential
from hydrapot.potential.references import ReferenceEnergies
from hydrapot.training.config import DatasetConfig, TrainConfig
from hydrapot.training.data.census import Census
from hydrapot.training.data.contents import STRATA, Contents, contents_of, merged
from hydrapot.training.data.extxyz import read_many
from hydrapot.training.data.frames import Frames
from hydrapot.training.data.labels import PairRepulsion
from hydrapot.training.data.neighborhoods import Budget, Neighborhoods
from hydrapot.training.data.prepared import PreparedDataset, Scales, StreamedDataset, TrainingSet, prepare
from hydrapot.training.data.references import make_references
from hydrapot.training.data.source import concatenate, read_all
from hydrapot.training.data.store import Store, is_store
from hydrapot.training.datasets import ISOLATED, OpenedDataset, check_present, open_datasets
from hydrapot.training.initialize import fit_readout
from hydrapot.training.start import Start

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """Everything a run starts from; dictionaries are in the order of the heads."""

    potential: Potential
    training: dict[str, TrainingSet]
    validation: dict[str, PreparedDataset]
    scales: dict[str, Scales]
    #: SHA-256 (16 digits) of the split, which names every dataset's content and validation structures.
    split: str
    opened: Mapping[str, OpenedDataset]
    #: Content hash of the model that the run starts from, or None.
    start: str | None = None

    def close(self) -> None:
        """Close the datasets; with distributed ones all processes call this together."""
        for dataset in self.opened.values():
            dataset.close()


def head_info(config: DatasetConfig, training: Contents, *, label: str) -> HeadInfo:
    """Describe a head by its training structures.

    Parameters
    ----------
    config
        The dataset's entry in the configuration.
    training
        Summary of its training structures.
    label
        "group" or "interpolation", from the split.
    """
    values = {(q, s or None) for q, s in training.charge_spin}
    return HeadInfo(
        dataset=config.name,
        level_of_theory=config.level_of_theory,
        references=config.references,
        licence=config.licence,
        attribution=" ".join(config.attribution.split()),
        structures=training.structures,
        structures_per_element={chemical_symbols[z]: n for z, n in sorted(training.elements.items())},
        periodicity=sorted(training.periodicity, reverse=True),
        pressure_range=training.pressure,
        stress_trained=training.stresses > 0,
        charge_spin=sorted(values, key=lambda v: (v[0], v[1] or 0)),
        split="interpolation" if label == "interpolation" else "group",
    )


def set_up(
    config: TrainConfig,
    *,
    data: Path,
    manifest_path: Path,
    cache_dir: Path | None = None,
    progress: Callable[[str], None] | None = None,
    share: tuple[int, int] = (0, 1),
) -> Setup:
    """Read data, fit references, build the model and prepare all datasets.

    Parameters
    ----------
    config
        The run.
    data
        Directory of the dataset files.
    manifest_path
        The split manifest; not needed where all datasets are stores with splits of their own.
    cache_dir
        Where parsed files are kept; the user's cache directory by default.
    progress
        Called with the name of each dataset once it is ready.
    share
        Rank and number of processes, which all call this together: they share the counting of neighbors.

    Raises
    ------
    ConfigurationError, DatasetError
    """
    start = _start(config)
    opened = open_datasets(config, data=data, manifest_path=manifest_path, cache_dir=cache_dir, world=share[1])
    censuses: dict[str, Census | None] = {}
    contents: dict[str, Contents] = {}
    samples: dict[str, Frames] = {}
    held_out: dict[str, Frames] = {}
    labels: dict[str, str] = {}
    references: dict[str, ReferenceEnergies] = {}
    for d in config.datasets:
        dataset = opened[d.name]
        censuses[d.name] = dataset.census(cutoff=config.model.cutoff, workers=config.data.workers, share=share)
        contents[d.name] = dataset.contents(censuses[d.name])
        _check(d.name, contents[d.name], conditioned=config.model.charge_spin)
        _check_isolated(d.name, contents[d.name])
        held_out[d.name] = dataset.held_out(size=config.data.validation)
        held = contents_of(held_out[d.name])
        _check_charges(d.name, held, conditioned=config.model.charge_spin)
        labels[d.name] = dataset.label or _label(contents[d.name], held)
        samples[d.name] = dataset.sample(size=config.data.sample, contents=contents[d.name])
        known = concatenate([samples[d.name], dataset.isolated])
        references[d.name] = _references(d, known, trained=len(samples[d.name]), start=start)
    info = CheckpointInfo(
        architecture=config.model,
        heads={d.name: head_info(d, contents[d.name], label=labels[d.name]) for d in config.datasets},
    )
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(config.run.seed)
    potential = Potential(info, references=references)
    torch.random.set_rng_state(generator_state)
    if start is not None:
        start.apply(potential)
    budget = Budget(config.data.neighbor_gib * 2**30)
    training: dict[str, TrainingSet] = {}
    validation, scales = {}, {}
    for d in config.datasets:
        make = _Preparation(references[d.name], potential.repulsion, cutoff=config.model.cutoff, budget=budget)
        dataset, census = opened[d.name], censuses[d.name]
        training[d.name] = make.training(dataset, samples.pop(d.name), census)
        validation[d.name] = make.prepared(held_out.pop(d.name))
        scales[d.name] = training[d.name].sample.scales()
        if start is None or start.copied(d.name) is None:
            potential.head(d.name).scale = scales[d.name].forces
            fit_readout(potential, training[d.name].sample, head=d.name)
        if progress is not None:
            progress(d.name)
    return Setup(
        potential=potential,
        training=training,
        validation=validation,
        scales=scales,
        split=_split_hash(opened),
        opened=opened,
        start=None if start is None else start.potential.info.content_hash,
    )


def _start(config: TrainConfig) -> Start | None:
    if config.start is None:
        return None
    names = [d.name for d in config.datasets]
    return Start.load(config.start, architecture=config.model, datasets=names)


def _references(config: DatasetConfig, known: Frames, *, trained: int, start: Start | None) -> ReferenceEnergies:
    """Reference energies of a dataset from its first `trained` structures, and from isolated atoms behind them."""
    head = None if start is None else start.copied(config.name)
    prior = config.prior
    if start is not None and head is not None and config.references == "fit":
        known, own = start.left_over(known.subset(np.arange(trained)), head=head)
        trained, prior = len(known), {**own, **(prior or {})}
    elif start is not None and head is not None and start.potential.references[head].mode == "fit":
        logger.warning(
            "dataset %s: references are %s, those of head %s, from which it starts, are fitted: energies begin far off",
            *(config.name, config.references, head),
        )
    return make_references(known, np.arange(trained), mode=config.references, prior=prior)


def _label(training: Contents, validation: Contents) -> str:
    """A few trajectories only ask for new frames of known systems, however they are divided."""
    return "interpolation" if len(merged([training, validation]).strata) < STRATA else "group"


class _Preparation:
    """How the structures of one head are prepared."""

    def __init__(
        self, references: ReferenceEnergies, repulsion: PairRepulsion, *, cutoff: float, budget: Budget
    ) -> None:
        self.references, self.repulsion, self.cutoff, self.budget = references, repulsion, cutoff, budget

    def prepared(self, frames: Frames, *, budget: Budget | None = None) -> PreparedDataset:
        """Structures in memory."""
        return prepare(
            frames,
            references=self.references,
            repulsion=self.repulsion,
            cutoff=self.cutoff,
            budget=self.budget if budget is None else budget,
        )

    def training(self, dataset: OpenedDataset, sample: Frames, census: Census | None) -> TrainingSet:
        """Training structures of a dataset, in memory or streamed."""
        if census is None:
            return self.prepared(sample)
        return StreamedDataset(
            dataset.training,
            census=census,
            sample=self.prepared(sample, budget=Budget(0.0)),  # statistics need each list once
            lists=Neighborhoods(cutoff=self.cutoff, budget=self.budget),
            references=self.references,
            repulsion=self.repulsion,
        )


def _split_hash(opened: Mapping[str, OpenedDataset]) -> str:
    """16 digits that name which structures are trained on and which held out, wherever they are stored."""
    contents = {dataset.content for dataset in opened.values()}
    if len(contents) == 1:  # one manifest for all
        return contents.pop()[:16]
    named = "\n".join(f"{name} {dataset.content}" for name, dataset in opened.items())
    return hashlib.sha256(named.encode()).hexdigest()[:16]


def read_datasets(config: TrainConfig, *, data: Path, cache_dir: Path | None) -> dict[str, Frames]:
    """Read all datasets whole; raise :class:`ConfigurationError` naming the first that is missing."""
    check_present(config, data=data)
    files = [data / d.file for d in config.datasets if not is_store(data / d.file)]
    read = read_many(files, cache_dir=cache_dir) if files else {}
    frames = {d.name: read[d.name] if d.name in read else _whole(data / d.file) for d in config.datasets}
    for name, f in frames.items():
        _check(name, contents_of(f), conditioned=config.model.charge_spin)
    return frames


def _whole(path: Path) -> Frames:
    with Store(path) as store:
        return concatenate([read_all(store.view(split)) for split in store.splits])


def _check(name: str, contents: Contents, *, conditioned: bool) -> None:
    if not contents.energies:
        raise ConfigurationError(f"dataset {name} holds no structure with an energy: reference energies need some")
    _check_charges(name, contents, conditioned=conditioned)


def _check_isolated(name: str, training: Contents) -> None:
    """Raise where reference atoms are trained on; only a store that was divided by hand has them there."""
    if training.isolated is not None:
        raise ConfigurationError(
            f"dataset {name}, structure {training.isolated}: an isolated reference atom among the structures to train on:"
            f" write those into the split {ISOLATED!r} of the store"
        )


def _check_charges(name: str, contents: Contents, *, conditioned: bool) -> None:
    """Raise for charges that inference refuses, or that the model would be blind to."""
    for charge, spin in sorted(contents.charge_spin):
        check_range(charge, spin)
    if any(charge for charge, _ in contents.charge_spin) and not conditioned:
        raise ConfigurationError(f"dataset {name} holds charged structures: set model.charge_spin to true")
    if contents.charged_cell is not None:
        raise ConfigurationError(
            f"dataset {name}, structure {contents.charged_cell}: a charged periodic cell has no defined energy"
        )
