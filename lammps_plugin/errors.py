"""Errors of a run that several processes share."""

from hydrapot.potential.errors import SimulationError


class SharedError(SimulationError):
    """Raised by all processes at the same time, so that they can stop in order; any other error ends them at once."""
