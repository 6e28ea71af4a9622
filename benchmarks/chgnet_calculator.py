"""CHGNet for `hydrapot validate --calculator benchmarks/chgnet_calculator.py:chgnet`.

B. Deng et al., "CHGNet as a pretrained universal neural network potential for charge-informed atomistic modelling", Nat.
Mach. Intell. 5, 1031 (2023).
"""

import numpy as np
from ase import Atoms
from chgnet.model.dynamics import CHGNetCalculator

LEVEL_OF_THEORY = "PBE +U (Materials Project settings, MPtrj; VASP)"
#: Å; more than twice the cutoff.
_ROOM = 15.0


class InBox(CHGNetCalculator):
    """CHGNet takes crystals only; here anything else is put into a large periodic box."""

    def calculate(self, atoms: Atoms | None = None, *args: object, **options: object) -> None:
        """Evaluate, called by ASE."""
        boxed = atoms
        if atoms is not None and not atoms.pbc.all():
            boxed = atoms.copy()
            axes = np.flatnonzero(~atoms.pbc)
            boxed.center(vacuum=_ROOM, axis=tuple(axes.tolist()))
            boxed.pbc = True
        super().calculate(boxed, *args, **options)
        if atoms is not None:
            self.atoms = atoms.copy()  # what ASE compares the next structure with


def chgnet() -> CHGNetCalculator:
    """The checkpoint that comes with the package (0.3.0), on the CPU, as published."""
    calculator = CHGNetCalculator(use_device="cpu")
    calculator.level_of_theory = LEVEL_OF_THEORY
    return calculator


def in_box() -> CHGNetCalculator:
    """The same for molecules, slabs and lone atoms as well."""
    calculator = InBox(use_device="cpu")
    calculator.level_of_theory = LEVEL_OF_THEORY
    return calculator
