"""Units of published datasets in those of hydrapot: eV, Å and eV/Å³."""

from hydrapot.potential import constants
from hydrapot.potential.constants import BOHR, HARTREE

KBAR = 1e3 / constants.BAR
"""eV/Å³: 1 kbar is 0.1 GPa."""
BAR = 1.0 / constants.BAR
"""eV/Å³"""

ENERGY_UNITS = {
    "ev": 1.0,
    "mev": 1e-3,
    "hartree": HARTREE,
    "ha": HARTREE,
    "kcal/mol": 4.184 / constants.KJ_PER_MOL,
    "kj/mol": 1.0 / constants.KJ_PER_MOL,
}
"""Names of energy units in metadata, in lower case, and their size in eV."""

LENGTH_UNITS = {"ang": 1.0, "angstrom": 1.0, "å": 1.0, "a": 1.0, "nm": 10.0, "bohr": BOHR}
"""Names of length units in metadata, in lower case, and their size in Å."""


def force_unit(name: str) -> float | None:
    """Size in eV/Å of a force unit such as ``Hartree/Bohr``, or None if it is not known."""
    energy, _, length = name.strip().lower().rpartition("/")
    if energy not in ENERGY_UNITS or length not in LENGTH_UNITS:
        return None
    return ENERGY_UNITS[energy] / LENGTH_UNITS[length]
