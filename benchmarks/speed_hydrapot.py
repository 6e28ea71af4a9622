"""Worker of ``speed.py``: hydrapot, with random weights of the reference size or with a shipped model.

Usage: ``speed_hydrapot.py reference|NAME native|eager|compiled``
"""

import platform
import sys
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from speed_protocol import serve, timed
from speed_system import CHANNELS, CUTOFF, ELEMENTS, LAYERS, N_RADIAL, system

from hydrapot.calculators.compiled import compiled_network
from hydrapot.potential import build_graph, evaluate, load
from hydrapot.potential.metadata import CheckpointInfo, HeadInfo, LevelOfTheory, ModelConfig, PaiNNConfig
from hydrapot.potential.model import Potential
from hydrapot.potential.native import NativeEngine, NativeModel
from hydrapot.potential.neighbors import neighbor_list
from hydrapot.potential.references import zero_references


def reference_potential() -> Potential:
    """Random weights at the size that both packages are compared at."""
    head = HeadInfo(
        dataset="benchmark",
        level_of_theory=LevelOfTheory(functional="none: random weights"),
        references="zero",
        structures_per_element=dict.fromkeys(ELEMENTS, 1000),
    )
    encoder = PaiNNConfig(channels=CHANNELS, layers=LAYERS, n_radial=N_RADIAL)
    info = CheckpointInfo(architecture=ModelConfig(encoder=encoder, cutoff=CUTOFF), heads={"benchmark": head})
    torch.manual_seed(0)
    potential = Potential(info, references={"benchmark": zero_references([atomic_numbers[e] for e in ELEMENTS])})
    return potential.eval().requires_grad_(requires_grad=False)


class HydrapotModel:
    """hydrapot as its calculators use it: the native engine, or :func:`evaluate` with or without the compiled network."""

    def __init__(self, name: str, mode: str) -> None:
        self.potential = reference_potential() if name == "reference" else load(name)
        known = [n for n, head in self.potential.info.heads.items() if head.structures_per_element.get("Cu")]
        self.head = known[0]
        self.mode, self.threads = mode, 1
        self.model = NativeModel(self.potential) if mode == "native" else None
        self.engine: NativeEngine | None = None
        self.network = compiled_network(self.potential, head=self.head) if mode == "compiled" else None

    def describe(self) -> dict[str, Any]:
        """Versions and size."""
        encoder = self.potential.config.encoder
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "parameters": sum(p.numel() for p in self.potential.encoder.parameters()),
            "channels": encoder.channels,
            "layers": encoder.layers,
            "n_radial": encoder.n_radial,
            "cutoff": self.potential.cutoff,
        }

    def prepare(self, name: str, n_cells: int) -> dict[str, Any]:
        """Build the system and its graph."""
        self.atoms = system(name, n_cells)
        return {"atoms": len(self.atoms), "edges": self._search()}

    def _search(self) -> int:
        """What a calculator does at a search: pairs for the engine, a graph for torch."""
        atoms, cutoff = self.atoms, self.potential.cutoff
        if self.mode != "native":
            self.graph = build_graph(atoms, cutoff=cutoff)
            return int(self.graph.edge_mask.sum())
        edges = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff=cutoff)
        receivers, senders = edges.edge_index
        offsets = np.searchsorted(receivers, np.arange(len(atoms) + 1))
        self.pairs = (offsets, senders.astype(np.int32), edges.shifts.astype(np.int32))
        return len(senders)

    def set_threads(self, threads: int) -> None:
        """Threads of an evaluation."""
        torch.set_num_threads(threads)
        if self.model is not None and (self.engine is None or self.engine.threads != threads):
            self.engine = NativeEngine(self.model, threads=threads)

    def evaluate(self) -> float:
        """Seconds for energy, forces and stress."""
        if self.mode != "native":
            return timed(
                lambda: evaluate(self.potential, self.graph, head=self.head, network=self.network, check=False)
            )
        assert self.engine is not None
        call = self.engine.prepare(self.atoms.numbers, *self.pairs, heads=self.head)
        positions, cell = self.atoms.positions, self.atoms.cell.array
        return timed(lambda: call(positions, cell))

    def neighbor_list(self) -> float:
        """Seconds for search and conversion."""
        return timed(self._search)


if __name__ == "__main__":
    serve(lambda: HydrapotModel(*sys.argv[1:3]))
