"""The system that is timed, built alike in every environment: fcc copper, rattled."""

from ase import Atoms
from ase.build import bulk

#: Å, of every model at test.
CUTOFF = 5.0
CHANNELS, LAYERS, N_RADIAL = 128, 3, 20


def copper(n_cells: int) -> Atoms:
    """4·`n_cells`³ atoms of Cu, periodic, displaced by 0.05 Å (standard deviation) with a fixed seed."""
    atoms: Atoms = bulk("Cu", cubic=True) * (n_cells, n_cells, n_cells)
    atoms.rattle(0.05, seed=1)
    return atoms
