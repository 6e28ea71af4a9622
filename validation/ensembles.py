"""Is a trajectory a sample of its ensemble? Checks of the ``physical_validation`` package, in ASE's units.

* Kinetic energy (:func:`kinetic_deviations`): mean and width against the Γ distribution of Maxwell and Boltzmann
  (Merz & Shirts, *PLoS ONE* 13, e0202764 (2018)).
* Potential energy (:func:`potential_deviation`): the ratio of its distributions at two temperatures has to be
  exp[−(β₂ − β₁) U] up to a factor, whatever the potential (Shirts, *J. Chem. Theory Comput.* 9, 909 (2013)). Forces that do
  not belong to the energy break it.

The package prints, warns, logs and seeds numpy's global generator; none of that leaves this module.
"""

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from ase import units
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: kJ/mol in an eV: the package counts in GROMACS' units (kJ/mol, nm, ps, bar, K) and wants the factors to them.
_KJ_PER_MOL = units.eV / (units.kJ / units.mol)
_NM = 0.1  # of an Å
_BAR = units.GPa**-1 * 1e4  # bar in an eV/Å³: 1 eV/Å³ = 160.2 GPa, 1 GPa = 1e4 bar
_PS = 1e-3  # of a fs
#: In which the package wants to see samples before it goes on to the fit, which needs no bins.
_BINS = 3


#: Fewer independent values than these say nothing.
FEWEST = 20


def deviation_limits(count: int) -> tuple[float, float]:
    """What deviations of mean and width may be, of `count` independent values, in (bootstrapped) standard errors.

    The error of the width is itself uncertain: of 3000 samples from the exact distribution the 99.9 % quantile of the
    deviation is 6.7 for 20 values each, 5.0 for 60 and 4.3 for 100, that of the mean 4.0, 3.5 and 3.4. The limits are exceeded
    by one sound sample in some 3000.
    """
    return 4.5, 4.5 + 70.0 / count


def kinetic_deviations(
    runs: Sequence[Array], *, temperature: float, degrees_of_freedom: int, seed: int = 0
) -> tuple[float, float]:
    """By how many standard errors mean and width of the kinetic energy differ from those at `temperature`.

    Parameters
    ----------
    runs
        ``(S,)`` eV each: the kinetic energy at equal intervals, of runs in equilibrium.
    temperature
        K.
    degrees_of_freedom
        That carry the kinetic energy.
    seed
        Of the bootstrap that gives the standard errors.

    Returns
    -------
    Both not negative.
    """
    with _quiet() as package:
        data = _data(package, degrees_of_freedom, temperature, independent(runs))
        mean, width = package.kinetic_energy.distribution(
            data, verbosity=0, bootstrap_seed=seed, data_is_uncorrelated=True
        )
    return float(mean), float(width)


def potential_deviation(first: Sequence[Array], second: Sequence[Array], *, temperatures: tuple[float, float]) -> float:
    """By how many standard errors the slope of ln P₂(U)/P₁(U) differs from β₁ − β₂ (maximum likelihood).

    Parameters
    ----------
    first, second
        Potential energies at the two temperatures, runs as above.
    temperatures
        K.

    Raises
    ------
    ValueError
        The distributions do not overlap, or too few independent samples do.
    """
    lower, upper = independent(first), independent(second)
    # The package takes an edge of the overlap at exactly zero for a missing one; a common offset changes nothing.
    offset = min(float(lower.min()), float(upper.min())) - 1.0
    with _quiet() as package:
        try:
            # What package.ensemble.check calls, whose 40 bins (for its plot) need a thousand samples.
            (deviation,) = package.util.ensemble.check_1d(
                traj1=lower - offset, traj2=upper - offset, param1=temperatures[0], param2=temperatures[1], kb=units.kB,
                quantity="U", dtemp=True, dpress=False, dmu=False, temp=None, pvconvert=None, nbins=_BINS,
                cutoff=0.0, bootstrap_error=False, bootstrap_repetitions=0, bootstrap_seed=None, verbosity=0,
                filename=None, screen=False, xlabel="", xunit="eV", data_is_uncorrelated=True,
            )  # fmt: skip
        except (
            package.util.error.PhysicalValidationError,
            ValueError,
            ZeroDivisionError,
            np.linalg.LinAlgError,
        ) as error:
            raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    return float(deviation)


def independent(runs: Sequence[Array]) -> Array:
    """Independent values of correlated runs: from each every g-th, g the largest statistical inefficiency among them.

    The package would also look for the part of each run with the most independent values. Of a run in equilibrium that is
    a biased choice: of thirty values a third of the deviations then exceeded two standard errors.

    Raises
    ------
    ValueError
        A run whose values are all the same.
    """
    if any(np.ptp(run) == 0.0 for run in runs):
        raise ValueError("what does not fluctuate has no distribution")
    with _quiet() as package:
        inefficiency = package.util.trajectory.statistical_inefficiency  # pymbar's
        stride = max(math.ceil(float(inefficiency(run))) for run in runs)
    return np.concatenate([run[::stride] for run in runs])


def best_interval(temperature: float, *, degrees_of_freedom: int) -> float:
    """Distance (K) of two temperatures at which their potential energies overlap well.

    2kT²/σ(U), after Shirts 2013, with σ(U) = kT √(n/2) of n/2 … harmonic degrees of freedom; at most half the temperature.
    """
    return float(temperature * min(0.5, 2.0 / np.sqrt(degrees_of_freedom / 2.0)))


def unit_data(package: ModuleType) -> Any:
    """ASE's units for the package: energies in eV, lengths in Å, pressures in eV/Å³, times in fs."""
    return package.data.UnitData(
        kb=units.kB,  # in the caller's units of energy, not the package's
        energy_conversion=_KJ_PER_MOL,
        energy_str="eV",
        length_conversion=_NM,
        length_str="Å",
        volume_conversion=_NM**3,
        volume_str="Å^3",
        temperature_conversion=1.0,
        temperature_str="K",
        pressure_conversion=_BAR,
        pressure_str="eV/Å^3",
        time_conversion=_PS,
        time_str="fs",
    )


def _data(package: ModuleType, degrees_of_freedom: int, temperature: float, kinetic: Array) -> Any:
    data = package.data
    # The package counts three degrees of freedom per atom; what is missing goes as constraints.
    n_atoms = -(-degrees_of_freedom // 3)
    return data.SimulationData(
        units=unit_data(package),
        ensemble=data.EnsembleData("NVT", natoms=n_atoms, volume=1.0, temperature=temperature),
        system=data.SystemData(
            natoms=n_atoms,
            nconstraints=3 * n_atoms - degrees_of_freedom,
            ndof_reduction_tra=0,
            ndof_reduction_rot=0,
        ),
        observables=data.ObservableData(kinetic_energy=kinetic),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[ModuleType]:
    """The package, imported, and silent within the block."""
    logging.getLogger("pymbar").setLevel(logging.ERROR)  # it advises to install JAX
    state = np.random.get_state()  # noqa: NPY002 - what the package uses is put back
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import physical_validation
        import physical_validation.util.ensemble
        import physical_validation.util.error
        import physical_validation.util.trajectory

        try:
            with np.errstate(all="ignore"):
                yield physical_validation
        finally:
            np.random.set_state(state)  # noqa: NPY002
