"""The deployed checkpoint in OpenMM, on the platform Reference, for comparison with other engines.

OpenMM knows boxes that are periodic in all directions or in none. A structure that is periodic in one or two gets vectors
longer than the model sees along the others, so that its images there do not meet: the same energy by another box.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from hydrapot.potential.constants import KJ_PER_MOL
from hydrapot.potential.errors import HydrapotError
from hydrapot.potential.graph import charge_and_spin
from hydrapot.potential.neighbors import complete_cell
from hydrapot.validation.engines import EngineResult
from hydrapot.validation.guarded import PotentialFailure
from hydrapot.validation.subject import CheckpointSubject

Array = NDArray[np.float64]

_NM = 0.1  # per Å
_PS = 1e-3  # per fs
#: nm/ps in ASE's unit of velocity.
_SPEED = 1e-2 / units.fs
#: Å between the images of a structure along directions in which it is not periodic, beyond the cutoff.
_MARGIN = 1.0


class OpenMMEngine:
    """A ``PythonForce`` in float64."""

    name = "openmm"

    def __init__(self, subject: CheckpointSubject) -> None:
        self.resolution = subject.resolution
        self.model, self.head = subject.identity.source, subject.identity.head
        self.cutoff = subject.potential.cutoff

    def available(self) -> str | None:
        """Why it cannot run here; None when it can."""
        try:
            import openmm
        except ImportError:
            return "OpenMM is not installed: pip install 'hydrapot[openmm]'"
        force = getattr(openmm, "PythonForce", None)
        return None if hasattr(force, "setParticles") else "OpenMM is too old: pip install 'openmm>=8.6'"

    def evaluate(self, atoms: Atoms, *, species: Sequence[int]) -> EngineResult:  # noqa: ARG002 - OpenMM has no types
        """See :class:`~hydrapot.validation.engines.Engine`."""
        run = _Run(self, atoms, timestep=1.0)
        energy, forces = run.energy_and_forces()
        results = run.force.callback.evaluator.calculator.results
        stress = run.turned_back(results["stress"]) if atoms.pbc.all() else None
        return EngineResult(energy + run.force.reference_energy, forces, stress, np.array(results["energies"]))

    def nve(self, atoms: Atoms, *, species: Sequence[int], timestep: float, steps: int) -> Array:  # noqa: ARG002
        """See :class:`~hydrapot.validation.engines.Engine`."""
        run = _Run(self, atoms, timestep=timestep)
        energies = []
        for step in range(steps):
            if step:
                run.advance()
            energies.append(run.total_energy())
        return np.array(energies)


class _Run:
    """One structure in a context of OpenMM."""

    def __init__(self, engine: OpenMMEngine, atoms: Atoms, *, timestep: float) -> None:
        import openmm

        from hydrapot.calculators.openmm import HydrapotForce
        from hydrapot.calculators.openmm_box import ReducedBox

        self._error = openmm.OpenMMException
        charge, spin = charge_and_spin(atoms)
        boxed = _boxed(atoms, apart=engine.cutoff + _MARGIN)
        try:
            self.frame = ReducedBox.of(boxed)
            self.force = HydrapotForce(
                engine.model,
                atoms.numbers,
                head=engine.head,
                dtype="float64",
                charge=charge,
                spin=spin,
                periodic=bool(boxed.pbc.all()),
            )
        except HydrapotError as error:
            raise PotentialFailure(str(error)) from error
        system = openmm.System()
        for mass in atoms.get_masses():
            system.addParticle(float(mass))
        if self.frame.box is not None:
            system.setDefaultPeriodicBoxVectors(*(self.frame.box * _NM))
        system.addForce(self.force.force)
        self.integrator = openmm.CustomIntegrator(timestep * _PS)
        for variable, expression in (("v", "v+0.5*dt*f/m"), ("x", "x+dt*v"), ("v", "v+0.5*dt*f/m")):
            self.integrator.addComputePerDof(variable, expression)
        self.context = openmm.Context(system, self.integrator, openmm.Platform.getPlatformByName("Reference"))
        self.context.setPositions(self.frame.into(atoms.positions) * _NM)
        self.context.setVelocities(self.frame.into(atoms.get_velocities()) / _SPEED)

    def energy_and_forces(self) -> tuple[float, Array]:
        """Interaction energy, eV, and forces, eV/Å."""
        state = self._guarded(lambda: self.context.getState(energy=True, forces=True))
        forces = self.frame.back(state.getForces(asNumpy=True)._value) * (_NM / KJ_PER_MOL)  # noqa: SLF001
        return float(state.getPotentialEnergy()._value) / KJ_PER_MOL, forces  # noqa: SLF001

    def total_energy(self) -> float:
        """Of the interaction and of motion, eV."""
        state = self._guarded(lambda: self.context.getState(energy=True))
        total = state.getPotentialEnergy()._value + state.getKineticEnergy()._value  # noqa: SLF001
        return float(total) / KJ_PER_MOL + self.force.reference_energy

    def advance(self) -> None:
        """One step."""
        self._guarded(lambda: self.integrator.step(1))

    def turned_back(self, voigt: Array) -> Array:
        """A stress of OpenMM's frame in that of the structure."""
        rows, columns = [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]
        tensor = np.zeros((3, 3))
        tensor[rows, columns] = tensor[columns, rows] = voigt
        turned: Array = (self.frame.turn @ tensor @ self.frame.turn.T)[rows, columns]
        return turned

    def _guarded(self, work: Any) -> Any:
        try:
            return work()
        except self._error as error:
            raise PotentialFailure(" ".join(str(self.force.callback.failure or error).split())) from error


def _boxed(atoms: Atoms, *, apart: float) -> Atoms:
    """The structure, with a box along its other directions if it is periodic in one or two."""
    if atoms.pbc.all() or not atoms.pbc.any():
        return atoms
    boxed: Atoms = atoms.copy()
    cell = complete_cell(atoms.cell.array, atoms.pbc)
    heights = atoms.positions @ np.linalg.inv(cell)
    for k in np.flatnonzero(~atoms.pbc):  # unit vectors, perpendicular to all periodic ones
        cell[k] *= np.ptp(heights[:, k]) + apart
    boxed.set_cell(cell, scale_atoms=False)
    boxed.pbc = True
    return boxed
