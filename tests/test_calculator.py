"""The ASE calculator: results, caching, warnings and errors."""

import copy
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import read, write
from ase.stress import voigt_6_to_full_3x3_stress

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential import (
    CheckpointError,
    ConfigurationError,
    InvalidStructureError,
    SimulationError,
    UnknownElementError,
    UnknownHeadError,
    UnsupportedChargeError,
    build_graph,
    evaluate,
    native,
    save,
)
from tests.engine_helpers import CRYSTALS, MOLECULES, small_potential

POTENTIAL = small_potential()


def crystal():
    atoms = bulk("Cu", cubic=True).repeat((2, 1, 1))
    atoms.numbers[1] = 8
    atoms.rattle(0.1, seed=3)
    return atoms


def slab():
    atoms = crystal()
    atoms.set_cell(atoms.cell.array * [[1], [1], [0]], scale_atoms=False)
    atoms.pbc = [True, True, False]
    return atoms


def calculator(**kwargs):
    return HydrapotCalculator(POTENTIAL, **{"head": CRYSTALS, **kwargs})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_are_those_of_the_potential(dtype):
    atoms = crystal()
    atoms.calc = calculator(dtype=dtype)
    model = small_potential().to(torch.float32 if dtype == "float32" else torch.float64)
    expected = evaluate(model, build_graph(atoms, cutoff=model.cutoff), head=CRYSTALS)
    tolerance = {"rtol": 0, "atol": 2e-4 if dtype == "float32" else 1e-11}
    np.testing.assert_allclose(atoms.get_potential_energy(), expected.energy[0], **tolerance)
    np.testing.assert_allclose(atoms.get_potential_energy(force_consistent=True), expected.energy[0], **tolerance)
    np.testing.assert_allclose(atoms.get_potential_energies(), expected.energies, **tolerance)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, **tolerance)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), expected.stress[0], **tolerance)
    assert abs(atoms.get_forces()).max() > 0.05
    results = atoms.calc.results
    assert results["reference_energy"] + results["interaction_energy"] == pytest.approx(results["energy"], abs=1e-9)
    assert results["energy_determined"] is True
    assert set(atoms.get_properties(["energy", "forces", "stress"])) >= {
        "energy",
        "forces",
        "stress",
        "energies",
    }


def test_stress_is_the_strain_derivative_and_forces_the_gradient_with_a_kept_list():
    atoms = crystal()
    atoms.calc = calculator(dtype="float64", skin=1.0)
    stress, forces = atoms.get_stress(voigt=False), atoms.get_forces()
    start, cell, h = atoms.get_positions(), atoms.cell.array.copy(), 1e-4
    for i, j in [(0, 0), (1, 2), (2, 2)]:
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * h / 2
            strain[j, i] += sign * h / 2
            atoms.set_cell(cell @ strain)
            atoms.positions = start @ strain
            energies.append(atoms.get_potential_energy())
        slope = (energies[0] - energies[1]) / (2 * h) / abs(np.linalg.det(cell))
        assert slope == pytest.approx(stress[i, j], abs=1e-7)
    atoms.set_cell(cell)
    energies = []
    for sign in (1, -1):
        atoms.positions = start
        atoms.positions[2, 1] += sign * h
        energies.append(atoms.get_potential_energy())
    assert -(energies[0] - energies[1]) / (2 * h) == pytest.approx(forces[2, 1], abs=1e-6)
    assert atoms.calc.searches == 1


def test_nothing_is_evaluated_twice_and_every_change_counts(monkeypatch):
    calls = []
    original = HydrapotCalculator.calculate
    monkeypatch.setattr(HydrapotCalculator, "calculate", lambda *a, **k: (calls.append(1), original(*a, **k)))
    atoms = molecule("CH4", vacuum=3)
    atoms.calc = calculator(head=MOLECULES)

    def evaluations(action=lambda: None):
        before = len(calls)
        action()
        energy = atoms.get_potential_energy()
        atoms.get_forces()
        return len(calls) - before, energy

    atoms.numbers[0] = 8
    with pytest.warns(UserWarning, match="only 5 training structures"):
        atoms.get_forces()
    n, neutral = evaluations()
    assert n == 0
    n, charged = evaluations(lambda: atoms.info.update(charge=1, spin=2))
    assert n == 1
    assert charged == pytest.approx(neutral)  # the tables are still zero: what matters is that it was evaluated
    assert evaluations(atoms.info.clear)[0] == 1
    assert evaluations(lambda: atoms.set_positions(atoms.positions + 1e-16))[0] <= 1
    assert evaluations(lambda: atoms.set_positions(atoms.positions + 1e-3))[0] == 1
    assert evaluations(lambda: atoms.numbers.__setitem__(0, 6))[0] == 1
    assert evaluations(lambda: atoms.set_initial_magnetic_moments([1] * 5))[0] == 0
    assert evaluations(lambda: atoms.set_momenta(np.ones((5, 3))))[0] == 0
    assert evaluations(lambda: atoms.set_cell([9, 9, 9]))[0] == 1


def test_stress_of_a_molecule_is_refused_and_nothing_else(tmp_path):
    atoms = molecule("CH4", vacuum=3)
    atoms.calc = calculator(head=MOLECULES)
    energy = atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match="periodic in all three directions"):
        atoms.get_stress()
    assert atoms.get_potential_energy() == energy
    for name in ("a.extxyz", "a.traj"):  # writers ask for whatever there is
        write(tmp_path / name, atoms)
        assert read(tmp_path / name).get_potential_energy() == pytest.approx(energy, abs=1e-6)


def test_each_reason_for_doubt_is_given_once():
    atoms = molecule("CH4", vacuum=3)
    atoms.numbers[0] = 8
    atoms.set_cell([9, 9, 9])
    atoms.pbc = True
    atoms.calc = calculator(head=MOLECULES)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        atoms.get_forces()
    text = "\n".join(str(w.message) for w in caught)
    assert "periodic directions" in text
    assert "only 5 training structures" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.positions[0] += 5.0  # a new search
        atoms.get_forces()


def test_errors_name_the_thing():
    with pytest.raises(UnknownHeadError, match="name one of crystals, molecules"):
        HydrapotCalculator(POTENTIAL)
    with pytest.raises(UnknownHeadError, match="'metals'"):
        calculator(head="metals")
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors"):
        HydrapotCalculator("nowhere.safetensors", head=CRYSTALS)
    with pytest.raises(ConfigurationError, match="float16"):
        calculator(dtype="float16")
    with pytest.raises(ConfigurationError, match="threads"):
        calculator(threads=0)
    atoms = bulk("Au")
    atoms.calc = calculator()
    with pytest.raises(UnknownElementError, match="Au"):
        atoms.get_potential_energy()
    atoms.numbers[:] = 29
    atoms.positions[0, 0] = np.nan
    with pytest.raises(InvalidStructureError, match="atom 0"):
        atoms.get_potential_energy()
    atoms.positions[:] = 0
    atoms.info["charge"] = 1
    with pytest.raises(UnsupportedChargeError):
        atoms.get_potential_energy()
    atoms.info["charge"] = 0.5
    with pytest.raises(UnsupportedChargeError, match="whole number"):
        atoms.get_potential_energy()
    del atoms.info["charge"]
    assert np.isfinite(atoms.get_potential_energy())


def test_a_single_head_need_not_be_named_and_a_file_is_as_good_as_a_model(tmp_path):
    model = small_potential(heads=(CRYSTALS,))
    save(model, tmp_path / "m.safetensors")
    a, b = crystal(), crystal()
    a.calc, b.calc = HydrapotCalculator(model), HydrapotCalculator(tmp_path / "m.safetensors")
    assert a.calc.head == CRYSTALS
    assert np.array_equal(a.get_forces(), b.get_forces())
    assert HydrapotCalculator(str(tmp_path / "m.safetensors")).head_info.level_of_theory.functional == "PBE"


def test_the_callers_model_and_torch_settings_are_left_alone():
    model = small_potential().train().requires_grad_()
    before = torch.get_num_threads()
    atoms = crystal()
    atoms.calc = HydrapotCalculator(model, head=CRYSTALS, dtype="float64", threads=2)
    one, two = atoms.get_forces(), HydrapotCalculator(model, head=CRYSTALS, dtype="float64").get_forces(atoms)
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-10)
    assert model.dtype == torch.float32
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert torch.get_num_threads() == before


def test_edge_cases():
    for atoms in (Atoms(), Atoms("Cu"), Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 30]])):
        atoms.calc = calculator()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # periodicity not seen
            assert atoms.get_potential_energy() == pytest.approx(0.0, abs=1e-4)
        assert abs(atoms.get_forces()).sum() == 0
    slab = bulk("Cu", cubic=True)
    slab.calc = calculator()
    full = slab.get_stress(voigt=False)
    np.testing.assert_array_equal(full, voigt_6_to_full_3x3_stress(slab.get_stress()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns of itself while it compiles
def test_compiled_is_eager_for_any_size_head_and_weights():
    other = small_potential(largest_force=0.3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    structures = [
        crystal(),
        crystal().repeat((1, 2, 1)),
        bulk("Cu"),
        molecule("H2"),
        molecule("CH3CH2OH"),
        Atoms("H"),
        Atoms(),
    ]
    for model in (POTENTIAL, other):
        for head in (CRYSTALS, MOLECULES):
            compiled = HydrapotCalculator(model, head=head, compile=True)
            eager = HydrapotCalculator(model, head=head)
            for atoms in structures:
                if head == MOLECULES and 29 in atoms.numbers:
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    for calc in (compiled, eager):
                        calc.calculate(atoms)
                for name in ("energies", "forces"):
                    np.testing.assert_allclose(compiled.results[name], eager.results[name], rtol=0, atol=1e-3)


def test_a_network_that_was_compiled_wrong_is_noticed():
    calc = calculator()
    calc._network = lambda graph: POTENTIAL.network_energies(graph, head=CRYSTALS) + 0.1
    calc._network_checked = False
    atoms = crystal()
    atoms.calc = calc
    with pytest.raises(SimulationError, match="compile=False"):
        atoms.get_forces()


@pytest.mark.parametrize("charge", [1, "one"])
def test_what_is_refused_once_is_refused_again(charge):
    """The kept neighbor list must not carry a refused structure past the check when it is asked for again."""
    atoms = molecule("H2O")
    atoms.info["charge"] = charge
    atoms.calc = HydrapotCalculator(small_potential(), head=MOLECULES)
    for _ in range(3):
        with pytest.raises(UnsupportedChargeError):
            atoms.get_potential_energy()


@pytest.mark.skipif(not native.available(), reason="the native engine is not built")
class TestBackends:
    """The native engine and torch are one model: the same numbers in float64, float32 within its rounding."""

    @pytest.mark.parametrize("structure", ["crystal", "molecule", "slab"])
    def test_both_agree(self, structure):
        atoms = {"crystal": crystal, "molecule": lambda: molecule("CH4"), "slab": slab}[structure]()
        head = MOLECULES if structure == "molecule" else CRYSTALS
        results = {}
        for backend in ("native", "torch"):
            atoms.calc = HydrapotCalculator(small_potential(), head=head, dtype="float64", backend=backend)
            assert atoms.calc.backend == backend
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*periodic directions")
                atoms.get_forces()
            results[backend] = atoms.calc.results
        assert results["native"].keys() == results["torch"].keys()
        for name, value in results["torch"].items():
            np.testing.assert_allclose(results["native"][name], value, rtol=1e-11, atol=1e-10, err_msg=name)

    def test_the_skin_changes_no_bit(self):
        """A list that is kept gives the bits of a fresh one: trajectories then resume exactly."""
        rng = np.random.default_rng(3)
        atoms = crystal()
        kept = HydrapotCalculator(small_potential(), head=CRYSTALS, backend="native", skin=1.0)
        for step in range(6):
            atoms.positions += 0.02 * rng.normal(size=atoms.positions.shape)
            if step == 3:
                atoms.positions[0] += atoms.cell.array[1]  # an engine wrapped an atom
            kept.calculate(atoms)
            fresh = HydrapotCalculator(small_potential(), head=CRYSTALS, backend="native", skin=1.0)
            fresh.calculate(atoms)
            if step < 3:
                np.testing.assert_array_equal(kept.results["forces"], fresh.results["forces"])
            else:
                np.testing.assert_allclose(kept.results["forces"], fresh.results["forces"], rtol=0, atol=2e-5)
        assert kept.searches == 1

    def test_coincident_atoms_are_named(self):
        atoms = crystal()
        atoms.calc = HydrapotCalculator(small_potential(), head=CRYSTALS, backend="native")
        atoms.get_forces()
        atoms.positions[1] = atoms.positions[0]
        with pytest.raises(InvalidStructureError, match="atoms 0"):
            atoms.get_forces()

    @pytest.mark.parametrize("settings", [{"device": "meta"}, {"compile": True}])
    def test_what_it_cannot_do_is_refused_and_auto_takes_torch(self, settings):
        with pytest.raises(ConfigurationError, match="native backend cannot be used"):
            HydrapotCalculator(small_potential(), head=CRYSTALS, backend="native", **settings)

    def test_copies_are_independent(self):
        """Engines of the library cannot be shared: a copy that did would free them twice."""
        atoms, other = crystal(), crystal()
        atoms.calc = HydrapotCalculator(small_potential(), head=CRYSTALS, backend="native")
        forces = atoms.get_forces()
        other.calc = copy.deepcopy(atoms.calc)
        atoms.calc = None
        other.rattle(0.05)
        assert np.abs(other.get_forces() - forces).max() > 0.01
        other.positions = atoms.positions
        np.testing.assert_array_equal(other.get_forces(), forces)

    def test_an_unknown_backend(self):
        with pytest.raises(ConfigurationError, match="auto, native or torch"):
            HydrapotCalculator(small_potential(), head=CRYSTALS, backend="fast")
