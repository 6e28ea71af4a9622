"""What the systems of a TorchSim state are: elements, periodicity, and, where the state says so, head, charge and spin."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydrapot.calculators.batch_lists import Kind
from hydrapot.potential.errors import (
    ConfigurationError,
    InvalidStructureError,
    UnknownHeadError,
    UnsupportedChargeError,
)


def read(state: Any, name: str) -> Any:
    """A field of a state or of a dictionary of its tensors; None where it has none."""
    return state.get(name) if isinstance(state, dict) else getattr(state, name, None)


def periodicity(state: Any, n_systems: int) -> NDArray[np.bool_]:
    """``(G, 3)``: TorchSim 0.3 has one truth value for all systems, later versions one for each axis."""
    pbc = torch.as_tensor(read(state, "pbc")).cpu().numpy().astype(bool)
    return np.broadcast_to(pbc, (n_systems, 3)).copy()


class Systems:
    """The systems of the latest state.

    Parameters
    ----------
    names
        Heads of the model.
    head, charge, spin
        Of systems for which the state does not say otherwise: its tensors ``head`` (index in `names`), ``charge`` and
        ``spin`` (0: not stated), one value for each system.

    Attributes
    ----------
    kinds, heads
        One for each system.

    Raises
    ------
    UnsupportedChargeError
        `charge` or `spin` is not a whole number.
    """

    def __init__(self, names: Sequence[str], *, head: str, charge: int, spin: int | None) -> None:
        self.names = list(names)
        self.head = head
        self.charge = _whole_charge(charge)
        self.spin = _multiplicity(spin)
        self.kinds: list[Kind] = []
        self.heads: list[str] = []
        self._seen: tuple[Tensor, ...] | None = None
        self._carried: set[str] = set()

    def forget(self) -> None:
        """Have the next state read anew."""
        self._seen = None

    def update(self, state: Any, *, n_atoms: int, n_systems: int) -> bool:
        """Read what the systems are, unless it is what the latest state said; whether it was read.

        Raises
        ------
        InvalidStructureError, UnknownHeadError, UnsupportedChargeError, ConfigurationError
        """
        numbers, index = read(state, "atomic_numbers"), read(state, "system_idx")
        if index is None:
            index = torch.zeros_like(numbers, dtype=torch.int64)
        pbc = periodicity(state, n_systems)
        extras = self._extras(state, n_systems)
        seen = (numbers, index, torch.from_numpy(pbc), *extras.values())
        if self._seen is not None and len(seen) == len(self._seen) and all(map(torch.equal, seen, self._seen)):
            return False
        self._seen = None
        z, owner = numbers.cpu().numpy().astype(np.int64), index.cpu().numpy()
        sizes = np.bincount(owner, minlength=n_systems)
        if len(z) != n_atoms or len(owner) != n_atoms or len(sizes) != n_systems or (np.diff(owner) < 0).any():
            raise InvalidStructureError(
                f"{n_atoms} positions, {len(z)} atomic numbers, {len(owner)} system indices and {n_systems} cells do not make "
                "systems that follow one another"
            )
        heads, charges, spins = (
            extras[name].tolist() if name in extras else None for name in ("head", "charge", "spin")
        )
        self.heads = [self.head] * n_systems if heads is None else [self._name(value) for value in heads]
        charges = [self.charge] * n_systems if charges is None else [_whole_charge(value) for value in charges]
        spins = [self.spin] * n_systems if spins is None else [_multiplicity(value or None) for value in spins]
        ends = np.cumsum(sizes)
        self.kinds = [
            Kind(numbers=z[end - size : end], pbc=periodic, charge=charge, spin=spin)
            for size, end, periodic, charge, spin in zip(sizes, ends, pbc, charges, spins, strict=True)
        ]
        self._seen = tuple(tensor.clone() for tensor in seen)
        return True

    def _extras(self, state: Any, n_systems: int) -> dict[str, Tensor]:
        """``head``, ``charge`` and ``spin``, as far as the state has them.

        Optimizers of TorchSim 0.3 make a new state, of their own class, of the one that they are given. A state that says
        less than one before has lost it on the way, and the model's own values would be wrong.
        """
        if read(state, "total_spin") is not None:
            raise UnsupportedChargeError(
                "total_spin is not used here: give the multiplicity 2S+1 of each system as spin"
            )
        charge, total = read(state, "charge"), read(state, "total_charge")
        if charge is not None and total is not None and not torch.equal(charge, total):
            raise UnsupportedChargeError("the state has a charge and a total_charge that differ")
        found = {
            "head": read(state, "head"),
            "charge": total if charge is None else charge,
            "spin": read(state, "spin"),
        }
        extras = {name: torch.as_tensor(value).reshape(-1).cpu() for name, value in found.items() if value is not None}
        for name, values in extras.items():
            if len(values) != n_systems:
                raise ConfigurationError(f"{len(values)} values of {name} for {n_systems} systems")
        lost = sorted(self._carried - set(extras))
        if lost:
            raise ConfigurationError(
                f"earlier states of this model had a value of {' and of '.join(lost)} for each system, and this one has not: "
                "the optimizer or integrator has dropped it. Make a model for each combination of head, charge and spin"
            )
        self._carried |= set(extras)
        return extras

    def _name(self, value: float) -> str:
        if not float(value).is_integer() or not 0 <= value < len(self.names):
            raise UnknownHeadError(
                f"the head of a system is the index of one of {', '.join(self.names)}, counted from 0; not {value!r}"
            )
        return self.names[int(value)]


def _whole_charge(value: float) -> int:
    if not float(value).is_integer():
        raise UnsupportedChargeError(f"charge {value!r} is not a whole number of elementary charges")
    return int(value)


def _multiplicity(value: float | None) -> int | None:
    if value is None:
        return None
    if not float(value).is_integer() or value < 1:
        raise UnsupportedChargeError(f"spin {value!r} is not a multiplicity 2S+1 (1, 2, 3, …)")
    return int(value)
