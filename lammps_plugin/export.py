"""Files that LAMMPS' ML-IAP loads: one call of our own loader, with a whole checkpoint as its argument.

LAMMPS unpickles what it loads, so this is the one place of the package that writes a pickle. It holds no model: unpickling
calls :func:`hydrapot.lammps_plugin.mliap.load_exported` with two arguments, a JSON document and the bytes of a safetensors
checkpoint, and all reading is done there, as strictly as for any checkpoint. Nothing here reads a pickle. (A test of the
rooms allows `torch.save` in this module alone.)
"""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hydrapot.lammps_plugin.mliap import load_exported
from hydrapot.lammps_plugin.settings import Model, Settings
from hydrapot.potential import checkpoint
from hydrapot.potential.container import write_atomically
from hydrapot.potential.errors import CheckpointError, ConfigurationError
from hydrapot.potential.model import Potential

_KIND = "hydrapot ML-IAP"
SCHEMA_VERSION = 1
_SUFFIXES = (".pt", ".pth")


class _Stub:
    """Pickled as a call of :func:`load_exported`."""

    def __init__(self, document: str, data: bytes) -> None:
        self.arguments = document, data

    def __reduce__(self) -> tuple[Any, tuple[str, bytes]]:
        return load_exported, self.arguments


def export_mliap(path: Path, settings: Settings, potential: Potential) -> None:
    """Write the file of ``pair_style mliap unified``.

    Parameters
    ----------
    path
        Ends in ``.pt``, by which LAMMPS chooses how to load it.
    settings
        What is evaluated; ``elements`` are those that ``pair_coeff`` may name.
    potential
        In the precision it is to be stored in.

    Raises
    ------
    ConfigurationError, UnknownHeadError, UnknownElementError, CheckpointError
        Before anything is written.
    """
    if path.suffix not in _SUFFIXES:
        raise ConfigurationError(f"{path}: LAMMPS recognizes the file by its name: let it end in .mliap.pt")
    Model(settings, potential)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.safetensors"
        checkpoint.save(potential, place)
        data = place.read_bytes()
        document = {"kind": _KIND, "schema_version": SCHEMA_VERSION, "settings": asdict(settings)}
        exported = Path(folder) / "model.pt"
        torch.save(_Stub(json.dumps(document), data), exported)
        try:
            write_atomically(path, exported.read_bytes())
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_exported(document: str, data: bytes) -> tuple[Settings, Potential]:
    """Settings and potential, ready for evaluation, from the two arguments in the file.

    Raises
    ------
    CheckpointError, ConfigurationError
    """
    content = json.loads(document)
    if content.get("kind") != _KIND or content.get("schema_version") != SCHEMA_VERSION:
        raise ConfigurationError("the exported file is of another version of hydrapot: export the model again")
    settings = Settings(**{**content["settings"], "elements": tuple(content["settings"]["elements"])})
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.safetensors"
        place.write_bytes(data)
        potential = checkpoint.read(place)
    dtype = {"single": torch.float32, "double": torch.float64}[settings.precision]
    return settings, potential.to(dtype).eval().requires_grad_(requires_grad=False)
