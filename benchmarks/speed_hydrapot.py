"""Worker of ``speed.py``: hydrapot, with random weights of the reference size or with a shipped model.

Usage: ``speed_hydrapot.py reference|NAME eager|compiled``
"""

import platform
import sys
from typing import Any

import torch
from ase.data import atomic_numbers
from speed_protocol import serve, timed
from speed_system import CHANNELS, CUTOFF, LAYERS, N_RADIAL, copper

from hydrapot.calculators.compiled import compiled_network
from hydrapot.potential import build_graph, evaluate, load
from hydrapot.potential.metadata import CheckpointInfo, HeadInfo, LevelOfTheory, ModelConfig, PaiNNConfig
from hydrapot.potential.model import Potential
from hydrapot.potential.references import zero_references


def reference_potential() -> Potential:
    """Random weights at the size that both packages are compared at."""
    head = HeadInfo(
        dataset="copper",
        level_of_theory=LevelOfTheory(functional="none: random weights"),
        references="zero",
        structures_per_element={"Cu": 1000},
    )
    encoder = PaiNNConfig(channels=CHANNELS, layers=LAYERS, n_radial=N_RADIAL)
    info = CheckpointInfo(architecture=ModelConfig(encoder=encoder, cutoff=CUTOFF), heads={"copper": head})
    torch.manual_seed(0)
    potential = Potential(info, references={"copper": zero_references([atomic_numbers["Cu"]])})
    return potential.eval().requires_grad_(requires_grad=False)


class HydrapotModel:
    """hydrapot as its calculators use it: :func:`evaluate`, with the compiled network or without."""

    def __init__(self, name: str, mode: str) -> None:
        self.potential = reference_potential() if name == "reference" else load(name)
        known = [n for n, head in self.potential.info.heads.items() if head.structures_per_element.get("Cu")]
        self.head = known[0]
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

    def prepare(self, n_cells: int) -> dict[str, Any]:
        """Build the system and its graph."""
        self.atoms = copper(n_cells)
        self.graph = build_graph(self.atoms, cutoff=self.potential.cutoff)
        return {"atoms": len(self.atoms), "edges": int(self.graph.edge_mask.sum())}

    def set_threads(self, threads: int) -> None:
        """Threads of torch."""
        torch.set_num_threads(threads)

    def evaluate(self) -> float:
        """Seconds for energy, forces and stress."""
        return timed(lambda: evaluate(self.potential, self.graph, head=self.head, network=self.network, check=False))

    def neighbor_list(self) -> float:
        """Seconds for search and graph."""
        return timed(lambda: build_graph(self.atoms, cutoff=self.potential.cutoff))


if __name__ == "__main__":
    serve(lambda: HydrapotModel(*sys.argv[1:3]))
