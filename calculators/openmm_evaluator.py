"""Energies and forces in OpenMM's units by the ASE calculator, whose neighbor list, engines and checks these are."""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hydrapot.calculators.ase import HydrapotCalculator
from hydrapot.calculators.openmm_callback import Record
from hydrapot.calculators.support import check_composition
from hydrapot.potential.constants import KJ_PER_MOL
from hydrapot.potential.errors import CheckpointError, InvalidStructureError, SimulationError

_ANGSTROM = 10.0  # per nm
_FORCE = KJ_PER_MOL * _ANGSTROM  # kJ/mol/nm in eV/Å


class Evaluator:
    """One head of a potential for the particles of a force.

    Parameters
    ----------
    record
        Model, head, elements and how to evaluate.
    calculator
        Of the record's model and head; None makes it.

    Attributes
    ----------
    calculator
        What evaluates.
    atoms
        The structure of the latest evaluation, Å.

    Raises
    ------
    CheckpointError
        The checkpoint is not there, or is not the one that was recorded.
    UnknownHeadError, UnknownElementError, UnsupportedChargeError, ConfigurationError, InvalidStructureError
    """

    def __init__(self, record: Record, calculator: HydrapotCalculator | None = None) -> None:
        self.record = record
        self.calculator = calculator or HydrapotCalculator(
            record.model,
            head=record.head,
            device=record.device,
            dtype=record.dtype,  # type: ignore[arg-type]  # checked there
            backend=record.backend,  # type: ignore[arg-type]
            skin=record.skin,
            threads=record.threads,
        )
        check_same_model(record, self.calculator.potential.info.content_hash)
        self._known = False  # whether the calculator's results are those of `atoms`
        #: Evaluations so far; asking again for the same positions is none.
        self.evaluations = 0
        self.atoms = Atoms(record.numbers, np.zeros((len(record.numbers), 3)), pbc=record.periodic)
        if record.charge:
            self.atoms.info["charge"] = record.charge
        if record.spin is not None:
            self.atoms.info["spin"] = record.spin
        check_composition(
            self.calculator.potential,
            record.numbers,
            head=record.head,
            pbc=self.atoms.pbc,
            charge=record.charge,
            spin=record.spin,
        )
        # Now rather than inside OpenMM, where nobody can act on it.
        self.calculator._warn(self.atoms)  # noqa: SLF001 - of this room

    @property
    def reference_energy(self) -> float:
        """eV; what `total` adds to the interaction energy."""
        return float(self.calculator.potential.references[self.record.head].values[self.atoms.numbers].sum())

    def __call__(
        self, positions: NDArray[np.float64], box: NDArray[np.float64] | None, *, scale: float = 1.0
    ) -> tuple[float, NDArray[np.float64]]:
        """Energy (kJ/mol) and forces ``(N, 3)`` (kJ/mol/nm), both times `scale`; nothing is evaluated at a scale of 0.

        Parameters
        ----------
        positions, box
            ``(N, 3)`` and ``(3, 3)`` nm; None for a structure that is not periodic.

        Raises
        ------
        InvalidStructureError
            Coincident atoms, positions that are not finite, or another number of them.
        SimulationError
            The result is not finite.
        """
        if positions.shape != (len(self.atoms), 3):
            raise InvalidStructureError(
                f"the force is for {len(self.atoms)} particles and was given {len(positions)}: make it anew for this system"
            )
        if scale == 0.0:
            return 0.0, np.zeros_like(positions)
        self._evaluate(positions * _ANGSTROM, None if box is None else box * _ANGSTROM)
        results = self.calculator.results
        energy = results["energy"] if self.record.total else results["interaction_energy"]
        forces = results["forces"] * (_FORCE * scale)
        if not np.isfinite(forces).all():
            raise SimulationError("a force is not finite: two atoms are very close, or the weights are damaged")
        return float(energy * (KJ_PER_MOL * scale)), forces

    def _evaluate(self, positions: NDArray[np.float64], cell: NDArray[np.float64] | None) -> None:
        """Positions and cell in Å. OpenMM asks twice for the same ones where a report and the next step meet."""
        atoms = self.atoms
        same = self._known and (positions == atoms.arrays["positions"]).all()
        if same and (cell is None or (cell == atoms.cell.array).all()):
            return
        self._known = False
        atoms.arrays["positions"][...] = positions
        if cell is not None:
            atoms.cell.array[...] = cell
        self.calculator.calculate(atoms, ("energy", "forces"))
        self._known = True
        self.evaluations += 1


def check_same_model(record: Record, content_hash: str) -> None:
    """Raise unless a model is the one that was recorded.

    Raises
    ------
    CheckpointError
    """
    if content_hash != record.content_hash:
        raise CheckpointError(
            f"{record.model} is not the model that this force was made with: its content hash is {content_hash[:12]}…, "
            f"recorded is {record.content_hash[:12]}…; put the right checkpoint there, or make the force anew"
        )
