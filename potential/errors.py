"""Errors that a user can cause: one line each, naming the thing and the way out."""


class HydrapotError(Exception):
    """Base of every error that hydrapot raises on purpose; the command line prints it as one line."""


class InvalidStructureError(HydrapotError, ValueError):
    """A structure that no energy can be computed for: NaN positions, coincident atoms, a cell without volume."""


class UnknownElementError(HydrapotError, ValueError):
    """An element that the chosen head was not trained on."""


class UnknownHeadError(HydrapotError, ValueError):
    """A head that the model does not have, or no head named although the model has several."""


class UnsupportedChargeError(HydrapotError, ValueError):
    """A (charge, spin) that the chosen head was not trained on, or a charged periodic cell."""


class CheckpointError(HydrapotError, ValueError):
    """A checkpoint that cannot be read: missing, truncated, of another schema, altered."""


class ConfigurationError(HydrapotError, ValueError):
    """A configuration whose values contradict each other or the data."""


class SimulationError(HydrapotError, RuntimeError):
    """A run that had to stop: temperature or distance out of bounds, energy not finite, no convergence."""
