"""Structures packed into batches of many parts that cost the same: equal atoms and equal edges at once.

Ranks wait for the one that has most to do, and its work is of two kinds: per atom (dense layers) and per edge (messages). So
every global batch is a bin packing with two objectives. Firoz et al., *Optimizing Data Distribution and Kernel Performance
for Efficient Training of Chemistry Foundation Models: A Case Study with MACE* (arXiv:2504.10700), state the problem for this
kind of data and pack by size into bins of fixed capacity. Here the number of bins is given (the parts of a batch), and both
loads are to be equal within each batch, since that is where ranks wait for each other:

1. Structures come sorted by their largest number of neighbors (rows of edges are padded to the largest of a part), and are
   cut into stretches that cost the same, one for each global batch. Within a stretch edges per atom hardly differ, which is
   what makes equal atoms and equal edges possible at the same time.
2. A stretch is dealt out in layers, the largest structures first, each layer's largest to the least loaded part (the
   *longest processing time* rule of Graham, SIAM J. Appl. Math. 17, 416 (1969), a layer at a time).
3. Pairs of parts, most and least loaded, exchange the two structures (or give one away) that bring both closest to the mean
   in atoms and edges, until the loads agree (an improvement heuristic in the manner of Karmarkar & Karp's differencing).

All steps are array operations over every batch of a round at once.
"""

import numpy as np
from numpy.typing import NDArray

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.data.overfull import repaired, too_full
from hydrapot.training.data.parts import Limits, Packed

#: Relative deviation from the mean, of atoms and of edges, below which a batch counts as balanced.
TOLERANCE = 0.01
#: Exchanges between parts are tried this many times.
_SWEEPS = 24
#: Structures of a part that are considered in one exchange; rotates through all of them.
_CANDIDATES = 32
#: Elements of an array of candidates that are held at once.
_CHUNK = 4_000_000
#: Stretches are filled to 1/this of the slots, since parts are never exactly equal.
_SLACK = 1.03
#: Stretches with more parts above the limits than this share (and one) are made smaller, by this factor, so many times at
#: most, and not for the last few of them.
_STRAY = 0.02
_CROWDED, _DEARER, _ATTEMPTS = 0.15, 1.1, 6


def pack(
    atoms: NDArray[np.int64],
    degrees: NDArray[np.int64],
    edges: NDArray[np.int64],
    *,
    parts: int,
    limits: Limits,
    multiple: int = 1,
) -> Packed:
    """Stretches of `parts` parts with nearly equal atoms and edges.

    Parameters
    ----------
    atoms, degrees, edges
        ``(n,)``: number of atoms, largest number of neighbors (at least 1) and number of directed edges of each structure,
        in an order in which neighbors resemble each other (sorted by degree, with jitter).
    parts
        Parts of a stretch; none is empty.
    limits
        Of a part.
    multiple
        The number of stretches is a multiple of this.

    Raises
    ------
    ConfigurationError
        Fewer structures than ``parts · multiple``.
    """
    n = len(atoms)
    if n < parts * multiple:
        raise ConfigurationError(
            f"a round of {n} structures cannot fill {parts * multiple} parts of a batch: lower sampler.parts or"
            " sampler.strata, or train on more data"
        )
    price = np.full(n, _SLACK)
    for attempt in range(_ATTEMPTS):
        bounds = _stretches(atoms, degrees, price, parts=parts, limits=limits, multiple=multiple)
        dealt = _deal(atoms, edges, bounds, parts=parts, limits=limits)
        # Few large structures do not divide evenly: where many parts came out too full, a stretch takes fewer of them.
        crowded = too_full(dealt, atoms, degrees, limits=limits).sum(axis=1) > 1 + _CROWDED * parts
        if crowded.mean() <= _STRAY or attempt + 1 == _ATTEMPTS:
            break
        price *= np.where(np.repeat(crowded, np.diff(bounds)), _DEARER, 1.0)
    return repaired(dealt, atoms, degrees, limits=limits, multiple=multiple)


def _stretches(
    atoms: NDArray[np.int64],
    degrees: NDArray[np.int64],
    price: NDArray[np.float64],
    *,
    parts: int,
    limits: Limits,
    multiple: int,
) -> NDArray[np.int64]:
    """Bounds ``(stretches + 1,)`` of consecutive stretches that fill their parts alike, with `parts` structures at least."""
    n = len(atoms)
    widest = degrees
    bounds = np.array([0, n])
    for _ in range(4):  # the widest row of a stretch depends on where it ends
        load = np.clip(price * atoms * widest / limits.edge_slots, 1.0 / limits.structures, 1.0)
        filled = np.cumsum(load)
        wanted = int(np.ceil(filled[-1] / parts / multiple)) * multiple
        stretches = max(min(wanted, n // parts // multiple * multiple), multiple)
        inner = np.searchsorted(filled, filled[-1] * np.arange(1, stretches) / stretches)
        bounds = np.concatenate([[0], inner, [n]])
        # At least one structure for every part, counted from the front and from the back.
        least = parts * np.arange(stretches + 1)
        bounds = np.maximum.accumulate(bounds - least) + least
        bounds = np.minimum(bounds, n - least[::-1])
        widest = np.repeat(np.maximum.reduceat(degrees, bounds[:-1]), np.diff(bounds))
    return bounds


def _deal(
    atoms: NDArray[np.int64], edges: NDArray[np.int64], bounds: NDArray[np.int64], *, parts: int, limits: Limits
) -> Packed:
    """Distribute each stretch over its parts."""
    sizes = np.diff(bounds)
    stretches = len(sizes)
    members = np.empty(len(atoms), dtype=np.int64)
    counts = np.zeros((stretches, parts), dtype=np.int64)
    layers = -(-sizes // parts)
    # Stretches of about as many layers are done together.
    for layer in np.unique(layers).tolist():
        # Room for parts of more but smaller structures than others have, as far as the limit allows.
        room = max(layer, min(limits.structures, layer + max(2, layer // 2)))
        chosen = np.flatnonzero(layers == layer)
        per_chunk = max(1, _CHUNK // (parts * room))
        for start in range(0, len(chosen), per_chunk):
            some = chosen[start : start + per_chunk]
            bins = _balance(_first_deal(atoms, edges, bounds, some, parts=parts, room=room), atoms, edges)
            real = bins >= 0
            counts[some] = real.sum(axis=2)
            members[_ranges(bounds[some], sizes[some])] = bins[real]
    offsets = bounds[:-1, None] + np.concatenate(
        [np.zeros((stretches, 1), dtype=np.int64), np.cumsum(counts, axis=1)], axis=1
    )
    return Packed(members, offsets)


def _first_deal(
    atoms: NDArray[np.int64],
    edges: NDArray[np.int64],
    bounds: NDArray[np.int64],
    some: NDArray[np.int64],
    *,
    parts: int,
    room: int,
) -> NDArray[np.int64]:
    """Deal stretches `some` out in layers: ``(len(some), parts, room)`` structures, −1 where there is none."""
    sizes = np.diff(bounds)[some]
    layers = int(-(-sizes // parts).max())
    own = _ranges(bounds[some], sizes)
    stretch = np.repeat(np.arange(len(some)), sizes)

    def relative(load: NDArray[np.int64]) -> NDArray[np.float64]:
        return load[own] / np.maximum(np.bincount(stretch, load[own]) / sizes, 1e-9)[stretch]

    # Both objectives count alike, in units of the stretch's own means.
    both = relative(atoms) + relative(edges)
    order = np.lexsort((-both, stretch))
    place = (stretch, np.arange(len(own)) - np.repeat(np.cumsum(sizes) - sizes, sizes))
    cards = np.full((len(some), layers * parts), -1, dtype=np.int64)
    cards[place] = own[order]
    size = np.zeros(cards.shape)
    size[place] = both[order]
    bins = np.full((len(some), parts, room), -1, dtype=np.int64)
    load = np.zeros((len(some), parts))
    for layer in range(layers):
        dealt = slice(layer * parts, (layer + 1) * parts)
        poorest = np.argsort(load, axis=1, kind="stable")
        column = np.empty_like(poorest)
        np.put_along_axis(column, poorest, cards[:, dealt], axis=1)
        bins[:, :, layer] = column
        gained = np.empty_like(load)
        np.put_along_axis(gained, poorest, size[:, dealt], axis=1)
        load += gained
    return bins


def _ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """starts[0] … starts[0]+sizes[0]−1, starts[1] …: one array."""
    return np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())


def _balance(bins: NDArray[np.int64], atoms: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Exchange structures between parts until atoms and edges agree; `bins` is changed and returned."""
    _, parts, room = bins.shape
    if parts == 1:
        return bins
    real = bins >= 0
    # Loads of structures in units of a part's mean, so that both objectives are on one scale: (2, stretch, part, place).
    weights = np.stack([np.where(real, column[bins], 0) for column in (atoms, edges)]).astype(np.float64)
    weights *= parts / np.maximum(weights.sum(axis=(2, 3), keepdims=True), 1.0)
    half = parts // 2
    for sweep in range(_SWEEPS):
        loads = weights.sum(axis=3) - 1.0
        open_ = np.flatnonzero(np.abs(loads).max(axis=(0, 2)) > TOLERANCE)
        if not len(open_):
            break
        # Parts are ranked along another direction each time: both loads, atoms, edges, their difference.
        direction = ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (1.0, -1.0))[sweep % 4]
        score = direction[0] * loads[0, open_] + direction[1] * loads[1, open_]
        ranked = np.argsort(score, axis=1, kind="stable")
        poor, rich = ranked[:, :half], ranked[:, ::-1][:, :half]
        outside = np.abs(loads).max(axis=0) > TOLERANCE
        k, pair = np.nonzero(outside[open_[:, None], poor] | outside[open_[:, None], rich])
        places = (sweep * _CANDIDATES + np.arange(min(room, _CANDIDATES))) % room
        _exchange(bins, weights, loads, (open_[k], poor[k, pair], rich[k, pair]), places)
    return bins


def _exchange(
    bins: NDArray[np.int64],
    weights: NDArray[np.float64],
    loads: NDArray[np.float64],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    places: NDArray[np.int64],
) -> None:
    """Best exchange of each pair of parts (stretch, one part, the other), in place.

    With the loads a and b of the two parts and the difference d of what they exchange, |a + d|² + |b − d|² is least where d
    is closest to (b − a)/2.
    """
    width = len(places)
    per_chunk = max(1, _CHUNK // (width * width))
    for start in range(0, len(pairs[0]), per_chunk):
        s, p, r = (x[start : start + per_chunk] for x in pairs)
        wanted = 0.5 * (loads[:, s, r] - loads[:, s, p])
        ours, theirs = weights[:, s[:, None], p[:, None], places], weights[:, s[:, None], r[:, None], places]
        difference = theirs[:, :, None, :] - ours[:, :, :, None] - wanted[:, :, None, None]
        difference *= difference
        flat = (difference[0] + difference[1]).reshape(len(s), width * width)
        best = flat.argmin(axis=1)
        better = flat[np.arange(len(s)), best] < (wanted**2).sum(axis=0) * (1.0 - 1e-9)
        mine = (s[better], p[better], places[best[better] // width])
        other = (s[better], r[better], places[best[better] % width])
        bins[mine], bins[other] = bins[other], bins[mine]
        for q in range(2):
            weights[q][mine], weights[q][other] = weights[q][other], weights[q][mine]
