"""The batch that every package trains on in ``training_speed.py``: copper, silicon and water, with made-up labels.

Labels do not change the cost of a step; they are drawn once, so that every model fits the same numbers.
"""

import numpy as np
from ase import Atoms
from speed_system import system

#: Channels, layers, radial functions, cutoff in Å: the size at which hydrapot-s is trained.
CHANNELS, LAYERS, N_RADIAL, CUTOFF = 64, 3, 20, 5.0
ELEMENTS = ("H", "O", "Si", "Cu")
LEARNING_RATE = 1e-3
GRADIENT_CLIP = 10.0
EMA_DECAY = 0.999


def structures() -> list[Atoms]:
    """Five periodic structures, 536 atoms, 39 neighbors on average; ``info["E"]`` in eV, ``arrays["F"]`` in eV/Å."""
    rng = np.random.default_rng(7)
    result = [system(name, n) for name, n in (("Cu", 3), ("Cu", 3), ("Si", 2), ("Si", 2), ("H2O", 4))]
    for atoms in result:
        atoms.rattle(0.02, seed=int(rng.integers(1 << 30)))
        atoms.info["E"] = float(rng.normal() * len(atoms) * 0.1)
        forces = rng.normal(size=(len(atoms), 3))
        atoms.arrays["F"] = forces - forces.mean(axis=0)
    return result
