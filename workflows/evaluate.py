"""Energies, forces and stress of every structure in a file, and their errors where the file has labels."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_xyz
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential.coverage import structure_warnings
from hydrapot.potential.errors import HydrapotError, InvalidStructureError
from hydrapot.potential.evaluate import evaluate
from hydrapot.potential.graph import build_graph, collate
from hydrapot.workflows import record
from hydrapot.workflows.outputs import Outputs
from hydrapot.workflows.progress import ProgressBar
from hydrapot.workflows.structures import iterate_structures

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
#: Atoms evaluated together: enough to fill the processor, few enough to fit into its caches.
_BATCH_ATOMS = 256


@dataclass(frozen=True)
class EvaluationResult:
    """Outcome of an evaluation.

    Attributes
    ----------
    frames
        The structures, each with the predictions as its calculator and its labels, if any, in ``info`` and
        ``arrays`` under ``label_energy``, ``label_forces`` and ``label_stress``.
    errors
        Mean absolute and root-mean-square errors against the labels; empty without any.
    summary
        What ``PREFIX.json`` holds.
    """

    frames: list[Atoms]
    errors: dict[str, float]
    summary: dict[str, Any]


def evaluate_file(
    calculator: HydrapotCalculator,
    path: str | Path,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> EvaluationResult:
    """Evaluate all structures of a file with the head of `calculator`.

    Parameters
    ----------
    calculator
        Model, head and precision.
    path
        Any file that ASE reads; ``name@start:stop:step`` takes some of its structures.
    output
        Beginning of the names of the output files: ``.extxyz`` (structures with predictions) and ``.json``.
        None writes nothing.
    overwrite
        Replace files of an earlier run.
    progress
        Show a progress bar on standard error.

    Raises
    ------
    InvalidStructureError, UnknownElementError, UnsupportedChargeError
        Naming the file and the structure, counted from 0. Nothing is written then.
    """
    outputs = None if output is None else Outputs(output, (".extxyz", ".json"), overwrite=overwrite)
    structures = list(iterate_structures(path))
    if not structures:
        raise InvalidStructureError(f"{path}: no structure in it")
    potential, head = calculator.potential, calculator.head
    level = f"head {head!r}: {calculator.head_info.level_of_theory}"
    logger.info(level)
    for k, atoms in enumerate(structures):  # before the first evaluation, so that nothing is lost in the middle
        try:
            if len(atoms) == 0:
                raise InvalidStructureError("a structure without atoms")
            potential.check_supported(build_graph(atoms, cutoff=potential.cutoff), head=head)
        except HydrapotError as error:
            raise type(error)(f"{path}, structure {k}: {error}") from error
    frames: list[Atoms] = []
    title = f"evaluating {Path(path).name}"
    with ProgressBar(title, total=len(structures), shown=progress, unit="structures") as bar:
        for batch in _batches(structures):
            frames += _evaluate_batch(calculator, batch)
            bar.update(len(frames), str, last=len(frames) == len(structures))
    errors = label_errors(frames)
    notices = [level, *_warnings(calculator, structures)]
    if errors:
        notices.append(
            f"errors are against the labels of the file as they are: they mean something only if those are "
            f"{calculator.head_info.level_of_theory}, energies of the same kind included"
        )
        logger.info(notices[-1])
    summary: dict[str, Any] = {
        "schema": "hydrapot eval",
        "schema_version": SCHEMA_VERSION,
        "versions": record.versions(),
        "model": record.calculator_record(calculator),
        "input": str(path),
        "notices": notices,
        "errors": errors,
        "frames": [_frame_record(frame, k) for k, frame in enumerate(frames)],
    }
    if outputs is not None:

        def write(target: Path) -> None:
            with target.open("w", encoding="utf-8") as handle:
                write_xyz(handle, frames)

        outputs.write(".extxyz", write)
        outputs.write_json(".json", summary)
    return EvaluationResult(frames, errors, summary)


def label_errors(frames: Iterable[Atoms]) -> dict[str, float]:
    """Errors of predictions against labels, over all frames that have them.

    Returns
    -------
    Keys ``energy_mae_mev_per_atom``, ``energy_rmse_mev_per_atom``, ``forces_mae_mev_per_a``,
    ``forces_rmse_mev_per_a`` (of components), ``stress_mae_gpa``, ``stress_rmse_gpa`` (of components), and
    ``…_frames``, how many had the label.
    """
    differences: dict[str, list[NDArray[np.float64]]] = {"energy": [], "forces": [], "stress": []}
    for frame in frames:
        predicted = frame.calc.results
        if "label_energy" in frame.info:
            error = (predicted["energy"] - frame.info["label_energy"]) / len(frame)
            differences["energy"].append(np.array([1000 * error]))
        if "label_forces" in frame.arrays:
            differences["forces"].append(1000 * (predicted["forces"] - frame.arrays["label_forces"]).ravel())
        if "label_stress" in frame.info and "stress" in predicted:
            differences["stress"].append((predicted["stress"] - frame.info["label_stress"]) / units.GPa)
    unit = {"energy": "mev_per_atom", "forces": "mev_per_a", "stress": "gpa"}
    found: dict[str, float] = {}
    for name, parts in differences.items():
        if parts:
            values = np.concatenate(parts)
            found[f"{name}_mae_{unit[name]}"] = float(np.abs(values).mean())
            found[f"{name}_rmse_{unit[name]}"] = float(np.sqrt((values**2).mean()))
            found[f"{name}_frames"] = len(parts)
    return found


def _batches(structures: list[Atoms]) -> Iterator[list[Atoms]]:
    batch: list[Atoms] = []
    for atoms in structures:
        if batch and sum(map(len, batch)) + len(atoms) > _BATCH_ATOMS:
            yield batch
            batch = []
        batch.append(atoms)
    yield batch


def _evaluate_batch(calculator: HydrapotCalculator, batch: list[Atoms]) -> list[Atoms]:
    potential, head = calculator.potential, calculator.head
    graphs = [build_graph(atoms, cutoff=potential.cutoff) for atoms in batch]
    joined = collate(graphs, cutoff=potential.cutoff).to(calculator.device)
    with calculator.threads_set():
        prediction = evaluate(potential, joined, head=head, check=False)
    frames, begin = [], 0
    for k, atoms in enumerate(batch):
        rows = slice(begin, begin + len(atoms))
        begin += len(atoms)
        energy = float(prediction.energy[k])
        results: dict[str, Any] = {
            "energy": energy,
            "free_energy": energy,
            "energies": prediction.energies[rows].cpu().numpy(),
            "forces": prediction.forces[rows].cpu().numpy(),
        }
        if atoms.pbc.all():
            results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[k].cpu().numpy())
        frames.append(_with_predictions(atoms, results))
    return frames


def _with_predictions(atoms: Atoms, results: dict[str, Any]) -> Atoms:
    """A copy whose calculator holds the predictions, and whose labels have names of their own."""
    frame: Atoms = atoms.copy()
    labels = {} if atoms.calc is None else atoms.calc.results
    if labels.get("energy") is not None:
        frame.info["label_energy"] = float(labels["energy"])
    if labels.get("forces") is not None:
        frame.arrays["label_forces"] = np.asarray(labels["forces"], dtype=np.float64)
    if labels.get("stress") is not None:
        stress = np.asarray(labels["stress"], dtype=np.float64)
        frame.info["label_stress"] = full_3x3_to_voigt_6_stress(stress) if stress.shape == (3, 3) else stress
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def _frame_record(frame: Atoms, index: int) -> dict[str, Any]:
    results = frame.calc.results
    entry: dict[str, Any] = {
        "index": index,
        "formula": frame.get_chemical_formula(),
        "atoms": len(frame),
        "energy_ev": results["energy"],
        "max_force_ev_per_a": float(np.linalg.norm(results["forces"], axis=1).max()),
    }
    if "stress" in results:
        entry["pressure_gpa"] = float(-results["stress"][:3].mean() / units.GPa)
    if "label_energy" in frame.info:
        entry["energy_error_mev_per_atom"] = 1000 * (results["energy"] - frame.info["label_energy"]) / len(frame)
    if "label_forces" in frame.arrays:
        error = results["forces"] - frame.arrays["label_forces"]
        entry["forces_mae_mev_per_a"] = float(1000 * np.abs(error).mean())
    return entry


def _warnings(calculator: HydrapotCalculator, structures: Iterable[Atoms]) -> list[str]:
    """Each reason for doubt once, whichever structures it holds for."""
    found: dict[str, None] = {}
    for atoms in structures:
        for line in structure_warnings(calculator.potential, atoms, head=calculator.head):
            if line not in found:
                found[line] = None
                logger.warning(line)
    return list(found)
