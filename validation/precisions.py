"""A head in other precisions than float64."""

from typing import TYPE_CHECKING

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential.errors import ConfigurationError

if TYPE_CHECKING:
    from hydrapot.potential.model import Potential

#: Best first. ``-compiled``: the network through torch.compile.
PRECISIONS = ("f64", "f32", "f32-compiled")


def precision_calculator(potential: "Potential", *, head: str, precision: str) -> HydrapotCalculator:
    """A new calculator for a head, in one of :data:`PRECISIONS`.

    Raises
    ------
    ConfigurationError
        An unknown precision.
    """
    if precision == "f64":
        return HydrapotCalculator(potential, head=head, dtype="float64")
    if precision == "f32":
        return HydrapotCalculator(potential, head=head, dtype="float32")
    if precision == "f32-compiled":
        return HydrapotCalculator(potential, head=head, dtype="float32", compile=True)
    raise ConfigurationError(f"precision {precision!r} is not known: choose from {', '.join(PRECISIONS)}")
