"""Initial velocities and the count of degrees of freedom that a temperature refers to."""

import numpy as np
from ase import Atoms, units


def maxwell_boltzmann(
    atoms: Atoms,
    *,
    temperature: float,
    rng: np.random.Generator,
    zero_momentum: bool = True,
    zero_rotation: bool = True,
) -> None:
    """Draw momenta from the Maxwell–Boltzmann distribution and set them on `atoms`.

    Parameters
    ----------
    temperature
        K. Momenta are scaled to exactly this temperature after translation and rotation are taken off, so
        that a run of a few atoms starts where it was asked to.
    rng
        Source of the random numbers.
    zero_momentum
        Take the motion of the center of mass off; not for a single atom or with constrained atoms.
    zero_rotation
        Take rigid rotation off; only for structures without periodicity and constraints.
    """
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    atoms.set_momenta(momenta)  # constrained atoms keep none
    free = len(atoms) > 1 and not atoms.constraints
    if free and zero_momentum:
        _remove_translation(atoms)
    if free and zero_rotation and zero_momentum and not atoms.pbc.any():
        _remove_rotation(atoms)
    current = kinetic_temperature(atoms, degrees_of_freedom(atoms, conserves_momentum=True))
    if current > 0:
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature / current))


def degrees_of_freedom(atoms: Atoms, *, conserves_momentum: bool) -> int:
    """Momenta that can change independently.

    Constraints take theirs off; total momentum and, without periodicity, total angular momentum take 3 each
    off (2 for a linear molecule) if they are zero and the dynamics keeps them so (velocity Verlet and
    Nosé–Hoover do, Langevin not).
    """
    count = int(atoms.get_number_of_degrees_of_freedom())
    if not conserves_momentum or len(atoms) < 2 or atoms.constraints:
        return count
    momenta = atoms.get_momenta()
    size = np.abs(momenta).sum()
    if np.abs(momenta.sum(axis=0)).max() > 1e-8 * size:
        return count
    count -= 3
    if atoms.pbc.any():
        return count
    arms = atoms.positions - atoms.get_center_of_mass()
    if np.abs(np.cross(arms, momenta).sum(axis=0)).max() > 1e-8 * size * max(np.abs(arms).max(), 1.0):
        return count
    return count - (2 if _is_linear(atoms) else 3)


def kinetic_temperature(atoms: Atoms, count: int) -> float:
    """2 E_kin / (f k_B) in K for f degrees of freedom; 0 if there is none."""
    return float(2.0 * atoms.get_kinetic_energy() / (count * units.kB)) if count > 0 else 0.0


def _is_linear(atoms: Atoms) -> bool:
    moments = np.sort(atoms.get_moments_of_inertia())
    return bool(moments[0] < 1e-4 * moments[-1])


def _remove_translation(atoms: Atoms) -> None:
    masses, momenta = atoms.get_masses(), atoms.get_momenta()
    atoms.set_momenta(momenta - masses[:, None] * momenta.sum(axis=0) / masses.sum())


def _remove_rotation(atoms: Atoms) -> None:
    masses = atoms.get_masses()
    arms = atoms.positions - atoms.get_center_of_mass()
    angular = np.cross(arms, atoms.get_momenta()).sum(axis=0)
    inertia = np.einsum("i,ij,ij->", masses, arms, arms) * np.eye(3) - np.einsum("i,ij,ik->jk", masses, arms, arms)
    # The pseudo-inverse leaves out the axis of a linear molecule, about which there is no rotation.
    omega = np.linalg.pinv(inertia, rcond=1e-6, hermitian=True) @ angular
    atoms.set_momenta(atoms.get_momenta() - masses[:, None] * np.cross(omega, arms))
