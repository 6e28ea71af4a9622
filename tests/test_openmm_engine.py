"""Parity with OpenMM: structures that adapters get wrong, against ASE."""

import sys

import numpy as np
import pytest
from ase import units

pytest.importorskip("openmm")

from hydrapot.potential import save
from hydrapot.validation.domain import Domain
from hydrapot.validation.engines import engines, reference_engine
from hydrapot.validation.guarded import PotentialFailure
from hydrapot.validation.openmm_engine import OpenMMEngine
from hydrapot.validation.subject import CheckpointSubject
from hydrapot.validation.suite import Context
from hydrapot.validation.suites import parity
from tests.contract_helpers import random_potential

# Weights of the tests claim no metrics; what a head is doubted for is not the subject here.
pytestmark = pytest.mark.filterwarnings("ignore:head 'a'")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    save(random_potential(elements=("O", "Cu"), layers=3), path)
    return CheckpointSubject(str(path), head="a")


def test_every_structure_agrees_with_ase(subject):
    """Skewed and tiny cells, a slab, a wire, a molecule."""
    (engine,) = engines("openmm", subject)
    reference = reference_engine(subject)
    assert engine.available() is None
    cases = parity.structures(Context(subject, Domain()))
    assert {"slab", "crystal"} <= set(cases)
    for name, (atoms, species) in cases.items():
        found = engine.evaluate(atoms, species=species)
        expected = reference.evaluate(atoms, species=species)
        assert found.energy == pytest.approx(expected.energy, abs=1e-10 * len(atoms) + 1e-14 * abs(expected.energy)), (
            name
        )
        np.testing.assert_allclose(found.forces, expected.forces, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(found.energies, expected.energies, rtol=1e-13, atol=1e-9, err_msg=name)
        assert (found.stress is None) == (expected.stress is None)
        if expected.stress is not None:
            np.testing.assert_allclose(found.stress, expected.stress, rtol=1e-8, atol=1e-11, err_msg=name)


def test_a_run_has_the_energies_of_ase(subject):
    atoms, species = parity.structures(Context(subject, Domain()))["crystal"]
    width = np.sqrt(units.kB * 300 * atoms.get_masses())[:, None]
    atoms.set_momenta(width * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    both = [
        engine.nve(atoms, species=species, timestep=0.5, steps=20)
        for engine in (OpenMMEngine(subject), reference_engine(subject))
    ]
    assert len(both[0]) == len(both[1]) == 20
    kinetic = 1.5 * len(atoms) * units.kB * 300
    np.testing.assert_allclose(both[0] - both[0][0], both[1] - both[1][0], atol=1e-5 * kinetic)


def test_what_the_potential_has_no_answer_for_is_a_failure(subject):
    atoms, species = parity.structures(Context(subject, Domain()))["crystal"]
    unknown = atoms.copy()
    unknown.numbers[0] = 79
    with pytest.raises(PotentialFailure, match="not trained on element Au"):
        OpenMMEngine(subject).evaluate(unknown, species=species)
    clash = atoms.copy()
    clash.positions[1] = clash.positions[0]
    with pytest.raises(PotentialFailure, match=r"atoms? 0"):
        OpenMMEngine(subject).evaluate(clash, species=species)


def test_what_is_missing_is_said(subject, monkeypatch):
    monkeypatch.setitem(sys.modules, "openmm", None)
    assert "hydrapot[openmm]" in str(OpenMMEngine(subject).available())


def test_an_openmm_without_particles_of_a_python_force_is_too_old(subject, monkeypatch):
    import openmm

    monkeypatch.setattr(openmm, "PythonForce", object)  # as an OpenMM before 8.6 has it
    assert "too old" in str(OpenMMEngine(subject).available())
