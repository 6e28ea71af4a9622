"""Potentials with random weights: what the contract, and everything else about structure to energy, is tested on."""

from collections.abc import Sequence

import torch
from ase.data import atomic_numbers

from hydrapot.potential.metadata import CheckpointInfo, HeadInfo, LevelOfTheory, ModelConfig, PaiNNConfig
from hydrapot.potential.model import Potential
from hydrapot.potential.references import zero_references

ELEMENTS = ("H", "C", "O", "Na", "Si", "Cl", "Cu", "U")


def random_potential(
    *,
    seed: int = 0,
    elements: Sequence[str] = ELEMENTS,
    heads: Sequence[str] = ("a",),
    channels: int = 16,
    layers: int = 2,
    n_radial: int = 8,
    cutoff: float = 5.0,
    repulsion: str = "zbl",
    charge_spin: bool = True,
    scale: float = 10.0,
) -> Potential:
    """Float64; the scale of 10 eV makes forces of some eV/Å out of the numbers of an untrained network.

    Trained on charge −1 (doublet): the charge and spin vectors are random too, not the zeros of a new model.
    """
    info = CheckpointInfo(
        architecture=ModelConfig(
            encoder=PaiNNConfig(channels=channels, layers=layers, n_radial=n_radial),
            cutoff=cutoff,
            head_hidden=8,
            repulsion=repulsion,
            charge_spin=charge_spin,
        ),
        heads={
            name: HeadInfo(
                dataset=name,
                level_of_theory=LevelOfTheory(functional="none"),
                references="zero",
                structures_per_element=dict.fromkeys(elements, 100),
                charge_spin=[(0, None), (-1, 2)] if charge_spin else [],
            )
            for name in heads
        },
    )
    references = zero_references([atomic_numbers[e] for e in elements])
    # Not zero, so that the interaction energy and the total differ.
    references.values[:] = -1000.0 * torch.arange(119).numpy() + 0.1 * references.values
    torch.manual_seed(seed)
    potential = Potential(info, references=dict.fromkeys(heads, references), scales=dict.fromkeys(heads, scale))
    if charge_spin:
        with torch.no_grad():
            potential.conditioning.charge.normal_()
            potential.conditioning.spin.normal_()
    return potential.double()
