"""A small potential with random weights for tests of calculators, workflows and the command line."""

import torch

from hydrapot.potential.metadata import CheckpointInfo, HeadInfo, LevelOfTheory, ModelConfig, PaiNNConfig
from hydrapot.potential.model import Potential
from hydrapot.potential.references import zero_references

CRYSTALS, MOLECULES = "crystals", "molecules"
ELEMENTS = {"H": 1, "C": 6, "O": 8, "Cu": 29, "Ag": 47}


def small_potential(*, heads: tuple[str, ...] = (CRYSTALS, MOLECULES), scale: float = 100.0) -> Potential:
    """Two heads that know the same elements; `crystals` was trained on periodic cells without stress."""
    infos = {
        CRYSTALS: HeadInfo(
            dataset=CRYSTALS,
            level_of_theory=LevelOfTheory(functional="PBE", code="VASP"),
            references="zero",
            structures=100,
            structures_per_element=dict.fromkeys(ELEMENTS, 100),
            periodicity=["TTT"],
            metrics={"force_mae_mev_per_a": 31.0, "energy_mae_mev_per_atom": 2.5},
        ),
        MOLECULES: HeadInfo(
            dataset=MOLECULES,
            level_of_theory=LevelOfTheory(functional="wB97X", code="ORCA", basis="6-31G(d)"),
            references="zero",
            structures=100,
            structures_per_element={"H": 100, "C": 100, "O": 5},
            periodicity=["FFF"],
            charge_spin=[(1, 2)],
        ),
    }
    info = CheckpointInfo(
        architecture=ModelConfig(
            encoder=PaiNNConfig(channels=8, layers=2, n_radial=6), cutoff=4.0, head_hidden=8
        ),
        heads={name: infos[name] for name in heads},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        potential = Potential(
            info,
            references={name: zero_references(ELEMENTS.values()) for name in heads},
            scales=dict.fromkeys(heads, scale),
        )
    return potential.eval().requires_grad_(requires_grad=False)
