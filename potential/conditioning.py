"""Total charge and spin multiplicity as an offset of the initial atom features.

One learned vector per charge and per multiplicity, added to every atom of the structure. Both tables are created with
the model and start at zero; the rows of charge 0 and of "spin not stated" *are* zero, always: neutral structures are
then exactly additive over distant fragments and over supercells, whatever was trained.
"""

import torch
from torch import Tensor, nn

from hydrapot.potential.errors import UnsupportedChargeError

#: Charges −MAX_CHARGE … MAX_CHARGE and multiplicities 1 … MAX_MULTIPLICITY have a row.
MAX_CHARGE = 10
MAX_MULTIPLICITY = 12


class ChargeSpinConditioning(nn.Module):
    """Charge and spin tables.

    Parameters
    ----------
    channels
        Width of the encoder.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.charge = nn.Parameter(torch.zeros(2 * MAX_CHARGE + 1, channels))
        self.spin = nn.Parameter(torch.zeros(MAX_MULTIPLICITY + 1, channels))

    def forward(self, kinds: Tensor) -> Tensor:
        """Offsets ``(K, F)`` for the atom kinds ``(K, 3)`` = (number, charge, spin)."""
        charge, spin = kinds[:, 1], kinds[:, 2]
        charge_term = self.charge[charge + MAX_CHARGE] * (charge != 0)[:, None]
        spin_term = self.spin[spin] * (spin != 0)[:, None]
        return charge_term + spin_term


class NoConditioning(nn.Module):
    """What a model without charge and spin uses: zero offsets.

    Parameters
    ----------
    channels
        Width of the encoder.
    """

    zero: Tensor

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(1, channels), persistent=False)

    def forward(self, kinds: Tensor) -> Tensor:
        """Zeros ``(K, F)``."""
        return self.zero.expand(kinds.shape[0], -1)


def check_range(charge: int, spin: int) -> None:
    """Raise :class:`UnsupportedChargeError` where no table row exists."""
    if abs(charge) > MAX_CHARGE:
        raise UnsupportedChargeError(f"charge {charge:+d} is outside −{MAX_CHARGE} … +{MAX_CHARGE}")
    if not 0 <= spin <= MAX_MULTIPLICITY:
        raise UnsupportedChargeError(f"spin multiplicity {spin} is outside 1 … {MAX_MULTIPLICITY}")
