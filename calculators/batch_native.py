"""Many systems at once in the native engine: each by itself, side by side in threads.

A system is evaluated alone, so that its result has the same bits whatever else is in the batch and whenever its list was
made. On a CPU nothing is lost by it: a call of the engine costs microseconds beside the work.
"""

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydrapot.calculators.batch_lists import BatchLists
from hydrapot.calculators.verlet import Candidates
from hydrapot.potential import native
from hydrapot.potential.errors import HydrapotError, InvalidStructureError
from hydrapot.potential.graph import SPIN_ABSENT
from hydrapot.potential.model import Potential
from hydrapot.potential.neighbors import neighbor_list

#: Systems from this many atoms on are divided among the threads of one engine, one system after the other; smaller ones
#: get one thread each. It is the size of the system alone that decides, so that the batch has no say in its result.
DIVIDED = 1000


@dataclass(frozen=True)
class BatchResults:
    """Results for ``N`` atoms in ``G`` systems, float64.

    Attributes
    ----------
    energy
        ``(G,)`` eV, reference energies included.
    energies
        ``(N,)`` eV per atom, reference energies included.
    forces
        ``(N, 3)`` eV/Å; None if not asked for.
    stress
        ``(G, 3, 3)`` eV/Å³; NaN for systems that are not periodic in all three directions; None if not asked for.
    """

    energy: Tensor
    energies: Tensor
    forces: Tensor | None
    stress: Tensor | None


class _Prepared:
    """One system in the engine: the arrays that do not change while it moves."""

    def __init__(
        self,
        found: Candidates,
        *,
        head: str,
        engine: native.NativeEngine,
        references: NDArray[np.float64],
        forces: bool,
    ) -> None:
        self.found, self.head, self.forces = found, head, forces
        self.call = engine.prepare(
            found.numbers,
            found.offsets,
            found.senders.numpy(),
            found.shifts.numpy(),
            heads=head,
            charge=found.charge,
            spin=SPIN_ABSENT if found.spin is None else found.spin,
            forces=forces,
        )
        self.references = references[found.numbers]
        self.reference = float(self.references.sum())
        self._wraps: NDArray[np.float64] | None = None

    def fits(self, found: Candidates, *, head: str, forces: bool) -> bool:
        return self.found is found and self.head == head and self.forces == forces

    def wrap(self, wraps: NDArray[np.float64] | None) -> None:
        """Have the shifts lead to the images that atoms are in now."""
        if wraps is None and self._wraps is None:
            return
        if wraps is None or self._wraps is None or (wraps != self._wraps).any():
            self.call.shifts[...] = self.found.shifts_now(wraps).numpy()
            self._wraps = wraps


class NativeBatch:
    """A potential in the native engine, for any of its heads.

    Parameters
    ----------
    potential
        The weights are copied.
    precision
        ``"float32"`` evaluates radial functions as splines, ``"float64"`` exactly.
    """

    def __init__(self, potential: Potential, *, precision: Literal["float32", "float64"]) -> None:
        knots = 0 if precision == "float64" else native.DEFAULT_KNOTS
        self.potential, self.precision = potential, precision
        self.model = native.NativeModel(potential, dtype=precision, knots=knots)
        self._prepared: list[_Prepared] = []
        self._engines: list[native.NativeEngine] = []
        self._divided: native.NativeEngine | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._process = -1

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, also in other processes, are made anew: memory of the library cannot be copied."""
        return _make, (self.potential, self.precision)

    def evaluate(
        self,
        lists: BatchLists,
        heads: Sequence[str],
        positions: Tensor,
        cells: Tensor,
        *,
        threads: int,
        forces: bool = True,
        stress: bool = True,
    ) -> BatchResults:
        """Evaluate the systems of `lists`, each with its head.

        Parameters
        ----------
        lists
            Complete for `positions` and `cells`.
        heads
            ``G`` names.
        positions, cells
            ``(N, 3)`` and ``(G, 3, 3)`` Å, float64, on the CPU.
        threads
            Threads of the CPU.
        forces, stress
            What is wanted beside energies.

        Raises
        ------
        SimulationError
            The energy or a force of a system is not finite.
        InvalidStructureError
            Two atoms coincide.
        """
        gradient = forces or stress
        self._prepare(lists.lists, heads, threads=threads, gradient=gradient)
        x, h = positions.detach().numpy(), cells.detach().numpy()
        wraps = lists.wraps.numpy()
        wrapped = bool(wraps.any())
        bounds = lists.offsets.tolist()
        n_systems, n_atoms = len(h), len(x)
        energy, energies = np.zeros(n_systems), np.zeros(n_atoms)
        all_forces = np.zeros((n_atoms, 3)) if forces else None
        virials = np.zeros((n_systems, 3, 3)) if stress else None

        def run(k: int, engine: native.NativeEngine) -> None:
            own, prepared = slice(bounds[k], bounds[k + 1]), self._prepared[k]
            prepared.wrap(wraps[own] if wrapped and wraps[own].any() else None)
            result = prepared.call(x[own], h[k], engine=engine)
            energy[k] = float(result.energy[0]) + prepared.reference
            energies[own] = result.energies + prepared.references
            if all_forces is not None:
                all_forces[own] = result.forces
            if virials is not None:
                assert result.virial is not None  # noqa: S101 - it comes with the forces
                virials[k] = result.virial[0]

        sizes = np.diff(lists.offsets)
        small = np.flatnonzero(sizes < DIVIDED)
        # The largest first: a large one at the end would leave the other threads with nothing to do.
        queue = deque(small[np.argsort(-sizes[small], kind="stable")].tolist())
        failures: dict[int, HydrapotError] = {}

        def work(engine: native.NativeEngine) -> None:
            while True:
                try:
                    k = queue.popleft()
                except IndexError:
                    return
                try:
                    run(k, engine)
                except HydrapotError as error:
                    failures[k] = error

        others = [self._threads().submit(work, engine) for engine in self._engines[1 : min(threads, len(queue))]]
        work(self._engines[0])
        for other in others:
            other.result()
        for k in np.flatnonzero(sizes >= DIVIDED).tolist():
            try:
                run(k, self._whole(threads))
            except HydrapotError as error:
                failures[k] = error
        if failures:
            self._raise(min(failures.items()), lists, x, h)
        return BatchResults(
            energy=torch.from_numpy(energy),
            energies=torch.from_numpy(energies),
            forces=None if all_forces is None else torch.from_numpy(all_forces),
            stress=None if virials is None else torch.from_numpy(_stress(virials, h, lists.lists)),
        )

    def _prepare(self, lists: Sequence[Candidates], heads: Sequence[str], *, threads: int, gradient: bool) -> None:
        if len(self._engines) != threads or self._process != os.getpid():
            # In a forked process the threads of its parent do not exist.
            self._engines = [native.NativeEngine(self.model, threads=1) for _ in range(threads)]
            self._divided, self._pool, self._process, self._prepared = None, None, os.getpid(), []
        if len(self._prepared) == len(lists) and all(
            prepared.fits(found, head=head, forces=gradient)
            for prepared, found, head in zip(self._prepared, lists, heads, strict=True)
        ):
            return
        known = {id(prepared.found): prepared for prepared in self._prepared}
        self._prepared = []
        for found, head in zip(lists, heads, strict=True):
            prepared = known.get(id(found))
            if prepared is None or not prepared.fits(found, head=head, forces=gradient):
                references = self.potential.references[head].values
                prepared = _Prepared(found, head=head, engine=self._engines[0], references=references, forces=gradient)
            self._prepared.append(prepared)

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max(len(self._engines) - 1, 1), thread_name_prefix="hydrapot")
        return self._pool

    def _whole(self, threads: int) -> native.NativeEngine:
        """The engine of large systems, with all the threads."""
        if threads == 1:
            return self._engines[0]
        if self._divided is None:
            self._divided = native.NativeEngine(self.model, threads=threads)
        return self._divided

    def _raise(
        self,
        failure: tuple[int, HydrapotError],
        lists: BatchLists,
        positions: NDArray[np.float64],
        cells: NDArray[np.float64],
    ) -> None:
        k, error = failure
        if isinstance(error, InvalidStructureError):
            own = slice(int(lists.offsets[k]), int(lists.offsets[k + 1]))
            try:  # a search says which atoms coincide
                neighbor_list(positions[own], cells[k], lists.lists[k].pbc, cutoff=lists.cutoff)
            except InvalidStructureError as named:
                error = named
        raise type(error)(f"system {k}: {error}") from None


def _stress(
    virials: NDArray[np.float64], cells: NDArray[np.float64], lists: Sequence[Candidates]
) -> NDArray[np.float64]:
    periodic = np.array([found.periodic for found in lists], dtype=bool)
    volumes = np.where(periodic, np.abs(np.linalg.det(cells)), np.nan)
    return -virials / volumes[:, None, None]


def _make(potential: Potential, precision: Literal["float32", "float64"]) -> NativeBatch:
    return NativeBatch(potential, precision=precision)
