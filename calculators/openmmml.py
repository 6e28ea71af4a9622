"""The entry point of openmm-ml: ``MLPotential("hydrapot-s")``.

openmm-ml loads the entry points of every installed package when it is imported, so an exception here would break it for all
others. This module imports nothing.
"""

from typing import Any


class HydrapotFactory:
    """Makes what openmm-ml asks for; stands for its ``MLPotentialImplFactory``."""

    def createImpl(self, name: str, **arguments: Any) -> Any:  # noqa: N802 - as openmm-ml calls it
        """The potential `name`, see :class:`~hydrapot.calculators.openmm_mixed.HydrapotImplementation`."""
        from hydrapot.calculators.openmm_mixed import HydrapotImplementation

        return HydrapotImplementation(name, **arguments)
