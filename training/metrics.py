"""Errors of a model on held-out structures, per head, beside those of a mean predictor."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from ase.units import GPa
from numpy.typing import NDArray
from torch import Tensor

from hydrapot.potential.errors import SimulationError
from hydrapot.training.data.prepared import PreparedDataset, TrainingSet
from hydrapot.training.step import Batch, Predictions

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


def baseline(training: TrainingSet, validation: PreparedDataset) -> Metrics:
    """Errors of the mean predictor: references plus the mean training energy per atom, no force, mean training stress."""
    known = training.sample
    mean_energy = np.nanmean((known.energy + known.repulsion_energy) / known.frames.counts)
    total = (validation.energy + validation.repulsion_energy) / validation.frames.counts
    stress = known.frames.stress[known.frames.has_stress]
    mean_stress = stress.mean(axis=0) if len(stress) else np.zeros((3, 3))
    return error_metrics(
        total - mean_energy, validation.frames.forces, validation.frames.stress - mean_stress, prefix="baseline_"
    )


#: Rows of :func:`error_sums`: what is summed of energies, force components and stress components.
_QUANTITIES = (("energy", "mev_per_atom", 1e3), ("force", "mev_per_a", 1e3), ("stress", "gpa", 1.0 / GPa))


def error_sums(predicted: Predictions, batch: Batch) -> Tensor:
    """Sums over the structures of a batch, all of one head: ``(10,)`` float64, which add up over batches.

    Sum of magnitudes, sum of squares and number of the errors of the energy per atom (eV), of each force component (eV/Å)
    and of each independent stress component (eV/Å³), as far as there are labels; last, the number of predictions that are
    not finite.
    """
    targets, graph = batch.targets, batch.graph
    volume = torch.linalg.det(graph.cell).abs()[:, None, None]
    known = targets.strain_weight > 0
    stress = (predicted.strain_gradient.double() - targets.strain_gradient)[known] / volume[known]
    errors = (
        ((predicted.energy.double() - targets.energy) / targets.atoms)[targets.energy_weight > 0],
        (predicted.forces.double() - targets.forces)[targets.force_weight > 0],
        stress[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
    )
    sums = [torch.stack([e.abs().sum(), (e * e).sum(), e.new_tensor(e.numel())]) for e in errors]
    bad = sum((~torch.isfinite(t)).sum() for t in predicted)
    return torch.cat([*sums, torch.as_tensor(bad, device=targets.energy.device).double().view(1)])


def metrics_of_sums(sums: Tensor) -> Metrics:
    """Mean absolute and root-mean-square errors from :func:`error_sums`; quantities without labels are left out.

    Raises
    ------
    SimulationError
        A prediction was not finite.
    """
    values = sums.tolist()
    if values[-1]:
        raise SimulationError("the model predicts a value that is not finite: the weights have diverged")
    metrics: Metrics = {}
    for k, (name, unit, factor) in enumerate(_QUANTITIES):
        magnitude, square, count = values[3 * k : 3 * k + 3]
        if count:
            metrics[f"{name}_mae_{unit}"] = magnitude / count * factor
            metrics[f"{name}_rmse_{unit}"] = math.sqrt(square / count) * factor
    return metrics


def relative_force_errors(metrics: Mapping[str, Metrics]) -> dict[str, float]:
    """Force MAE over the mean magnitude of a force component, per head (the mean predictor scores 1)."""
    return {
        name: m["force_mae_mev_per_a"] / m["baseline_force_mae_mev_per_a"]
        for name, m in metrics.items()
        if m.get("baseline_force_mae_mev_per_a")
    }
