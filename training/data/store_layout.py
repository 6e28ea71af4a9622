"""What a dataset store consists of: attributes, chunks, journals of shards, and the index that makes it one dataset.

A store is a folder ``NAME.store``::

    index.json                  the whole store; written last, atomically. Without it there is no dataset.
    shard-00000.json            journal of shard 0: the chunks that are committed, and how far the import has got
    shard-00000/all-000000.bp   chunk: an ADIOS2 BP5 file of structures of one split

A chunk holds the concatenated arrays ``numbers (atoms,)`` int16, ``positions`` and ``forces (atoms, 3)`` float32 or
float64, ``structures (n, 25)`` float64 (columns: `TABLE`), ``offsets (n + 1,)`` int64, and the names of the groups that
occur in it. Edges are not stored: they follow from the positions and whatever cutoff the model has.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hydrapot.potential.metadata import LevelOfTheory
from hydrapot.training.data.frames import DatasetError

FORMAT = "hydrapot store"
VERSION = 1
SUFFIX = ".store"
INDEX = "index.json"

Precision = Literal["float32", "float64"]
DTYPES: dict[str, Any] = {"float32": np.float32, "float64": np.float64}

#: Columns of ``structures``. All of them are exact in float64: integers below 2⁵³, the hash as two halves of 32 bits.
TABLE = (
    "energy",
    *(f"cell_{row}{column}" for row in "abc" for column in "xyz"),
    *(f"stress_{row}{column}" for row in "xyz" for column in "xyz"),
    *("charge", "spin", "flags", "group", "hash_high", "hash_low"),
)
UNITS = {"energy": "eV", "length": "Å", "force": "eV/Å", "stress": "eV/Å³"}


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceFile(_Document):
    """A file that structures came from."""

    name: str = Field(description="File name, or path relative to the root of the source.")
    sha256: str = Field(description="SHA-256 of its bytes, hexadecimal.")


class StoreUnits(_Document):
    """Units of everything in a store; there is no choice, so that no reader has to convert."""

    energy: Literal["eV"] = "eV"
    length: Literal["Å"] = "Å"
    force: Literal["eV/Å"] = "eV/Å"
    stress: Literal["eV/Å³"] = "eV/Å³"


class StoreAttributes(_Document):
    """What has to be known about a dataset besides its numbers."""

    level_of_theory: LevelOfTheory = Field(description="How the labels were computed.")
    licence: str = Field(min_length=1, description="Licence of the data.")
    attribution: str = Field(description="Where the data come from: repository and paper.")
    references: Literal["isolated", "zero", "fit"] = Field(
        default="fit", description="Reference energies: from structures marked as isolated atoms, zero, or a fit."
    )
    provenance: tuple[SourceFile, ...] = Field(default=(), description="The files that the structures came from.")
    units: StoreUnits = StoreUnits()
    note: str = Field(default="", description="Anything else: conversions made, structures left out.")


class SplitInfo(_Document):
    """Size of one split."""

    structures: int
    atoms: int
    energies: int = Field(description="structures with an energy")
    forces: int = Field(description="structures with forces")
    stresses: int = Field(description="structures with a stress")

    def __add__(self, other: "SplitInfo") -> "SplitInfo":
        return SplitInfo(**{key: getattr(self, key) + getattr(other, key) for key in SplitInfo.model_fields})


class Chunk(_Document):
    """One ADIOS2 file: structures of one split."""

    file: str = Field(description="relative to the store")
    split: str
    info: SplitInfo
    sizes: dict[str, int] = Field(description="bytes of each file within")
    metadata: dict[str, str] = Field(description="SHA-256 of the files that ADIOS2 reads before any column")
    columns: dict[str, str] = Field(description="SHA-256 of the bytes of each column")


class ShardJournal(_Document):
    """What one writer has committed; replaced atomically at each commit."""

    format: Literal["hydrapot store"] = "hydrapot store"
    version: Literal[1] = 1
    name: str
    precision: Precision
    shard: int
    shards: int
    complete: bool = False
    cursor: dict[str, Any] | None = Field(
        default=None, description="how far the source had been read at this commit; the importer's own words"
    )
    attributes: StoreAttributes
    chunks: tuple[Chunk, ...] = ()
    checksum: str = ""


class StoreIndex(_Document):
    """The dataset: which chunks belong to it, in order."""

    format: Literal["hydrapot store"] = "hydrapot store"
    version: Literal[1] = 1
    name: str
    precision: Precision
    hydrapot: str = Field(description="version that wrote it")
    attributes: StoreAttributes
    content: str = Field(description="SHA-256 over the columns of all chunks in order: names exactly these numbers")
    splits: dict[str, SplitInfo]
    chunks: tuple[Chunk, ...]
    checksum: str = ""


Document = TypeVar("Document", ShardJournal, StoreIndex)


def to_json(document: ShardJournal | StoreIndex) -> bytes:
    """Text of a document, with its checksum."""
    plain = document.model_dump(mode="json")
    plain["checksum"] = _checksum(plain)
    return (json.dumps(plain, indent=1, ensure_ascii=False) + "\n").encode()


def read_json(path: Path, kind: type[Document]) -> Document:
    """Read a document that `to_json` wrote.

    Raises
    ------
    FileNotFoundError
        There is none.
    DatasetError
        Altered, of another version, or in other units. The message names the file and what is wrong.
    """
    try:
        plain = json.loads(path.read_bytes())
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            raise ValueError("no document of a store")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # not JSON, not UTF-8
        raise DatasetError(f"{path}: damaged ({error}): import the dataset again") from error
    if plain.get("version") != VERSION:
        raise DatasetError(
            f"{path}: store version {plain.get('version')}, this hydrapot reads version {VERSION}:"
            " import the dataset again, or use the hydrapot that wrote it"
        )
    for quantity, unit in UNITS.items():
        found = plain.get("attributes", {}).get("units", {}).get(quantity)
        if found != unit:
            raise DatasetError(f"{path}: {quantity} in {found}, expected {unit}: import the dataset again")
    if _checksum(plain) != plain.get("checksum"):
        raise DatasetError(f"{path}: altered since it was written (checksum differs): import the dataset again")
    try:
        return kind.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DatasetError(f"{path}: {where}: {first['msg']}: import the dataset again") from error


def _checksum(plain: Mapping[str, Any]) -> str:
    bare = {key: value for key, value in plain.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def journal_path(store: Path, shard: int) -> Path:
    """Journal of one shard."""
    return store / f"shard-{shard:05d}.json"


def shard_folder(store: Path, shard: int) -> Path:
    """Folder of the chunks of one shard."""
    return store / f"shard-{shard:05d}"
