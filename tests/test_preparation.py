"""Structures to test on are near a minimum of the potential, and the same every time."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from hydrapot.validation.domain import Domain
from hydrapot.validation.preparation import default_structures, relaxed
from hydrapot.validation.subject import CalculatorSubject, CheckpointSubject


def emt(*elements):
    return CalculatorSubject(EMT, name="EMT", elements=elements, cutoff=5.9, receptive_field=5.9, resolution=2.2e-16)


def forces_and_stress(subject, atoms):
    atoms = atoms.copy()
    atoms.calc = subject.calculator()
    return np.abs(atoms.get_forces()).max(), np.abs(atoms.get_stress()).max()


class Repulsive(Calculator):
    """Atoms that fly apart."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        center = atoms.positions - atoms.positions.mean(axis=0)
        self.results = {"energy": -float((center**2).sum()), "forces": 2.0 * center}


class Broken(Calculator):
    """Works twice."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    calls = 0

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.calls > 2:
            raise ZeroDivisionError("a defect of the potential")
        self.results = {"energy": 0.0, "forces": np.full((len(atoms), 3), 0.1) * np.sign(atoms.positions - 0.5)}


def test_copper_in_emt_is_fcc_at_its_lattice_constant():
    (name, atoms), *rest = default_structures(emt("Cu"), Domain()).items()
    assert name == "Cu-fcc"
    assert not rest
    assert np.sqrt(2) * atoms.cell.lengths()[0] == pytest.approx(3.590, abs=0.003)  # EMT's own, Å


def test_every_structure_is_near_a_minimum():
    subject = emt("Al", "Cu")
    structures = default_structures(subject, Domain())
    assert len(structures) == 2
    for atoms in structures.values():
        force, stress = forces_and_stress(subject, atoms)
        assert force < 2e-3
        assert stress < 1e-3
        assert atoms.pbc.all()


def test_lennard_jones_crystal_is_found_at_unusual_distances():
    subject = CalculatorSubject(LennardJones, name="LJ", elements=("Ar",), cutoff=3.0, receptive_field=3.0)
    (atoms,) = default_structures(subject, Domain()).values()
    nearest = atoms.repeat(3).get_all_distances(mic=True)
    assert nearest[nearest > 0].min() == pytest.approx(1.09, abs=0.02)


def test_domain_chooses_among_the_elements():
    names = default_structures(emt("Al", "Cu", "Ag"), Domain(elements=("Ag",)))
    assert list(names) == ["Ag-fcc"]


def test_the_same_subject_gets_the_same_structures():
    first, second = (default_structures(emt("Cu"), Domain()) for _ in range(2))
    for name, atoms in first.items():
        assert np.array_equal(atoms.positions, second[name].positions)
        assert np.array_equal(atoms.cell.array, second[name].cell.array)


@pytest.mark.parametrize(
    ("head", "name", "constant"),
    [
        ("mvl_snap_Cu", "Cu-fcc", 3.63),
        ("polymlp_MgO", "MgO-rocksalt", 4.25),
        ("polymlp_SrTiO3", "SrTiO3-perovskite", 3.94),
    ],
)  # a of the level of theory, Å
def test_crystal_heads_get_the_crystal_that_they_were_trained_on(head, name, constant):
    subject = CheckpointSubject("hydrapot-s", head=head)
    ((found, atoms),) = default_structures(subject, Domain()).items()
    assert found == name
    a = atoms.cell.lengths()[0] * (1.0 if "perovskite" in name else np.sqrt(2))
    assert a == pytest.approx(constant, rel=0.02)
    assert forces_and_stress(subject, atoms)[0] < 2e-3


def test_molecular_heads_get_a_molecule_and_no_crystal():
    subject = CheckpointSubject("hydrapot-s", head="qm22_b3lyp_molecules")
    (atoms,) = default_structures(subject, Domain()).values()
    assert not atoms.pbc.any()
    calculated = atoms.copy()
    calculated.calc = subject.calculator()
    with np.errstate(all="raise"):
        assert np.abs(calculated.get_forces()).max() < 2e-3


def test_relaxation_leaves_its_argument_alone_and_says_that_it_converged():
    atoms = bulk("Cu", a=3.5, cubic=True)
    atoms.rattle(0.05, seed=0)
    before = atoms.positions.copy()
    finished, converged = relaxed(atoms, EMT(), cell=True)
    assert converged
    assert atoms.calc is None
    assert finished.calc is None
    assert np.array_equal(atoms.positions, before)
    assert finished.get_volume() == pytest.approx(3.59**3, rel=3e-3)


def test_relaxation_that_runs_out_of_steps_says_so():
    atoms = bulk("Cu", a=3.4, cubic=True)
    atoms.rattle(0.1, seed=0)
    assert relaxed(atoms, EMT(), cell=True, max_steps=2)[1] is False


def test_explosion_collapse_and_defects_of_a_calculator_raise_nothing():
    finished, converged = relaxed(molecule("H2O"), Repulsive(), max_steps=500)
    assert not converged
    assert np.isfinite(finished.positions).all()
    finished, converged = relaxed(molecule("H2O"), Broken())
    assert not converged
    assert np.isfinite(finished.positions).all()


def test_cell_of_a_molecule_is_not_asked_for():
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]])
    assert relaxed(atoms, EMT(), cell=True)[1]
