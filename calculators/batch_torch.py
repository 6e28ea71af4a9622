"""Many systems at once in torch: one graph for all systems of a head, on the CPU or a GPU.

Results of a system are those it has alone to rounding of the precision: rows of the graph are as long as the longest of
the batch, which regroups sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hydrapot.calculators.batch_lists import BatchLists
from hydrapot.calculators.batch_native import BatchResults
from hydrapot.calculators.verlet import Candidates, rows_within
from hydrapot.potential.derivatives import forces_from_edge_gradient, strain_gradient, volumes
from hydrapot.potential.errors import InvalidStructureError, SimulationError
from hydrapot.potential.evaluate import evaluate
from hydrapot.potential.graph import Graph
from hydrapot.potential.model import Potential
from hydrapot.potential.neighbors import MINIMUM_DISTANCE, neighbor_list


@dataclass(frozen=True)
class _Group:
    """The systems of one head: their pairs one after the other, ``E`` in all; atoms are numbered within the group."""

    head: str
    systems: Tensor  # (g,) which systems of the batch
    atoms: Tensor  # (n,) which atoms of the batch
    receivers: Tensor
    senders: Tensor
    shifts: Tensor
    reverse: Tensor
    pair_system: Tensor  # (E,) system within the group
    numbers: Tensor
    batch: Tensor
    pbc: Tensor
    charge: Tensor
    spin: Tensor
    kinds: Tensor
    kind_index: Tensor


class TorchBatch:
    """A potential in torch, for any of its heads.

    Parameters
    ----------
    potential
        On the device, without gradients of its weights.
    """

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self.device = next(potential.encoder.parameters()).device
        self._lists: list[Candidates] = []
        self._heads: list[str] = []
        self._groups: list[_Group] = []

    def evaluate(
        self,
        lists: BatchLists,
        heads: Sequence[str],
        positions: Tensor,
        cells: Tensor,
        *,
        differentiable: bool = False,
    ) -> BatchResults:
        """Evaluate the systems of `lists`, each with its head.

        Parameters
        ----------
        lists
            Complete for `positions` and `cells`.
        heads
            ``G`` names.
        positions, cells
            ``(N, 3)`` and ``(G, 3, 3)`` Å, float64, on the device.
        differentiable
            Results are functions of `positions` and `cells` that torch can differentiate any number of times.

        Raises
        ------
        SimulationError
            The energy or a force of a system is not finite.
        InvalidStructureError
            Two atoms coincide.
        """
        if self._lists is not lists.lists or list(heads) != self._heads:
            self._groups = _groups(lists, heads, device=self.device)
            self._lists, self._heads = lists.lists, list(heads)
        function = self._differentiable if differentiable else self._detached
        if len(self._groups) == 1:
            (group,) = self._groups
            return function(self._graph(group, lists, positions, cells), group.head)
        n_systems, n_atoms = len(cells), len(positions)
        results = BatchResults(
            energy=positions.new_zeros(n_systems),
            energies=positions.new_zeros(n_atoms),
            forces=positions.new_zeros(n_atoms, 3),
            stress=positions.new_zeros(n_systems, 3, 3),
        )
        for group in self._groups:
            part = function(self._graph(group, lists, positions, cells), group.head)
            for name in ("energy", "stress"):
                getattr(results, name)[group.systems] = getattr(part, name)
            for name in ("energies", "forces"):
                getattr(results, name)[group.atoms] = getattr(part, name)
        return results

    def _graph(self, group: _Group, lists: BatchLists, positions: Tensor, cells: Tensor) -> Graph:
        x, h = positions[group.atoms], cells[group.systems]
        shifts = group.shifts
        wraps = lists.wraps[group.atoms]
        if bool(wraps.any()):
            shifts = shifts + wraps[group.receivers] - wraps[group.senders]
        # Term by term, not as a matrix product, whose rounding may depend on the row: r_ij must be exactly −r_ji.
        lattice = h[group.pair_system]
        vectors = x[group.senders] - x[group.receivers]
        vectors = (
            vectors + shifts[:, 0:1] * lattice[:, 0] + shifts[:, 1:2] * lattice[:, 1] + shifts[:, 2:3] * lattice[:, 2]
        )
        squares = vectors[:, 0] ** 2 + vectors[:, 1] ** 2 + vectors[:, 2] ** 2
        if len(squares) and float(squares.detach().min()) < MINIMUM_DISTANCE**2:
            self._refuse_coincidence(int(group.systems[group.pair_system[squares.argmin()]]), lists, positions, cells)
        rows = rows_within(
            self.potential.cutoff,
            vectors,
            squares.detach(),
            group.receivers,
            group.senders,
            shifts,
            group.reverse,
            n_atoms=len(x),
        )
        same = {f.name for f in fields(Graph)} & {f.name for f in fields(_Group)} - set(rows)
        return Graph(cell=h, **{name: getattr(group, name) for name in same}, **rows)

    def _detached(self, graph: Graph, head: str) -> BatchResults:
        prediction = evaluate(self.potential, graph, head=head, check=False)
        return BatchResults(prediction.energy, prediction.energies, prediction.forces, prediction.stress)

    def _differentiable(self, graph: Graph, head: str) -> BatchResults:
        with torch.enable_grad():
            vectors = graph.edge_vectors if graph.edge_vectors.requires_grad else graph.edge_vectors.requires_grad_()
            graph = graph.with_edge_vectors(vectors)
            interaction = self.potential.interaction_energies(graph, head=head)
            (gradient,) = torch.autograd.grad(interaction.sum(), vectors, create_graph=True)
            forces = forces_from_edge_gradient(gradient, graph)
            references = torch.from_numpy(self.potential.references[head].values).to(interaction.device)[graph.numbers]
            energies = interaction + references
            energy = energies.new_zeros(graph.n_graphs).index_add(0, graph.batch, energies)
            volume = torch.where(graph.pbc.all(dim=1), volumes(graph), torch.nan)
            stress = strain_gradient(gradient, graph) / volume[:, None, None]
        if not bool(torch.isfinite(energy).all() and torch.isfinite(forces).all()):
            raise SimulationError("the energy or a force is not finite (NaN or infinity): two atoms are very close")
        return BatchResults(energy, energies, forces, stress)

    @staticmethod
    def _refuse_coincidence(k: int, lists: BatchLists, positions: Tensor, cells: Tensor) -> None:
        own = slice(int(lists.offsets[k]), int(lists.offsets[k + 1]))
        x, h = positions[own].detach().cpu().numpy(), cells[k].detach().cpu().numpy()
        try:
            neighbor_list(x, h, lists.lists[k].pbc, cutoff=lists.cutoff)
        except InvalidStructureError as error:
            raise InvalidStructureError(f"system {k}: {error}") from None
        raise InvalidStructureError(f"system {k}: two atoms are at one place")


def _groups(lists: BatchLists, heads: Sequence[str], *, device: torch.device) -> list[_Group]:
    return [
        _group(lists, head, [k for k, name in enumerate(heads) if name == head], device=device)
        for head in dict.fromkeys(heads)
    ]


def _group(lists: BatchLists, head: str, systems: list[int], *, device: torch.device) -> _Group:
    found = [lists.lists[k] for k in systems]
    sizes = np.array([len(f.numbers) for f in found])
    pairs = np.array([len(f.receivers) for f in found])
    first_atom = np.cumsum(sizes) - sizes
    first_pair = np.cumsum(pairs) - pairs

    def joined(name: str, firsts: Any = None) -> Tensor:
        offsets = [0] * len(found) if firsts is None else firsts.tolist()
        return torch.cat([getattr(f, name) + offset for f, offset in zip(found, offsets, strict=True)])

    numbers = np.concatenate([f.numbers for f in found])
    charge = np.array([f.charge for f in found])
    spin = torch.cat([f.graph.spin for f in found])
    batch = np.repeat(np.arange(len(found)), sizes)
    of_atoms = torch.cat([f.graph.kinds[f.graph.kind_index] for f in found])
    kinds, kind_index = torch.unique(of_atoms, dim=0, return_inverse=True)
    tensors: dict[str, Tensor] = {
        "systems": torch.tensor(systems, dtype=torch.int64),
        "atoms": torch.from_numpy(
            np.concatenate([np.arange(lists.offsets[k], lists.offsets[k + 1]) for k in systems]).astype(np.int64)
        ),
        "receivers": joined("receivers", first_atom),
        "senders": joined("senders", first_atom),
        "shifts": joined("shifts"),
        "reverse": joined("reverse", first_pair),
        "pair_system": torch.from_numpy(np.repeat(np.arange(len(found)), pairs)),
        "numbers": torch.from_numpy(numbers),
        "batch": torch.from_numpy(batch),
        "pbc": torch.from_numpy(np.stack([f.pbc for f in found])),
        "charge": torch.from_numpy(charge),
        "spin": spin,
        "kinds": kinds,
        "kind_index": kind_index,
    }
    return _Group(head=head, **{name: tensor.to(device) for name, tensor in tensors.items()})
