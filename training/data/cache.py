"""Parsed datasets on disk.

ASE needs minutes for the text of a large dataset; this cache loads in a fraction of a second. It is keyed by
the content of the source file, so that an edited file is parsed again and a moved one is not. One npz file a
dataset, without pickle, written beside its place and renamed into it: a reader never meets half a file.
"""

import hashlib
import logging
import os
import tempfile
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hydrapot.training.data.frames import Frames

log = logging.getLogger(__name__)

CACHE_VERSION = 1
"""Raise whenever the parser, the columns or the structure hash change."""


def default_cache_dir() -> Path:
    """Return the folder of parsed datasets: ``~/.cache/hydrapot/datasets``."""
    return Path.home() / ".cache" / "hydrapot" / "datasets"


def cache_file(name: str, raw: bytes, *, cache_dir: str | Path | None = None) -> Path:
    """Return where the dataset ``name`` with the source bytes ``raw`` is or will be cached."""
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
    return folder / f"{name}-{hashlib.sha256(raw).hexdigest()[:24]}.v{CACHE_VERSION}.npz"


def load(file: Path) -> Frames | None:
    """Return the cached dataset, or None when there is none or it is damaged (which is logged)."""
    try:
        # numpy leaves a file that it opened itself open when the archive is damaged.
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as stored:
            columns: dict[str, Any] = {key: stored[key] for key in stored.files}
        columns["name"] = str(columns["name"])
        if set(columns) != {field.name for field in fields(Frames)}:
            raise ValueError("its columns are not those of this version")
        return Frames(**columns)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        log.warning("ignoring the damaged cache file %s (%s); reading the text again", file, error)
        return None


def save(file: Path, frames: Frames) -> None:
    """Write the cache file; a folder that cannot be written is logged and costs only time."""
    columns = {field.name: getattr(frames, field.name) for field in fields(Frames)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "wb") as out:
                np.savez(out, **columns)
            Path(temporary).replace(file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        log.warning("cannot write the dataset cache %s (%s): next time is slow too", file, error)
