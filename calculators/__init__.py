"""Adapters of the potential to simulation engines: units and shapes, no physics.

Names are loaded at their first use: openmm-ml imports a module of this package at its start, and must not wait for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrapot.calculators.ase import HydrapotCalculator

__all__ = ["HydrapotCalculator"]


def __getattr__(name: str) -> Any:
    if name == "HydrapotCalculator":
        from hydrapot.calculators.ase import HydrapotCalculator

        return HydrapotCalculator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
