"""The datasets of a run, opened: which structures are trained on, which are held out, and where they live meanwhile."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.config import DataConfig, TrainConfig
from hydrapot.training.data import cache
from hydrapot.training.data.census import Census, take_census
from hydrapot.training.data.contents import Contents, contents_of
from hydrapot.training.data.extxyz import read_many
from hydrapot.training.data.frames import DatasetError, Frames
from hydrapot.training.data.source import FramesSource, SelectedSource, Source, read_all
from hydrapot.training.data.splits import apply, load_manifest
from hydrapot.training.data.store import Store, is_store

#: Splits of a store that training knows; others (a test set) are left alone.
TRAIN, VALIDATION, ISOLATED = "train", "validation", "isolated"


@dataclass
class OpenedDataset:
    """One dataset of a run.

    Attributes
    ----------
    name
        Of dataset and head.
    training, validation
        Structures of either side; isolated reference atoms are on neither.
    isolated
        Isolated reference atoms, which may be none.
    label
        "group" or "interpolation": how the sides were separated; None for a store, whose contents tell.
    content
        Names the split: what is on which side.
    data
        Names the structures and their labels.
    folder
        Where counts of neighbors are kept; None for datasets in memory, whose lists are built anyway.
    """

    name: str
    training: Source
    validation: Source
    isolated: Frames
    label: str | None
    content: str
    data: str = ""
    folder: Path | None = None
    _closing: list[Callable[[], None]] = field(default_factory=list)

    @property
    def streamed(self) -> bool:
        """Whether structures are read when a batch needs them."""
        return not isinstance(self.training, FramesSource)

    def census(self, *, cutoff: float, workers: int, share: tuple[int, int]) -> Census | None:
        """Sizes of the training structures of a streamed dataset; one in memory is counted as it is prepared."""
        if not self.streamed:
            return None
        return take_census(
            self.training,
            cutoff=cutoff,
            folder=self.folder,
            key=hashlib.sha256(f"{self.data} {self.content}".encode()).hexdigest()[:16],
            workers=workers,
            share=share,
        )

    def contents(self, census: Census | None) -> Contents:
        """Summary of the training structures."""
        return contents_of(read_all(self.training)) if census is None else census.contents

    def sample(self, *, size: int, contents: Contents | None = None) -> Frames:
        """Training structures that stand for all: evenly spaced ones, and some with each element of `contents`."""
        if not self.streamed:
            return read_all(self.training)
        chosen = evenly(len(self.training), size)
        if contents is not None and len(chosen) < len(self.training):
            examples = [i for numbers in contents.examples.values() for i in numbers]
            chosen = np.union1d(chosen, np.array(examples, dtype=np.int64))
        return self.training.read(chosen)

    def held_out(self, *, size: int) -> Frames:
        """Validation structures that errors are taken on: all of them, or `size` evenly spaced ones."""
        if len(self.validation) <= size:
            return read_all(self.validation)
        return self.validation.read(evenly(len(self.validation), size))

    def close(self) -> None:
        """Close files and give memory back; for distributed structures all processes call it together."""
        while self._closing:
            self._closing.pop()()


def evenly(n: int, size: int) -> NDArray[np.int64]:
    """At most `size` of the numbers 0 … n−1, evenly spaced and ascending."""
    chosen: NDArray[np.int64] = np.arange(n, dtype=np.int64)
    return chosen if n <= size else np.arange(size, dtype=np.int64) * n // size


def open_datasets(
    config: TrainConfig,
    *,
    data: Path,
    manifest_path: Path,
    cache_dir: Path | None = None,
    world: int = 1,
) -> dict[str, OpenedDataset]:
    """Open every dataset of a run, in the order of its heads.

    Extended-XYZ files are held in memory whatever ``data.structures`` says. A store is divided by its own splits ``train``
    and ``validation``; one without them by the split manifest, as files are.

    Parameters
    ----------
    config
        The run.
    data
        Directory of the datasets.
    manifest_path
        The split manifest; read if a dataset needs it.
    cache_dir
        Where parsed files are kept; the user's cache directory by default.
    world
        Number of processes of the run, which all open the datasets together.

    Raises
    ------
    ConfigurationError, DatasetError
        A dataset is missing, damaged or not divided, or cannot be distributed.
    """
    check_present(config, data=data)
    files = [d for d in config.datasets if not is_store(data / d.file)]
    frames = read_many([data / d.file for d in files], cache_dir=cache_dir) if files else {}
    opened = {}
    for d in config.datasets:
        path = data / d.file
        if d.name in frames:
            opened[d.name] = _divided(d.name, FramesSource(frames[d.name]), frames[d.name], manifest_path)
        else:
            opened[d.name] = _open_store(path, d.name, manifest_path=manifest_path)
            _place(opened[d.name], path, data=config.data, cache_dir=cache_dir, world=world)
    return opened


def check_present(config: TrainConfig, *, data: Path) -> None:
    """Raise :class:`ConfigurationError` naming the first dataset that is missing."""
    if not data.is_dir():
        raise ConfigurationError(f"data directory {data} does not exist")
    paths = {d.file: data / d.file for d in config.datasets}
    missing = [name for name, path in paths.items() if not (path.is_dir() if is_store(path) else path.is_file())]
    if missing:
        raise ConfigurationError(f"{data} has no {missing[0]} ({len(missing)} of {len(config.datasets)} files missing)")


def _divided(name: str, source: Source, frames: Frames, manifest_path: Path) -> OpenedDataset:
    """Dataset whose sides a split manifest tells."""
    manifest = load_manifest(manifest_path)
    train, validation = apply(manifest, frames)
    if isinstance(source, FramesSource):
        sides: list[Source] = [FramesSource(frames.subset(side)) for side in (train, validation)]
    else:
        sides = [SelectedSource(source, side) for side in (train, validation)]
    return OpenedDataset(
        name=name,
        training=sides[0],
        validation=sides[1],
        isolated=frames.subset(frames.isolated),
        label=manifest.datasets[frames.name].label,  # a store keeps the name that it was imported with
        content=hashlib.sha256(manifest.model_dump_json().encode()).hexdigest(),
    )


def _open_store(path: Path, name: str, *, manifest_path: Path) -> OpenedDataset:
    store = Store(path)
    if {TRAIN, VALIDATION} <= set(store.splits):
        training = store.view(TRAIN)
        isolated = store.view(ISOLATED) if ISOLATED in store.splits else None
        opened = OpenedDataset(
            name=name,
            training=training,
            validation=store.view(VALIDATION),
            isolated=read_all(isolated) if isolated is not None else training.read(np.zeros(0, dtype=np.int64)),
            label=None,
            content=store.content,
        )
    elif len(store.splits) == 1:
        view = store.view(next(iter(store.splits)))
        if not manifest_path.is_file():
            raise ConfigurationError(
                f"{path} is not divided into {TRAIN} and {VALIDATION}: run hydrapot data split, or give a split manifest"
            )
        opened = _divided(name, view, read_all(view), manifest_path)
    else:
        held = ", ".join(sorted(store.splits))
        raise ConfigurationError(
            f"{path} has the splits {held}, not {TRAIN} and {VALIDATION}: divide it by hydrapot data split"
        )
    opened.data = store.content
    opened._closing.append(store.close)  # noqa: SLF001
    return opened


def _place(opened: OpenedDataset, path: Path, *, data: DataConfig, cache_dir: Path | None, world: int) -> None:
    """Bring the training structures to where they live during training."""
    if data.structures == "memory":
        opened.training = FramesSource(read_all(opened.training))
        return
    beside = path.parent / f"{path.name}.neighbors"
    writable = os.access(beside if beside.exists() else path.parent, os.W_OK)
    opened.folder = beside if writable else (cache_dir or cache.default_cache_dir()) / beside.name
    if data.structures == "distributed":
        opened.training = _distributed(opened.training, world=world, width=data.width)
        opened._closing.append(opened.training.close)  # type: ignore[attr-defined]  # noqa: SLF001


def _distributed(source: Source, *, world: int, width: int | None) -> Any:
    from hydrapot.training.data.distributed import DistributedSource, load_mpi

    comm = load_mpi().COMM_WORLD
    if comm.size != world:
        raise ConfigurationError(
            f"data.structures: distributed needs MPI to know all {world} processes, and it knows {comm.size}: start them by"
            " mpiexec or srun, or choose file"
        )
    distributed = DistributedSource(source, comm, width=width)
    if not distributed.prefetchable:
        distributed.close()
        raise DatasetError(
            f"dataset {source.name!r}: this MPI library does not let threads call it, so batches cannot be prepared while the"
            " model computes: choose data.structures: file, or an MPI with MPI_THREAD_MULTIPLE"
        )
    return distributed
