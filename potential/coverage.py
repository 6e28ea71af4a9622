"""Which heads of a potential know a structure, and how well: advice for a user who has to choose one.

Nothing here chooses. A head is a level of theory as much as a validity range, and energies of two heads are
never comparable; only the user knows which is meant.
"""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import ArrayLike

from hydrapot.potential.errors import UnknownElementError
from hydrapot.potential.graph import charge_and_spin
from hydrapot.potential.metadata import HeadInfo
from hydrapot.potential.model import Potential

#: Elements in fewer training structures than this are covered, with a warning.
FEW_STRUCTURES = 10

_FORCE_BASELINE = "baseline_force_mae_mev_per_a"
#: Relative force error from which a head deserves a warning.
POOR = 0.5
_FORCE_ERROR = "force_mae_mev_per_a"


@dataclass(frozen=True)
class HeadCoverage:
    """What one head knows of one structure.

    Attributes
    ----------
    head
        Name.
    info
        The head's record: level of theory, metrics, pressure range, whether stress was trained, …
    missing
        Symbols of elements without a single training structure: evaluation raises.
    rare
        Training structures of each element that occurs in fewer than :data:`FEW_STRUCTURES` of them.
    periodic_directions
        Of the structure, 0 to 3.
    periodic_directions_trained
        Numbers of periodic directions in the training data, ascending. Which axes they were does not matter.
    charge_spin_known
        Whether the head accepts charge and spin; if not, evaluation raises.
    determined
        Whether the training data determine the zero of the energy at this composition. Energies relative to
        structures of the same composition, forces and stress do not depend on it.
    """

    head: str
    info: HeadInfo
    missing: tuple[str, ...]
    rare: dict[str, int]
    periodic_directions: int
    periodic_directions_trained: tuple[int, ...]
    charge_spin_known: bool
    determined: bool

    @property
    def covered(self) -> bool:
        """Whether the head evaluates the structure at all: every element, charge and spin are known."""
        return not self.missing and self.charge_spin_known

    @property
    def periodicity_seen(self) -> bool:
        """Whether the training data hold structures with as many periodic directions."""
        return self.periodic_directions in self.periodic_directions_trained

    @property
    def force_error(self) -> float | None:
        """Mean absolute validation error of a force component, meV/Å; None when not recorded."""
        return self.info.metrics.get(_FORCE_ERROR)

    @property
    def relative_force_error(self) -> float | None:
        """`force_error` over that of predicting no forces at all; None when not recorded.

        Heads differ in how large their forces are: a set of relaxed crystals has small errors whatever the model does.
        """
        baseline = self.info.metrics.get(_FORCE_BASELINE)
        return self.force_error / baseline if self.force_error is not None and baseline else None

    @property
    def warnings(self) -> list[str]:
        """One line for each reason to doubt results that the head nevertheless gives."""
        lines = []
        for symbol, count in self.rare.items():
            lines.append(
                f"head {self.head!r} saw {symbol} in only {count} training structure{'s' * (count != 1)}: "
                "check results against first principles"
            )
        if not self.periodicity_seen:
            seen = " or ".join(str(n) for n in self.periodic_directions_trained) or "an unrecorded number of"
            lines.append(
                f"head {self.head!r} was trained on structures with {seen} periodic directions, "
                f"this one has {self.periodic_directions}"
            )
        if self.relative_force_error is not None and self.relative_force_error > POOR:
            lines.append(
                f"head {self.head!r} predicts forces of structures that it has not seen "
                f"{'no' if self.relative_force_error > 0.9 else 'little'} better than a guess of zero "
                f"(validation error {self.relative_force_error:.0%} of the mean force): do not rely on it"
            )
        if not self.determined:
            lines.append(
                f"the data of head {self.head!r} do not fix the zero of the energy at this composition: "
                "compare energies at equal composition only; forces and stress are not affected"
            )
        return lines


def coverage(
    potential: Potential,
    *,
    numbers: ArrayLike,
    pbc: ArrayLike,
    charge: int = 0,
    spin: int | None = None,
) -> list[HeadCoverage]:
    """What every head knows of a structure, the heads that fit best first.

    Heads that evaluate it precede those that do not, then those that saw its periodicity, then those missing
    fewer elements, then those with the lower force error on their own validation data, relative to its forces.

    Parameters
    ----------
    potential
        Any model; nothing is evaluated.
    numbers
        ``(N,)`` atomic numbers.
    pbc
        ``(3,)`` periodic directions.
    charge, spin
        Total charge in e and multiplicity 2S+1, None when not stated.

    Raises
    ------
    UnknownElementError
        A number that is not an atomic number.
    """
    return sorted(
        (
            head_coverage(potential, head=head, numbers=numbers, pbc=pbc, charge=charge, spin=spin)
            for head in potential.heads
        ),
        key=_order,
    )


def coverage_of_atoms(potential: Potential, atoms: Atoms) -> list[HeadCoverage]:
    """:func:`coverage` of an ASE structure, with charge and spin from ``atoms.info``."""
    charge, spin = charge_and_spin(atoms)
    return coverage(potential, numbers=atoms.numbers, pbc=atoms.pbc, charge=charge, spin=spin)


def head_coverage(
    potential: Potential,
    *,
    head: str,
    numbers: ArrayLike,
    pbc: ArrayLike,
    charge: int = 0,
    spin: int | None = None,
) -> HeadCoverage:
    """What `head` knows of a structure; parameters and errors as for :func:`coverage`."""
    info = potential.info.heads[potential.check_head(head)]
    symbols = _symbols(numbers)
    counts = {symbol: info.structures_per_element.get(symbol, 0) for symbol in sorted(set(symbols))}
    directions = sum(bool(p) for p in np.asarray(pbc).reshape(3))
    return HeadCoverage(
        head=head,
        info=info,
        missing=tuple(symbol for symbol, count in counts.items() if count == 0),
        rare={symbol: count for symbol, count in counts.items() if 0 < count < FEW_STRUCTURES},
        periodic_directions=directions,
        periodic_directions_trained=tuple(sorted({entry.count("T") for entry in info.periodicity})),
        charge_spin_known=_charge_spin_known(info, charge=charge, spin=spin, periodic=directions > 0),
        determined=potential.references[head].determined([atomic_numbers[symbol] for symbol in symbols]),
    )


def structure_warnings(potential: Potential, atoms: Atoms, *, head: str) -> list[str]:
    """One line for each reason to doubt what `head` gives for a structure; empty when there is none.

    Elements in few training structures, a periodicity that was not seen, a composition at which the zero of
    the energy is a guess. What the head refuses (:meth:`Potential.check_supported`) is not repeated here.
    """
    charge, spin = charge_and_spin(atoms)
    return head_coverage(potential, head=head, numbers=atoms.numbers, pbc=atoms.pbc, charge=charge, spin=spin).warnings


def _charge_spin_known(info: HeadInfo, *, charge: int, spin: int | None, periodic: bool) -> bool:
    if charge != 0 and periodic:
        return False  # no head has an energy for a charged periodic cell
    return (charge, spin) == (0, None) or (charge, spin) in info.charge_spin


def _order(item: HeadCoverage) -> tuple[bool, bool, int, float, str]:
    error = item.relative_force_error
    return (
        not item.covered,
        not item.periodicity_seen,
        len(item.missing),
        float("inf") if error is None else error,
        item.head,
    )


def _symbols(numbers: ArrayLike) -> list[str]:
    symbols = []
    for z in np.asarray(numbers, dtype=np.int64).ravel().tolist():
        if not 1 <= z < len(chemical_symbols):
            raise UnknownElementError(f"{z} is not an atomic number")
        symbols.append(chemical_symbols[z])
    return symbols
