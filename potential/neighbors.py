"""Exact periodic neighbor lists for any cell, by vesin.

vesin searches cell lists over as many periodic images as the cutoff needs, so that cells smaller than the cutoff,
skewed cells and mixed periodicity are right (checked against brute force in ``tests/test_neighbors.py``). What is added
here: inputs that have no answer raise, atoms far outside the cell keep exact shifts, and edges come sorted by receiver.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from vesin import NeighborList as VesinNeighborList

from hydrapot.potential.errors import InvalidStructureError

#: Two atoms closer than this (Å) cannot be told apart; no first-principles code accepts them either.
MINIMUM_DISTANCE = 1e-3
#: Å. Longer cells exceed what vesin can bin.
LONGEST_VECTOR = 1e5
#: Beyond this (Å), double precision resolves no better than 1e-6 Å.
FARTHEST = 1e10


class NeighborList(NamedTuple):
    """Directed edges within the cutoff, each pair in both directions, sorted by receiver.

    Attributes
    ----------
    edge_index
        int64 ``(2, E)``: receivers ``i`` in row 0, senders ``j`` in row 1.
    shifts
        int64 ``(E, 3)``: lattice shift of the sender, ``r_ij = x_j + shift · cell − x_i`` for the positions as given.
    """

    edge_index: NDArray[np.int64]
    shifts: NDArray[np.int64]


def check_geometry(positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> None:
    """Raise :class:`InvalidStructureError` for positions or cells that no neighbor list exists for.

    Parameters
    ----------
    positions
        ``(N, 3)`` in Å.
    cell
        ``(3, 3)``, lattice vectors in rows, Å.
    pbc
        ``(3,)`` periodic directions.
    """
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise InvalidStructureError(f"positions have shape {positions.shape}, expected (N, 3)")
    bad = ~np.isfinite(positions).all(axis=1)
    if bad.any():
        raise InvalidStructureError(
            f"atom {int(np.flatnonzero(bad)[0])} has a position that is not finite (NaN or infinity): repair the structure"
        )
    far = np.abs(positions).max(initial=0.0)
    if far > FARTHEST:
        raise InvalidStructureError(
            f"a coordinate is {far:.0e} Å, where distances have no digits left: wrap the structure"
        )
    if not np.isfinite(cell).all():
        raise InvalidStructureError(
            "the cell holds a number that is not finite (NaN or infinity): repair the structure"
        )
    if pbc.any():
        # The periodic vectors alone must span: a slab may have a zero third vector.
        vectors = cell[pbc]
        lengths = np.linalg.norm(vectors, axis=1)
        volume = np.sqrt(max(np.linalg.det(vectors @ vectors.T), 0.0))
        if lengths.max() > LONGEST_VECTOR:
            raise InvalidStructureError(
                f"a lattice vector is {lengths.max():.3g} Å long, more than {LONGEST_VECTOR:g} Å: give lengths in Å"
            )
        if lengths.min() < 1e-6 or volume < 1e-9 * np.prod(lengths):
            raise InvalidStructureError(
                f"the cell has no volume along its periodic directions (vector lengths {np.round(lengths, 6).tolist()} Å): "
                "give three independent lattice vectors, or switch periodicity off"
            )


def complete_cell(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Replace the non-periodic vectors by unit vectors orthogonal to the periodic ones.

    A non-periodic lattice vector carries no physics (its shifts are always 0), yet a zero or parallel one would make
    the cell singular for the search and for the fractional coordinates.
    """
    if pbc.all():
        return cell
    complete = np.array(cell)
    periodic = cell[pbc]
    # Right singular vectors beyond the rank are an orthonormal basis of the complement of the periodic directions.
    complete[~pbc] = np.linalg.svd(periodic, full_matrices=True)[2][len(periodic) :] if len(periodic) else np.eye(3)
    return complete


def _close_gaps(positions: NDArray[np.float64], axes: NDArray[np.float64], *, cutoff: float) -> NDArray[np.float64]:
    """Shorten empty stretches along non-periodic directions to a little more than the cutoff.

    The pairs within the cutoff stay the same. The search bins space over the whole extent: without this an atom that has
    left a wire by 1,000 Å costs a minute, and by 10,000 Å the process (a division by zero in vesin 0.6.2).

    Parameters
    ----------
    positions
        ``(N, 3)`` Å.
    axes
        ``(k, 3)`` orthonormal, orthogonal to the periodic lattice vectors.
    """
    longest = 1.1 * cutoff
    for axis in axes:
        coordinates = positions @ axis
        order = np.argsort(coordinates, kind="stable")
        excess = np.maximum(np.diff(coordinates[order]) - longest, 0.0)
        if excess.any():
            shifts = np.zeros(len(positions))
            shifts[order[1:]] = np.cumsum(excess)
            positions = positions - shifts[:, None] * axis
    return positions


def neighbor_list(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], *, cutoff: float
) -> NeighborList:
    """All directed pairs closer than `cutoff`, including an atom and its own periodic images.

    Parameters
    ----------
    positions
        ``(N, 3)`` in Å; atoms may lie any number of cells outside the box.
    cell
        ``(3, 3)``, lattice vectors in rows, Å; rows of non-periodic directions are ignored.
    pbc
        ``(3,)`` periodic directions.
    cutoff
        Å; pairs with distance strictly below it are listed. There is no cap on the number of neighbors.

    Raises
    ------
    InvalidStructureError
        Non-finite input, a periodic cell without volume, or two atoms at one place.
    """
    positions = np.ascontiguousarray(positions, dtype=np.float64)
    cell = np.ascontiguousarray(cell, dtype=np.float64)
    pbc = np.asarray(pbc, dtype=bool)
    check_geometry(positions, cell, pbc)
    if len(positions) == 0:
        return NeighborList(np.zeros((2, 0), dtype=np.int64), np.zeros((0, 3), dtype=np.int64))

    complete = complete_cell(cell, pbc)
    # Wrap first, shift back afterwards: the search then never sees coordinates a thousand cells away, where its
    # own reduction would lose digits.
    if pbc.any():
        wraps = np.floor(np.linalg.solve(complete.T, positions.T).T)
        wraps[:, ~pbc] = 0.0
        wrapped = positions - wraps @ complete
    else:
        wraps = np.zeros_like(positions)
        wrapped = positions
    wrapped = _close_gaps(wrapped, complete[~pbc], cutoff=cutoff)
    search = VesinNeighborList(cutoff=float(cutoff), full_list=True, sorted=True, n_threads=1)
    i, j, s, d = search.compute(points=wrapped, box=complete, periodic=pbc, quantities="ijSd", copy=True)
    edge_index = np.stack([i.astype(np.int64), j.astype(np.int64)])
    if len(d) and d.min() < MINIMUM_DISTANCE:
        e = int(d.argmin())
        raise InvalidStructureError(
            f"atoms {edge_index[0, e]} and {edge_index[1, e]} are at one place ({d[e]:.1e} Å apart, periodic images "
            "included): remove one of them or check the cell"
        )
    shifts = (
        np.asarray(s, dtype=np.int64) - wraps[edge_index[1]].astype(np.int64) + wraps[edge_index[0]].astype(np.int64)
    )
    if len(d) and np.any(np.diff(edge_index[0]) < 0):
        order = np.argsort(edge_index[0], kind="stable")
        edge_index, shifts = edge_index[:, order], shifts[order]
    return NeighborList(edge_index, shifts)
