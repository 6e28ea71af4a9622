"""CHGNet as `hydrapot validate --calculator benchmarks/chgnet_calculator.py:chgnet` takes it: as published, with its defaults.

B. Deng et al., "CHGNet as a pretrained universal neural network potential for charge-informed atomistic modelling", Nat.
Mach. Intell. 5, 1031 (2023).
"""

from chgnet.model.dynamics import CHGNetCalculator


def chgnet() -> CHGNetCalculator:
    """The checkpoint that comes with the package (0.3.0), on the CPU."""
    calculator = CHGNetCalculator(use_device="cpu")
    calculator.level_of_theory = "PBE +U (Materials Project settings, MPtrj; VASP)"
    return calculator
