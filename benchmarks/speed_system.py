"""The systems that are timed, built alike in every environment: copper, silicon, and liquid-like water, rattled."""

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

#: Å, of every model at test.
CUTOFF = 5.0
CHANNELS, LAYERS, N_RADIAL = 128, 3, 20
ELEMENTS = ("H", "O", "Si", "Cu")


def system(name: str, n_cells: int) -> Atoms:
    """A periodic structure with `n_cells` cells along an edge, displaced by 0.05 Å (standard deviation), fixed seed.

    ``Cu``: 4·n³ atoms, 42 neighbors within 5 Å. ``Si``: 8·n³ atoms, 28 neighbors. ``H2O``: n³ molecules at 1 g/cm³ with random
    orientations on a simple cubic lattice, 52 neighbors.
    """
    atoms: Atoms = _water(n_cells) if name == "H2O" else bulk(name, cubic=True) * (n_cells, n_cells, n_cells)
    atoms.rattle(0.05, seed=1)
    return atoms


def _water(n: int) -> Atoms:
    rng = np.random.default_rng(1)
    spacing = 3.104  # Å: 18.015 amu per cell at 1 g/cm³
    box = Atoms(cell=[n * spacing] * 3, pbc=True)
    for cell in np.ndindex(n, n, n):
        water = molecule("H2O")
        water.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
        water.translate(spacing * np.array(cell) - water.get_center_of_mass())
        box += water
    return box
