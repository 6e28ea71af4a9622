"""Structure to energy, forces and stress: graph, encoder, heads, references, checkpoints."""

from hydrapot.potential.checkpoint import save
from hydrapot.potential.errors import (
    CheckpointError,
    ConfigurationError,
    HydrapotError,
    InvalidStructureError,
    SimulationError,
    UnknownElementError,
    UnknownHeadError,
    UnsupportedChargeError,
)
from hydrapot.potential.evaluate import Prediction, evaluate
from hydrapot.potential.graph import Graph, build_graph, collate
from hydrapot.potential.load import load, shipped_models
from hydrapot.potential.model import Potential

__all__ = [
    "CheckpointError",
    "ConfigurationError",
    "Graph",
    "HydrapotError",
    "InvalidStructureError",
    "Potential",
    "Prediction",
    "SimulationError",
    "UnknownElementError",
    "UnknownHeadError",
    "UnsupportedChargeError",
    "build_graph",
    "collate",
    "evaluate",
    "load",
    "save",
    "shipped_models",
]
