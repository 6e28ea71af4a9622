"""Stop a run that has left the realm of the possible, with a message that says where."""

from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms, units
from ase.data import covalent_radii
from scipy.stats import chi2

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential.errors import SimulationError
from hydrapot.potential.graph import Graph, build_graph_from_arrays
from hydrapot.workflows.dynamics import EngineResults

#: Of the sum of covalent radii (Cordero et al. 2008). The shortest bonds are N≡N and C≡O at 0.77 and 0.79 and
#: M=O at 0.68; metals and oxides compressed to a terapascal come down to 0.6.
CLOSEST_CONTACT = 0.5
#: Of the target temperature, or of 300 K if that is higher.
HOTTEST = 5.0
#: Å between the distance that is too close and the cutoff of a search for such pairs: as far as two atoms may approach
#: each other before the next search.
_MARGIN = 1.5
#: Probability per step that a sound run of few atoms exceeds the limit by chance: kinetic energy is χ²
#: distributed.
_CHANCE = 1e-12


class Contact(NamedTuple):
    """The closest pair of a structure, measured by the covalent radii."""

    first: int
    second: int
    distance: float  # Å
    ratio: float  # of the sum of covalent radii


def closest_contact(graph: Graph) -> Contact | None:
    """The pair with the smallest ratio of distance to covalent radii; None without any pair."""
    if not bool(graph.edge_mask.any()):
        return None
    radii = torch.from_numpy(_RADII).to(graph.numbers.device)[graph.numbers]
    receivers, senders = graph.edge_index
    distances = torch.linalg.vector_norm(graph.edge_vectors, dim=1)
    ratios = distances / (radii[receivers] + radii[senders])
    edge = int(torch.where(graph.edge_mask, ratios, torch.inf).argmin())
    return Contact(int(receivers[edge]), int(senders[edge]), float(distances[edge]), float(ratios[edge]))


def hottest_allowed(*, temperature: float, degrees_of_freedom: int) -> float:
    """Temperature (K) above which a run has run away.

    `HOTTEST` times the target, widened by the fluctuation that few degrees of freedom have.
    """
    if degrees_of_freedom < 1:
        return np.inf
    fluctuation = float(chi2.isf(_CHANCE, degrees_of_freedom)) / degrees_of_freedom
    return HOTTEST * max(temperature, 300.0) * fluctuation


class Guards:
    """Checks after every step, or every block of steps.

    Parameters
    ----------
    temperature
        K, target or initial.
    degrees_of_freedom
        That the temperature refers to.
    n_atoms
        Number of atoms.
    max_temperature
        K; None takes :func:`hottest_allowed`.
    closest
        Smallest allowed distance in units of the sum of covalent radii.
    """

    def __init__(
        self,
        *,
        temperature: float,
        degrees_of_freedom: int,
        n_atoms: int,
        max_temperature: float | None = None,
        closest: float = CLOSEST_CONTACT,
    ) -> None:
        self.hottest = (
            max_temperature
            if max_temperature is not None
            else hottest_allowed(temperature=temperature, degrees_of_freedom=degrees_of_freedom)
        )
        self.closest = closest
        self.n_atoms = n_atoms
        # As much as all kinetic energy within a single step, plus what rounding and stiff bonds may do.
        self.largest_jump = 1.5 * units.kB * temperature + 0.05
        self._conserved: float | None = None
        self._clearance = _Clearance()

    def check(self, atoms: Atoms, *, temperature: float, conserved: float | None, steps: int = 1) -> None:
        """Raise unless the state after a step, or a block of steps, is a possible one.

        Parameters
        ----------
        temperature
            K, now.
        conserved
            eV, of the quantity that the dynamics should conserve; None if there is none.
        steps
            Since the last check.

        Raises
        ------
        SimulationError
        """
        bad = ~np.isfinite(atoms.positions).all(axis=1) | ~np.isfinite(atoms.get_momenta()).all(axis=1)
        if bad.any():
            raise SimulationError(f"position or velocity of {_name(atoms, int(np.flatnonzero(bad)[0]))} is not finite")
        contact = self._contact(atoms)
        if contact is not None and contact.ratio < self.closest:
            raise SimulationError(
                f"{_name(atoms, contact.first)} and {_name(atoms, contact.second)} came as close as "
                f"{contact.distance:.3f} Å ({contact.ratio:.2f} of the sum of their covalent radii)"
            )
        if not temperature <= self.hottest:
            speeds = np.linalg.norm(atoms.get_velocities(), axis=1)
            raise SimulationError(
                f"the temperature rose to {temperature:.0f} K (limit {self.hottest:.0f} K); "
                f"fastest is {_name(atoms, int(speeds.argmax()))}"
            )
        if conserved is not None:
            if self._conserved is not None:
                jump = abs(conserved - self._conserved) / self.n_atoms
                if not jump <= self.largest_jump:
                    time = "one step" if steps == 1 else f"{steps} steps"
                    raise SimulationError(
                        f"the energy that should be conserved jumped by {1000 * jump:.0f} meV/atom in {time} "
                        f"(limit {1000 * self.largest_jump:.0f}): the time step is too long or atoms collided"
                    )
            self._conserved = conserved

    def _contact(self, atoms: Atoms) -> Contact | None:
        calculator = atoms.calc
        if not isinstance(calculator, (HydrapotCalculator, EngineResults)) or self._clearance.holds(atoms):
            return None
        if isinstance(calculator, EngineResults):
            # The engine keeps its neighbors to itself; a search that goes little beyond the closest pairs is cheap.
            cutoff = 2.0 * self.closest * float(_RADII[atoms.numbers].max()) + _MARGIN
            graph: Graph | None = build_graph_from_arrays(
                atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, cutoff=cutoff
            )
        else:
            cutoff, graph = calculator.potential.cutoff, calculator.graph
        if graph is None:
            return None
        self._clearance.renew(atoms, graph, cutoff=cutoff, closest=self.closest)
        return closest_contact(graph)


class _Clearance:
    """How far atoms may move before any pair can come too close: pairs are measured again only then.

    A pair with a gap g = r − r_min can close it only by moving g together. So after a look at all pairs none is too close
    until twice the largest displacement reaches the smallest gap; pairs beyond the cutoff have a gap of their own.
    """

    def __init__(self) -> None:
        self._gap = -np.inf
        self._positions = np.zeros((0, 3))
        self._cell = np.zeros((3, 3))

    def holds(self, atoms: Atoms) -> bool:
        """Whether no pair can be too close."""
        if self._gap <= 0.0 or (atoms.cell.array != self._cell).any():
            return False
        moved = (atoms.arrays["positions"] - self._positions).ravel()
        np.multiply(moved, moved, out=moved)
        # 2 |d| ≤ 2 √3 max|d_k|; an atom that was wrapped counts as moved, which only costs a look.
        return bool(12.0 * moved.max() < self._gap**2)

    def renew(self, atoms: Atoms, graph: Graph, *, cutoff: float, closest: float) -> None:
        """Measure all pairs; of those beyond the cutoff (Å) only that they are."""
        self._positions, self._cell = atoms.get_positions(), atoms.cell.array.copy()
        radii = torch.from_numpy(_RADII).to(graph.numbers.device)[graph.numbers]
        receivers, senders = graph.edge_index
        gaps = torch.linalg.vector_norm(graph.edge_vectors, dim=1) - closest * (radii[receivers] + radii[senders])
        beyond = cutoff - closest * 2.0 * float(radii.max())
        self._gap = min(beyond, float(gaps[graph.edge_mask].min())) if bool(graph.edge_mask.any()) else beyond


def _name(atoms: Atoms, index: int) -> str:
    return f"atom {index} ({atoms.symbols[index]})"


def _radii() -> np.ndarray:
    radii = np.asarray(covalent_radii, dtype=np.float64).copy()
    radii[97:] = 1.7  # not tabulated beyond Cm; ASE fills in 0.2 Å
    return radii


_RADII = _radii()
