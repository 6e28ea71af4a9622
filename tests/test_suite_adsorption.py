"""Adsorption: sites and curves of EMT, a spurious well and a kink in the curve, structures of the domain."""

import numpy as np
import pytest
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.emt import EMT

from hydrapot.validation.adsorbates import find_adsorbate, sites
from hydrapot.validation.metrics import Verdict
from hydrapot.validation.slabs import facet
from hydrapot.validation.suites.adsorption import SUITE
from tests.accuracy_helpers import context, emt_subject, metric

DROP = "fall of the energy on the way out"
ROUGH = "roughness of the force"


def domain_structure(*, pbc=(True, True, False)):
    """CO over Cu(111), carbon down."""
    slab = fcc111("Cu", (2, 2, 3), a=3.59, vacuum=8.0)
    add_adsorbate(slab, "C", 1.5, "fcc")
    add_adsorbate(slab, "O", 2.65, "fcc")
    slab.pbc = pbc
    return slab


@pytest.fixture(scope="module")
def on_copper():
    subject = emt_subject(elements=("H", "Cu"))
    return SUITE.run(context(subject, structures={"Cu": bulk("Cu", a=3.59)}))


def test_hydrogen_on_copper(on_copper):
    assert on_copper.verdict is Verdict.PASS
    found = {m.subject.rpartition(", ")[2]: m.value for m in on_copper.metrics if m.name == "adsorption energy"}
    assert set(found) == {
        "on top",
        "bridge",
        "hollow over the second plane",
        "hollow over the third plane",
    }
    assert all(-4.0 < value < -2.0 for value in found.values())
    assert min(found, key=found.get).startswith("hollow")


def test_energy_of_a_site_is_that_of_a_straightforward_calculation(on_copper):
    """The on-top site by hand: rigid EMT slab of four layers, H at its best height, against H 6.4 Å above."""
    slab = fcc111("Cu", (2, 2, 4), a=3.5899, vacuum=12.0)
    energies = []
    for height in (*np.arange(1.4, 2.3, 0.1), 6.4):
        both = slab.copy()
        add_adsorbate(both, "H", height, "ontop")
        both.calc = EMT()
        energies.append(both.get_potential_energy())
    found = metric(on_copper, "adsorption energy", "H on Cu (111), on top").value
    assert found == pytest.approx(min(energies) - energies[-1], abs=0.02)


def hydrogen_height(atoms):
    """Of the hydrogen over the topmost copper; None without either."""
    if set(atoms.numbers.tolist()) != {1, 29} or len(atoms) < 10:
        return None
    return atoms.positions[atoms.numbers == 1, 2].max() - atoms.positions[atoms.numbers == 29, 2].max()


def test_a_spurious_well_far_out_fails():
    """A gradient of a well of 0.3 eV, 5 Å over the surface."""

    def change(results, atoms):
        height = hydrogen_height(atoms)
        if height is not None:
            well = -0.3 * np.exp(-((height - 5.0) ** 2) / 0.18)
            results["energy"] += well
            results["forces"] = results["forces"].copy()
            results["forces"][atoms.numbers == 1, 2] += well * 2 * (height - 5.0) / 0.18

    outcome = SUITE.run(context(emt_subject(change, elements=("H", "Cu")), structures={"Cu": bulk("Cu", a=3.59)}))
    drops = [m for m in outcome.metrics if m.name == DROP]
    assert {m.verdict for m in drops} == {Verdict.FAIL}
    assert any("beyond 4." in m.detail for m in drops)


def test_a_kink_of_the_force_fails():
    """The hydrogen's force jumps by 0.5 eV/Å at 3 Å."""

    def change(results, atoms):
        height = hydrogen_height(atoms)
        if height is not None and height > 3.0:
            results["forces"] = results["forces"].copy()
            results["forces"][atoms.numbers == 1, 2] -= 0.5

    outcome = SUITE.run(context(emt_subject(change, elements=("H", "Cu")), structures={"Cu": bulk("Cu", a=3.59)}))
    assert {m.verdict for m in outcome.metrics if m.name == ROUGH} == {Verdict.FAIL}
    assert Verdict.FAIL in {m.verdict for m in outcome.metrics if m.name.startswith("work")}


@pytest.mark.parametrize("pbc", [(True, True, False), (True, True, True)])
def test_structures_of_the_domain_are_used(pbc):
    outcome = SUITE.run(
        context(emt_subject(elements=("C", "O", "Cu")), structures={"CO/Cu": domain_structure(pbc=pbc)})
    )
    found = metric(outcome, "adsorption energy")
    assert found.subject == "CO/Cu"
    assert found.value < -0.1
    assert metric(outcome, DROP).verdict is Verdict.PASS


def test_what_an_adsorbate_is():
    adsorbed = find_adsorbate(domain_structure(), room=20.0)
    assert adsorbed.adsorbate.get_chemical_symbols() == ["C", "O"]
    assert set(adsorbed.slab.get_chemical_symbols()) == {"Cu"}
    lifted = adsorbed.lifted(3.0)
    gap = lifted.positions[-2:, 2].min() - lifted.positions[:-2, 2].max()
    assert gap == pytest.approx(4.5, abs=1e-6)
    assert find_adsorbate(fcc111("Cu", (2, 2, 3), vacuum=8.0), room=20.0) is None
    assert find_adsorbate(bulk("NaCl", "rocksalt", a=5.6, cubic=True), room=20.0) is None
    assert find_adsorbate(molecule("CO"), room=20.0) is None


def test_sites_have_their_coordination():
    slab = facet(bulk("Cu", a=3.6), (1, 1, 1)).slab(4, vacuum=10.0).repeat((2, 2, 1))
    nearest = 3.6 / np.sqrt(2)
    expected = {"on top": 0.0, "bridge": nearest / 2, "hollow": nearest / np.sqrt(3)}
    top = slab.positions[slab.positions[:, 2] > slab.positions[:, 2].max() - 0.1, :2]
    images = np.concatenate([top + i * slab.cell[0, :2] + j * slab.cell[1, :2] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    found = sites(slab)
    assert len(found) == 4
    for name, place in found.items():
        distance = np.linalg.norm(images - place, axis=1).min()
        assert distance == pytest.approx(expected[name.split(" over")[0]], abs=1e-6)


def test_failures_and_reasons():
    def change(results, atoms):
        if hydrogen_height(atoms) is not None:
            raise RuntimeError("never seen")

    outcome = SUITE.run(context(emt_subject(change, elements=("H", "Cu")), structures={"Cu": bulk("Cu", a=3.59)}))
    assert outcome.verdict is Verdict.FAIL
    assert "never seen" in outcome.metrics[0].detail
    outcome = SUITE.run(context(emt_subject(), structures={"Cu": bulk("Cu", a=3.59)}))
    assert outcome.verdict is Verdict.NOT_APPLICABLE
