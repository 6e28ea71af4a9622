"""Which structures are drawn, in which order, in which batches: a pure function of seed and position.

Rounds of draws follow one another (:mod:`~hydrapot.training.data.draws`). The structures of a round are sorted by their
largest number of neighbors, with jitter, and packed into *global batches* of a fixed number of parts
(:mod:`~hydrapot.training.data.packing`); the batches are then shuffled. A part is what one process computes at once; how
many processes share the parts of a batch changes nothing in the batch, so a run continues on any number of processes that
divides the number of parts. All that has to be remembered is (round, batch).

Processes never overlap: a batch is a selection of draws of one round cut into parts, and every process takes other parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.data.census import Column
from hydrapot.training.data.draws import Draws
from hydrapot.training.data.packing import pack
from hydrapot.training.data.parts import Limits, Packed, fill

#: A number of each structure of a dataset, which arrays of indices pick from.
Sizes = NDArray[np.integer[Any]] | Column
#: Relative jitter of the neighbor count before sorting: mixes datasets in a batch at a few percent of padding.
JITTER = 0.15
#: Structures that are drawn and packed at a time; a round is never longer, unless batches are very large.
WINDOW = 1 << 20
#: A round holds this many batches or more, as far as there are data.
_LEAST_BATCHES = 8
#: Structures of a branch from which its cost per structure is estimated.
_PILOT = 4096


@dataclass(frozen=True)
class Position:
    """Where a run stands in the stream of batches."""

    round: int = 0
    batch: int = 0


@dataclass(frozen=True)
class _Branch:
    """Datasets that share parts of every batch, and nothing with other branches."""

    number: int
    parts: int
    draws: Draws


@dataclass(frozen=True)
class _Piece:
    """One branch's share of a round."""

    rows: NDArray[np.int64]  # (n, 2), in the order that was packed
    packed: Packed
    order: NDArray[np.int64]  # (strata, batches): stretch of each batch


class Round:
    """The global batches of one round; ``round[k]`` is a list of parts ``(B, 2)``: dataset, structure."""

    def __init__(self, pieces: Sequence[_Piece]) -> None:
        self._pieces = pieces
        self._batches = max(int(p.order.shape[1]) for p in pieces)

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, k: int) -> list[NDArray[np.int64]]:
        if not 0 <= k < self._batches:
            raise IndexError(k)
        parts: list[NDArray[np.int64]] = []
        for piece in self._pieces:
            # Branches differ a little in the number of their stretches; a shorter one begins again.
            for stretch in piece.order[:, k % piece.order.shape[1]].tolist():
                parts.extend(piece.rows[members] for members in piece.packed.parts(stretch))
        return parts


class GlobalSampler:
    """Endless, reproducible stream of global batches of (dataset, structure) pairs.

    Parameters
    ----------
    atoms, degrees, edges
        Per dataset, ``(n_d,)``: number of atoms, largest number of neighbors and number of directed edges of each training
        structure. Only what a round needs is looked up.
    temperature
        A dataset is drawn from in proportion to weight · size^temperature: 0 = all datasets alike, 1 = all structures.
    weights
        Factor of each dataset on that; 1 if not given, 0 leaves a dataset out.
    edge_slots, max_structures
        Limits of a part: atoms × largest neighbor count, and structures. A single structure above them is a part of its
        own. With several parts a limit is exceeded only where a round has too few structures to obey it.
    parts
        Parts of a global batch, all of them with nearly equal numbers of atoms and of edges.
    strata
        Kinds of structures (by number of neighbors) that a batch mixes; divides `parts`. Within one the loads are equal.
    branches
        Datasets whose structures may share a part; each dataset in one of them. All in one if not given.
    branch_parts
        Parts of each branch, in the order of `branches`, first the parts of the first branch; in proportion to the draws
        if not given.
    seed
        Of all shuffles.
    window
        Structures that are drawn and packed at a time.

    Raises
    ------
    ConfigurationError
        Parts, strata and branches do not fit together, or nothing can be drawn.
    """

    def __init__(
        self,
        atoms: Sequence[Sizes],
        degrees: Sequence[Sizes],
        edges: Sequence[Sizes],
        *,
        temperature: float,
        edge_slots: int,
        max_structures: int,
        seed: int,
        weights: Sequence[float] | None = None,
        parts: int = 1,
        strata: int = 1,
        branches: Sequence[Sequence[int]] | None = None,
        branch_parts: Sequence[int] | None = None,
        window: int = WINDOW,
    ) -> None:
        self.atoms, self.degrees, self.edges = list(atoms), list(degrees), list(edges)
        self.limits = Limits(edge_slots=edge_slots, structures=max_structures)
        self.parts, self.strata, self.seed = parts, strata, seed
        self._sizes = [len(a) for a in self.atoms]
        self._temperature, self._weights = temperature, weights
        chosen = [list(range(len(self._sizes)))] if branches is None else [list(b) for b in branches]
        if sorted(d for b in chosen for d in b) != list(range(len(self._sizes))):
            raise ConfigurationError(f"branches {chosen} do not hold each of {len(self._sizes)} datasets once")
        counts = self._branch_parts(chosen, branch_parts)
        #: Branch that each part of a batch belongs to, ``(parts,)``.
        self.branch_of_part = np.repeat(np.arange(len(chosen)), counts)
        lengths = self._lengths(chosen, counts, window=window)
        self._branches = [
            _Branch(k, count, self._draws(branch, length))
            for k, (branch, count, length) in enumerate(zip(chosen, counts, lengths, strict=True))
        ]

    # --- construction ---

    def _branch_parts(self, branches: list[list[int]], given: Sequence[int] | None) -> list[int]:
        if given is not None:
            counts = [int(c) for c in given]
        elif len(branches) == 1:
            counts = [self.parts]
        else:
            factor = self._weights or [1.0] * len(self._sizes)
            share = np.array([sum(factor[d] * self._sizes[d] ** self._temperature for d in b) for b in branches])
            unit = self.strata
            exact = share / share.sum() * (self.parts // unit)
            whole = np.maximum(np.floor(exact).astype(int), 1)
            while whole.sum() < self.parts // unit:
                whole[np.argmax(exact - whole)] += 1
            while whole.sum() > self.parts // unit and whole.max() > 1:
                whole[np.argmax(np.where(whole > 1, whole - exact, -np.inf))] -= 1
            counts = (whole * unit).tolist()
        if len(counts) != len(branches) or sum(counts) != self.parts or min(counts) < 1:
            raise ConfigurationError(
                f"{self.parts} parts of a batch cannot be shared by {len(branches)} branches as {counts}: every branch"
                " needs one at least, and their sum is sampler.parts"
            )
        if any(c % self.strata for c in counts):
            raise ConfigurationError(f"sampler.strata = {self.strata} does not divide the parts of a batch {counts}")
        return counts

    def _draws(self, branch: list[int], length: int) -> Draws:
        return Draws(
            [self._sizes[d] for d in branch],
            datasets=branch,
            temperature=self._temperature,
            weights=None if self._weights is None else [self._weights[d] for d in branch],
            length=length,
            seed=self.seed,
        )

    def _lengths(self, branches: list[list[int]], counts: list[int], *, window: int) -> list[int]:
        """Draws of each branch in a round: one pass over its data, or a window, or what keeps pace with the others."""
        lengths = []
        for branch, parts in zip(branches, counts, strict=True):
            total = sum(self._sizes[d] for d in branch)
            lengths.append(min(total, max(window, _LEAST_BATCHES * parts * self.limits.structures)))
        if len(branches) == 1:
            return lengths
        batches = []
        costs = []
        for branch, parts, length in zip(branches, counts, lengths, strict=True):
            rows = self._draws(branch, min(length, _PILOT)).round(0)
            atoms, degrees, _ = self._columns(rows)
            load = np.clip(atoms * degrees / self.limits.edge_slots, 1.0 / self.limits.structures, 1.0)
            costs.append(float(load.mean()))
            batches.append(length * costs[-1] / parts)
        longest = max(batches)
        return [max(parts, int(longest * parts / cost)) for parts, cost in zip(counts, costs, strict=True)]

    # --- rounds ---

    @property
    def draws(self) -> NDArray[np.float64]:
        """Structures of each dataset in one round, on average, ``(datasets,)``."""
        drawn = np.zeros(len(self._sizes))
        for branch in self._branches:
            drawn[branch.draws.datasets] = branch.draws.shares
        return drawn

    def round(self, index: int) -> Round:
        """All global batches of round `index`."""
        return Round([self._piece(branch, index) for branch in self._branches])

    def _piece(self, branch: _Branch, index: int) -> _Piece:
        rows = branch.draws.round(index)
        key = [self.seed, 1, index] if branch.number == 0 else [self.seed, 1, index, branch.number]
        rng = np.random.default_rng(key)
        atoms, degrees, edges = self._columns(rows)
        # The random number breaks ties as well: structures of equal degree come in random order.
        order = np.argsort(degrees * (1.0 + JITTER * rng.random(len(rows))), kind="stable")
        rows, atoms, degrees, edges = rows[order], atoms[order], degrees[order], edges[order]
        parts = branch.parts // self.strata
        if parts == 1 and self.strata == 1:
            packed = fill(atoms, degrees, limits=self.limits)
        else:
            packed = pack(atoms, degrees, edges, parts=parts, limits=self.limits, multiple=self.strata)
        batches = len(packed) // self.strata
        # One stretch of every stratum for a batch: stretches are sorted by the number of neighbors.
        shuffled = np.stack([k * batches + rng.permutation(batches) for k in range(self.strata)])
        return _Piece(rows, packed, shuffled)

    def _columns(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Atoms, degrees and edges of `rows`, which come one dataset after the other."""
        columns = [np.zeros(len(rows), dtype=np.int64) for _ in range(3)]
        bounds = np.flatnonzero(np.diff(rows[:, 0], prepend=-1))
        for start, stop in zip(bounds, [*bounds[1:], len(rows)], strict=True):
            d, chosen = int(rows[start, 0]), rows[start:stop, 1]
            for column, values in zip(columns, (self.atoms[d], self.degrees[d], self.edges[d]), strict=True):
                column[start:stop] = values[chosen]
        return columns[0], np.maximum(columns[1], 1), columns[2]

    def stream(self, start: Position) -> Iterator[tuple[Position, list[NDArray[np.int64]]]]:
        """Global batches from `start` on, each with the position that follows it (where a resumed run continues)."""
        index, skip = start.round, start.batch
        while True:
            batches = self.round(index)
            for k in range(skip, len(batches)):
                last = k + 1 == len(batches)
                yield (Position(index + 1, 0) if last else Position(index, k + 1)), batches[k]
            index, skip = index + 1, 0

    def part(self, rank: int, world: int) -> list[int]:
        """Which parts of every batch process `rank` of `world` computes.

        Every `world`-th part from `rank` on; with several branches consecutive parts instead, so that a process meets as few
        branches as possible (``branch_of_part`` tells which).

        Raises
        ------
        ConfigurationError
            The number of processes does not divide the number of parts.
        """
        if self.parts % world or not 0 <= rank < world:
            raise ConfigurationError(
                f"{self.parts} parts of a batch cannot be shared by {world} processes: sampler.parts must be a multiple of"
                " their number"
            )
        if len(self._branches) == 1:
            return list(range(rank, self.parts, world))
        own = self.parts // world
        return list(range(rank * own, (rank + 1) * own))


class BalancedSampler(GlobalSampler):
    """Batches of a single part: what one process trains on by itself.

    Parameters
    ----------
    atoms, degrees, temperature, edge_slots, max_structures, seed
        As for :class:`GlobalSampler`.
    """

    def __init__(
        self,
        atoms: Sequence[NDArray[np.integer[Any]]],
        degrees: Sequence[NDArray[np.integer[Any]]],
        *,
        temperature: float,
        edge_slots: int,
        max_structures: int,
        seed: int,
    ) -> None:
        super().__init__(
            atoms,
            degrees,
            degrees,  # edges balance parts, and here is one part
            temperature=temperature,
            edge_slots=edge_slots,
            max_structures=max_structures,
            seed=seed,
        )

    def round(self, index: int) -> list[NDArray[np.int64]]:  # type: ignore[override]
        """The batches of round `index`, each ``(B, 2)``: dataset, structure."""
        batches = super().round(index)
        return [batches[k][0] for k in range(len(batches))]

    def stream(self, start: Position) -> Iterator[tuple[Position, NDArray[np.int64]]]:  # type: ignore[override]
        """Batches from `start` on, each with the position that follows it."""
        index, skip = start.round, start.batch
        while True:
            batches = self.round(index)
            for k, batch in enumerate(batches[skip:], start=skip):
                last = k + 1 == len(batches)
                yield (Position(index + 1, 0) if last else Position(index, k + 1)), batch
            index, skip = index + 1, 0
