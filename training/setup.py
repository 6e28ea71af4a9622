"""From a configuration and a data directory to a model with random weights and prepared datasets."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from ase.units import GPa

from hydrapot.potential.conditioning import check_range
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.metadata import CheckpointInfo, HeadInfo
from hydrapot.potential.model import Potential
from hydrapot.training.config import DatasetConfig, TrainConfig
from hydrapot.training.data.extxyz import read_many
from hydrapot.training.data.frames import Frames
from hydrapot.training.data.prepared import PreparedDataset, Scales, prepare
from hydrapot.training.data.references import make_references
from hydrapot.training.data.splits import SplitManifest, apply, load_manifest
from hydrapot.training.initialize import fit_readout

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """Everything a run starts from; dictionaries are in the order of the heads."""

    potential: Potential
    training: dict[str, PreparedDataset]
    validation: dict[str, PreparedDataset]
    scales: dict[str, Scales]
    #: SHA-256 (16 digits) of the split, which names every dataset's content and validation structures.
    split: str


def head_info(config: DatasetConfig, training: Frames, *, label: str) -> HeadInfo:
    """Describe a head by its training structures.

    Parameters
    ----------
    config
        The dataset's entry in the configuration.
    training
        Its training structures.
    label
        "group" or "interpolation", from the split manifest.
    """
    present = training.compositions() > 0
    per_element = {chemical_symbols[z]: int(present[:, z].sum()) for z in np.flatnonzero(present.any(axis=0)).tolist()}
    periodicity = sorted({"".join("T" if p else "F" for p in row) for row in training.pbc.tolist()}, reverse=True)
    stress = training.stress[training.has_stress]
    pressure = -np.trace(stress, axis1=1, axis2=2) / 3.0 / GPa
    values = {(int(q), int(s) or None) for q, s in zip(training.charge, training.spin, strict=True)}
    return HeadInfo(
        dataset=config.name,
        level_of_theory=config.level_of_theory,
        references=config.references,
        licence=config.licence,
        attribution=" ".join(config.attribution.split()),
        structures=len(training),
        structures_per_element=per_element,
        periodicity=periodicity,
        pressure_range=(float(pressure.min()), float(pressure.max())) if len(pressure) else None,
        stress_trained=len(stress) > 0,
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
) -> Setup:
    """Read data, fit references, build the model and prepare all datasets.

    Parameters
    ----------
    config
        The run.
    data
        Directory of the dataset files.
    manifest_path
        The split.
    cache_dir
        Where parsed files are kept; the user's cache directory by default.
    progress
        Called with the name of each dataset once it is ready.

    Raises
    ------
    ConfigurationError, DatasetError
    """
    manifest = load_manifest(manifest_path)
    frames = read_datasets(config, data=data, cache_dir=cache_dir)
    split = {d.name: apply(manifest, frames[d.name]) for d in config.datasets}
    references = {
        d.name: make_references(frames[d.name], split[d.name][0], mode=d.references, prior=d.prior)
        for d in config.datasets
    }
    info = CheckpointInfo(
        architecture=config.model,
        heads={
            d.name: head_info(d, frames[d.name].subset(split[d.name][0]), label=_label(manifest, d.name))
            for d in config.datasets
        },
    )
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(config.run.seed)
    potential = Potential(info, references=references)
    torch.random.set_rng_state(generator_state)
    training, validation, scales = {}, {}, {}
    for d in config.datasets:
        parts = [
            prepare(
                frames[d.name].subset(index),
                references=references[d.name],
                repulsion=potential.repulsion,
                cutoff=config.model.cutoff,
            )
            for index in split[d.name]
        ]
        training[d.name], validation[d.name] = parts
        scales[d.name] = parts[0].scales()
        potential.head(d.name).scale = scales[d.name].forces
        fit_readout(potential, parts[0], head=d.name)
        if progress is not None:
            progress(d.name)
    split_hash = hashlib.sha256(manifest.model_dump_json().encode()).hexdigest()[:16]
    return Setup(potential=potential, training=training, validation=validation, scales=scales, split=split_hash)


def _label(manifest: SplitManifest, name: str) -> str:
    return manifest.datasets[name].label


def read_datasets(config: TrainConfig, *, data: Path, cache_dir: Path | None) -> dict[str, Frames]:
    """Read the files of all datasets; raise :class:`ConfigurationError` naming the first that is missing."""
    if not data.is_dir():
        raise ConfigurationError(f"data directory {data} does not exist")
    missing = [d.file for d in config.datasets if not (data / d.file).is_file()]
    if missing:
        raise ConfigurationError(f"{data} has no {missing[0]} ({len(missing)} of {len(config.datasets)} files missing)")
    frames = read_many([data / d.file for d in config.datasets], cache_dir=cache_dir)
    for name, f in frames.items():
        if not np.isfinite(f.energy).any():
            raise ConfigurationError(f"dataset {name} holds no structure with an energy: reference energies need some")
        _check_charges(f, conditioned=config.model.charge_spin)
    return frames


def _check_charges(frames: Frames, *, conditioned: bool) -> None:
    """Raise for charges that inference refuses, or that the model would be blind to."""
    for charge, spin in sorted({(int(q), int(s)) for q, s in zip(frames.charge, frames.spin, strict=True)}):
        check_range(charge, spin)
    if frames.charge.any() and not conditioned:
        raise ConfigurationError(f"dataset {frames.name} holds charged structures: set model.charge_spin to true")
    charged_cells = np.flatnonzero((frames.charge != 0) & frames.pbc.any(axis=1))
    if len(charged_cells):
        raise ConfigurationError(
            f"dataset {frames.name}, structure {charged_cells[0]}: a charged periodic cell has no defined energy"
        )
