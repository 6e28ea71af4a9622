"""What OpenMM calls for energy and forces, and how it is stored: a few lines of text in place of a model.

OpenMM pickles the function of a ``PythonForce``: in its XML, and whenever it clones a force. Unpickling happens inside its
C++, where an exception ends the process (a segmentation fault in OpenMM 8.6). A stored function is therefore nothing but a
:class:`Record`, and restoring it loads nothing, checks nothing and needs neither torch nor this package: what is wrong is
said at the first evaluation, where an exception is an exception. This module imports the standard library only.
"""

import ast
import json
import logging
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrapot.calculators.openmm_evaluator import Evaluator

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_RESTORE = "hydrapot.calculators.openmm_callback.restore"
#: Evaluated where a stored function is restored. Everything in it comes with Python: `pydoc.locate` gives None for a module
#: that is not there.
_EXPRESSION = (
    "(lambda found, record: found(record) if found else lambda state: __import__('hydrapot.calculators.openmm_callback'))"
    "(__import__('pydoc').locate({restore!r}), {record!r})"
)
#: The record in a stored function, as Python writes a string.
_STORED = re.compile(rb"\.restore'\), ('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")\)")


@dataclass(frozen=True)
class Record:
    """Everything that an evaluation depends on.

    Attributes
    ----------
    model
        Name of a shipped model or absolute path of a checkpoint.
    content_hash
        Of the checkpoint; another one is refused.
    head, charge, spin
        See :class:`~hydrapot.calculators.openmm.HydrapotForce`.
    numbers
        Atomic numbers in the order of the force's particles.
    periodic
        In all three directions; OpenMM knows no other periodicity.
    total
        Whether reference energies are included.
    scale
        Name of the global parameter that multiplies energy and forces; None for none.
    dtype, device, backend, skin, threads
        As for :class:`~hydrapot.calculators.HydrapotCalculator`.
    """

    model: str
    content_hash: str
    head: str
    numbers: tuple[int, ...]
    charge: int
    spin: int | None
    periodic: bool
    total: bool
    scale: str | None
    dtype: str
    device: str
    backend: str
    skin: float
    threads: int | None

    def text(self) -> str:
        """As JSON."""
        return json.dumps({"kind": "hydrapot force", "schema_version": SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def parse(cls, text: str) -> "Record":
        """From :meth:`text`.

        Raises
        ------
        ValueError
            Something else, or of another schema.
        """
        document = json.loads(text)
        kind, version = document.pop("kind"), document.pop("schema_version")
        if kind != "hydrapot force" or version != SCHEMA_VERSION:
            raise ValueError(
                f"{kind} of schema {version}, not a hydrapot force of schema {SCHEMA_VERSION}: use the version of hydrapot "
                "that stored it"
            )
        return cls(**{**document, "numbers": tuple(document["numbers"])})


def stored_record(function: bytes) -> Record | None:
    """The record in a stored function, read without unpickling; None if it is not one of ours.

    Raises
    ------
    ValueError
        A record of another schema.
    """
    found = _STORED.search(function)
    return None if found is None else Record.parse(ast.literal_eval(found.group(1).decode()))


class Callback:
    """The function of a ``PythonForce``; loads its model at the first call unless it is given one.

    Parameters
    ----------
    record
        See :class:`Record`, as text.
    evaluator
        What computes.

    Attributes
    ----------
    failure
        The latest exception. OpenMM keeps its text only.
    """

    def __init__(self, record: str, evaluator: "Evaluator | None" = None) -> None:
        self.record = record
        self.failure: Exception | None = None
        self._evaluator = evaluator

    def __call__(self, state: Any) -> tuple[float, Any]:
        """Energy (kJ/mol) and forces ``(N, 3)`` (kJ/mol/nm) of a State of OpenMM.

        Raises
        ------
        RuntimeError
            With the name of the original exception, which `failure` keeps and the log shows.
        """
        try:
            return self._compute(state)
        except Exception as error:
            self.failure = error
            name = type(error).__name__
            logger.exception("evaluation for OpenMM failed (%s)", name)
            raise RuntimeError(f"{name}: {error}") from error

    @property
    def evaluator(self) -> "Evaluator":
        """What computes; made when first asked for.

        Raises
        ------
        HydrapotError
            The model cannot be loaded, or is not the one that was recorded.
        """
        if self._evaluator is None:
            from hydrapot.calculators.openmm_evaluator import Evaluator

            self._evaluator = Evaluator(Record.parse(self.record))
        return self._evaluator

    def _compute(self, state: Any) -> tuple[float, Any]:
        evaluator = self.evaluator
        scale = 1.0 if evaluator.record.scale is None else float(state.getParameters()[evaluator.record.scale])
        # Without `value_in_unit`, which takes twice as long: OpenMM's State is in nm.
        positions = state.getPositions(asNumpy=True)._value  # noqa: SLF001
        box = state.getPeriodicBoxVectors(asNumpy=True)._value if evaluator.record.periodic else None  # noqa: SLF001
        energy, forces = evaluator(positions, box, scale=scale)
        if not (type(energy) is float and math.isfinite(energy)):
            # OpenMM takes what is no float for −1 and NaN for an energy.
            from hydrapot.potential.errors import SimulationError

            raise SimulationError(f"the energy is {energy!r}: not a finite number")
        return energy, forces

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (_EXPRESSION.format(restore=_RESTORE, record=self.record),)


def restore(record: str) -> Callback:
    """A function that was stored; called by OpenMM's copy of it. Never raises."""
    return Callback(record)


def absolute(model: str | Path) -> str:
    """A model's name as it is, a checkpoint's path from the root."""
    return str(Path(model).expanduser().absolute()) if Path(model).suffix else str(model)
