"""Neighbor lists that are built when a structure is first needed, and kept as long as memory allows."""

import threading

from hydrapot.training.data.compact import CompactEdges, compact_edges
from hydrapot.training.data.frames import Structure

#: Bytes of a list besides its numbers: four array objects, a tuple and an entry of a dictionary.
_OVERHEAD = 640


class Budget:
    """Memory that several datasets share.

    Parameters
    ----------
    limit
        Bytes.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.used = limit, 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether `size` more bytes fit; if so, they are taken."""
        with self._lock:
            fits = self.used + size <= self.limit
            if fits:
                self.used += size
            return fits


class Neighborhoods:
    """Neighbor lists of the structures of one dataset; thread safe.

    Every structure is drawn as often as any other, so which lists are kept does not matter: the first ones are.

    Parameters
    ----------
    cutoff
        Å.
    budget
        Memory for the lists that are kept.
    """

    def __init__(self, *, cutoff: float, budget: Budget) -> None:
        self.cutoff, self.budget = cutoff, budget
        self._kept: dict[int, CompactEdges] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of lists that are kept."""
        return len(self._kept)

    def get(self, number: int, structure: Structure) -> CompactEdges:
        """List of structure `number`, which is `structure`."""
        edges = self._kept.get(number)
        if edges is None:
            edges = compact_edges(structure, cutoff=self.cutoff)
            with self._lock:
                if number not in self._kept and self.budget.take(_OVERHEAD + sum(a.nbytes for a in edges)):
                    # Arrays of their own: a view would keep what it was cut out of.
                    self._kept[number] = edges
        return edges
