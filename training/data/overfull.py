"""Parts that came out above their limits, brought below them."""

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.data.parts import Limits, Packed

#: Stretches on either side that take what does not fit into its own.
_NEIGHBORHOOD = 3


def too_full(
    packed: Packed, atoms: NDArray[np.int64], degrees: NDArray[np.int64], *, limits: Limits
) -> NDArray[np.bool_]:
    """Which parts are above the limits though they hold several structures, ``(stretches, parts)``."""
    now = _Parts(packed, atoms, degrees, limits=limits)
    return now.full(np.arange(len(now.held))).reshape(len(packed), -1)


class _Parts:
    """Parts while structures move between them; numbered through, those of a stretch one after the other."""

    def __init__(self, packed: Packed, atoms: NDArray[np.int64], degrees: NDArray[np.int64], *, limits: Limits) -> None:
        self.members, self.limits = packed.members, limits
        self.atoms, self.degrees = atoms[packed.members], degrees[packed.members]
        self.starts = packed.offsets[:, :-1].ravel()
        self.held = np.diff(packed.offsets, axis=1).ravel()
        self.total = np.add.reduceat(self.atoms, self.starts)
        self.widest = np.maximum.reduceat(self.degrees, self.starts)
        self._original = self.held.copy()
        #: Part of each place of `members`; −1: of none.
        self.owner = np.repeat(np.arange(len(self.held)), self.held)

    def packed(self, stretches: int) -> Packed:
        """The parts as they are now, all structures in one of them."""
        held = self.held.reshape(stretches, -1)
        ends = np.cumsum(held).reshape(held.shape)
        offsets = np.concatenate([ends[:, :1] - held[:, :1], ends], axis=1)
        return Packed(self.members[np.argsort(self.owner, kind="stable")], offsets)

    def full(self, part: int | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether a part is above the limits and could be smaller."""
        slots = self.total[part] * self.widest[part]
        above: NDArray[np.bool_] = (self.held[part] > 1) & (
            (slots > self.limits.edge_slots) | (self.held[part] > self.limits.structures)
        )
        return above

    def places(self, part: int) -> NDArray[np.int64]:
        """What a part has had from the beginning and still has, small structures first."""
        own = np.arange(self.starts[part], self.starts[part] + self._original[part])
        own = own[self.owner[own] == part]
        ordered: NDArray[np.int64] = own[np.argsort(self.atoms[own], kind="stable")]
        return ordered

    def room(self, place: int, low: int, high: int) -> int | None:
        """The part from `low` to `high` in which the structure at `place` leaves most slots free, if it fits."""
        near = np.arange(low, high)
        slots = (self.total[near] + self.atoms[place]) * np.maximum(self.widest[near], self.degrees[place])
        slots[(near == self.owner[place]) | (self.held[near] >= self.limits.structures)] = np.iinfo(np.int64).max
        best = int(slots.argmin())
        return int(near[best]) if slots[best] <= self.limits.edge_slots else None

    def move(self, place: int, to: int) -> None:
        """Give the structure at `place` to another part, or to none (−1)."""
        part = int(self.owner[place])
        self.owner[place] = to
        self.held[part] -= 1
        self.total[part] -= self.atoms[place]
        own = np.arange(self.starts[part], self.starts[part] + self._original[part])
        # Nothing was given to a part that is too full, so what is left of the beginning is all.
        self.widest[part] = self.degrees[own[self.owner[own] == part]].max(initial=1)
        if to >= 0:
            self.held[to] += 1
            self.total[to] += self.atoms[place]
            self.widest[to] = max(int(self.widest[to]), int(self.degrees[place]))


def repaired(
    packed: Packed, atoms: NDArray[np.int64], degrees: NDArray[np.int64], *, limits: Limits, multiple: int
) -> Packed:
    """Bring parts that came out above the limits below them.

    Structures move into a part of the same stretch with room, or of a near one, or of any. What fits nowhere gets parts of
    its own in further stretches, which other structures help to fill.
    """
    stretches, parts = packed.offsets.shape[0], packed.offsets.shape[1] - 1
    now = _Parts(packed, atoms, degrees, limits=limits)
    full = np.flatnonzero(now.full(np.arange(stretches * parts)))
    if not len(full):
        return packed
    homeless = []
    hopeless = np.iinfo(np.int64).max  # slots of the smallest structure that fitted nowhere
    for part in full.tolist():
        s = part // parts
        areas = ((s, s + 1), (max(s - _NEIGHBORHOOD, 0), min(s + _NEIGHBORHOOD + 1, stretches)), (0, stretches))
        # Small ones first: they find a place most easily and disturb the balance least.
        for place in now.places(part).tolist():
            if not now.full(part):
                break
            slots = int(now.atoms[place] * now.degrees[place])
            found = (now.room(place, low * parts, high * parts) for low, high in areas[: 2 if slots >= hopeless else 3])
            to = next((k for k in found if k is not None), None)
            if to is not None:
                now.move(place, to)
            else:
                hopeless = min(hopeless, slots)
        while now.full(part):
            place = int(now.places(part)[-1])
            now.move(place, -1)
            homeless.append(place)
    if not homeless:
        return now.packed(stretches)
    homeless += _companions(now, homeless, -len(homeless) % (parts * multiple))
    if len(homeless) % (parts * multiple):
        # Too few structures in the whole round: above the limits rather than not trained on.
        return packed
    alone = np.array(homeless, dtype=np.int64)
    alone = alone[np.argsort(now.atoms[alone], kind="stable")]
    now.owner[alone] = stretches * parts + np.arange(len(alone))
    now.held = np.concatenate([now.held, np.ones(len(alone), dtype=np.int64)])
    return now.packed(stretches + len(alone) // parts)


def _companions(now: _Parts, homeless: list[int], wanted: int) -> list[int]:
    """Places of `wanted` structures like those that are homeless, which near parts can spare; fewer if they cannot."""
    if not wanted:
        return []
    found: list[int] = []
    size = float(now.atoms[homeless].mean())
    middle = float(np.searchsorted(now.starts, homeless).mean())
    for part in np.argsort(np.abs(np.arange(len(now.held)) - middle), kind="stable").tolist():
        own = now.places(part)
        if now.held[part] > 1 and len(own):
            place = int(own[np.abs(now.atoms[own] - size).argmin()])
            now.move(place, -1)
            found.append(place)
            if len(found) == wanted:
                break
    return found
