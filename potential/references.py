"""Reference energies: the part of an energy that is a sum over atoms of a number per element.

E = Σ_i E_ref(Z_i) + interaction. Total energies are 1e2–1e5 times larger than what bonds change, differ
between first-principles codes by arbitrary constants, and are therefore kept out of the network, in
float64, per head.

Where they come from is the head's mode: *isolated* (computed free atoms), *zero* (the dataset is already
relative to free atoms) or *fit* (`fit_references`). A fit knows only as much as the compositions tell: in a
dataset of one composition it determines one number, not one per element. `ReferenceEnergies.span` keeps
which combinations of elements are determined, so that energies of other compositions can be flagged: their
zero is a guess.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from hydrapot.potential.errors import ConfigurationError, UnknownElementError

N_ELEMENTS = 119  # columns are atomic numbers; column 0 is never used
RANK_TOLERANCE = 1e-6  # of the largest singular value; below it a combination of elements does not occur
HUBER = 1.345  # in units of the scatter; 95 % efficient on Gaussian residuals


@dataclass(frozen=True)
class ReferenceEnergies:
    """Reference energy of each element of one head.

    Attributes
    ----------
    values
        (119,) float64, eV, indexed by atomic number; NaN where the head knows nothing.
    mode
        Where they come from: ``isolated``, ``zero`` or ``fit``.
    span
        (k, 119) float64, orthonormal rows: the combinations of elements that the data determine. Unit
        vectors of the known elements for ``isolated`` and ``zero``.
    """

    values: NDArray[np.float64]
    mode: Literal["isolated", "zero", "fit"]
    span: NDArray[np.float64]

    @property
    def elements(self) -> NDArray[np.int64]:
        """Atomic numbers that have a reference energy, ascending."""
        return np.flatnonzero(np.isfinite(self.values))

    def energy(self, numbers: ArrayLike) -> float:
        """Return the summed reference energy (eV) of atoms with the atomic ``numbers`` of shape (N,)."""
        counts = _counts(numbers)
        unknown = np.flatnonzero((counts > 0) & np.isnan(self.values))
        if len(unknown):
            raise UnknownElementError(f"no reference energy for {chemical_symbols[unknown[0]]}")
        present = counts > 0
        return float(counts[present] @ self.values[present])

    def determined(self, numbers: ArrayLike, tolerance: float = 1e-3) -> bool:
        """Return whether the data determine the summed reference energy of this composition.

        ``tolerance`` is the norm of the part of the composition outside the span, relative to the
        composition's.
        """
        direction = _counts(numbers)
        norm = float(np.linalg.norm(direction))
        if norm == 0:
            return True
        outside = direction - (direction @ self.span.T) @ self.span
        return float(np.linalg.norm(outside)) <= tolerance * norm


def zero_references(elements: Iterable[int]) -> ReferenceEnergies:
    """Return zero for each of the atomic numbers ``elements``: energies that are relative to free atoms."""
    values = np.full(N_ELEMENTS, np.nan)
    values[sorted(elements)] = 0.0
    return ReferenceEnergies(values=values, mode="zero", span=_unit_rows(values))


def isolated_references(numbers: ArrayLike, energies: ArrayLike, *, required: Iterable[int] = ()) -> ReferenceEnergies:
    """Return the computed energies of isolated atoms as references.

    Parameters
    ----------
    numbers, energies
        (n,) atomic number and energy in eV of each isolated atom; an element that occurs twice has to agree
        to 1 meV.
    required
        Atomic numbers of the dataset, each of which has to be covered.

    Raises
    ------
    ConfigurationError
        An element of the dataset without an isolated atom, or with two different ones.
    """
    values = np.full(N_ELEMENTS, np.nan)
    for z, energy in zip(np.asarray(numbers).tolist(), np.asarray(energies, np.float64).tolist(), strict=True):
        if np.isfinite(values[z]) and abs(values[z] - energy) > 1e-3:
            symbol = chemical_symbols[z]
            raise ConfigurationError(f"isolated atoms of {symbol} differ: {values[z]} and {energy} eV")
        values[z] = energy
    missing = [chemical_symbols[z] for z in sorted(required) if np.isnan(values[z])]
    if missing:
        raise ConfigurationError(
            f"references: isolated, but no isolated atom of {', '.join(missing)}; use references: fit"
        )
    return ReferenceEnergies(values=values, mode="isolated", span=_unit_rows(values))


def fit_references(
    compositions: ArrayLike,
    energies: ArrayLike,
    *,
    prior: ArrayLike | None = None,
    prior_width: float = 5.0,
) -> ReferenceEnergies:
    """Fit reference energies to total energies, drawn to a prior where the data say little or nothing.

    Minimises over the energies per element ``ε``, with x = composition / number of atoms and y = energy /
    number of atoms (so that large cells count like small ones)::

        Σ_s ρ((y_s − x_s·ε) / σ)  +  Σ_Z ρ((ε_Z − prior_Z) / prior_width)

    with Huber's ρ(u) = u² for |u| ≤ k = 1.345 and 2k|u| − k² beyond (Huber 1964), so that a tail of
    compressed or broken structures does not draw the references along, nor a prior that is of another code and
    thousands of eV away; σ is the median absolute deviation of the residuals of the robust fit without a prior. All by
    iterated reweighting. In combinations of elements that do not occur at
    all (singular value below 1e-6 of the largest) the result *is* the prior, to rounding; in those that
    occur often the prior has no weight worth mentioning, because σ/prior_width is small; one structure
    with a rare element moves that element part of the way.

    Parameters
    ----------
    compositions
        (n, 119) number of atoms of each element.
    energies
        (n,) total energies in eV; NaN rows are left out.
    prior
        (119,) expected energy per atom in eV, e.g. of free atoms at a similar level of theory; NaN entries
        and a missing prior mean the median energy per atom of the data, the same for all elements. That
        suits pseudopotential codes, where all elements are within some eV, and not all-electron codes,
        where they are thousands of eV apart.
    prior_width
        How far (eV) the references may be expected from the prior.

    Returns
    -------
    References of exactly those elements that occur in ``compositions``.
    """
    counts = np.asarray(compositions, np.float64)
    totals = np.asarray(energies, np.float64)
    keep = np.isfinite(totals) & (counts.sum(1) > 0)
    counts, totals = counts[keep], totals[keep]
    if not len(totals):
        raise ConfigurationError("references: fit needs energies, and there is none")
    elements = np.flatnonzero(counts.any(0))
    atoms = counts.sum(1)
    x = counts[:, elements] / atoms[:, None]
    y = totals / atoms

    center = np.full(len(elements), np.median(y))
    if prior is not None:
        given = np.asarray(prior, np.float64)[elements]
        center = np.where(np.isfinite(given), given, center)
    residual = y - x @ center

    _, singular, rows = np.linalg.svd(x, full_matrices=False)
    basis = rows[singular > RANK_TOLERANCE * singular[0]]
    # Inside the span the problem has full rank; outside it nothing is ever added to the prior.
    shift = _robust_shift(x @ basis.T, residual, basis, prior_width=prior_width)

    values = np.full(N_ELEMENTS, np.nan)
    values[elements] = center + shift
    span = np.zeros((len(basis), N_ELEMENTS))
    span[:, elements] = basis
    return ReferenceEnergies(values=values, mode="fit", span=span)


def prior_array(prior: Mapping[str, float]) -> NDArray[np.float64]:
    """Turn ``{"H": -13.6, …}`` (eV) into the (119,) array of `fit_references`, NaN where nothing is said."""
    values = np.full(N_ELEMENTS, np.nan)
    for symbol, energy in prior.items():
        if symbol not in chemical_symbols[1:]:
            raise ConfigurationError(f"prior: {symbol!r} is not a chemical symbol")
        values[chemical_symbols.index(symbol)] = energy
    return values


def _robust_shift(
    x: NDArray[np.float64], y: NDArray[np.float64], basis: NDArray[np.float64], *, prior_width: float
) -> NDArray[np.float64]:
    """Minimise Σ ρ((y − x·b)/σ) + Σ_Z ρ(δ_Z/prior_width) with δ = b·basis, which is returned; see `fit_references`.

    `x` ``(n, k)`` of full column rank, `basis` ``(k, elements)`` with orthonormal rows.
    """
    # Rounding of total energies of 1e5 eV: below this, residuals are zero.
    floor = 1e-12 * max(1.0, float(np.abs(y).max()))

    def huber(values: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
        return np.minimum(1.0, HUBER * scale / np.maximum(np.abs(values), floor))

    def scatter(solution: NDArray[np.float64]) -> float:
        return max(1.4826 * float(np.median(np.abs(y - x @ solution))), floor)

    def settle(solution: NDArray[np.float64], *, sigma: float | None) -> NDArray[np.float64]:
        """Reweight until nothing changes; without `sigma` there is no prior, and the scatter is that of each round."""
        for _ in range(200):
            width = scatter(solution) if sigma is None else sigma
            root = np.sqrt(huber(y - x @ solution, width))
            rows, target = x * root[:, None], y * root
            if sigma is not None:
                # A prior of fixed scatter: taken from the residuals that it causes itself, it would run away with them.
                pull = np.sqrt(huber(solution @ basis, prior_width)) * (sigma / prior_width)
                rows, target = np.vstack([rows, pull[:, None] * basis.T]), np.concatenate([target, np.zeros(len(pull))])
            previous = solution
            solution = np.asarray(np.linalg.lstsq(rows, target, rcond=None)[0], np.float64)
            if np.abs(solution - previous).max() <= 1e-9 * max(1.0, float(np.abs(solution).max())):
                break
        return solution

    plain = settle(np.asarray(np.linalg.lstsq(x, y, rcond=None)[0], np.float64), sigma=None)
    return np.asarray(settle(plain, sigma=scatter(plain)) @ basis, np.float64)


def _counts(numbers: ArrayLike) -> NDArray[np.float64]:
    flat = np.asarray(numbers, np.int64).ravel()
    if len(flat) and (flat.min() < 1 or flat.max() >= N_ELEMENTS):
        raise UnknownElementError(f"atomic number {flat.min() if flat.min() < 1 else flat.max()}")
    return np.bincount(flat, minlength=N_ELEMENTS).astype(np.float64)


def _unit_rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.eye(N_ELEMENTS)[np.isfinite(values)]
