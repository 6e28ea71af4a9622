"""Molecular dynamics at constant temperature, and pressure, that notices when it leaves the realm of the possible.

Langevin dynamics by the BAOAB splitting (Leimkuhler & Matthews, *J. Chem. Phys.* 138, 174102 (2013)), with an isotropic
Langevin piston (Quigley & Probert, *J. Chem. Phys.* 120, 11432 (2004)), both as ASE has them; temperature and pressure may
rise while it runs.

Kinetic energies are those right after the half kick, v + hF/2m. For harmonic forces BAOAB keeps their distribution that
of Maxwell and Boltzmann at any step h, while velocities at the end of a step are too cold by (ωh)²/4.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevinbaoab import LangevinBAOAB
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray
from scipy.stats import chi2

from hydrapot.validation.guarded import PotentialFailure
from hydrapot.validation.structures import radius

Array = NDArray[np.float64]

#: Of the sum of covalent radii (Cordero et al. 2008). The shortest bonds are N≡N and C≡O at 0.77 and 0.79 and M=O at 0.68;
#: metals and oxides compressed to a terapascal come down to 0.6.
CLOSEST = 0.5
#: Of the length at the start, beyond which a bond is broken. At 450 K a C–H bond stretches by a quarter (4 σ).
BROKEN = 1.5
#: Two atoms nearer than this multiple of their covalent radii are bonded, if one of them is no metal.
BONDED = 1.25
#: Volume relative to the start beyond which, either way, a cell has exploded or collapsed.
_WILD_VOLUME = 4.0
#: Probability that a sound run leaves the band of temperatures at one step by chance.
_CHANCE = 1e-10
#: Heat lags behind a rising temperature, and anharmonic structures set heat free when they leave their minimum.
_LAG = 1.5
_EVERY = 5  # steps between two looks at distances
_NON_METALS = frozenset((1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 33, 34, 35, 36, 52, 53, 54))


@dataclass(frozen=True)
class Ramp:
    """Conditions of a run, from first to last value in proportion to time: temperature in K, pressure in GPa."""

    temperature: tuple[float, float]
    pressure: tuple[float, float] | None = None

    def at(self, fraction: float) -> tuple[float, float]:
        """Temperature and pressure after a fraction of the run."""
        t0, t1 = self.temperature
        p0, p1 = self.pressure or (0.0, 0.0)
        return t0 + fraction * (t1 - t0), p0 + fraction * (p1 - p0)


@dataclass
class Sample:
    """What a run showed, one value per step unless said otherwise.

    Attributes
    ----------
    failure
        Why it ended early; empty for a run that did not.
    time, kinetic, potential, volume
        fs, eV, eV, Å³ (0 without a cell).
    target
        K; temperature of the thermostat.
    closest, stretch
        Smallest distance in units of the sum of covalent radii (at most 1), and largest bond length relative to the start,
        over the whole run.
    """

    n_atoms: int
    failure: str = ""
    time: list[float] = field(default_factory=list)
    kinetic: list[float] = field(default_factory=list)
    potential: list[float] = field(default_factory=list)
    volume: list[float] = field(default_factory=list)
    target: list[float] = field(default_factory=list)
    closest: float = 1.0
    stretch: float = 1.0

    def temperatures(self) -> Array:
        """K, of all 3N degrees of freedom: nothing holds the center of mass."""
        return np.array(self.kinetic) / (1.5 * units.kB * self.n_atoms)


def temperature_band(n_atoms: int) -> float:
    """Multiple of the thermostat's temperature that a sound run stays below: χ² of 3N degrees of freedom, and a lag."""
    return _LAG * float(chi2.isf(_CHANCE, 3 * n_atoms)) / (3 * n_atoms)


def sample(
    atoms: Atoms,
    ramp: Ramp,
    *,
    timestep: float,
    steps: int,
    thermostat_time: float,
    seed: int,
    bulk_modulus: float = 100.0,
    new_velocities: bool = True,
) -> Sample:
    """Run; `atoms`, with a guarded calculator, are moved on.

    Parameters
    ----------
    timestep, thermostat_time
        fs; 1/friction.
    bulk_modulus
        GPa, about; sets the mass of the piston so that the volume oscillates with a period of some 300 fs.
    new_velocities
        Draw them at the first temperature; otherwise those of `atoms` are kept.

    Returns
    -------
    All steps, or those before it failed: by the potential (:class:`~hydrapot.validation.guarded.PotentialFailure`), two
    atoms at the same place, a broken bond, a temperature or a volume out of all bounds.
    """
    rng = np.random.default_rng(seed)
    temperature, pressure = ramp.at(0.0)
    if new_velocities:
        spread = np.sqrt(units.kB * temperature / atoms.get_masses())
        atoms.set_velocities(spread[:, None] * rng.normal(size=(len(atoms), 3)))
    found = Sample(len(atoms))
    watch = _Watch(atoms)
    try:
        with np.errstate(all="ignore"):
            dynamics = LangevinBAOAB(
                atoms,
                timestep * units.fs,
                temperature_K=temperature,
                T_tau=thermostat_time * units.fs,
                rng=rng,
                **({} if ramp.pressure is None else _piston(atoms, pressure, bulk_modulus)),
            )
            for step in range(steps):
                temperature, pressure = ramp.at((step + 1) / steps)
                dynamics.set_temperature(temperature)
                if ramp.pressure is not None:
                    dynamics.externalstress = -pressure * units.GPa
                dynamics.step()
                _record(found, atoms, dynamics, time=(step + 1) * timestep, temperature=temperature)
                watch.check(found, atoms, look=step % _EVERY == 0 or step == steps - 1)
    except PotentialFailure as error:
        found.failure = str(error)
    except (np.linalg.LinAlgError, FloatingPointError, OverflowError, ZeroDivisionError) as error:
        found.failure = f"the cell degenerated: {error}"
    return found


def _piston(atoms: Atoms, pressure: float, bulk_modulus: float) -> dict[str, Any]:
    # W dε̇/dt = 3V (P − P₀) with δP = −3B ε: ω² = 9BV/W.
    period = 300.0 * units.fs
    mass = 9.0 * bulk_modulus * units.GPa * atoms.get_volume() * (period / (2.0 * math.pi)) ** 2
    return {"externalstress": -pressure * units.GPa, "hydrostatic": True, "P_tau": period, "P_mass": mass}


def _record(found: Sample, atoms: Atoms, dynamics: LangevinBAOAB, *, time: float, temperature: float) -> None:
    kicked = atoms.get_velocities() + 0.5 * dynamics.dt * dynamics.accel
    found.time.append(time)
    found.kinetic.append(0.5 * float(np.einsum("ij,ij,i->", kicked, kicked, atoms.get_masses())))
    found.potential.append(float(atoms.get_potential_energy()))
    found.volume.append(float(atoms.get_volume()) if atoms.pbc.all() else 0.0)
    found.target.append(temperature)


class _Watch:
    """Bounds that a run has to keep."""

    def __init__(self, atoms: Atoms) -> None:
        self.radii = np.array([radius(z) for z in atoms.numbers])
        self.volume = float(atoms.get_volume()) if atoms.pbc.all() else 0.0
        self.hottest = temperature_band(len(atoms))
        self.bonds = _bonds(atoms, self.radii)

    def check(self, found: Sample, atoms: Atoms, *, look: bool) -> None:
        if not np.isfinite(atoms.positions).all():
            raise PotentialFailure("a position is not finite")
        ratio = found.kinetic[-1] / (1.5 * units.kB * found.n_atoms * found.target[-1])
        hot = not ratio < self.hottest
        wild = self.volume and not 1 / _WILD_VOLUME < found.volume[-1] / self.volume < _WILD_VOLUME
        if wild:
            raise PotentialFailure(f"the volume became {found.volume[-1] / self.volume:.2g} times that at the start")
        if look or hot:  # atoms that meet get hot: the distance says more
            self._distances(found, atoms)
        if hot:
            raise PotentialFailure(f"the temperature rose to {ratio:.1f} times that of the thermostat")

    def _distances(self, found: Sample, atoms: Atoms) -> None:
        i, j, d = neighbor_list("ijd", atoms, self.radii)
        if len(d):
            ratios = d / (self.radii[i] + self.radii[j])
            worst = int(ratios.argmin())
            found.closest = min(found.closest, float(ratios[worst]))
            if ratios[worst] < CLOSEST:
                pair = f"{atoms.symbols[int(i[worst])]} and {atoms.symbols[int(j[worst])]}"
                raise PotentialFailure(f"{pair} came as close as {d[worst]:.2f} Å")
        if len(self.bonds[0]):
            first, second, length = self.bonds
            stretched = np.linalg.norm(atoms.positions[first] - atoms.positions[second], axis=1) / length
            worst = int(stretched.argmax())
            found.stretch = max(found.stretch, float(stretched[worst]))
            if stretched[worst] > BROKEN:
                pair = f"{atoms.symbols[int(first[worst])]}–{atoms.symbols[int(second[worst])]}"
                raise PotentialFailure(f"a bond {pair} of {length[worst]:.2f} Å broke")


def _bonds(atoms: Atoms, radii: Array) -> tuple[Any, Any, Any]:
    """Pairs and lengths of the covalent bonds of a molecule; a crystal or a cluster of metal has none."""
    i, j, d = neighbor_list("ijd", atoms, BONDED * radii)
    covalent = np.isin(atoms.numbers, list(_NON_METALS))
    chosen = (i < j) & (covalent[i] | covalent[j]) & (not atoms.pbc.any())
    return i[chosen], j[chosen], d[chosen]
