"""Parts of batches: what they hold, what they may hold, and the plain way to fill them."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Limits:
    """What a part may hold at most; a single structure above them is a part of its own.

    Attributes
    ----------
    edge_slots
        Atoms × largest number of neighbors.
    structures
        Number of structures.
    """

    edge_slots: int
    structures: int


@dataclass(frozen=True)
class Packed:
    """Structures in `stretches` × `parts` bins.

    Attributes
    ----------
    members
        ``(n,)``, structures in order of stretch and part.
    offsets
        ``(stretches, parts + 1)``: part p of stretch s is ``members[offsets[s, p] : offsets[s, p + 1]]``.
    """

    members: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def parts(self, stretch: int) -> list[NDArray[np.int64]]:
        """Structures of each part of one stretch."""
        return [self.members[a:b] for a, b in pairwise(self.offsets[stretch].tolist())]


def fill(atoms: NDArray[np.int64], degrees: NDArray[np.int64], *, limits: Limits) -> Packed:
    """Fill one part after the other to its limits, in the order given.

    Parameters
    ----------
    atoms, degrees
        ``(n,)``: number of atoms, and largest number of neighbors (at least 1), of each structure.
    limits
        Of a part.
    """
    starts = [0]
    n, widest, held = 0, 0, 0
    for k, (a, g) in enumerate(zip(atoms.tolist(), degrees.tolist(), strict=True)):
        wider, more = max(widest, g), n + a
        if held and (more * wider > limits.edge_slots or held == limits.structures):
            starts.append(k)
            more, wider, held = a, g, 0
        held += 1
        n, widest = more, wider
    offsets = np.array([*starts, len(atoms)], dtype=np.int64)
    return Packed(np.arange(len(atoms)), np.stack([offsets[:-1], offsets[1:]], axis=1))
