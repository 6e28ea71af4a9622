"""Extended-XYZ datasets, read once with ASE and cached as arrays (`hydrapot.training.data.cache`)."""

import io
import math
import multiprocessing
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.extxyz import read_xyz
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hydrapot.training.data import cache
from hydrapot.training.data.frames import MAX_Z, PER_ATOM, DatasetError, Frames, structure_hash
from hydrapot.training.data.names import dataset_name
from hydrapot.training.data.readers.opening import DAMAGE, decompressed

GROUP_KEYS = ("group", "molecule", "src")
ISOLATED_MARK = "isolatedatom"
KNOWN_UNITS = {"ev", "ev/a", "ev/å", "ev/ang", "ev/angstrom", "a", "å", "ang", "angstrom", "ev/a^3"}
# ASE keeps exactly these apart; any other spelling would drop the labels without a word.
LABEL_KEYS = {"energy", "forces", "stress"}
HARMLESS_KEYS = {"free_energy", "energies", "stresses"}
OTHER_CHARGES = {
    "total_charge": "charge",
    "net_charge": "charge",
    "total_spin": "spin",
    "multiplicity": "spin",
    "spin_multiplicity": "spin",
}
"""Names that other programs give to what is called charge and spin here: without a word, an ion would be neutral."""
LABEL_LIKE = re.compile(r"energ|force|stress|virial", re.IGNORECASE)


def read_extxyz(path: str | Path, *, cache_dir: str | Path | None = None) -> Frames:
    """Read an extended-XYZ dataset, from the cache when the same content was read before.

    Parameters
    ----------
    path
        ``.extxyz`` or ``.xyz``, plain or compressed (``.xz``, ``.gz``, ``.bz2``). Energies in eV under ``energy``,
        forces in eV/Å under ``forces``, stress in eV/Å³ with ASE's sign under ``stress``; each may be
        missing in any frame. ``charge`` (e), ``spin`` (2S+1), ``config_type=isolated_atom`` and one of
        ``group``, ``molecule``, ``src`` are understood; a ``dataset`` tag has to agree with the file name.
    cache_dir
        Folder of the cache; `cache.default_cache_dir` if not given.

    Raises
    ------
    DatasetError
        The file is missing, truncated or corrupt, or a frame has labels that are not finite, of the wrong
        shape, in unknown units or under unknown names. The message names the file and the frame (counted
        from 0).
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read dataset {path}: {error.strerror}") from error
    name = dataset_name(path)
    cached = cache.cache_file(name, raw, cache_dir=cache_dir)
    frames = cache.load(cached)
    if frames is None:
        frames = _parse(_decompress(path, raw), name=name, path=path)
        cache.save(cached, frames)
    return frames


def read_many(
    paths: Sequence[str | Path],
    *,
    workers: int = 1,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Frames]:
    """Read several datasets in ``workers`` processes; the keys are their names, in the order given.

    Errors are those of `read_extxyz`, and two files of one name: names become heads.
    """
    names = [dataset_name(path) for path in paths]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DatasetError(f"two dataset files share the name {twice[0]!r}: rename one, names become heads")
    read = partial(read_extxyz, cache_dir=cache_dir)
    found: dict[str, Frames] = {}
    columns = (TextColumn("reading datasets"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("", total=len(paths))
        if workers <= 1:
            for name, path in zip(names, paths, strict=True):
                found[name] = read(path)
                bar.advance(task)
        else:
            # spawn: forking a process that already runs torch's threads can deadlock.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                jobs = {pool.submit(read, path): name for name, path in zip(names, paths, strict=True)}
                try:
                    for job in as_completed(jobs):
                        found[jobs[job]] = job.result()
                        bar.advance(task)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    return {name: found[name] for name in names}


def _decompress(path: Path, raw: bytes) -> str:
    try:
        return decompressed(raw).decode("utf-8")
    except (*DAMAGE, OSError) as error:
        raise DatasetError(f"{path}: truncated or corrupt ({error}): fetch the file again") from error


def _split(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines of each frame; done here so that an error can name the frame, which ASE does not."""
    lines = text.splitlines()
    at = frame = 0
    while at < len(lines):
        if not lines[at].strip() and not any(line.strip() for line in lines[at:]):
            return
        try:
            n = int(lines[at])
        except ValueError:
            found = lines[at][:40]
            raise DatasetError(f"{path}, frame {frame}: no number of atoms but {found!r}") from None
        if n < 1:
            raise DatasetError(f"{path}, frame {frame}: {n} atoms")
        chunk = lines[at : at + n + 2]
        if len(chunk) < n + 2:
            raise DatasetError(f"{path}, frame {frame}: the file ends in the middle of it (truncated?)")
        yield frame, chunk
        at += n + 2
        frame += 1


def _parse(text: str, *, name: str, path: Path) -> Frames:
    rows: list[dict[str, Any]] = []
    for frame, chunk in _split(text, path):
        where = f"{path}, frame {frame}"
        try:
            atoms = next(read_xyz(io.StringIO("\n".join(chunk) + "\n"), index=slice(None)))
        except Exception as error:  # ASE raises whatever its parser stumbles over
            raise DatasetError(f"{where}: not extended XYZ ({' '.join(str(error).split())})") from error
        rows.append(_row(atoms, name=name, where=where))
    if not rows:
        raise DatasetError(f"{path}: no frames in it")
    counts = [len(row["numbers"]) for row in rows]
    columns: dict[str, Any] = {}
    for column in rows[0]:
        values = [row[column] for row in rows]
        columns[column] = np.concatenate(values) if column in PER_ATOM else np.array(values)
    return Frames(name=name, offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), **columns)


def _row(atoms: Atoms, *, name: str, where: str) -> dict[str, Any]:
    labels = dict(atoms.calc.results) if atoms.calc is not None else {}
    info = atoms.info
    _check_keys([*info, *atoms.arrays], info, where)
    if info.get("dataset", name) != name:
        tag = info["dataset"]
        raise DatasetError(f"{where}: tagged dataset={tag} in a file named {name}: rename the file")

    numbers, positions = atoms.numbers, atoms.positions
    if numbers.min() < 1 or numbers.max() > MAX_Z:
        raise DatasetError(f"{where}: atomic number {numbers.min() if numbers.min() < 1 else numbers.max()}")
    if not (np.isfinite(positions).all() and np.isfinite(atoms.cell.array).all()):
        raise DatasetError(f"{where}: positions or cell are not finite")
    periodic = atoms.cell.array[atoms.pbc]
    if len(periodic) and np.linalg.matrix_rank(periodic, tol=1e-6) < len(periodic):
        raise DatasetError(f"{where}: periodic directions without independent cell vectors")

    energy = _label(labels, "energy", (), where)
    forces = _label(labels, "forces", (len(atoms), 3), where)
    voigt = _label(labels, "stress", (6,), where)
    if np.isfinite(voigt).all() and not atoms.pbc.all():
        raise DatasetError(f"{where}: a stress needs three periodic directions: remove it or set pbc")
    xx, yy, zz, yz, xz, xy = voigt

    charge, spin = _integer(info, "charge", where), _integer(info, "spin", where)
    if spin < 0 or (spin == 0 and "spin" in info):
        raise DatasetError(f"{where}: spin={spin}; it is the multiplicity 2S+1, at least 1")
    mark = re.sub(r"[\s_-]", "", str(info.get("config_type", ""))).lower()
    isolated = mark == ISOLATED_MARK
    if isolated and (len(atoms) != 1 or np.isnan(energy)):
        raise DatasetError(f"{where}: marked isolated_atom, but has {len(atoms)} atoms and energy {energy}")
    group = next((str(info[key]) for key in GROUP_KEYS if key in info), "")
    return {
        "numbers": numbers.astype(np.int16),
        "positions": positions.astype(np.float64),
        "forces": forces,
        "cells": atoms.cell.array.astype(np.float64),
        "pbc": atoms.pbc.astype(bool),
        "energy": float(energy),
        "stress": np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], np.float64),
        "charge": np.int16(charge),
        "spin": np.int16(spin),
        "isolated": isolated,
        "group": group,
        "hashes": structure_hash(numbers, positions, atoms.cell.array, atoms.pbc),
    }


def _check_keys(keys: Sequence[str], info: dict[str, Any], where: str) -> None:
    found = misfit(keys, info)
    if found is not None:
        raise DatasetError(f"{where}: {found[1]}")


def misfit(keys: Sequence[str], info: dict[str, Any]) -> tuple[str, str] | None:
    """Return what is wrong with the keys of a frame, in a word or two and in a sentence; None if nothing is.

    A key that looks like a label under another name, or a unit that is not eV, Å or eV/Å³, would otherwise drop or
    spoil labels without a word.
    """
    for key in keys:
        if "unit" in key.lower():
            if str(info.get(key, "")).lower() not in KNOWN_UNITS:
                return "unknown units", f"{key}={info.get(key)}; convert to eV, Å and eV/Å³ first"
        elif LABEL_LIKE.search(key) and key not in LABEL_KEYS | HARMLESS_KEYS:
            return "unknown label", f"unknown label {key!r}; labels are called energy, forces and stress"
        elif key.lower() in OTHER_CHARGES and OTHER_CHARGES[key.lower()] not in info:
            meant = OTHER_CHARGES[key.lower()]
            return (
                "unknown label",
                f"unknown label {key!r}; call it {meant!r}: total charge in e, and multiplicity 2S+1",
            )
    return None


def _label(labels: dict[str, Any], key: str, shape: tuple[int, ...], where: str) -> np.ndarray[Any, Any]:
    if labels.get(key) is None:
        return np.full(shape, np.nan)
    try:
        value = np.asarray(labels[key], np.float64)
    except (TypeError, ValueError):
        raise DatasetError(f"{where}: {key} is not a number") from None
    if value.shape != shape:
        raise DatasetError(f"{where}: {key} has shape {value.shape}, expected {shape}")
    if not np.isfinite(value).all():
        raise DatasetError(f"{where}: {key} is not finite")
    return value


def _integer(info: dict[str, Any], key: str, where: str) -> int:
    value = info.get(key, 0)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (number.is_integer() and abs(number) <= 1000):
        raise DatasetError(f"{where}: {key}={value} is not a (small) whole number")
    return int(number)
