"""Which structures are held out for validation: decided once, written down, checked ever after.

Random frames of one molecular-dynamics run differ from their neighbors in the file by a few hundredths of an
ångström; a random split therefore measures interpolation and flatters the model. Here the validation side is
made of contiguous blocks in file order, within each stratum: one (group, composition) of a dataset. Strata
too small for a block of their own are held out whole, so that sets of many small systems are tested on
systems never seen. Stricter, and for datasets of many trajectories: `make_manifest(by="groups")` holds out whole
strata only.

Structures that are the same stay on one side, in all datasets: identical geometries (equal
`structure_hash`), and twins, which are the same up to symmetry (`same_structure`), as in strains along x, y
and z of a cubic crystal. Isolated reference atoms are on neither side: they define reference energies.
"""

import hashlib
import json
import logging
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hydrapot.potential.container import write_atomically
from hydrapot.training.data.duplicates import same_structure
from hydrapot.training.data.frames import DatasetError, Frames
from hydrapot.training.data.group_splits import hold_out_components

log = logging.getLogger(__name__)

BLOCK = 10
"""Strata of fewer structures than this are held out whole or not at all."""
BLOCKS_PER_STRATUM = 4
INTERPOLATION_STRATA = 5
"""Datasets of fewer strata than this are labelled interpolation."""
MIN_STRUCTURES_PER_ELEMENT = 3
"""Holding out a whole system never leaves an element with fewer training structures than this."""


class DatasetSplit(BaseModel):
    """How one dataset is divided."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: Literal["group", "interpolation"] = Field(
        description="'interpolation': one to four trajectories, each on both sides, so that validation"
        " asks for new frames of known systems only; 'group': at least five (group, composition) strata"
    )
    n_train: int
    n_validation: int
    n_isolated: int = Field(description="reference atoms, on neither side")
    content: str = Field(description="sha256 (16 digits) of the sorted structure hashes of the whole dataset")
    validation: list[str] = Field(description="sorted structure hashes held out")


class SplitManifest(BaseModel):
    """The split of several datasets, as committed beside a training configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    seed: int
    fraction: float = Field(gt=0, lt=1, description="share of each dataset that is held out")
    datasets: dict[str, DatasetSplit]


def make_manifest(
    datasets: Iterable[Frames], *, fraction: float = 0.1, seed: int, by: Literal["blocks", "groups"] = "blocks"
) -> SplitManifest:
    """Divide several datasets into training and validation, see the module's description.

    The result depends on the datasets' content, their file order, ``fraction``, ``seed`` and ``by`` alone. Smaller
    datasets choose first; larger ones that share structures with them count those as part of their own
    share.

    Parameters
    ----------
    datasets
        All of them.
    fraction
        Share of each to hold out.
    seed
        Of the choice.
    by
        ``blocks``: contiguous blocks within each large stratum, and small ones whole. ``groups``: every stratum whole, so
        that frames of one trajectory never straddle; where a dataset has fewer than five strata, blocks all the same.
    """
    by_name = {frames.name: frames for frames in datasets}
    classes = same_structure(list(by_name.values()))
    class_of = dict(zip(by_name, classes, strict=True))
    held_out: dict[int, bool] = {}  # class -> validation?
    if by == "groups":
        strata = {name: list(_strata(frames).values()) for name, frames in by_name.items()}
        whole = [name for name in by_name if len(strata[name]) >= INTERPOLATION_STRATA]
        for name in sorted(set(by_name) - set(whole)):
            log.info(
                "%s: %d trajectories or compositions are too few to hold out whole ones: blocks of them are",
                name,
                len(strata[name]),
            )
        held_out = hold_out_components(
            {name: by_name[name] for name in whole},
            class_of,
            {name: strata[name] for name in whole},
            fraction=fraction,
            seed=seed,
            least=MIN_STRUCTURES_PER_ELEMENT,
        )
    for name in sorted(by_name, key=lambda name: (len(by_name[name]), name)):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        _choose(by_name[name], class_of[name], held_out, fraction=fraction, rng=rng)

    splits = {}
    for name, frames in sorted(by_name.items()):
        side = np.array([held_out[label] for label in class_of[name]], bool) & ~frames.isolated
        splits[name] = DatasetSplit(
            label="interpolation" if len(_strata(frames)) < INTERPOLATION_STRATA else "group",
            n_train=int((~side & ~frames.isolated).sum()),
            n_validation=int(side.sum()),
            n_isolated=int(frames.isolated.sum()),
            content=content_hash(frames),
            validation=sorted({str(value) for value in frames.hashes[side]}),
        )
    return SplitManifest(seed=seed, fraction=fraction, datasets=splits)


def apply(manifest: SplitManifest, frames: Frames) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the training and of the validation structures of one dataset.

    Raises
    ------
    DatasetError
        The manifest does not know the dataset, or was made for another content of it.
    """
    split = manifest.datasets.get(frames.name)
    if split is None:
        raise DatasetError(f"the split manifest has no dataset {frames.name!r}: make a new one")
    validation = np.isin(frames.hashes, split.validation) & ~frames.isolated
    train = ~validation & ~frames.isolated
    counts = (int(train.sum()), int(validation.sum()))
    if content_hash(frames) != split.content or counts != (split.n_train, split.n_validation):
        raise DatasetError(
            f"dataset {frames.name!r} is not the one that the split manifest was made for"
            f" ({len(frames)} structures here, {split.n_train + split.n_validation + split.n_isolated} there)"
        )
    return np.flatnonzero(train), np.flatnonzero(validation)


def content_hash(frames: Frames) -> str:
    """Return 16 digits that name the set of structures in a dataset, whatever their order."""
    return hashlib.sha256("\n".join(sorted(map(str, frames.hashes))).encode()).hexdigest()[:16]


def save_manifest(manifest: SplitManifest, path: str | Path) -> None:
    """Write a manifest as JSON, one line a dataset; the file is there whole or not at all."""
    document = manifest.model_dump(mode="json")
    datasets = document.pop("datasets")
    head = json.dumps(document)[:-1]
    lines = [f"{json.dumps(name)}: {json.dumps(split)}" for name, split in datasets.items()]
    write_atomically(Path(path), (head + ', "datasets": {\n' + ",\n".join(lines) + "\n}}\n").encode())


def load_manifest(path: str | Path) -> SplitManifest:
    """Read a manifest; a missing or malformed file raises `DatasetError`."""
    try:
        return SplitManifest.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise DatasetError(f"cannot read split manifest {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DatasetError(f"{path} is no split manifest of this version: {where} {first['msg']}") from error


# --- choosing ---


def _strata(frames: Frames) -> dict[tuple[Any, ...], NDArray[np.int64]]:
    """Map (group, composition) to the structures in it, in file order; isolated atoms are in none."""
    members: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    compositions = frames.compositions()
    for i in np.flatnonzero(~frames.isolated):
        members[str(frames.group[i]), compositions[i].tobytes()].append(int(i))
    return {key: np.array(value, np.int64) for key, value in members.items()}


def _choose(
    frames: Frames,
    classes: NDArray[np.int64],
    held_out: dict[int, bool],
    *,
    fraction: float,
    rng: np.random.Generator,
) -> None:
    """Decide every class of one dataset that no dataset before it has decided."""
    strata = list(_strata(frames).values())
    for stratum in strata:
        if len(stratum) >= BLOCK:
            _hold_out_blocks(classes[stratum], held_out, quota=_share(len(stratum), fraction), rng=rng)
    small = [stratum for stratum in strata if len(stratum) < BLOCK]
    _hold_out_whole(frames, classes, small, held_out, fraction=fraction, rng=rng)
    for label in classes:
        held_out.setdefault(int(label), False)


def _share(n: int, fraction: float) -> int:
    return int(np.floor(n * fraction + 0.5))


def _hold_out_blocks(
    stratum: NDArray[np.int64], held_out: dict[int, bool], *, quota: int, rng: np.random.Generator
) -> None:
    """Hold out ``quota`` structures of a stratum (given as classes in file order) in a few contiguous blocks.

    Several blocks rather than one, so that a long trajectory is sampled at several places; few, because each
    block has two ends where a held-out frame neighbors a training frame.
    """
    blocks = max(1, min(BLOCKS_PER_STRATUM, quota // BLOCK))
    members = Counter(stratum.tolist())  # of each class in this stratum
    taken = sum(size for label, size in members.items() if held_out.get(label, False))
    for k, segment in enumerate(np.array_split(stratum, blocks)):
        target = quota * (k + 1) // blocks
        length = max(1, target - quota * k // blocks)
        start = int(rng.integers(0, max(1, len(segment) - length + 1)))
        for label in segment[start:].tolist():
            if taken >= target:
                break
            if label not in held_out:
                held_out[label] = True
                taken += members[label]


def _hold_out_whole(
    frames: Frames,
    classes: NDArray[np.int64],
    strata: list[NDArray[np.int64]],
    held_out: dict[int, bool],
    *,
    fraction: float,
    rng: np.random.Generator,
) -> None:
    """Hold out whole small strata until they make up their share, and keep every element in training."""
    quota = _share(sum(map(len, strata)), fraction)
    contains = frames.compositions() > 0
    taken = sum(held_out.get(int(label), False) for stratum in strata for label in classes[stratum])
    out = np.array([held_out.get(int(label), False) for label in classes], bool) | frames.isolated
    remaining = contains[~out].sum(0)
    order = np.argsort(classes, kind="stable")
    found, first = np.unique(classes[order], return_index=True)
    members = dict(zip(found.tolist(), np.split(order, first[1:]), strict=True))
    for k in rng.permutation(len(strata)):
        if taken >= quota:
            return
        stratum = strata[k]
        if any(int(label) in held_out for label in classes[stratum]):
            continue
        new = np.concatenate([members[label] for label in np.unique(classes[stratum]).tolist()])
        new = new[~out[new]]
        without = remaining - contains[new].sum(0)
        if (without[contains[stratum].any(0)] < MIN_STRUCTURES_PER_ELEMENT).any():
            continue
        held_out.update(dict.fromkeys(map(int, classes[stratum]), True))
        taken += len(stratum)
        out[new], remaining = True, without


def elements_missing_from_training(manifest: SplitManifest, datasets: Mapping[str, Frames]) -> dict[str, list[int]]:
    """Return, per dataset, the atomic numbers that only validation structures contain."""
    missing = {}
    for name, frames in datasets.items():
        train, validation = apply(manifest, frames)
        contains = frames.compositions() > 0
        only = np.flatnonzero(contains[validation].any(0) & ~contains[train].any(0))
        if len(only):
            missing[name] = only.tolist()
    return missing
