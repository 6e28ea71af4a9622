"""Molecular dynamics by OpenMM, in the loop, files and guards of :mod:`~hydrapot.workflows.md`.

======================  ====================================================================================
ensemble                of OpenMM
======================  ====================================================================================
``nve``                 velocity Verlet, as a ``CustomIntegrator``: OpenMM's own keeps velocities half a step behind
``langevin``            ``LangevinMiddleIntegrator`` (Zhang et al., J. Phys. Chem. A 123, 6056 (2019))
``nose-hoover``         ``NoseHooverIntegrator``, chain of 3
``npt``                 the same with a Monte Carlo barostat: ``MonteCarloBarostat`` for the volume, or
                        ``MonteCarloFlexibleBarostat`` for the full cell
======================  ====================================================================================

On the platform Reference, whose numbers are float64: the model takes the time. Its evaluations are those of the ASE calculator.
A resumed run repeats the uninterrupted one, except under ``npt``: OpenMM's checkpoints leave out what a barostat has learned
about the size of its moves, so that such a run goes on from the same state but differs by chance.
"""

from typing import Any, Self

import numpy as np
from ase import Atoms, units
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential.constants import KJ_PER_MOL
from hydrapot.potential.errors import ConfigurationError, HydrapotError, SimulationError
from hydrapot.potential.graph import charge_and_spin
from hydrapot.workflows.biomolecules import RESIDUES, topology_of
from hydrapot.workflows.dynamics import Engine, EngineIntegrator, EngineResults
from hydrapot.workflows.engines import refuse_several_processes
from hydrapot.workflows.mdsettings import MDSettings

_NM = 0.1  # per Å
_PS = 1e-3  # per fs
_BAR = 1e4  # per GPa
#: nm/ps in ASE's unit of velocity.
_SPEED = 1e-2 / units.fs
#: Attempts of a barostat in its time: every 25 steps of 1 fs with 1000 fs.
_ATTEMPTS = 40
_LARGEST_SEED = 2**31 - 1


class OpenMMProvider:
    """OpenMM in this process; a :class:`~hydrapot.workflows.engines.Provider`.

    Parameters
    ----------
    model
        Name or path of the model.

    Raises
    ------
    ConfigurationError
        OpenMM is not installed, or there are several processes.
    """

    first = True

    def __init__(self, model: str) -> None:
        refuse_several_processes("openmm")
        try:
            import openmm  # noqa: F401
        except ImportError as error:
            raise ConfigurationError("OpenMM is not installed: pip install 'hydrapot[openmm]'") from error
        self.model = model

    def engine(self, atoms: Atoms, settings: MDSettings) -> Engine:  # noqa: ARG002 - those of the protocol
        """See :class:`~hydrapot.workflows.engines.Provider`."""
        from hydrapot.calculators.openmm_box import ReducedBox

        if not isinstance(atoms.calc, HydrapotCalculator):
            raise ConfigurationError("OpenMM runs hydrapot potentials only: another calculator needs the engine ase")
        if atoms.constraints:
            raise ConfigurationError("constraints of a structure are not handed to OpenMM: use the engine ase")
        ReducedBox.of(atoms)  # refuses what OpenMM has no box for
        return Engine("openmm", self._integrator)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def _integrator(self, atoms: Atoms, **arguments: Any) -> "OpenMMIntegrator":
        return OpenMMIntegrator(atoms, model=self.model, **arguments)


class OpenMMIntegrator(EngineIntegrator):
    """Blocks of steps of OpenMM; arguments as for :func:`~hydrapot.workflows.dynamics.make_integrator`.

    Parameters
    ----------
    model
        Name or path of the model of the structure's calculator.
    """

    def __init__(
        self,
        atoms: Atoms,
        *,
        model: str,
        ensemble: str,
        timestep: float,
        temperature: float,
        pressure: float,
        cell: str,
        thermostat_time: float,
        barostat_time: float,
        degrees_of_freedom: int,
        rng: np.random.Generator,
    ) -> None:
        import openmm

        from hydrapot.calculators.openmm import HydrapotForce
        from hydrapot.calculators.openmm_box import ReducedBox

        calculator = atoms.calc
        assert isinstance(calculator, HydrapotCalculator)  # noqa: S101 - the provider has made sure
        self.atoms, self.ensemble = atoms, ensemble
        self.dt = timestep * units.fs
        self.results = EngineResults()
        self._begun = False
        self._failure = openmm.OpenMMException
        self._version = openmm.version.version
        self.frame = ReducedBox.of(atoms)
        charge, spin = charge_and_spin(atoms)
        force = HydrapotForce(
            model,
            atoms.numbers,
            charge=charge,
            spin=spin,
            periodic=self.frame.box is not None,
            calculator=calculator,
        )
        self._callback = force.callback
        system = openmm.System()
        for mass in atoms.get_masses():
            system.addParticle(float(mass))
        if self.frame.box is not None:
            system.setDefaultPeriodicBoxVectors(*(self.frame.box * _NM))
        system.addForce(force.force)
        if ensemble == "npt":
            self._keep_molecules(system)
            frequency = max(1, round(barostat_time / timestep / _ATTEMPTS))
            barostat = openmm.MonteCarloBarostat if cell == "isotropic" else openmm.MonteCarloFlexibleBarostat
            self.barostat = barostat(pressure * _BAR, temperature, frequency)
            self.barostat.setRandomNumberSeed(int(rng.integers(1, _LARGEST_SEED)))
            system.addForce(self.barostat)
        self._make_integrator(
            openmm,
            timestep=timestep * _PS,
            temperature=temperature,
            time=thermostat_time * _PS,
            # OpenMM counts all 3N; the product with the temperature is what a thermostat aims at.
            share=degrees_of_freedom / (3 * len(atoms)),
            seed=int(rng.integers(1, _LARGEST_SEED)),
        )
        self.context = openmm.Context(system, self.integrator, openmm.Platform.getPlatformByName("Reference"))
        self.context.setPositions(self.frame.into(atoms.positions) * _NM)
        self.context.setVelocities(self.frame.into(atoms.get_velocities()) / _SPEED)
        self._update()

    def advance(self, steps: int) -> None:
        """Advance by a block of time steps and copy the state to the structure.

        Raises
        ------
        HydrapotError
            What the evaluation raised.
        SimulationError
            OpenMM gave up.
        """
        self._guarded(lambda: self.integrator.step(steps))
        self._begun = True
        self._update()

    def conserved_energy(self) -> float | None:
        """Energy with that of the thermostat, eV; moves of a barostat do not conserve it."""
        if self.ensemble != "nose-hoover":
            return None
        # Before the first step there is no chain, and OpenMM 8.6 ends the process when asked for its energy.
        bath = self.integrator.computeHeatBathEnergy()._value if self._begun else 0.0  # noqa: SLF001
        return float(self.results.results["energy"] + (self._kinetic + bath) / KJ_PER_MOL)

    def get_state(self) -> dict[str, NDArray[Any]]:
        """A checkpoint of OpenMM, its random numbers among it, and how the structure is turned."""
        return {
            "openmm": np.frombuffer(self.context.createCheckpoint(), dtype=np.uint8),
            "turn": self.frame.turn,
            "whole": self.frame.whole,
            "begun": np.array(self._begun),
        }

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from :meth:`get_state`."""
        self.frame = type(self.frame)(self.frame.box, state["turn"], state["whole"])
        self._begun = bool(state["begun"])
        self._guarded(lambda: self.context.loadCheckpoint(state["openmm"].tobytes()))
        self._update()

    def describe(self) -> dict[str, Any]:
        """Version, platform, integrator and what gives the forces."""
        described = {
            "version": self._version,
            "platform": self.context.getPlatform().getName(),
            "integrator": type(self.integrator).__name__,
            "backend": self._callback.evaluator.calculator.backend,
        }
        if self.ensemble == "npt":
            described["barostat"] = type(self.barostat).__name__
        return described

    def _make_integrator(
        self, openmm: Any, *, timestep: float, temperature: float, time: float, share: float, seed: int
    ) -> None:
        if self.ensemble == "nve":
            self.integrator = openmm.CustomIntegrator(timestep)
            self.integrator.addUpdateContextState()
            self.integrator.addComputePerDof("v", "v+0.5*dt*f/m")
            self.integrator.addComputePerDof("x", "x+dt*v")
            self.integrator.addComputePerDof("v", "v+0.5*dt*f/m")
        elif self.ensemble == "langevin":
            self.integrator = openmm.LangevinMiddleIntegrator(temperature, 1.0 / time, timestep)
            self.integrator.setRandomNumberSeed(seed)
        elif self.ensemble in {"nose-hoover", "npt"}:
            self.integrator = openmm.NoseHooverIntegrator(temperature * share, 1.0 / time, timestep, 3, 3, 7)
        else:
            raise ConfigurationError(f"ensemble {self.ensemble!r} is not known to the engine openmm")

    def _keep_molecules(self, system: Any) -> None:
        """Of a structure with residues: barostats scale distances between molecules, not within."""
        if not self.atoms.has(RESIDUES):
            return
        from hydrapot.calculators.openmm import name_molecules
        from hydrapot.calculators.openmm_box import make_whole

        topology, _ = topology_of(self.atoms)
        name_molecules(system, topology)
        bonds = [(bond.atom1.index, bond.atom2.index) for bond in topology.bonds()]
        self.atoms.positions = make_whole(self.atoms.positions, self.atoms.cell.array, bonds)

    def _guarded(self, work: Any) -> None:
        """Do `work`; what the evaluation raised comes out with its type, which OpenMM does not keep."""
        self._callback.failure = None
        try:
            work()
        except self._failure as error:
            if isinstance(self._callback.failure, HydrapotError):
                raise self._callback.failure from None
            raise SimulationError(f"OpenMM: {' '.join(str(error).split())}") from error

    def _update(self) -> None:
        """Positions, momenta, cell and results of OpenMM to the structure."""
        atoms = self.atoms
        self._guarded(self._evaluate)
        state = self.context.getState(positions=True, velocities=True)
        atoms.positions[:] = self.frame.back(state.getPositions(asNumpy=True)._value / _NM)  # noqa: SLF001
        atoms.set_velocities(self.frame.back(state.getVelocities(asNumpy=True)._value) * _SPEED)  # noqa: SLF001
        if self.frame.box is not None:
            box = state.getPeriodicBoxVectors(asNumpy=True)._value / _NM  # noqa: SLF001
            atoms.cell[:] = self.frame.cell(box, atoms.cell.array)
        self.results.put(atoms, self._found())
        atoms.calc = self.results

    def _evaluate(self) -> None:
        """At the current positions; the latest evaluation may have been a move that the barostat refused."""
        self._kinetic = float(self.context.getState(energy=True).getKineticEnergy()._value)  # noqa: SLF001

    def _found(self) -> dict[str, Any]:
        """Results of the calculator, turned back."""
        found = self._callback.evaluator.calculator.results
        results = {
            "energy": found["energy"],
            "free_energy": found["energy"],
            "forces": self.frame.back(found["forces"]),
        }
        if "stress" in found:
            turn, stress = self.frame.turn, voigt_6_to_full_3x3_stress(found["stress"])
            results["stress"] = full_3x3_to_voigt_6_stress(turn @ stress @ turn.T)
        return results
