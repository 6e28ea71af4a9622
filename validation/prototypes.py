"""Prototypes of crystals: primitive cells of given elements, to be scaled to where a potential wants them."""

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal

from hydrapot.validation.structures import bond, radius

NON_METALS = frozenset((1, 2, 5, 6, 7, 8, 9, 10, 15, 16, 17, 18, 34, 35, 36, 53, 54))
#: Å; nearest distance where a potential has no minimum over the volume, as some that were trained at one volume only.
KNOWN_DISTANCES = {"SiO2-quartz": 1.605}
_LATTICES = ("fcc", "bcc", "diamond", "hcp")
_COMPOUNDS = ("rocksalt", "cesiumchloride", "zincblende")


def usual_distance(elements: tuple[int, ...], *, cutoff: float) -> float:
    """Å; the shortest in a perovskite or in quartz is that of the small cation and oxygen."""
    others = [z for z in elements if z != 8] if len(elements) > 1 and 8 in elements else list(elements)
    partner = 8 if len(others) < len(elements) else others[-1]
    return min(bond(z, partner, cutoff=cutoff) for z in others)


def prototypes_of(elements: tuple[int, ...]) -> dict[str, Atoms]:
    """Primitive cells with a nearest distance of 1 Å, by name."""
    if len(elements) == 1:
        made = {}
        for lattice in _LATTICES:
            made[lattice] = bulk("X", lattice, a=1.0, covera=float(np.sqrt(8 / 3)) if lattice == "hcp" else None)
            made[lattice].numbers[:] = elements[0]
    elif set(elements) == {8, 14}:
        # P3_121; positions of Levien, Prewitt, Weidner, Am. Mineral. 65, 920 (1980).
        made = {
            "quartz": crystal(
                ["Si", "O"],
                [(0.4697, 0, 1 / 3), (0.4135, 0.2669, 0.1191 + 1 / 3)],
                spacegroup=152,
                cellpar=[4.916, 4.916, 5.4054, 90, 90, 120],
            )
        }
    elif len(elements) == 2:
        made = {}
        if not NON_METALS & set(elements):
            made["L1_0"] = Atoms("NaCl", [[0, 0, 0], [0.5, 0.5, 0.5**0.5]], cell=[1, 1, 2**0.5], pbc=True)
        made |= {lattice: bulk("NaCl", lattice, a=1.0) for lattice in _COMPOUNDS}
        for atoms in made.values():
            atoms.numbers[:] = elements
    else:
        large, small = sorted((z for z in elements if z != 8), key=lambda z: -radius(z))
        corners = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
        made = {"perovskite": Atoms([large, small, 8, 8, 8], corners, cell=np.eye(3), pbc=True)}
    formula = (
        "SiO2" if "quartz" in made else next(iter(made.values())).symbols.get_chemical_formula("metal", empirical=True)
    )
    return {f"{formula}-{lattice}": _unit(atoms) for lattice, atoms in made.items()}


def _unit(atoms: Atoms) -> Atoms:
    """A copy with a nearest distance of 1 Å."""
    nearest = float(neighbor_list("d", atoms, 1.01 * float(atoms.cell.lengths().max())).min())
    return scaled(atoms, 1.0 / nearest)


def scaled(atoms: Atoms, factor: float) -> Atoms:
    """A copy with all lengths multiplied."""
    copy: Atoms = atoms.copy()
    copy.set_cell(copy.cell.array * factor, scale_atoms=True)
    return copy
