"""Errors of a model on held-out structures, per head, beside those of a mean predictor."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from ase.units import GPa
from numpy.typing import NDArray

from hydrapot.potential.errors import SimulationError
from hydrapot.training.data.prepared import PreparedDataset
from hydrapot.training.step import Batch, Predictions, Predictor

Metrics = dict[str, float]


def _errors(name: str, difference: NDArray[np.float64], unit: str, factor: float) -> Metrics:
    if difference.size == 0:
        return {}
    return {
        f"{name}_mae_{unit}": float(np.abs(difference).mean() * factor),
        f"{name}_rmse_{unit}": float(np.sqrt((difference**2).mean()) * factor),
    }


def error_metrics(
    energy: NDArray[np.float64], forces: NDArray[np.float64], stress: NDArray[np.float64], *, prefix: str = ""
) -> Metrics:
    """Mean absolute and root-mean-square errors; entries that are NaN (no label) are left out.

    Parameters
    ----------
    energy
        Errors in eV per atom, ``(n,)``.
    forces
        Errors in eV/Å, ``(atoms, 3)``; each component counts.
    stress
        Errors in eV/Å³, ``(n, 3, 3)``; the six independent components count.
    """
    upper = stress[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    metrics = {
        **_errors("energy", energy[np.isfinite(energy)], "mev_per_atom", 1e3),
        **_errors("force", forces[np.isfinite(forces)], "mev_per_a", 1e3),
        **_errors("stress", upper[np.isfinite(upper)], "gpa", 1.0 / GPa),
    }
    return {prefix + name: value for name, value in metrics.items()}


def baseline(training: PreparedDataset, validation: PreparedDataset) -> Metrics:
    """Errors of the mean predictor: references plus the mean training energy per atom, no force, mean training stress."""
    mean_energy = np.nanmean((training.energy + training.repulsion_energy) / training.frames.counts)
    total = (validation.energy + validation.repulsion_energy) / validation.frames.counts
    stress = training.frames.stress[training.frames.has_stress]
    mean_stress = stress.mean(axis=0) if len(stress) else np.zeros((3, 3))
    return error_metrics(
        total - mean_energy, validation.frames.forces, validation.frames.stress - mean_stress, prefix="baseline_"
    )


def validation_metrics(
    predictor: Predictor, batches: Iterable[tuple[NDArray[np.int64], Batch]], datasets: Mapping[str, PreparedDataset]
) -> dict[str, Metrics]:
    """Errors per head.

    Parameters
    ----------
    predictor
        The model.
    batches
        ``(B, 2)`` rows = (dataset, structure) with the batch made of them; each structure of `datasets` once.
    datasets
        Validation structures by head.

    Raises
    ------
    SimulationError
        A prediction is not finite.
    """
    names = list(datasets)
    found: dict[str, list[tuple[NDArray[np.float64], ...]]] = {name: [] for name in names}
    for rows, batch in batches:
        predicted = predictor(batch)
        if not all(bool(torch.isfinite(t).all()) for t in predicted):
            raise SimulationError("the model predicts a value that is not finite: the weights have diverged")
        for part in _split(rows, batch, predicted, datasets):
            found[part[0]].append(part[1:])
    metrics = {}
    for name, parts in found.items():
        if parts:
            energy, forces, stress = (np.concatenate(column) for column in zip(*parts, strict=True))
            metrics[name] = error_metrics(energy, forces, stress)
    return metrics


def _split(
    rows: NDArray[np.int64], batch: Batch, predicted: Predictions, datasets: Mapping[str, PreparedDataset]
) -> Iterable[tuple[str, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    names = list(datasets)
    energy, forces = predicted.energy.double().numpy(), predicted.forces.double().numpy()
    strain = predicted.strain_gradient.double().numpy()
    atoms = batch.targets.atoms.numpy().astype(int)
    first = np.cumsum(atoms) - atoms
    for k, (d, i) in enumerate(rows.tolist()):
        data = datasets[names[d]]
        own = slice(data.frames.offsets[i], data.frames.offsets[i + 1])
        volume = abs(np.linalg.det(data.frames.cells[i]))
        stress = (strain[k] - data.strain[i]) / volume if np.isfinite(data.strain[i]).all() else np.full((3, 3), np.nan)
        yield (
            names[d],
            np.array([(energy[k] - data.energy[i]) / atoms[k]]),
            forces[first[k] : first[k] + atoms[k]] - data.forces[own],
            stress[None],
        )


def relative_force_errors(metrics: Mapping[str, Metrics]) -> dict[str, float]:
    """Force MAE over the mean magnitude of a force component, per head (the mean predictor scores 1)."""
    return {
        name: m["force_mae_mev_per_a"] / m["baseline_force_mae_mev_per_a"]
        for name, m in metrics.items()
        if m.get("baseline_force_mae_mev_per_a")
    }
