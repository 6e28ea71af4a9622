"""Integrators: ASE's, with the right count of degrees of freedom and a state that can be stored and restored.

===============  ===================================================================  ====================
ensemble         integrator                                                           conserved quantity
===============  ===================================================================  ====================
``nve``          velocity Verlet                                                      shadow energy
``langevin``     BAOAB (Leimkuhler & Matthews, J. Chem. Phys. 138, 174102 (2013))     none
``nose-hoover``  Nosé–Hoover chain of 3 (Martyna, Klein & Tuckerman 1992)             yes
``npt``          Martyna–Tobias–Klein, isotropic or full cell (1994)                  yes
===============  ===================================================================  ====================

ASE's thermostats count 3N degrees of freedom. A run that starts without total momentum keeps none, so the
motion that can be seen would be too hot by 3N/(3N−3): 13 % for nine atoms. The thermostat is therefore given
the true number. Likewise MTKNPT counts nine for the cell, but a symmetric stress drives only the six that do
not rotate it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.nose_hoover_chain import (
    MTKNPT,
    IsotropicMTKBarostat,
    IsotropicMTKNPT,
    MTKBarostat,
    NoseHooverChainNVT,
    NoseHooverChainThermostat,
)
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from hydrapot.potential.errors import ConfigurationError


class _NoseHoover(NoseHooverChainNVT):
    def __init__(self, atoms: Atoms, dt: float, *, dof: int, **thermostat: Any) -> None:
        super().__init__(atoms, dt, **thermostat)
        self._thermostat = NoseHooverChainThermostat(_atoms_of(dof), self.masses, **thermostat)


class _IsotropicNPT(IsotropicMTKNPT):
    def __init__(self, atoms: Atoms, dt: float, *, dof: int, pressure: float, pdamp: float, **thermostat: Any) -> None:
        super().__init__(atoms, dt, pressure_au=pressure, pdamp=pdamp, **thermostat)
        self._num_atoms_global = _atoms_of(dof)
        self._thermostat = NoseHooverChainThermostat(_atoms_of(dof), self.masses, **thermostat)
        self._barostat = IsotropicMTKBarostat(_atoms_of(dof), thermostat["temperature_K"], pdamp)


class _FullCellNPT(MTKNPT):
    def __init__(self, atoms: Atoms, dt: float, *, dof: int, pressure: float, pdamp: float, **thermostat: Any) -> None:
        super().__init__(atoms, dt, pressure_au=pressure, pdamp=pdamp, **thermostat)
        self._num_atoms_global = _atoms_of(dof)
        self._thermostat = NoseHooverChainThermostat(_atoms_of(dof), self.masses, **thermostat)
        self._barostat = _SymmetricBarostat(_atoms_of(dof), thermostat["temperature_K"], pdamp)


class _SymmetricBarostat(MTKBarostat):
    def __init__(self, n_atoms: int, temperature: float, pdamp: float) -> None:
        super().__init__(n_atoms, temperature, pdamp)
        self._cell_dof = 6
        self._R[0] = self._cell_dof * self._kT * self._pdamp**2


def _atoms_of(dof: int) -> Any:
    """The number of atoms, with a fraction, that makes ASE's 3 · atoms the degrees of freedom."""
    return dof / 3


_CHAIN = ("_thermostat._eta", "_thermostat._p_eta")
_PISTON = ("_barostat._xi", "_barostat._p_xi")
#: Attributes, beyond positions, momenta and cell, that an integrator carries from step to step.
_STATE: dict[type, tuple[str, ...]] = {
    VelocityVerlet: (),
    LangevinBAOAB: (),
    _NoseHoover: _CHAIN,
    _IsotropicNPT: (*_CHAIN, *_PISTON, "_eps", "_p_eps", "_cell0", "_volume0"),
    _FullCellNPT: (*_CHAIN, *_PISTON, "_h", "_p_g"),
}


class Integrator(Protocol):
    """What the loop needs of an ASE molecular-dynamics object."""

    dt: float

    def step(self) -> Any:
        """Advance by one time step."""


class EngineIntegrator(ABC):
    """An integrator of another program, which keeps atoms, thermostat and barostat to itself between blocks of steps.

    The loop of :mod:`~hydrapot.workflows.md` asks for as many steps as pass before something needs the state: a row, a
    frame, a guard, a restart file, or a look whether the run should stop. Where a row of ``nve`` is due, that includes the
    steps before and after it, whose forces the shadow energy needs. What happens must not depend on how steps are
    divided into blocks.

    Attributes
    ----------
    dt
        Time step in ASE's unit.
    longest_block
        Most steps that are asked for at once. Guards see the state at the end of each block; within one the engine stops by
        itself if it finds something that cannot be.
    """

    dt: float
    longest_block: int = 100

    @abstractmethod
    def advance(self, steps: int) -> None:
        """Advance by `steps` time steps; the structure then has positions, momenta, cell and results of the last of them.

        Raises
        ------
        SimulationError, InvalidStructureError
            The run cannot go on; in which state the structure is then, is open.
        """

    @abstractmethod
    def conserved_energy(self) -> float | None:
        """As :func:`conserved_energy`."""

    @abstractmethod
    def get_state(self) -> dict[str, NDArray[Any]]:
        """Arrays from which :meth:`set_state` can go on."""

    @abstractmethod
    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from :meth:`get_state`."""

    def describe(self) -> dict[str, Any]:
        """What else the record of the run should say about the engine: versions, processes, what gives the forces."""
        return {}


class Engine(NamedTuple):
    """What moves the atoms: a name for the record, and what stands for :func:`make_integrator`."""

    name: str
    integrator: Callable[..., EngineIntegrator]


class EngineResults(Calculator):
    """Results that an engine has computed for the structure as it is; it computes nothing itself."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def put(self, atoms: Atoms, results: dict[str, Any]) -> None:
        """Remember the results of a structure."""
        self.atoms = atoms.copy()
        self.results = results

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:  # noqa: ARG002 - exactly the same structure
        """Differences between `atoms` and the structure of the results; positions that are no numbers equal themselves."""
        known = self.atoms
        if known is None or len(known) != len(atoms):
            return list(all_changes)
        pairs = {
            "positions": (atoms.positions, known.positions),
            "numbers": (atoms.numbers, known.numbers),
            "cell": (atoms.cell.array, known.cell.array),
            "pbc": (atoms.pbc, known.pbc),
        }
        return [name for name, (now, then) in pairs.items() if not np.array_equal(now, then, equal_nan=name != "pbc")]

    def calculate(self, *_: Any, **__: Any) -> None:
        """Called only for another structure, or for what the engine does not give."""
        raise ConfigurationError("the engine has not evaluated this structure: use a calculator")


def make_integrator(
    atoms: Atoms,
    *,
    ensemble: str,
    timestep: float,
    temperature: float,
    pressure: float,
    cell: str,
    thermostat_time: float,
    barostat_time: float,
    degrees_of_freedom: int,
    rng: np.random.Generator,
) -> Integrator:
    """An integrator for `atoms`, which carry their momenta and a calculator.

    Parameters
    ----------
    ensemble
        ``"nve"``, ``"langevin"``, ``"nose-hoover"`` or ``"npt"``.
    timestep, thermostat_time, barostat_time
        fs; 1/friction for Langevin.
    temperature
        K.
    pressure
        GPa.
    cell
        For ``npt``: ``"isotropic"`` (volume only) or ``"full"`` (lengths and angles).
    degrees_of_freedom
        That the thermostat acts on.
    rng
        Random numbers of Langevin dynamics.

    Raises
    ------
    ConfigurationError
        A combination that is not available.
    """
    dt = timestep * units.fs
    if ensemble == "nve":
        return VelocityVerlet(atoms, dt)
    if ensemble == "langevin":
        time = thermostat_time * units.fs
        return LangevinBAOAB(atoms, dt, temperature_K=temperature, T_tau=time, rng=rng)
    thermostat = {"temperature_K": temperature, "tdamp": thermostat_time * units.fs}
    if ensemble == "nose-hoover":
        return _NoseHoover(atoms, dt, dof=degrees_of_freedom, **thermostat)
    if ensemble != "npt":
        raise ConfigurationError(f"ensemble {ensemble!r} is not known: nve, langevin, nose-hoover or npt")
    if atoms.constraints:
        raise ConfigurationError("npt cannot keep constraints on atoms: remove them from the structure")
    barostat = {"pressure": pressure * units.GPa, "pdamp": barostat_time * units.fs}
    integrator = _IsotropicNPT if cell == "isotropic" else _FullCellNPT
    return integrator(atoms, dt, dof=degrees_of_freedom, **barostat, **thermostat)


def longest_block(integrator: Integrator | EngineIntegrator) -> int:
    """Most steps that :func:`advance` takes at once: one for ASE, whose atoms are looked at after every step."""
    return integrator.longest_block if isinstance(integrator, EngineIntegrator) else 1


def advance(integrator: Integrator | EngineIntegrator, steps: int) -> None:
    """Advance the structure by `steps` time steps, at most :func:`longest_block`."""
    if isinstance(integrator, EngineIntegrator):
        integrator.advance(steps)
        return
    for _ in range(steps):
        integrator.step()


def conserved_energy(integrator: Integrator | EngineIntegrator) -> float | None:
    """Conserved quantity of a Nosé–Hoover or MTK integrator in eV, None for the others."""
    if isinstance(integrator, EngineIntegrator):
        return integrator.conserved_energy()
    if isinstance(integrator, (NoseHooverChainNVT, IsotropicMTKNPT, MTKNPT)):
        return float(integrator.get_conserved_energy())
    return None


def get_state(integrator: Integrator | EngineIntegrator) -> dict[str, NDArray[Any]]:
    """Thermostat and barostat variables by name."""
    if isinstance(integrator, EngineIntegrator):
        return integrator.get_state()
    state = {}
    for name in _STATE[type(integrator)]:
        owner, attribute = _owner(integrator, name)
        state[name] = np.array(getattr(owner, attribute), dtype=np.float64)
    return state


def set_state(integrator: Integrator | EngineIntegrator, state: dict[str, NDArray[Any]]) -> None:
    """Restore what :func:`get_state` gave; positions, momenta and cell have been set on the atoms before."""
    if isinstance(integrator, EngineIntegrator):
        integrator.set_state(state)
        return
    for name in _STATE[type(integrator)]:
        owner, attribute = _owner(integrator, name)
        value = state[name]
        setattr(owner, attribute, float(value) if value.ndim == 0 else value.copy())


def _owner(integrator: Integrator | EngineIntegrator, name: str) -> tuple[Any, str]:
    *path, attribute = name.split(".")
    owner: Any = integrator
    for part in path:
        owner = getattr(owner, part)
    return owner, attribute
