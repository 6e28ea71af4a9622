"""Calculators that are wrong on purpose, each with a strength that can be as small as one likes.

:data:`DEFECTS` names them, with three strengths from strong to weak and the suite that is there to catch each. Strength 0
is the sound potential. Wrappers falsify the results of another calculator (EMT by default); what concerns neighbors is
done in :class:`PairPotential`, whose lists are its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.stress import full_3x3_to_voigt_6_stress
from vesin import ase_neighbor_list

CUTOFF = 6.0


def neighbor_list(quantities: str, atoms: Atoms, cutoff: float) -> tuple[np.ndarray, ...]:
    if len(atoms) == 0:
        return tuple(np.zeros(0, int) if q in "ij" else np.zeros((0, 3)) for q in quantities)
    return tuple(ase_neighbor_list(quantities, atoms, cutoff))


class PairPotential(Calculator):
    """A Morse potential for Cu that a polynomial of fifth degree switches off between 4.5 and 6 Å (C², own lists)."""

    implemented_properties = ("energy", "forces", "stress")
    elements = ("Cu",)
    depth, stiffness, minimum, onset = 0.4, 1.4, 2.6, 4.5

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        i, j, vectors = self.pairs(self.atoms)
        r = np.linalg.norm(vectors, axis=1)
        energies, slopes = self.curve(r)
        pulls = (slopes / r)[:, None] * vectors
        forces = np.zeros((len(self.atoms), 3))
        np.add.at(forces, i, 0.5 * pulls)
        np.add.at(forces, j, -0.5 * pulls)
        self.results = {"energy": 0.5 * float(energies.sum()), "forces": forces}
        if self.atoms.pbc.all():
            virial = 0.5 * np.einsum("ea,eb->ab", pulls, vectors)
            self.results["stress"] = full_3x3_to_voigt_6_stress(0.5 * (virial + virial.T) / self.atoms.get_volume())

    def pairs(self, atoms):
        return neighbor_list("ijD", atoms, CUTOFF)

    def curve(self, r):
        """Energy of pairs (eV) and its derivative (eV/Å)."""
        e = np.exp(-self.stiffness * (r - self.minimum))
        morse, d_morse = self.depth * (e * e - 2 * e), -2 * self.stiffness * self.depth * (e * e - e)
        x = np.clip((r - self.onset) / (CUTOFF - self.onset), 0.0, 1.0)
        switch = 1 - x**3 * (10 - 15 * x + 6 * x**2)
        d_switch = -30 * x**2 * (1 - x) ** 2 / (CUTOFF - self.onset)
        return morse * switch, d_morse * switch + morse * d_switch


class TruncatedCutoff(PairPotential):
    """The list ends `strength` Å inside of where the potential does."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def pairs(self, atoms):
        i, j, vectors = super().pairs(atoms)
        near = np.linalg.norm(vectors, axis=1) < CUTOFF - self.strength
        return i[near], j[near], vectors[near]


class NeighborCap(PairPotential):
    """The ``strength`` nearest neighbors of each atom only."""

    def __init__(self, strength):
        super().__init__()
        self.cap = int(strength)

    def pairs(self, atoms):
        i, j, vectors = super().pairs(atoms)
        r = np.linalg.norm(vectors, axis=1)
        order = np.lexsort((r, i))
        rank = np.empty(len(i), int)
        first = np.searchsorted(i[order], np.arange(len(atoms)))
        rank[order] = np.arange(len(i)) - first[i[order]]
        near = rank < self.cap
        return i[near], j[near], vectors[near]


class StaleNeighbors(PairPotential):
    """Neighbors are searched again only when an atom has moved by `strength` Å; the list has no skin."""

    def __init__(self, strength):
        super().__init__()
        self.strength, self.known = strength, None

    def pairs(self, atoms):
        known = self.known
        if (
            known is None
            or len(known[0]) != len(atoms)
            or not np.array_equal(known[0].pbc, atoms.pbc)
            or not np.array_equal(known[0].cell.array, atoms.cell.array)
            or np.linalg.norm(known[0].positions - atoms.positions, axis=1).max(initial=0.0) > self.strength
        ):
            i, j, shifts = neighbor_list("ijS", atoms, CUTOFF)
            self.known = known = (atoms.copy(), i, j, shifts)
        _, i, j, shifts = known
        vectors = atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array
        return i, j, vectors


class Defective(Calculator):
    """Falsifies the results of another calculator."""

    implemented_properties = ("energy", "forces", "stress")
    elements = ("Cu",)

    def __init__(self, strength, inner=EMT):
        super().__init__()
        self.strength, self.inner = strength, inner()
        self.evaluations = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.evaluations += 1
        copy = self.atoms.copy()
        copy.calc = self.inner
        energy, forces = copy.get_potential_energy(), copy.get_forces().copy()
        stress = copy.get_stress() if copy.pbc.all() else None
        self.results = {"energy": energy, "forces": forces}
        if stress is not None:
            self.results["stress"] = stress
        self.falsify(self.atoms, self.results)

    def falsify(self, atoms: Atoms, results: dict[str, Any]) -> None:
        raise NotImplementedError


class Sound(Defective):
    def falsify(self, _atoms, results):
        pass


def degree(atoms: Atoms, *, reach: float = 4.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth pairs: receivers, unit vectors, weights that vanish at `reach` (Å)."""
    i, vectors = neighbor_list("iD", atoms, reach)
    r = np.linalg.norm(vectors, axis=1)
    return i, vectors / np.maximum(r, 1e-9)[:, None], (1 - (r / reach) ** 2) ** 3


class Curl(Defective):
    """A force that turns around z: `strength` eV/Å² times the distance, periodic, for each pair of neighbors."""

    def falsify(self, atoms, results):
        i, units, weights = degree(atoms)
        swirl = np.cross(units, [0.0, 0.0, 1.0]) * weights[:, None]
        np.add.at(results["forces"], i, self.strength * swirl)


class StressSign(Defective):
    """A part of the stress has the wrong sign: all of it at strength 1."""

    def falsify(self, _atoms, results):
        if "stress" in results:
            results["stress"] *= 1.0 - 2.0 * self.strength


class HalfVirial(Defective):
    """The factor of one half of the double sum over pairs is forgotten in this part of the virial."""

    def falsify(self, _atoms, results):
        if "stress" in results:
            results["stress"] *= 1.0 + self.strength


class ForcesZeroed(Defective):
    """All forces reduced by this part; zero at strength 1."""

    def falsify(self, _atoms, results):
        results["forces"] *= 1.0 - self.strength


class OneForceZeroed(Defective):
    """The force of the last atom reduced by this part."""

    def falsify(self, atoms, results):
        if len(atoms):
            results["forces"][-1] *= 1.0 - self.strength


class FirstCallWrong(Defective):
    """Energy and forces of the first evaluation are off by this part."""

    def falsify(self, _atoms, results):
        if self.evaluations == 1:
            results["energy"] *= 1.0 + self.strength
            results["forces"] *= 1.0 + self.strength


class Rounded(Defective):
    """Forces mixed with those rounded to bfloat16 (8 bits), all of them at strength 1."""

    def falsify(self, _atoms, results):
        forces = results["forces"]
        coarse = torch.tensor(forces).to(torch.bfloat16).double().numpy()
        results["forces"] = forces + self.strength * (coarse - forces)


class SingleEnergy(Defective):
    """Energies on a grid of this size (eV), as of a large total energy in float32."""

    def falsify(self, _atoms, results):
        results["energy"] = float(np.round(results["energy"] / self.strength) * self.strength)


class NonExtensive(Defective):
    """A readout that depends on the number of atoms: `strength` eV times (N − 1)² for N atoms."""

    def falsify(self, atoms, results):
        results["energy"] += self.strength * (len(atoms) - 1) ** 2


class DirectForces(Defective):
    """Forces of a network of their own: equivariant and without net force, but no gradient."""

    def falsify(self, atoms, results):
        i, units, weights = degree(atoms)
        density = np.bincount(i, weights, minlength=len(atoms))
        direct = np.zeros_like(results["forces"])
        np.add.at(direct, i, units * (weights * np.sin(3.0 * density[i]))[:, None])
        if len(atoms):
            direct -= direct.mean(axis=0)
        results["forces"] += self.strength * direct


class Noise(Defective):
    """Forces with noise of this many eV/Å, other noise at every call."""

    def falsify(self, _atoms, results):
        noise = np.random.default_rng(self.evaluations).normal(size=results["forces"].shape)
        results["forces"] += self.strength * noise


class PreferredAxis(Defective):
    """Bonds along z are stronger by `strength` eV."""

    def falsify(self, atoms, results):
        _, units, weights = degree(atoms)
        results["energy"] += 0.5 * self.strength * float(np.sum(weights * units[:, 2] ** 2))


class Hole(PairPotential):
    """No wall: below `strength` Å the energy of a pair falls again."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def curve(self, r):
        energy, slope = super().curve(r)
        x = np.clip(self.strength - r, 0.0, None)
        return energy - 400.0 * x**3, slope + 1200.0 * x**2


class OtherHead(Defective):
    """Forces of another potential than the energy, in this part."""

    def falsify(self, atoms, results):
        other = atoms.copy()
        other.calc = PairPotential()
        results["forces"] += self.strength * (other.get_forces() - results["forces"])


@dataclass(frozen=True)
class Defect:
    """A kind of defect: how it is made, three strengths from strong to weak, their unit, the suite that is for it."""

    make: Callable[[float], Calculator]
    strengths: tuple[float, float, float]
    unit: str
    suite: str
    cutoff: float = CUTOFF


_EMT_CUTOFF = 5.9
DEFECTS: dict[str, Defect] = {
    "truncated cutoff": Defect(TruncatedCutoff, (1.0, 0.3, 0.1), "Å", "cutoff"),
    "neighbor cap": Defect(NeighborCap, (12, 32, 64), "neighbors", "cutoff"),
    "stale neighbors": Defect(StaleNeighbors, (1.0, 0.5, 0.25), "Å of motion", "contract"),
    "hole in the wall": Defect(Hole, (1.6, 1.4, 1.2), "Å", "walls"),
    "small curl": Defect(Curl, (1e-2, 1e-4, 1e-6), "eV/Å", "jacobian", _EMT_CUTOFF),
    "direct forces": Defect(DirectForces, (1e-1, 1e-3, 1e-5), "eV/Å", "jacobian", _EMT_CUTOFF),
    "stress sign": Defect(StressSign, (1.0, 1e-2, 1e-5), "of the stress", "gradient", _EMT_CUTOFF),
    "half of the virial": Defect(HalfVirial, (1.0, 1e-2, 1e-5), "of the stress", "gradient", _EMT_CUTOFF),
    "forces zeroed": Defect(ForcesZeroed, (1.0, 1e-2, 1e-5), "of the forces", "gradient", _EMT_CUTOFF),
    "one force zeroed": Defect(OneForceZeroed, (1.0, 1e-2, 1e-5), "of the force", "contract", _EMT_CUTOFF),
    "forces of another head": Defect(OtherHead, (1.0, 1e-2, 1e-5), "of the forces", "gradient", _EMT_CUTOFF),
    "wrong first call": Defect(FirstCallWrong, (1e-2, 1e-6, 1e-12), "of the energy", "contract", _EMT_CUTOFF),
    "bfloat16 forces": Defect(Rounded, (1.0, 1e-1, 1e-3), "of the rounding", "gradient", _EMT_CUTOFF),
    "coarse energy": Defect(SingleEnergy, (1e-2, 1e-4, 1e-6), "eV", "gradient", _EMT_CUTOFF),
    "non-extensive readout": Defect(NonExtensive, (1e-2, 1e-5, 1e-8), "eV", "size", _EMT_CUTOFF),
    "preferred axis": Defect(PreferredAxis, (1e-2, 1e-5, 1e-8), "eV", "symmetry", _EMT_CUTOFF),
    "noise": Defect(Noise, (1e-2, 1e-5, 1e-8), "eV/Å", "contract", _EMT_CUTOFF),
}
