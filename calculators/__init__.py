"""Adapters of the potential to simulation engines: units and shapes, no physics."""

from hydrapot.calculators.ase import HydrapotCalculator

__all__ = ["HydrapotCalculator"]
