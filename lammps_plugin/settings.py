"""What a LAMMPS run evaluates: model, heads, elements of the atom types, precision."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from ase.data import atomic_masses, atomic_numbers, covalent_radii
from numpy.typing import NDArray

from hydrapot.potential.decomposed import check_heads
from hydrapot.potential.errors import ConfigurationError, UnknownElementError
from hydrapot.potential.load import load
from hydrapot.potential.model import Potential

logger = logging.getLogger(__name__)

#: Relative difference between the mass of a type and of its element from which a mapping looks like a mistake;
#: deuterium and other isotopes are legal.
STRANGE_MASS = 0.1


def parse_heads(text: str) -> dict[str, float]:
    """Heads with their weights from ``NAME``, or from a blend ``NAME:WEIGHT,NAME:WEIGHT``.

    Raises
    ------
    ConfigurationError
        A weight that is no number.
    """
    heads: dict[str, float] = {}
    for part in text.split(","):
        name, colon, weight = part.rpartition(":")
        if not colon:
            name, weight = part, "1"
        try:
            heads[name] = heads.get(name, 0.0) + float(weight)
        except ValueError as error:
            raise ConfigurationError(f"head {part!r}: {weight!r} is not a weight; write NAME:0.5,NAME:0.5") from error
    return heads


@dataclass(frozen=True)
class Settings:
    """What ``pair_style hydrapot`` and ``pair_coeff`` say.

    Attributes
    ----------
    model
        Name of a shipped model or path of a checkpoint.
    heads
        Weight of each head.
    elements
        Symbol of each atom type, in the order of the types.
    precision
        Of the network, ``"single"`` or ``"double"``; geometry and sums are double in either case.
    energy
        ``"total"`` adds the reference energies of the isolated atoms, ``"interaction"`` leaves them out.
    charge, spin
        Total charge in e; multiplicity 2S+1, or None when not stated.
    """

    model: str
    heads: dict[str, float]
    elements: tuple[str, ...]
    precision: Literal["single", "double"] = "single"
    energy: Literal["total", "interaction"] = "total"
    charge: int = 0
    spin: int | None = None


class Model:
    """A loaded potential with what belongs to the atom types of a run.

    Attributes
    ----------
    numbers
        ``(types + 1,)`` atomic number of each type; entry 0 is not used.
    references
        ``(types + 1,)`` eV, what an atom of each type adds to the interaction energy; zeros for ``energy interaction``.
    radii
        ``(types + 1,)`` Å, covalent.

    Raises
    ------
    CheckpointError, UnknownHeadError, UnknownElementError, ConfigurationError
    """

    def __init__(self, settings: Settings, potential: Potential | None = None) -> None:
        self.settings = settings
        dtype = {"single": torch.float32, "double": torch.float64}[settings.precision]
        self.potential = load(settings.model, dtype=dtype) if potential is None else potential
        check_heads(self.potential, settings.heads)
        self.numbers = element_numbers(settings.elements)
        self.references = np.zeros(len(self.numbers))
        self.radii = covalent_radii[np.minimum(self.numbers, len(covalent_radii) - 1)]
        for head, weight in settings.heads.items():
            known = self.potential.info.heads[head].structures_per_element
            for symbol in settings.elements:
                if not known.get(symbol, 0):
                    raise UnknownElementError(f"head {head!r} was not trained on element {symbol}")
            if settings.energy == "total":
                self.references[1:] += weight * self.potential.references[head].values[self.numbers[1:]]

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.potential.cutoff

    def announce(self) -> None:
        """Log which levels of theory the numbers will have."""
        for head, weight in self.settings.heads.items():
            share = "" if weight == 1.0 else f", weight {weight:g}"
            logger.info("head %r%s: %s", head, share, self.potential.info.heads[head].level_of_theory)

    def check_masses(self, masses: NDArray[np.float64]) -> None:
        """Warn where the mass of a type (``(types + 1,)`` amu) is not that of its element."""
        for kind, (number, mass) in enumerate(zip(self.numbers[1:], masses[1:], strict=True), start=1):
            usual = float(atomic_masses[number])
            if abs(mass - usual) > STRANGE_MASS * usual:
                logger.warning(
                    "atom type %d has a mass of %.4g, but its element is %s (%.4g): is the order of elements right?",
                    kind,
                    mass,
                    self.settings.elements[kind - 1],
                    usual,
                )


def element_numbers(elements: Sequence[str]) -> NDArray[np.int64]:
    """``(types + 1,)`` atomic numbers of the types 1, 2, …

    Raises
    ------
    UnknownElementError
    """
    numbers = np.zeros(len(elements) + 1, dtype=np.int64)
    for kind, symbol in enumerate(elements, start=1):
        numbers[kind] = atomic_numbers.get(symbol, 0)
        if numbers[kind] < 1:
            raise UnknownElementError(f"atom type {kind}: {symbol!r} is not the symbol of an element")
    return numbers
