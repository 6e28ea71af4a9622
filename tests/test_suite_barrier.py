"""Barriers: published ones are found, saddles are saddles, forces that are no gradient and spurious modes are caught."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from ase.optimize import BFGS

from hydrapot.validation.metrics import Verdict
from hydrapot.validation.paths import hessian, modes, nudged_elastic_band, refine_saddle, work
from hydrapot.validation.suite import Tier
from hydrapot.validation.suites.barrier import SUITE
from tests.accuracy_helpers import context, emt_subject, label, metric

CRYSTAL = {"Cu": bulk("Cu", a=3.59)}


class DoubleWell(Calculator):
    """E = (x² − 1)² + 0.3 x + (y − 0.2 x²)² + 2 z² + 0.5 (coupling to y): one atom, minima near x = ∓1."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        x, y, z = self.atoms.positions[-1]
        bent = y - 0.2 * x**2
        forces = np.zeros((len(self.atoms), 3))
        forces[-1] = [-(4 * x * (x**2 - 1) + 0.3 - 0.8 * x * bent), -2 * bent, -4 * z]
        self.results = {"energy": (x**2 - 1) ** 2 + 0.3 * x + bent**2 + 2 * z**2, "forces": forces}


def well(x):
    """One atom beside a fixed one, at the bottom of the valley."""
    atoms = Atoms("HH", positions=[[9.0, 9.0, 9.0], [x, 0.2 * x**2, 0.0]])
    atoms.set_constraint(FixAtoms([0]))
    return atoms


def test_an_analytic_saddle_is_found_exactly():
    """Along the valley E = (x² − 1)² + 0.3 x, whose stationary points are roots of 4 x³ − 4 x + 0.3."""
    roots = np.sort(np.roots([4, 0, -4, 0.3]).real)
    band, converged = nudged_elastic_band(
        well(roots[0]), well(roots[2]), DoubleWell(), images=5, fmax=0.05, max_steps=300, seed=0
    )
    assert converged
    profile = [image.get_potential_energy() for image in band]
    saddle = refine_saddle(band[int(np.argmax(profile))], fmax=1e-4)
    x = roots[1]
    assert saddle.atoms.positions[1] == pytest.approx([x, 0.2 * x**2, 0.0], abs=1e-3)
    assert saddle.energy == pytest.approx((x**2 - 1) ** 2 + 0.3 * x, abs=1e-6)
    assert saddle.curvatures[0] == pytest.approx(12 * x**2 - 4, abs=0.02)
    assert np.sum(saddle.curvatures < 0) == 1


def test_gold_on_aluminium_as_in_the_tutorial_of_ase():
    """Diffusion of Au on Al(100) with EMT: 0.374 eV in ASE's documentation of NEB."""
    ends = []
    for _ in range(2):
        slab = fcc100("Al", size=(2, 2, 3))
        add_adsorbate(slab, "Au", 1.7, "hollow")
        slab.center(axis=2, vacuum=4.0)
        slab.set_constraint(FixAtoms([atom.index for atom in slab if atom.tag > 1]))
        ends.append(slab)
    ends[1][-1].x += ends[1].cell[0, 0] / 2
    for end in ends:
        end.calc = EMT()
        with BFGS(end, logfile=None) as optimizer:
            optimizer.run(fmax=0.01)
    band, _ = nudged_elastic_band(ends[0], ends[1], EMT(), images=3, fmax=0.05, max_steps=200, seed=0)
    profile = np.array([image.get_potential_energy() for image in band])
    saddle = refine_saddle(band[int(profile.argmax())], fmax=0.005)
    assert saddle.energy - profile[0] == pytest.approx(0.374, abs=2e-3)
    assert np.sum(saddle.curvatures < -0.05) == 1


def test_hop_of_a_vacancy_in_copper():
    outcome = SUITE.run(context(emt_subject(), structures=CRYSTAL, tier=Tier.SMOKE))
    assert outcome.verdict is Verdict.PASS
    assert 0.5 < metric(outcome, "migration barrier").value < 1.0
    assert metric(outcome, "negative modes at the saddle").value == 1
    assert metric(outcome, "forward minus reverse barrier by work").value < 1e-3
    assert len(outcome.figures) == 1


def test_forces_that_are_no_gradient_are_caught_by_their_work():
    """A shear that depends on the place across it, 0.1 eV/Å: saddle, modes and forces look right, only the work does not."""

    def curl(results, atoms):
        push = np.zeros_like(results["forces"])
        push[:, 0] = 0.1 * np.sin(2 * np.pi * atoms.get_scaled_positions()[:, 1])
        results["forces"] = results["forces"] + push - push.mean(axis=0)

    outcome = SUITE.run(context(emt_subject(curl), structures=CRYSTAL, tier=Tier.SMOKE))
    failing = [m.name for m in outcome.metrics if m.verdict is Verdict.FAIL]
    assert failing == ["forward minus reverse barrier by work"]


def test_work_is_the_difference_of_energies_only_for_a_gradient():
    a, b = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    rng = np.random.default_rng(0)
    a.rattle(0.05, seed=1)
    b.positions = a.positions + 0.1 * rng.normal(size=(4, 3))
    a.calc = b.calc = EMT()
    difference = b.get_potential_energy() - a.get_potential_energy()
    assert work([a, b], EMT()).sum() == pytest.approx(difference, abs=1e-6)


def test_translations_are_not_counted_as_modes():
    atoms = bulk("Cu", a=3.59, cubic=True)
    atoms.calc = EMT()
    values, vectors = modes(atoms, hessian(atoms))
    assert len(values) == 9
    assert values.min() > 0.5
    assert np.abs(vectors.reshape(4, 3, 9).sum(axis=0)).max() < 1e-9


def test_a_potential_that_explodes_on_the_way_fails():
    def change(results, atoms):
        if len(atoms) in {26, 31} and np.linalg.norm(results["forces"], axis=1).max() > 0.5:
            results["forces"] = results["forces"] * np.inf

    outcome = SUITE.run(context(emt_subject(change), structures=CRYSTAL, tier=Tier.SMOKE))
    assert outcome.verdict is Verdict.FAIL


def reaction_path(tmp_path, change=None):
    images = []
    for x in np.linspace(0.0, 1.0, 6):
        atoms = bulk("Cu", cubic=True)
        atoms.positions[0] += [x, 0.3 * x, 0.0]
        images.append(label(atoms))
    if change is not None:
        change(images)
    write(tmp_path / "path.extxyz", images)
    reference = {"name": "slide", "file": "path.extxyz", "level_of_theory": "EMT"}
    return {"references": {"paths": [reference]}, "folder": tmp_path}


def test_reference_paths_give_errors_of_barrier_and_reaction_energy(tmp_path):
    """Reference energies with a top 0.3 eV higher and an end 0.1 eV lower than EMT's."""

    def change(images):
        energies = [image.get_potential_energy() for image in images]
        top = int(np.argmax(energies))
        assert top < 5 or max(energies) == energies[-1]
        energies[3] = max(energies) + 0.3
        energies[-1] -= 0.1
        for image, energy in zip(images, energies, strict=True):
            image.calc = SinglePointCalculator(image, energy=energy)

    exact = SUITE.run(context(emt_subject(), structures={}, **reaction_path(tmp_path)))
    assert metric(exact, "barrier error").value == pytest.approx(0.0, abs=1e-6)
    limits = {"barrier/barrier error": 0.2}
    outcome = SUITE.run(context(emt_subject(), structures={}, limits=limits, **reaction_path(tmp_path, change)))
    found = metric(outcome, "barrier error")
    assert found.value == pytest.approx(-0.3, abs=1e-6)
    assert found.verdict is Verdict.FAIL
    assert found.level_of_theory == "EMT"
    assert metric(outcome, "reaction energy error").value == pytest.approx(0.1, abs=1e-6)
    assert metric(outcome, "reaction energy error").verdict is None


def test_paths_of_unknown_elements_do_not_apply(tmp_path):
    outcome = SUITE.run(context(emt_subject(elements=("Ni",)), structures={}, **reaction_path(tmp_path)))
    assert outcome.verdict is Verdict.NOT_APPLICABLE
    assert "does not know Cu" in metric(outcome, "barrier error").detail
