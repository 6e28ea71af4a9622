"""Which structures are crystals, and their symmetry (through spglib)."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms


def is_crystal(atoms: Atoms) -> bool:
    """Whether a structure is periodic in all three directions."""
    return bool(atoms.pbc.all())


def is_molecule(atoms: Atoms) -> bool:
    """Whether a structure is periodic in no direction and has a shape."""
    return not atoms.pbc.any() and len(atoms) > 1


def crystals(structures: Mapping[str, Atoms]) -> dict[str, Atoms]:
    """Those that are periodic in all three directions."""
    return {name: atoms for name, atoms in structures.items() if is_crystal(atoms)}


def space_group(atoms: Atoms, *, tolerance: float) -> tuple[int, str]:
    """Number and international symbol; `tolerance` in Å."""
    dataset = _ask("get_symmetry_dataset", atoms, symprec=tolerance)
    if dataset is None:
        return 1, "P1"
    return int(dataset.number), str(dataset.international)


def primitive_cell(atoms: Atoms, *, tolerance: float = 1e-4) -> Atoms:
    """The primitive cell, in the orientation of the structure (so that tensors keep their axes).

    Charge and spin, which would no longer be right, keep only their defaults; a charged structure is returned as it is.
    """
    return _standardized(atoms, tolerance=tolerance, to_primitive=True)


def conventional_cell(atoms: Atoms, *, tolerance: float = 1e-4) -> Atoms:
    """The conventional cell, in the orientation of the structure."""
    return _standardized(atoms, tolerance=tolerance, to_primitive=False)


def _standardized(atoms: Atoms, *, tolerance: float, to_primitive: bool) -> Atoms:
    given: Atoms = atoms.copy()
    if atoms.info.get("charge") or (atoms.info.get("spin") or 1) != 1:
        return given
    found = _ask("standardize_cell", atoms, to_primitive=to_primitive, no_idealize=True, symprec=tolerance)
    if found is None:
        return given
    cell, scaled, numbers = found
    standard = Atoms(numbers, cell=cell, scaled_positions=scaled, pbc=True)
    if to_primitive and len(standard) == len(atoms):
        return given  # nothing gained, and the user's own choice of cell is kept
    return standard


def _ask(function: str, atoms: Atoms, **options: Any) -> Any:
    """Call spglib; None where it finds no symmetry, e.g. because atoms lie within the tolerance of each other.

    spglib 2.7 to 2.9 either return None with a deprecation warning or raise, depending on a global switch that phonopy
    turns when it is imported.
    """
    import spglib

    cell = (np.array(atoms.cell.array), atoms.get_scaled_positions(), np.array(atoms.numbers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return getattr(spglib, function)(cell, **options)
        except getattr(spglib, "SpglibError", ()):
            return None
