"""A structure divided by hand between processes that are threads: domain decomposition without an engine."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from hydrapot.potential.neighbors import neighbor_list


@dataclass
class Part:
    """What one process holds; `owners` and `rows` say whose ghosts its extra rows are."""

    atoms: np.ndarray  # own atoms, indices in the whole structure
    ghosts: np.ndarray  # the same of the ghosts
    pair_i: Tensor
    pair_j: Tensor
    r_ij: Tensor

    @property
    def n_local(self) -> int:
        return len(self.atoms)

    def numbers(self, atoms: Atoms) -> Tensor:
        return torch.from_numpy(atoms.numbers[np.concatenate([self.atoms, self.ghosts])].astype(np.int64))


def divide(atoms: Atoms, owners: Sequence[int], parts: int, *, cutoff: float, rng: np.random.Generator) -> list[Part]:
    """Parts of `atoms`, each atom with the process that `owners` says; every image is a ghost, pairs are shuffled."""
    edges = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff=cutoff)
    (i, j), shifts = edges.edge_index, edges.shifts
    vectors = atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array
    owners = np.asarray(owners, dtype=int)
    found = []
    for part in range(parts):
        own = rng.permutation(np.flatnonzero(owners == part))
        index = {(int(a), (0, 0, 0)): k for k, a in enumerate(own)}
        ghosts: list[int] = []
        mine = rng.permutation(np.flatnonzero(owners[i] == part)) if len(i) else np.zeros(0, int)
        senders = np.zeros(len(mine), dtype=np.int64)
        for n, e in enumerate(mine):
            key = (int(j[e]), tuple(shifts[e].tolist()))
            if key not in index:
                index[key] = len(own) + len(ghosts)
                ghosts.append(int(j[e]))
            senders[n] = index[key]
        receivers = np.array([index[int(a), (0, 0, 0)] for a in i[mine]], dtype=np.int64)
        found.append(
            Part(
                atoms=own,
                ghosts=np.array(ghosts, dtype=int),
                pair_i=torch.from_numpy(receivers),
                pair_j=torch.from_numpy(senders),
                r_ij=torch.from_numpy(vectors[mine].reshape(-1, 3)),
            )
        )
    return found


class ThreadHalo:
    """:class:`~hydrapot.potential.decomposed.Halo` between threads; `calls` counts what a process took part in."""

    def __init__(self, part: Part, board: "Board") -> None:
        self.part, self.board = part, board
        self.calls: list[str] = []

    def to_ghosts(self, rows: Tensor) -> Tensor:
        self.calls.append("to ghosts")
        assert len(rows) == self.part.n_local
        whole = self.board.sum(rows, self.part.atoms)
        return torch.cat([rows, whole[self.part.ghosts]])

    def to_owners(self, rows: Tensor) -> Tensor:
        self.calls.append("to owners")
        own, ghosts = rows[: self.part.n_local], rows[self.part.n_local :]
        return own + self.board.sum(ghosts, self.part.ghosts)[self.part.atoms]


class Board:
    """An array over all atoms that every thread adds to, then reads."""

    def __init__(self, n_atoms: int, parts: int) -> None:
        self.n_atoms = n_atoms
        self.barrier = threading.Barrier(parts, timeout=60)
        self.lock = threading.Lock()
        self.total: Tensor | None = None

    def sum(self, rows: Tensor, atoms: np.ndarray) -> Tensor:
        with self.lock:
            if self.total is None:
                self.total = rows.new_zeros(self.n_atoms, rows.shape[1])
            self.total.index_add_(0, torch.from_numpy(atoms), rows.detach())
        self.barrier.wait()
        result = self.total.clone()
        self.barrier.wait()
        self.total = None
        self.barrier.wait()
        return result


def run_parts(parts: Sequence[Part], n_atoms: int, function: Callable[[Part, ThreadHalo], Any]) -> list[Any]:
    """`function` in one thread per part; all of them have to take part in every exchange."""
    board = Board(n_atoms, len(parts))
    halos = [ThreadHalo(part, board) for part in parts]
    with ThreadPoolExecutor(len(parts)) as pool:
        results = list(pool.map(function, parts, halos))
    assert all(halo.calls == halos[0].calls for halo in halos)
    return [(result, halo.calls) for result, halo in zip(results, halos, strict=True)]
