"""Small datasets and configurations for tests of the trainer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from numpy.typing import NDArray

from hydrapot.training.data.extxyz import read_extxyz
from hydrapot.training.data.frames import Frames, structure_hash
from hydrapot.training.data.splits import make_manifest, save_manifest


def frames_of(
    atoms: Sequence[Atoms],
    *,
    name: str,
    energies: Sequence[float] | None = None,
    forces: Sequence[NDArray[np.float64]] | None = None,
    stresses: Sequence[NDArray[np.float64] | None] | None = None,
) -> Frames:
    """Frames of structures with the given labels (NaN where there is none)."""
    n = len(atoms)
    counts = np.array([len(a) for a in atoms])
    stress = np.full((n, 3, 3), np.nan)
    for k, value in enumerate(stresses or []):
        if value is not None:
            stress[k] = value
    pbc = np.array([a.pbc for a in atoms])
    return Frames(
        name=name,
        numbers=np.concatenate([a.numbers for a in atoms]).astype(np.int16),
        positions=np.concatenate([a.positions for a in atoms]),
        forces=np.concatenate(forces) if forces is not None else np.full((counts.sum(), 3), np.nan),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        cells=np.array([a.cell.array for a in atoms]),
        pbc=pbc,
        energy=np.array(energies, dtype=float) if energies is not None else np.full(n, np.nan),
        stress=stress,
        charge=np.zeros(n, dtype=np.int16),
        spin=np.zeros(n, dtype=np.int16),
        isolated=np.zeros(n, dtype=bool),
        group=np.array([""] * n),
        hashes=np.array([structure_hash(a.numbers, a.positions, a.cell.array, a.pbc) for a in atoms]),
    )


def _emt_labelled(atoms: Atoms) -> Atoms:
    atoms.calc = EMT()
    labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if atoms.pbc.all():
        labels["stress"] = atoms.get_stress(voigt=False)
    atoms.calc = SinglePointCalculator(atoms, energy=labels["energy"], forces=labels["forces"])
    if "stress" in labels:
        atoms.info["stress"] = labels["stress"]
    return atoms


def write_datasets(folder: Path, *, frames: int = 24) -> Path:
    """Two tiny datasets labelled by EMT (copper crystals; small molecules) with a split, and a configuration."""
    rng = np.random.default_rng(0)
    crystals, molecules = [], []
    for k in range(frames):
        a = bulk("Cu", cubic=True)
        a.set_cell(a.cell.array * (1.0 + 0.02 * rng.normal()), scale_atoms=True)
        a.rattle(0.1, seed=k)
        crystals.append(_emt_labelled(a))
        m = molecule("CO" if k % 2 else "H2O")
        m.rattle(0.05, seed=k)
        molecules.append(_emt_labelled(m))
    data = folder / "data"
    data.mkdir()
    for name, atoms in (("copper", crystals), ("molecules", molecules)):
        for a in atoms:
            a.info["dataset"] = name
        write(data / f"{name}.extxyz", atoms, format="extxyz")
    cache = folder / "cache"
    read = [read_extxyz(data / f"{n}.extxyz", cache_dir=cache) for n in ("copper", "molecules")]
    save_manifest(make_manifest(read, fraction=0.2, seed=1), folder / "split.json")
    config = folder / "train.yaml"
    config.write_text(
        """
name: tiny
split: split.json
model: {cutoff: 4.0, encoder: {channels: 8, layers: 2, n_radial: 6}, head_hidden: 8}
optimizer: {learning_rate: 5.0e-3, warmup_steps: 5}
sampler: {edge_slots: 1500, max_structures: 8}
run: {steps: 30, seed: 1, compile: false, validate_every: 15}
datasets:
  - {file: copper.extxyz, references: fit, level_of_theory: {functional: EMT}, licence: none, attribution: ASE}
  - {file: molecules.extxyz, references: fit, level_of_theory: {functional: EMT}, licence: none, attribution: ASE}
""",
        encoding="utf-8",
    )
    return config
