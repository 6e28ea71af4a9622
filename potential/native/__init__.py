"""The native engine: PaiNN with repulsion, conditioning and heads on a CPU, forward and backward, without torch.

A C++ library with a small C interface (``include/hydrapot.h``, which also says how it runs under domain decomposition)
and this binding. The torch model is the definition; exact mode (``dtype="float64", knots=0``) equals it to rounding. It is built
when the package is installed, if there is a compiler; :func:`available` tells.
"""

from hydrapot.potential.native.engine import Heads, NativeEngine, NativeResult, PreparedCall
from hydrapot.potential.native.library import instruction_sets, library_path, reason_missing
from hydrapot.potential.native.model import DEFAULT_KNOTS, NativeModel

__all__ = [
    "DEFAULT_KNOTS",
    "Heads",
    "NativeEngine",
    "NativeModel",
    "NativeResult",
    "PreparedCall",
    "available",
    "instruction_sets",
    "library_path",
    "reason_missing",
]


def available() -> bool:
    """Whether the native engine can be used here; :func:`reason_missing` says why not."""
    return reason_missing() is None
