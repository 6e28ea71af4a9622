"""What evaluates a deployed potential: ASE with each of its paths, LAMMPS, OpenMM.

Suites know an engine by the protocol :class:`Engine` only. An adapter joins by :func:`register` with a function that makes
engines for a subject, several where one program runs in several ways (on 1, 2 and 4 ranks, say). An engine that was asked
for and has no adapter, or cannot run here, is said to be missing and why; it never counts as tested.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from numpy.typing import NDArray

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential import native
from hydrapot.validation.guarded import GuardedCalculator, PotentialFailure, guarded
from hydrapot.validation.nve import run_nve
from hydrapot.validation.subject import CheckpointSubject, Subject

Array = NDArray[np.float64]


@dataclass(frozen=True)
class EngineResult:
    """What an engine says about a structure of N atoms, in the order of its atoms.

    Attributes
    ----------
    energy
        eV, by the engine's convention of its zero; compared after subtraction of isolated atoms where it is
        ``interaction``.
    forces
        ``(N, 3)`` eV/Å.
    stress
        ``(6,)`` eV/Å³ in ASE's order and sign; None where there is none.
    energies
        ``(N,)`` eV per atom, whose sum is `energy`; None where there are none.
    """

    energy: float
    forces: Array
    stress: Array | None
    energies: Array | None


class Engine(Protocol):
    """One way to run a potential."""

    @property
    def name(self) -> str:
        """For reports, e.g. ``lammps, 2 ranks``."""

    @property
    def resolution(self) -> float:
        """Relative rounding of its results: 1e-16 for float64, 1e-7 for float32."""

    def available(self) -> str | None:
        """Why it cannot run here; None when it can."""

    def evaluate(self, atoms: Atoms, *, species: Sequence[int]) -> EngineResult:
        """Evaluate.

        Parameters
        ----------
        species
            Atomic numbers in the order of the engine's atom types; it may name some that `atoms` do not contain.

        Raises
        ------
        PotentialFailure
            The potential or the engine has no answer.
        """

    def nve(self, atoms: Atoms, *, species: Sequence[int], timestep: float, steps: int) -> Array:
        """Total energy (eV) at every step of velocity Verlet from the momenta of `atoms`; `timestep` in fs."""


class ASEEngine:
    """An ASE calculator.

    Parameters
    ----------
    name
        For reports.
    make
        Makes a calculator.
    resolution
        See :class:`Engine`.
    reuse
        One calculator for everything, as in a long session, or a new one for each structure.
    """

    def __init__(self, name: str, make: Callable[[], Calculator], *, resolution: float, reuse: bool) -> None:
        self.name = name
        self.resolution = resolution
        self._make, self._reuse = make, reuse
        self._kept: GuardedCalculator | None = None

    def available(self) -> str | None:
        """Always."""
        return None

    def evaluate(self, atoms: Atoms, *, species: Sequence[int]) -> EngineResult:  # noqa: ARG002 - ASE has no types
        """See :class:`Engine`."""
        atoms = atoms.copy()
        atoms.calc = self._calculator()
        forces = np.array(atoms.get_forces(), dtype=np.float64)
        energy = float(atoms.get_potential_energy())
        stress = self._optional(atoms, "stress") if atoms.pbc.all() else None
        return EngineResult(energy, forces, stress, self._optional(atoms, "energies"))

    def nve(self, atoms: Atoms, *, species: Sequence[int], timestep: float, steps: int) -> Array:  # noqa: ARG002
        """See :class:`Engine`."""
        atoms = atoms.copy()
        atoms.calc = self._calculator()

        def evaluate(moved: Atoms) -> tuple[float, Array]:
            forces = np.array(moved.get_forces(), dtype=np.float64)
            return float(moved.get_potential_energy()), forces

        return run_nve(atoms, evaluate, timestep=timestep, steps=steps).total

    def _calculator(self) -> GuardedCalculator:
        if self._kept is None or not self._reuse:
            try:
                self._kept = guarded(self._make())
            except Exception as error:
                raise PotentialFailure(f"the calculator cannot be made: {' '.join(str(error).split())}") from error
        return self._kept

    @staticmethod
    def _optional(atoms: Atoms, name: str) -> Array | None:
        if name not in atoms.calc.implemented_properties:
            return None
        try:
            return np.array(atoms.calc.get_property(name, atoms), dtype=np.float64)
        except PropertyNotImplementedError:
            return None


class MissingEngine:
    """An engine that was asked for and has no adapter."""

    resolution = 0.0

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self._reason = reason

    def available(self) -> str | None:
        """The reason."""
        return self._reason

    def evaluate(self, atoms: Atoms, *, species: Sequence[int]) -> EngineResult:
        """Never."""
        raise NotImplementedError

    def nve(self, atoms: Atoms, *, species: Sequence[int], timestep: float, steps: int) -> Array:
        """Never."""
        raise NotImplementedError


#: Makes the engines of one program for a subject.
Factory = Callable[[Subject], Sequence[Engine]]


def reference_engine(subject: Subject) -> Engine:
    """What the others are compared with: a new calculator for each structure, in the best precision."""
    return ASEEngine("ase", subject.calculator, resolution=subject.resolution, reuse=False)


def _ase(subject: Subject) -> Sequence[Engine]:
    """One calculator that is kept, and each path that a calculator of a checkpoint has."""
    kept = ASEEngine("ase, one calculator", subject.calculator, resolution=subject.resolution, reuse=True)
    engines: list[Engine] = [kept]
    if isinstance(subject, CheckpointSubject):
        paths: list[tuple[str, Callable[[], Calculator]]] = [
            ("ase, blocked sums", lambda: _calculator(subject, backend="torch")),
            ("ase, dense sums", lambda: _dense(subject)),
        ]
        reason = native.reason_missing()
        if reason is None:
            paths.append(("ase, native", lambda: _calculator(subject, backend="native")))
        else:
            engines.append(MissingEngine("ase, native", reason))
        engines += [ASEEngine(name, make, resolution=subject.resolution, reuse=True) for name, make in paths]
    return engines


def _calculator(subject: CheckpointSubject, *, backend: Literal["native", "torch"]) -> HydrapotCalculator:
    return HydrapotCalculator(subject.potential, head=subject.identity.head, dtype="float64", backend=backend)


def _dense(subject: CheckpointSubject) -> Calculator:
    """The form of training and of GPUs, in place of the blocked sums of the CPU."""
    calculator = _calculator(subject, backend="torch")
    head = subject.identity.head
    calculator._network = lambda graph: calculator.potential.network_energies(graph, head=head)  # noqa: SLF001
    return calculator


def _lammps(subject: Subject) -> Sequence[Engine]:
    """The pair style on 1, 2 and 4 processes."""
    from hydrapot.validation.lammps_engine import LAMMPSEngine  # it uses this module

    if not isinstance(subject, CheckpointSubject):
        names = [f"lammps, {n} rank{'s' * (n > 1)}" for n in (1, 2, 4)]
        return [MissingEngine(name, "only a checkpoint runs in LAMMPS") for name in names]
    return [LAMMPSEngine(subject, ranks=ranks) for ranks in (1, 2, 4)]


def _openmm(subject: Subject) -> Sequence[Engine]:
    """A force in Python, on the platform Reference."""
    from hydrapot.validation.openmm_engine import OpenMMEngine  # it uses this module

    if not isinstance(subject, CheckpointSubject):
        return [MissingEngine("openmm", "only a checkpoint runs in OpenMM")]
    return [OpenMMEngine(subject)]


_FACTORIES: dict[str, Factory] = {
    "ase": _ase,
    "lammps": _lammps,
    "openmm": _openmm,
}


def register(name: str, factory: Factory) -> None:
    """Let `factory` make the engines that are asked for as `name`."""
    _FACTORIES[name] = factory


def engines(name: str, subject: Subject) -> Sequence[Engine]:
    """The engines of a program, those that are missing included."""
    if name not in _FACTORIES:
        return [MissingEngine(name, f"not known: choose from {', '.join(_FACTORIES)}")]
    return _FACTORIES[name](subject)
