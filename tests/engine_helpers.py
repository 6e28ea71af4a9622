"""A small potential with random weights for tests of calculators, workflows and the command line."""

import torch
from ase.build import bulk

from hydrapot.potential.evaluate import evaluate
from hydrapot.potential.graph import build_graph
from hydrapot.potential.metadata import CheckpointInfo, HeadInfo, LevelOfTheory, ModelConfig, PaiNNConfig
from hydrapot.potential.model import Potential
from hydrapot.potential.references import zero_references

CRYSTALS, MOLECULES = "crystals", "molecules"
ELEMENTS = {"H": 1, "C": 6, "O": 8, "Cu": 29, "Ag": 47}


def small_potential(*, heads: tuple[str, ...] = (CRYSTALS, MOLECULES), largest_force: float = 0.5) -> Potential:
    """Two heads that know the same elements; `crystals` was trained on periodic cells without stress.

    Random weights, scaled so that the largest force in a rattled crystal is `largest_force` (eV/Å): enough to move
    atoms, gentle enough for molecular dynamics, however weights are initialized.
    """
    unscaled = _build(heads, dict.fromkeys(heads, 1.0))
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    graph = build_graph(atoms, cutoff=unscaled.cutoff)
    scales = {}
    for head in heads:
        forces = evaluate(unscaled, graph, head=head, check=False).forces
        scales[head] = largest_force / float(forces.norm(dim=1).max())
    return _build(heads, scales)


def _build(heads: tuple[str, ...], scales: dict[str, float]) -> Potential:
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
        architecture=ModelConfig(encoder=PaiNNConfig(channels=8, layers=2, n_radial=6), cutoff=4.0, head_hidden=8),
        heads={name: infos[name] for name in heads},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        potential = Potential(
            info,
            references={name: zero_references(ELEMENTS.values()) for name in heads},
            scales=scales,
        )
    return potential.eval().requires_grad_(requires_grad=False)
