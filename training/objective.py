"""The training objective: robust, scaled errors of energy, forces and virial.

Every error is divided by a scale of its dataset before it enters a pseudo-Huber norm, so that a set at 1,000 GPa does
not outvote a molecule at rest, and one mislabeled frame does not outvote its dataset. Force errors enter as vectors,
which keeps the loss independent of the orientation of the axes. Sums are accumulated in float64.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


class ObjectiveConfig(BaseModel):
    """Weights of the three terms; errors are in units of each dataset's scale."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    energy: float = Field(default=0.1, ge=0, description="Weight of the error of the energy per atom.")
    energy_final: float = Field(
        default=1.0,
        ge=0,
        description="Weight of the energy error at the end: it rises to this while the learning rate decays.",
    )
    forces: float = Field(default=5.0, ge=0, description="Weight of the mean error of the force vectors.")
    stress: float = Field(default=0.5, ge=0, description="Weight of the error of the virial per atom.")
    loss: Literal["pseudo_huber", "huber", "mae", "mse"] = Field(
        default="pseudo_huber",
        description="Norm of an error: quadratic below its width and linear above (smoothly, or with Huber's kink in the"
        " second derivative), linear or quadratic throughout.",
    )
    energy_delta: float = Field(default=0.02, gt=0, description="Pseudo-Huber width for energies, in dataset scales.")
    stress_delta: float = Field(default=0.02, gt=0, description="Pseudo-Huber width for virials, in dataset scales.")
    force_delta: float = Field(default=0.02, gt=0, description="Pseudo-Huber width for forces, in dataset scales.")


class Targets(NamedTuple):
    """Labels of a batch of ``G`` structures and ``N`` atoms, all float64; a weight of 0 marks a missing label.

    The energies are interaction energies: reference energies and short-range repulsion are subtracted beforehand, in
    float64, from energy, forces and virial alike.
    """

    energy: Tensor  # (G,) eV
    forces: Tensor  # (N, 3) eV/Å
    strain_gradient: Tensor  # (G, 3, 3) eV: stress · volume
    energy_weight: Tensor  # (G,)
    force_weight: Tensor  # (N,)
    strain_weight: Tensor  # (G,)
    energy_scale: Tensor  # (G,) eV per atom
    force_scale: Tensor  # (G,) eV/Å
    strain_scale: Tensor  # (G,) eV per atom
    atoms: Tensor  # (G,) number of atoms
    #: Labelled energies, atoms with forces, and stresses that the means of the loss are taken over. A batch that is one
    #: of several parts carries those of all parts together, so that the parts' losses and gradients add up to the
    #: whole's.
    normalizers: Tensor  # (3,)
    #: Uncertainty of energies per atom, forces and virials per atom, in the scales above: widths of the norm grow by it.
    noise: Tensor  # (G, 3)


class Losses(NamedTuple):
    """The weighted sum and its three unweighted terms, scalars in float64."""

    total: Tensor
    energy: Tensor
    forces: Tensor
    stress: Tensor


def weigh_energies(targets: Targets, *, config: ObjectiveConfig, fade: float) -> Targets:
    """Targets with the energy weight that belongs to a stage of the run.

    Energy errors move all atoms of a structure together. At a high learning rate they are noise that outshouts the forces,
    so their weight is small until the rate falls.

    Parameters
    ----------
    targets, config
        Labels and objective.
    fade
        Learning rate over its plateau, 1 → 0 (:func:`hydrapot.training.schedule.fade`).
    """
    weight = config.energy * fade + config.energy_final * (1.0 - fade)
    return targets._replace(energy_weight=targets.energy_weight * weight)


#: Width below which an absolute error is rounded off, in dataset scales: its gradient has no direction at zero.
ABSOLUTE_WIDTH = 1e-6


def robust(squared: Tensor, *, delta: Tensor, loss: str) -> Tensor:
    """Norm of errors from their squares.

    Parameters
    ----------
    squared
        x², any shape.
    delta
        Widths δ > 0 that broadcast to it.
    loss
        ``pseudo_huber``: √(x² + δ²) − δ. ``huber``: x²/2δ up to δ, |x| − δ/2 beyond (Huber, Ann. Math. Stat. 35, 73 (1964),
        divided by δ so that errors beyond have the same weight for every width). ``mae``: |x|. ``mse``: x².
    """
    if loss == "mse":
        return squared
    if loss == "huber":
        # The root is taken where it is used only: its slope at zero is infinite.
        far = torch.sqrt(torch.maximum(squared, delta * delta)) - 0.5 * delta
        return torch.where(squared < delta * delta, squared / (2.0 * delta), far)
    width = torch.full_like(delta, ABSOLUTE_WIDTH) if loss == "mae" else delta
    return torch.sqrt(squared + width * width) - width


def _weighted_mean(values: Tensor, weights: Tensor, count: Tensor) -> Tensor:
    # The clamp only acts when no label of this kind is in the batch, where the numerator is 0 too.
    return (values * weights).sum() / count.clamp(min=1)


def objective(
    energy: Tensor, forces: Tensor, strain_gradient: Tensor, targets: Targets, batch: Tensor, *, config: ObjectiveConfig
) -> Losses:
    """Loss of predictions against `targets`: weighted sums over the batch, divided by ``targets.normalizers``.

    The weight of the energy changes during a run and is part of ``targets.energy_weight``
    (:func:`weigh_energies`); those of forces and stress are constants of the objective.

    Parameters
    ----------
    energy, forces, strain_gradient
        ``(G,)`` eV, ``(N, 3)`` eV/Å, ``(G, 3, 3)`` eV; the learned part of the interaction energy and its derivatives.
    batch
        ``(N,)`` structure of each atom.
    """

    def width(own: float, kind: int) -> Tensor:
        return torch.sqrt(own * own + targets.noise[:, kind].square())

    de = (energy.double() - targets.energy) / (targets.atoms * targets.energy_scale)
    e = robust(de * de, delta=width(config.energy_delta, 0), loss=config.loss)
    df = (forces.double() - targets.forces) / targets.force_scale[batch][:, None]
    f = robust((df * df).sum(dim=1), delta=width(config.force_delta, 1)[batch], loss=config.loss)
    dw = (strain_gradient.double() - targets.strain_gradient) / (targets.atoms * targets.strain_scale)[:, None, None]
    s = robust((dw * dw).sum(dim=(1, 2)) / 3.0, delta=width(config.stress_delta, 2), loss=config.loss)
    terms = (
        _weighted_mean(e, targets.energy_weight, targets.normalizers[0]),
        _weighted_mean(f, targets.force_weight, targets.normalizers[1]),
        _weighted_mean(s, targets.strain_weight, targets.normalizers[2]),
    )
    total = terms[0] + config.forces * terms[1] + config.stress * terms[2]
    return Losses(total, *(t.detach() for t in terms))
