"""The one interface that checks see: structure → interaction energy, forces, strain gradient, in float64.

A check knows no model. It takes an evaluator: one for a head of a
:class:`~hydrapot.potential.model.Potential`, one for any ASE calculator, or a wrapper that a test made wrong
on purpose.
"""

import contextlib
import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.data import atomic_numbers
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from hydrapot.potential.evaluate import Prediction, evaluate
from hydrapot.potential.graph import build_graph, collate
from hydrapot.potential.model import Potential

logger = logging.getLogger(__name__)

#: Atoms evaluated at once; larger batches are slower on a CPU, whose caches they leave.
_BATCH_ATOMS = 256


@dataclass(frozen=True)
class Evaluation:
    """Results for one structure of N atoms.

    Attributes
    ----------
    energy
        eV, relative to isolated atoms. Total energies of 1e6 eV would hide errors of 1e-10 eV in rounding.
    forces
        ``(N, 3)`` eV/Å.
    strain_gradient
        ``(3, 3)`` eV: ∂E/∂ε as reported, that is stress · volume; None where there is none.
    raw_strain_gradient
        The same before anything symmetrized it; None where it is not known.
    """

    energy: float
    forces: NDArray[np.float64]
    strain_gradient: NDArray[np.float64] | None
    raw_strain_gradient: NDArray[np.float64] | None = None


class Evaluator(Protocol):
    """Callable on structures; charge and spin come in ``atoms.info``."""

    @property
    def cutoff(self) -> float:
        """Distance (Å) beyond which a pair does not interact directly."""

    @property
    def receptive_field(self) -> float:
        """Distance (Å) from which the energy of an atom can depend on another one."""

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that it knows, ascending."""

    def __call__(self, atoms: Atoms) -> Evaluation:
        """Evaluate one structure."""

    def many(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        """Evaluate several structures."""


class PotentialEvaluator:
    """A head of a potential, in float64 whatever the precision of the potential.

    Parameters
    ----------
    potential
        The model; it is copied unless it is float64 already.
    head
        Name of the head; may be None only if there is one.

    Raises
    ------
    UnknownHeadError
    """

    def __init__(self, potential: Potential, *, head: str | None = None) -> None:
        self.head = potential.check_head(head)
        double = all(p.is_floating_point() and p.element_size() == 8 for p in potential.parameters())
        self.potential = potential if double else copy.deepcopy(potential).double()

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.potential.cutoff

    @property
    def receptive_field(self) -> float:
        """Å: one cutoff per layer."""
        return self.potential.cutoff * self.potential.config.encoder.layers

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the head was trained on."""
        counts = self.potential.info.heads[self.head].structures_per_element
        return tuple(sorted(atomic_numbers[symbol] for symbol, count in counts.items() if count > 0))

    def predict(self, structures: Sequence[Atoms]) -> Prediction:
        """All structures in one batch."""
        graphs = [build_graph(atoms, cutoff=self.cutoff) for atoms in structures]
        return evaluate(self.potential, collate(graphs, cutoff=self.cutoff), head=self.head)

    def __call__(self, atoms: Atoms) -> Evaluation:
        """Evaluate one structure by itself."""
        return self._batch([atoms])[0]

    def many(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        """Evaluate in batches."""
        results: list[Evaluation] = []
        batch: list[Atoms] = []
        for atoms in structures:
            if batch and sum(map(len, batch)) + len(atoms) > _BATCH_ATOMS:
                results += self._batch(batch)
                batch = []
            batch.append(atoms)
        return results + (self._batch(batch) if batch else [])

    def _batch(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        prediction = self.predict(structures)
        energy = prediction.interaction_energy.tolist()
        forces, virials, virial = (t.numpy() for t in (prediction.forces, prediction.virials, prediction.virial))
        bounds = np.cumsum([0, *map(len, structures)]).tolist()
        return [
            Evaluation(energy[k], forces[first:last], -virial[k], -virials[first:last].sum(axis=0))
            for k, (first, last) in enumerate(pairwise(bounds))
        ]


class CalculatorEvaluator:
    """Any ASE calculator.

    Energies of isolated atoms, which it is asked for, are subtracted, unless its results hold an
    ``interaction_energy`` as those of hydrapot do. Of a calculator that refuses isolated atoms, energies are
    left as reported.

    Parameters
    ----------
    calculator
        The calculator.
    cutoff, receptive_field
        Å; see :class:`Evaluator`. The receptive field is that of a pair potential when absent.
    elements
        Atomic numbers that it knows.
    """

    def __init__(
        self,
        calculator: Calculator,
        *,
        cutoff: float,
        elements: Sequence[int],
        receptive_field: float | None = None,
    ) -> None:
        self.calculator = calculator
        self.cutoff = cutoff
        self.receptive_field = cutoff if receptive_field is None else receptive_field
        self.elements = tuple(sorted(elements))
        self._alone: dict[int, float] = {}

    def __call__(self, atoms: Atoms) -> Evaluation:
        """Evaluate one structure."""
        atoms = atoms.copy()
        atoms.calc = self.calculator
        energy = float(atoms.get_potential_energy())
        forces = np.array(atoms.get_forces(), dtype=np.float64)
        interaction = self.calculator.results.get("interaction_energy")
        if interaction is None:
            interaction = energy - sum(self._isolated(int(z)) for z in atoms.numbers)
        strain_gradient = None
        if atoms.pbc.all():
            with contextlib.suppress(PropertyNotImplementedError):  # a calculator without stress has energy and forces
                strain_gradient = voigt_6_to_full_3x3_stress(atoms.get_stress()) * atoms.get_volume()
        return Evaluation(float(interaction), forces, strain_gradient)

    def many(self, structures: Sequence[Atoms]) -> list[Evaluation]:
        """Evaluate one after the other."""
        return [self(atoms) for atoms in structures]

    def _isolated(self, number: int) -> float:
        if number not in self._alone:
            atom = Atoms([number], positions=np.zeros((1, 3)))
            atom.calc = self.calculator
            try:
                energy = float(atom.get_potential_energy())
            except Exception as error:  # noqa: BLE001 - calculators raise what they like
                logger.info("no energy of an isolated %s atom (%s): energies as reported", atom.symbols[0], error)
                energy = np.nan
            self._alone[number] = energy if np.isfinite(energy) else 0.0
        return self._alone[number]
