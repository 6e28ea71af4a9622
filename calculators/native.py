"""The native engine behind a calculator: pairs with their skin in, results for ASE out."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hydrapot.calculators.verlet import Candidates, Pairs
from hydrapot.potential import native
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.graph import SPIN_ABSENT
from hydrapot.potential.model import Potential


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
        self.model = native.NativeModel(potential, dtype=dtype, knots=knots)
        self.head = head
        self.references = potential.references[head].values
        self._engine: native.NativeEngine | None = None
        self._known: Candidates | None = None
        self._arrays: tuple[NDArray[Any], ...] = ()
        self._reference = np.zeros(0)

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
            self._engine = native.NativeEngine(self.model, threads=threads)
        found = pairs.candidates
        if found is not self._known:
            self._known = found
            self._arrays = (
                found.numbers.astype(np.int32),
                found.senders.numpy().astype(np.int32),
                found.shifts.numpy().astype(np.int32),
            )
            self._reference = self.references[found.numbers]
        numbers, senders, shifts = self._arrays
        if pairs.wraps.any():
            shifts = found.shifts_now(pairs.wraps).numpy().astype(np.int32)
        result = self._engine.evaluate_arrays(
            numbers,
            found.offsets,
            senders,
            heads=self.head,
            positions=pairs.positions,
            shifts=shifts,
            cells=pairs.cell[None],
            charge=[found.charge],
            spin=[SPIN_ABSENT if found.spin is None else found.spin],
            check_support=False,
        )
        interaction, reference = float(result.energy[0]), float(self._reference.sum())
        results = {
            "energy": interaction + reference,
            "energies": result.energies + self._reference,
            "forces": result.forces,
            "reference_energy": reference,
            "interaction_energy": interaction,
        }
        if found.pbc.all():
            virial = result.virial
            assert virial is not None  # noqa: S101 - it comes with the forces
            volume = abs(float(np.linalg.det(pairs.cell)))
            results["stress"] = -virial[0][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / volume
        return results
