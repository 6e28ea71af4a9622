"""A tiny two-head potential with fixed weights, for tests that need a model rather than a good one."""

import numpy as np
import torch
from ase.data import atomic_numbers

from hydrapot.potential.metadata import CheckpointInfo, HeadInfo, LevelOfTheory, ModelConfig, PaiNNConfig
from hydrapot.potential.model import Potential
from hydrapot.potential.references import N_ELEMENTS, fit_references, isolated_references

METALS, MOLECULES = "metals", "molecules.v2"  # the dot is not allowed in names of submodules


def compositions(*formulas: dict[str, int]) -> np.ndarray:
    """``(n, 119)`` counts."""
    counts = np.zeros((len(formulas), N_ELEMENTS))
    for row, formula in zip(counts, formulas, strict=True):
        for symbol, count in formula.items():
            row[atomic_numbers[symbol]] = count
    return counts


def tiny_info() -> CheckpointInfo:
    """Two heads that differ in everything that a head records."""
    metals = HeadInfo(
        dataset=METALS,
        level_of_theory=LevelOfTheory(functional="PBE", code="a plane-wave code", hubbard_u="3.9 eV on Cu d"),
        references="isolated",
        licence="CC-BY-4.0",
        structures=100,
        structures_per_element={"Cu": 100, "O": 9},
        periodicity=["TTT"],
        pressure_range=(-1.5, 1000.1),
        stress_trained=True,
        metrics={"force_mae_mev_per_a": 0.1 + 0.2, "energy_mae_mev_per_atom": 1e-300},
    )
    molecules = HeadInfo(
        dataset=MOLECULES,
        level_of_theory=LevelOfTheory(functional="wB97X", dispersion="D3(BJ)"),
        references="fit",
        structures=2000,
        structures_per_element={"H": 2000, "C": 1000, "O": 2000},
        periodicity=["FFF"],
        charge_spin=[(0, None), (-1, 2), (0, 3)],
        split="interpolation",
        metrics={"force_mae_mev_per_a": 50.0},
    )
    architecture = ModelConfig(encoder=PaiNNConfig(channels=2, layers=2, n_radial=2), cutoff=4.0, head_hidden=2)
    provenance = {"command": "none", "nested": {"number": 1 / 3, "list": [1, None, "Å"]}}
    heads = {METALS: metals, MOLECULES: molecules}
    return CheckpointInfo(architecture=architecture, heads=heads, provenance=provenance)


def tiny_potential() -> Potential:
    """The model of `tiny_info`: weights from numpy's generator, which is the same on every machine."""
    isolated = isolated_references([29, 8], [-1.0 / 3.0, -432.1234567890123])
    # H2O and its dimer only differ in size: H and O are not determined one by one, carbon is.
    formulas = ({"H": 2, "O": 1}, {"H": 4, "O": 2}, {"C": 1, "H": 2, "O": 1})
    fit = fit_references(compositions(*formulas), np.array([-100.1, -200.3, -300.7]))
    references = {METALS: isolated, MOLECULES: fit}
    scales = {METALS: 0.1234567890123456, MOLECULES: 1e3 / 7}
    potential = Potential(tiny_info(), references=references, scales=scales)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=tuple(parameter.shape))))
    return potential
