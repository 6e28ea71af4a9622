"""A calculator that says clearly when a potential has no usable answer.

Suites go through optimizers, phonopy and matscipy, which would carry a NaN on or die of an exception that looks like a
defect of ours. Behind :func:`guarded` every way to fail is one exception, which suites turn into a metric that fails.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from hydrapot.validation.metrics import Metric

#: eV/Å and eV/Å³; nothing near a minimum, and no crystal compressed by a few percent, comes near them.
_ABSURD = {"forces": 1e4, "stress": 1e2}


class PotentialFailure(Exception):  # noqa: N818 - it is the potential that fails, not the program
    """The potential raised, or returned something that is not a finite number of a possible size."""


class GuardedCalculator(Calculator):
    """Delegates to a calculator and raises :class:`PotentialFailure` in place of anything that cannot be used.

    A property that the calculator does not implement stays a ``PropertyNotImplementedError``: that is no failure.
    """

    def __init__(self, calculator: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calculator = calculator
        self.implemented_properties = list(calculator.implemented_properties)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate, called by ASE."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        for name in properties:
            self.results[name] = self._property(name)

    def ask(self, name: str, atoms: Atoms) -> Any:
        """A property of a structure that need not carry this calculator."""
        return self.get_property(name, atoms)  # type: ignore[no-untyped-call]

    def _property(self, name: str) -> Any:
        # Only exceptions of the potential are caught here; whatever it raises is its answer to a legal structure.
        # A warning, e.g. that a head has not seen such structures, is no failure.
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                value = self.calculator.get_property(name, self.atoms)
        except PropertyNotImplementedError:
            raise
        except Exception as error:
            raise PotentialFailure(f"{type(error).__name__} for the {name}: {_line(error)}") from error
        if value is None or not np.all(np.isfinite(value)):
            raise PotentialFailure(f"{name} not finite")
        if np.abs(value).max() > _ABSURD.get(name, np.inf):
            raise PotentialFailure(f"{name} up to {np.abs(value).max():.1e}")
        return value


def guarded(calculator: Any) -> GuardedCalculator:
    """`calculator`, with every way to fail turned into :class:`PotentialFailure`."""
    return GuardedCalculator(calculator)


def failed(name: str, subject: str, error: Exception, *, unit: str = "") -> Metric:
    """The metric of a quantity that a potential could not deliver: it fails and says why."""
    return Metric(name, subject, float("nan"), unit, upper=0.0, detail=f"the potential failed: {_line(error)}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
