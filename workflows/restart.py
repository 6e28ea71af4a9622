"""Restart files of molecular dynamics: everything that decides how a run goes on, to the last bit, without
pickle.

Kept are positions, momenta, cell, the thermostat's and barostat's variables, the state of the random numbers,
the forces of the step before (for the shadow energy), the lengths of the files written so far, and what the
run was asked to do. Not kept is the neighbor list: energies do not depend on its history.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydrapot.potential.errors import ConfigurationError

SCHEMA_VERSION = 1
_KIND = "hydrapot molecular dynamics"
_INTEGRATOR = "integrator."


@dataclass(frozen=True)
class Restart:
    """State after a step.

    Attributes
    ----------
    step
        Steps done.
    numbers, positions, momenta, cell
        ``(N,)``, ``(N, 3)`` Å, ``(N, 3)`` in ASE's units, ``(3, 3)`` Å.
    forces_before
        ``(N, 3)`` eV/Å of the step before; empty at the start.
    integrator
        Thermostat and barostat variables by name.
    random
        State of the random number generator.
    files
        For each file that grows, where it stood.
    record
        Settings, model, degrees of freedom, time used: what the continued run needs or has to agree with.
    """

    step: int
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    momenta: NDArray[np.float64]
    cell: NDArray[np.float64]
    forces_before: NDArray[np.float64]
    integrator: dict[str, NDArray[Any]]
    random: dict[str, Any]
    files: dict[str, Any]
    record: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write to `path`, which ends in ``.npz``."""
        document = {
            "kind": _KIND,
            "schema_version": SCHEMA_VERSION,
            "step": self.step,
            "random": self.random,
            "files": self.files,
            "record": self.record,
        }
        arrays: dict[str, Any] = {
            "document": np.frombuffer(json.dumps(document).encode(), dtype=np.uint8),
            "numbers": self.numbers,
            "positions": self.positions,
            "momenta": self.momenta,
            "cell": self.cell,
            "forces_before": self.forces_before,
            **{_INTEGRATOR + name: value for name, value in self.integrator.items()},
        }
        with path.open("wb") as handle:
            np.savez(handle, **arrays)

    @classmethod
    def read(cls, path: Path) -> "Restart":
        """Read what :meth:`write` wrote.

        Raises
        ------
        ConfigurationError
            A file that is damaged, something else, or of another schema.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            document = json.loads(arrays.pop("document").tobytes())
            kind, version = document["kind"], document["schema_version"]
        except Exception as error:
            raise ConfigurationError(f"{path} is no restart file, or damaged ({type(error).__name__})") from error
        if kind != _KIND or version != SCHEMA_VERSION:
            raise ConfigurationError(
                f"{path} holds {kind} of schema {version}, not {_KIND} of schema {SCHEMA_VERSION}: finish it with the "
                "version of hydrapot that began it"
            )
        return cls(
            step=document["step"],
            random=document["random"],
            files=document["files"],
            record=document["record"],
            integrator={
                name.removeprefix(_INTEGRATOR): arrays.pop(name)
                for name in list(arrays)
                if name.startswith(_INTEGRATOR)
            },
            **arrays,
        )
