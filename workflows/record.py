"""What every workflow writes into its summary: versions, model, head, level of theory, system, notices."""

import logging
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from ase import Atoms

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential.coverage import structure_warnings
from hydrapot.potential.graph import charge_and_spin

logger = logging.getLogger(__name__)


def versions() -> dict[str, str]:
    """Of everything that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("hydrapot", "torch", "ase", "numpy", "scipy", "vesin"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # pragma: no cover - run from a bare checkout
            found[package] = "not installed"
    return found


def model_record(atoms: Atoms) -> dict[str, Any]:
    """Which model and head made the numbers, and at which level of theory."""
    calculator = atoms.calc
    if not isinstance(calculator, HydrapotCalculator):
        return {"calculator": type(calculator).__name__}
    return calculator_record(calculator)


def calculator_record(calculator: HydrapotCalculator) -> dict[str, Any]:
    """The same of a calculator."""
    info = calculator.head_info
    return {
        "calculator": "hydrapot",
        "content_hash": calculator.potential.info.content_hash,
        "head": calculator.head,
        "level_of_theory": info.level_of_theory.model_dump(),
        "dtype": calculator.dtype,
        "device": str(calculator.device),
        "threads": calculator.threads or torch.get_num_threads(),
    }


def system_record(atoms: Atoms) -> dict[str, Any]:
    """What was simulated."""
    charge, spin = charge_and_spin(atoms)
    return {
        "formula": atoms.get_chemical_formula(),
        "atoms": len(atoms),
        "pbc": atoms.pbc.tolist(),
        "charge": charge,
        "spin": spin,
    }


def announce(atoms: Atoms, *, needs_stress: bool) -> list[str]:
    """Log what a user has to know before reading the numbers, and return it for the summary.

    Always the head and its level of theory; a warning if the run uses stress although the head was trained
    without. What the head has seen little of (elements, periodicity) the calculator warns of by itself; it is
    returned too.

    Raises
    ------
    UnknownElementError, UnsupportedChargeError
        Charge or spin in ``atoms.info`` that are no whole numbers, or an atomic number without an element.
    """
    calculator = atoms.calc
    if not isinstance(calculator, HydrapotCalculator):
        return []
    info = calculator.head_info
    lines = [f"head {calculator.head!r}: {info.level_of_theory}"]
    logger.info(lines[0])
    if needs_stress and not info.stress_trained:
        lines.append(
            f"head {calculator.head!r} was trained without stress: cell, volume and pressure are extrapolated "
            "from forces; check them against first principles"
        )
        logger.warning(lines[-1])
    elif needs_stress and info.pressure_range is not None:
        low, high = info.pressure_range
        lines.append(f"head {calculator.head!r} was trained on pressures from {low:.3g} to {high:.3g} GPa")
        logger.info(lines[-1])
    return [*lines, *structure_warnings(calculator.potential, atoms, head=calculator.head)]
