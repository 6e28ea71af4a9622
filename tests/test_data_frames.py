"""Columns, offsets and hashes: a mistake here silently pairs structures with the labels of others."""

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from hydrapot.training.data.frames import structure_hash
from tests.data_helpers import frames_of


def labelled(atoms, energy):
    forces = np.arange(3 * len(atoms), dtype=float).reshape(-1, 3) + energy
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


@pytest.fixture
def frames(tmp_path):
    return frames_of([labelled(molecule("H2O"), 1.0), labelled(bulk("Cu"), 2.0), labelled(molecule("CH4"), 3.0)])


def test_subset_takes_labels_along(frames):
    chosen = frames.subset([2, 0, 2])
    assert chosen.offsets.tolist() == [0, 5, 8, 13]
    assert chosen.energy.tolist() == [3, 1, 3]
    for k, i in enumerate([2, 0, 2]):
        for mine, theirs in zip(chosen.structure(k), frames.structure(i), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_subset_accepts_masks_and_negative_indices_and_nothing(frames):
    assert frames.subset(np.array([False, True, True])).energy.tolist() == [2, 3]
    assert frames.subset([-1]).energy.tolist() == [3]
    empty = frames.subset([])
    assert len(empty) == 0
    assert empty.compositions().shape == (0, 119)
    with pytest.raises(IndexError):
        frames.subset([3])


def test_compositions_count_atoms(frames):
    counts = frames.compositions()
    assert counts.sum(1).tolist() == [3, 1, 5]
    assert (counts[0, 1], counts[0, 8], counts[1, 29], counts[2, 6], counts[2, 1]) == (2, 1, 1, 1, 4)


def test_round_trip_through_atoms(frames):
    atoms = frames.to_atoms(0)
    np.testing.assert_array_equal(atoms.positions, frames.structure(0).positions)
    assert atoms.get_potential_energy() == 1.0
    np.testing.assert_array_equal(atoms.get_forces(), frames.structure(0).forces)


def digest(atoms):
    return structure_hash(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)


def test_hash_ignores_rounding_noise_and_the_sign_of_zero():
    atoms = molecule("CH3CH2OH")
    atoms.positions = np.round(atoms.positions, 3)  # away from the edges of the grid
    noisy = atoms.copy()
    noisy.positions += 4e-6 * (-1) ** np.arange(27).reshape(9, 3)
    assert digest(atoms) == digest(noisy)
    atoms.positions[0, 0] = 0.0
    minus = atoms.copy()
    minus.positions[0, 0] = -0.0
    assert digest(atoms) == digest(minus)


def test_hash_ignores_the_cell_of_a_molecule_but_not_of_a_crystal():
    in_a_box = molecule("H2O")
    in_a_box.set_cell([9, 9, 9])
    assert digest(in_a_box) == digest(molecule("H2O"))
    assert digest(bulk("Cu", a=3.6)) != digest(bulk("Cu", a=3.61))


@pytest.mark.parametrize("change", ["position", "element", "order", "pbc"])
def test_hash_tells_structures_apart(change):
    atoms = ase.Atoms("HO", positions=[[0, 0, 0], [0, 0, 1]], cell=np.eye(3) * 5)
    other = atoms.copy()
    if change == "position":
        other.positions[1, 2] += 0.001
    elif change == "element":
        other.numbers[1] = 9
    elif change == "order":
        other = other[[1, 0]]
    else:
        other.pbc = True
    assert digest(atoms) != digest(other)
