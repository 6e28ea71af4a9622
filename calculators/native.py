"""The native engine behind a calculator: pairs with their skin in, results for ASE out."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hydrapot.calculators.verlet import Candidates, Pairs
from hydrapot.potential import native
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.graph import SPIN_ABSENT
from hydrapot.potential.model import Potential

#: Rows and columns of ASE's order xx, yy, zz, yz, xz, xy.
_VOIGT = (np.array([0, 1, 2, 1, 0, 0]), np.array([0, 1, 2, 2, 2, 1]))


def choose_native(backend: str, *, device: str, compile: bool) -> bool:  # noqa: A002 - the calculator's word
    """Whether the native engine is to be used.

    Raises
    ------
    ConfigurationError
        It is asked for by name but not built, or with another device, or with compilation.
    """
    if backend == "torch":
        return False
    if backend not in {"auto", "native"}:
        raise ConfigurationError(f"backend {backend!r} is not known: choose auto, native or torch")
    reason = native.reason_missing()
    if device != "cpu":
        reason = f"it runs on the CPU, not on {device}"
    elif compile:
        reason = "it is compiled already: leave compile away, or use backend='torch'"
    if backend == "native" and reason is not None:
        raise ConfigurationError(f"the native backend cannot be used: {reason}")
    return reason is None


class NativeBackend:
    """One head of a potential in the native engine.

    Parameters
    ----------
    potential, head
        The weights are copied.
    dtype
        ``"float32"`` evaluates radial functions as splines, ``"float64"`` exactly.
    """

    def __init__(self, potential: Potential, *, head: str, dtype: Literal["float32", "float64"]) -> None:
        knots = 0 if dtype == "float64" else native.DEFAULT_KNOTS
        self.potential, self.head, self.dtype = potential, head, dtype
        self.model = native.NativeModel(potential, dtype=dtype, knots=knots)
        self.references = potential.references[head].values
        self._engine: native.NativeEngine | None = None
        self._known: Candidates | None = None
        self._call: native.PreparedCall | None = None
        self._reference = np.zeros(0)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, also in other processes, are made anew: memory of the library cannot be copied."""
        return _make, (self.potential, self.head, self.dtype)

    def evaluate(self, pairs: Pairs, *, threads: int) -> dict[str, Any]:
        """Results by ASE's names, and ``reference_energy`` and ``interaction_energy``; stress in full periodicity.

        Raises
        ------
        SimulationError
            The energy or a force is not finite.
        InvalidStructureError
            Two atoms coincide.
        """
        if self._engine is None or self._engine.threads != threads:
            self._engine, self._call = native.NativeEngine(self.model, threads=threads), None
        found = pairs.candidates
        if self._call is None or found is not self._known or pairs.wraps is not None:
            self._call = self._engine.prepare(
                found.numbers,
                found.offsets,
                found.senders.numpy(),
                found.shifts_now(pairs.wraps).numpy(),
                heads=self.head,
                charge=found.charge,
                spin=SPIN_ABSENT if found.spin is None else found.spin,
            )
            self._reference = self.references[found.numbers]
            # Images that atoms have been wrapped into belong to this structure only.
            self._known = found if pairs.wraps is None else None
        result = self._call(pairs.positions, pairs.cell)
        interaction, reference = float(result.energy[0]), float(self._reference.sum())
        results = {
            "energy": interaction + reference,
            "energies": result.energies + self._reference,
            "forces": result.forces,
            "reference_energy": reference,
            "interaction_energy": interaction,
        }
        if found.periodic:
            virial = result.virial
            assert virial is not None  # noqa: S101 - it comes with the forces
            results["stress"] = virial[0][_VOIGT] / -_volume(pairs.cell)
        return results


def _make(potential: Potential, head: str, dtype: Literal["float32", "float64"]) -> NativeBackend:
    return NativeBackend(potential, head=head, dtype=dtype)


def _volume(cell: NDArray[np.float64]) -> float:
    (a, b, c), (d, e, f), (g, h, i) = cell.tolist()
    volume: float = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return abs(volume)
