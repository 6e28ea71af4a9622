"""Energy conservation of velocity Verlet: the shadow energy, its drift, and how fluctuations scale with the
step.

Velocity Verlet with a time step h conserves not H = T + V but, to order h⁴, the shadow energy

    H̃ = H + h² [ v·V″·v / 12 − F·M⁻¹·F / 24 ],     V″·v = −dF/dt

(Hairer, Lubich & Wanner, *Acta Numerica* 12, 399 (2003), §4; with kicks at the ends of the step). H
fluctuates by an amount of order h² around H̃, thousands of times more than what a drift worth worrying about
amounts to in 10 ps; H̃ does not, so its slope shows at once whether forces are the gradient of a smooth
energy.

Units are ASE's within the module (Å, eV, amu); times are given and returned in fs.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary, ZeroRotation
from numpy.typing import NDArray
from scipy.stats import t as student

Array = NDArray[np.float64]
#: Energy (eV) and forces ``(N, 3)`` (eV/Å) of a structure.
EnergyAndForces = Callable[[Atoms], tuple[float, Array]]

#: meV/atom/ps: a heating of 10 K in 1 ns, (3/2) k · 10 K · 2 with as much going into potential energy.
SLOPE_LIMIT = 0.0026
#: Numbers of blocks for the error of a slope: the largest error wins, in case correlations outlast the shorter blocks.
BLOCKS = (8, 12, 20)


def calculator_forces(atoms: Atoms) -> tuple[float, Array]:
    """Energy and forces by the structure's ASE calculator; of a hydrapot calculator without reference energies.

    Next to 1e6 eV of an all-electron code the energy would be rounded to 1e-10 eV.
    """
    forces = np.array(atoms.get_forces(), dtype=np.float64)
    energy = atoms.calc.results.get("interaction_energy")
    return float(atoms.get_potential_energy() if energy is None else energy), forces


@dataclass(frozen=True)
class Trace:
    """Energies of one run, ``(S,)`` each, at every step.

    Attributes
    ----------
    time
        fs.
    potential, kinetic, shadow
        eV; the energy H is ``potential + kinetic``.
    n_atoms
        Number of atoms.
    """

    time: Array
    potential: Array
    kinetic: Array
    shadow: Array
    n_atoms: int

    @property
    def total(self) -> Array:
        """H, eV."""
        return self.potential + self.kinetic

    @property
    def temperature(self) -> Array:
        """K, of all 3N degrees of freedom."""
        return 2.0 * self.kinetic / (3.0 * self.n_atoms * units.kB)

    def slope(self) -> "Slope":
        """Drift of the shadow energy, meV/atom/ps."""
        return slope(self.time / 1000.0, 1000.0 * self.shadow / self.n_atoms)


def concatenate(traces: Sequence[Trace]) -> Trace:
    """One trace from consecutive parts, whose times continue each other."""
    parts = {name: np.concatenate([getattr(t, name) for t in traces]) for name in _COLUMNS}
    return Trace(**parts, n_atoms=traces[0].n_atoms)


_COLUMNS = ("time", "potential", "kinetic", "shadow")


def shadow_energy(
    energy: Array, velocities: Array, forces: Array, force_rates: Array, masses: Array, *, timestep: float
) -> Array:
    """H̃ from H, in eV.

    Parameters
    ----------
    energy
        ``(S,)`` H = T + V in eV.
    velocities, forces, force_rates
        ``(S, N, 3)`` at the same instants, in ASE's units; the rate dF/dt to order h² (central difference).
    masses
        ``(N,)`` amu.
    timestep
        h in ASE's unit of time (`ase.units.fs` times fs).
    """
    power = np.einsum("sij,sij->s", velocities, force_rates)
    square = np.einsum("sij,sij,i->s", forces, forces, 1.0 / masses)
    return np.asarray(energy - timestep**2 * (power / 12.0 + square / 24.0))


def run_nve(atoms: Atoms, evaluate: EnergyAndForces, *, timestep: float, steps: int, start: float = 0.0) -> Trace:
    """Velocity Verlet at constant energy; `atoms` is moved on, so that calls continue each other.

    Two evaluations more than steps are needed: the force before the start is that of a step backwards.

    Parameters
    ----------
    atoms
        With momenta.
    evaluate
        Energy and forces.
    timestep
        fs.
    steps
        Number of steps; the trace holds the instants before each of them.
    start
        fs; time of the first instant.
    """
    h = timestep * units.fs
    masses = atoms.get_masses()
    inverse = 1.0 / masses[:, None]
    velocities = atoms.get_velocities()
    _, forces = evaluate(atoms)
    earlier = atoms.copy()
    earlier.calc = atoms.calc
    earlier.positions += -h * velocities + 0.5 * h * h * forces * inverse
    _, before = evaluate(earlier)
    energy, forces = evaluate(atoms)
    rows = []
    for _ in range(steps):
        kinetic = 0.5 * float(np.einsum("ij,ij,i->", velocities, velocities, masses))
        half = velocities + 0.5 * h * forces * inverse
        atoms.positions += h * half
        next_energy, after = evaluate(atoms)
        rate = (after - before) / (2.0 * h)
        shadow = shadow_energy(
            np.array([energy + kinetic]), velocities[None], forces[None], rate[None], masses, timestep=h
        )
        rows.append((energy, kinetic, float(shadow[0])))
        velocities = half + 0.5 * h * after * inverse
        before, forces, energy = forces, after, next_energy
        atoms.set_velocities(velocities)
    potential, kinetic_, shadow_ = np.array(rows, dtype=np.float64).reshape(steps, 3).T
    time = start + timestep * np.arange(steps, dtype=np.float64)
    return Trace(time, potential, kinetic_, shadow_, len(atoms))


@dataclass(frozen=True)
class Slope:
    """Slope of a line through a time series, with a 95 % bound.

    Attributes
    ----------
    value, error
        Slope and its standard error, of whatever unit was given, per unit of time.
    bound
        The absolute value that the slope does not exceed with 95 % confidence.
    """

    value: float
    error: float
    bound: float


def slope(time: Array, values: Array, *, blocks: Sequence[int] = BLOCKS) -> Slope:
    """Slope of correlated data, ``(S,)`` each: a line through block averages, Student's t for its error.

    Of several numbers of blocks the one with the largest bound is reported.
    """
    found = []
    for count in blocks:
        size = len(values) // count
        if size < 1:
            msg = f"{len(values)} values are too few for {count} blocks"
            raise ValueError(msg)
        x, y = (a[: size * count].reshape(count, size).mean(axis=1) for a in (time, values))
        x = x - x.mean()
        value = float(x @ y / (x @ x))
        residual = y - y.mean() - value * x
        error = math.sqrt(float(residual @ residual) / (count - 2) / float(x @ x))
        found.append(Slope(value, error, abs(value) + float(student.ppf(0.975, count - 2)) * error))
    return max(found, key=lambda s: s.bound)


def fluctuation_ratio(
    snapshots: Sequence[Atoms], evaluate: EnergyAndForces, *, timestep: float, duration: float
) -> Iterator[tuple[float, float]]:
    """Fluctuations of H with the step and with half of it, from each snapshot over the same stretch of time.

    Short stretches from common starting points compare the steps along the same trajectory; over long runs
    the two diverge, and energy moves between fast and slow modes, which fluctuate differently.

    Parameters
    ----------
    snapshots
        With momenta; they are copied.
    evaluate
        Energy and forces.
    timestep, duration
        fs.

    Yields
    ------
    Variances of H (eV²) at the step and at half the step, one pair per snapshot; see :func:`pooled_ratio`.
    """
    steps = max(2, round(duration / timestep))
    for snapshot in snapshots:
        variances = []
        for divisor in (1, 2):
            atoms = snapshot.copy()
            atoms.calc = snapshot.calc
            trace = run_nve(atoms, evaluate, timestep=timestep / divisor, steps=divisor * steps)
            variances.append(float(np.var(trace.total)))
        yield variances[0], variances[1]


def pooled_ratio(variances: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Ratio of the fluctuations (standard deviations pooled over snapshots) and its standard error by jackknife."""
    pairs = np.array(variances)
    total = pairs.sum(axis=0)
    ratio = math.sqrt(total[0] / total[1])
    without = total - pairs
    left_out = np.sqrt(without[:, 0] / without[:, 1])
    n = len(pairs)
    error = math.sqrt((n - 1) / n * float(np.sum((left_out - left_out.mean()) ** 2))) if n > 1 else math.nan
    return ratio, error


def equilibrate(
    atoms: Atoms, *, temperature: float, duration: float, timestep: float, seed: int, friction: float = 0.01
) -> None:
    """Langevin dynamics with the structure's calculator, from random velocities; then at rest as a whole.

    Parameters
    ----------
    atoms
        With a calculator; moved.
    temperature
        K.
    duration, timestep
        fs.
    seed
        Of the velocities and of the random forces.
    friction
        1/fs.
    """
    rng = np.random.default_rng(seed)
    spread = np.sqrt(units.kB * temperature / atoms.get_masses())
    atoms.set_velocities(spread[:, None] * rng.normal(size=(len(atoms), 3)))
    dynamics = Langevin(
        atoms, timestep * units.fs, temperature_K=temperature, friction=friction / units.fs, rng=rng, fixcm=False
    )
    dynamics.run(round(duration / timestep))
    Stationary(atoms)
    if not atoms.pbc.any():
        ZeroRotation(atoms)
