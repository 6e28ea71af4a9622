"""Whether a head has an answer for a system, asked of what the system is made of and before anything is simulated.

The ASE calculator asks at its first evaluation; engines that evaluate by themselves ask here.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hydrapot.potential.graph import build_graph_from_arrays
from hydrapot.potential.model import Potential


def check_composition(
    potential: Potential,
    numbers: ArrayLike,
    *,
    head: str,
    pbc: NDArray[np.bool_],
    charge: int = 0,
    spin: int | None = None,
) -> None:
    """Raise for elements, charge and spin that a head was not trained on, and for a charged system that is periodic.

    Parameters
    ----------
    numbers
        ``(N,)`` atomic numbers.
    head
        Name of the head.
    pbc
        ``(3,)`` periodic directions.
    charge, spin
        e, and multiplicity 2S+1 or None when not stated.

    Raises
    ------
    UnknownHeadError, UnknownElementError, UnsupportedChargeError, InvalidStructureError
    """
    kinds = np.unique(np.asarray(numbers, dtype=np.int64))
    apart = 4.0 * potential.cutoff  # isolated atoms, also across the boundary of a periodic box
    positions = np.zeros((len(kinds), 3))
    positions[:, 0] = apart * np.arange(len(kinds))
    graph = build_graph_from_arrays(
        kinds,
        positions,
        np.diag([apart * (len(kinds) + 1), apart, apart]),
        pbc,
        cutoff=potential.cutoff,
        charge=charge,
        spin=spin,
    )
    potential.check_supported(graph, head=head)
