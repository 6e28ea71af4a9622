"""A head in other precisions than float64. Geometry, reference energies and sums over atoms are float64 in all of them.

================  ====================================================================================================
``f64``, ``f32``  the network in float64, in float32, by whatever the calculator chooses: its native engine where it is built
``tf32``          float32, with the operands of every matrix product rounded to TF32 (10 bits of mantissa, to nearest) and
                  float32 sums. An emulation on any processor of what tensor cores of a GPU do; these may round
                  otherwise in the last of the 10 bits
``bf16``          float32 within ``torch.autocast(dtype=torch.bfloat16)``: the network's matrix products take and give
                  bfloat16 (8 significant bits)
``f32-compiled``  float32 through ``torch.compile``, which takes about a minute
================  ====================================================================================================
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from ase import Atoms
from ase.calculators.calculator import all_changes
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential.errors import ConfigurationError

if TYPE_CHECKING:
    from hydrapot.potential.graph import Graph
    from hydrapot.potential.model import Potential

#: Best first.
PRECISIONS = ("f64", "f32", "tf32", "bf16", "f32-compiled")

_aten = torch.ops.aten
_PRODUCTS = frozenset(
    {
        *(_aten.mm.default, _aten.mm.out, _aten.addmm.default, _aten.addmm.out),
        *(_aten.bmm.default, _aten.bmm.out, _aten.baddbmm.default, _aten.baddbmm.out),
    }
)
_DROPPED = 13  # of the 23 bits of a float32's mantissa


def precision_calculator(potential: "Potential", *, head: str, precision: str) -> HydrapotCalculator:
    """A new calculator for a head, in one of :data:`PRECISIONS`.

    Raises
    ------
    ConfigurationError
        An unknown precision.
    """
    if precision == "f64":
        return HydrapotCalculator(potential, head=head, dtype="float64")
    if precision == "f32":
        return HydrapotCalculator(potential, head=head, dtype="float32")
    if precision == "f32-compiled":
        return HydrapotCalculator(potential, head=head, dtype="float32", compile=True)
    if precision == "tf32":
        return _TF32Calculator(potential, head=head, dtype="float32", backend="torch")
    if precision == "bf16":
        return _BF16Calculator(potential, head=head, dtype="float32", backend="torch")
    raise ConfigurationError(f"precision {precision!r} is not known: choose from {', '.join(PRECISIONS)}")


def round_to_tf32(values: Tensor) -> Tensor:
    """float32 values with 10 bits of mantissa, to nearest, ties to even."""
    bits = values.contiguous().view(torch.int32)
    half = (1 << (_DROPPED - 1)) - 1
    rounded = (bits + half + ((bits >> _DROPPED) & 1)) & ~((1 << _DROPPED) - 1)
    return torch.where(torch.isfinite(values), rounded.view(torch.float32), values)


class TF32Products(TorchDispatchMode):
    """Within it every product of float32 matrices has operands rounded to TF32, in the backward pass too."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _PRODUCTS:
            # Of addmm and baddbmm the first is the summand, which is not rounded.
            args = [*args[:-2], *(round_to_tf32(a) if a.dtype == torch.float32 else a for a in args[-2:])]
        return func(*args, **(kwargs or {}))


class _TF32Calculator(HydrapotCalculator):
    """float32 with products in TF32."""

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        with TF32Products():  # type: ignore[no-untyped-call]
            super().calculate(atoms, properties, system_changes)


class _BF16Calculator(HydrapotCalculator):
    """float32 with the network under autocast to bfloat16."""

    def __init__(self, potential: "Potential", **settings: Any) -> None:
        super().__init__(potential, **settings)

        def network(graph: "Graph") -> Tensor:
            # The dense message sum: autocast does not reach into the blocked one, which writes into given memory.
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.potential.network_energies(graph, head=self.head)

        self._network = network
