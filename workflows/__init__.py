"""What a user runs: relaxation, molecular dynamics, evaluation of files."""

from hydrapot.workflows.evaluate import EvaluationResult, evaluate_file
from hydrapot.workflows.md import MDResult, md
from hydrapot.workflows.mdsettings import MDSettings
from hydrapot.workflows.relax import RelaxResult, relax
from hydrapot.workflows.structures import iterate_structures, read_structure

__all__ = [
    "EvaluationResult",
    "MDResult",
    "MDSettings",
    "RelaxResult",
    "evaluate_file",
    "iterate_structures",
    "md",
    "read_structure",
    "relax",
]
