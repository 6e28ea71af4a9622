"""What a guarded calculator says to a structure, and the metric where it says nothing."""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from hydrapot.validation.guarded import PotentialFailure, failed
from hydrapot.validation.metrics import Metric, skipped


def energy(calculator: Any, atoms: Atoms) -> float:
    """Energy, eV."""
    return float(calculator.get_property("energy", atoms))


def forces(calculator: Any, atoms: Atoms) -> NDArray[np.float64]:
    """Forces ``(N, 3)``, eV/Å."""
    return np.asarray(calculator.get_property("forces", atoms), dtype=np.float64)


def refusal(calculator: Any, atoms: Atoms, name: str, subject: str, *, unit: str) -> Metric | None:
    """The metric `name` of a structure for which there are no forces; None where there are.

    A failure of the potential fails, a potential without forces and a charged cell do not apply.
    """
    if atoms.info.get("charge"):
        return skipped(name, subject, "a charged cell", unit=unit)
    try:
        forces(calculator, atoms)
    except PotentialFailure as error:
        return failed(name, subject, error, unit=unit)
    except PropertyNotImplementedError:
        return skipped(name, subject, "the potential has no forces", unit=unit)
    return None
