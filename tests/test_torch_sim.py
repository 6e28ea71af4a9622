"""The TorchSim model: the ASE calculator's results, whatever else is in the batch; lists kept while systems come and go."""

import copy
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential import (
    ConfigurationError,
    InvalidStructureError,
    UnknownElementError,
    UnknownHeadError,
    UnsupportedChargeError,
    load,
    native,
)
from tests.engine_helpers import CRYSTALS, MOLECULES, small_potential

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # TorchSim 0.3 uses torch.jit.script
    ts = pytest.importorskip("torch_sim")
from torch_sim.models.interface import validate_model_outputs

from hydrapot.calculators.batch_lists import BatchLists, Kind
from hydrapot.calculators.torch_sim import HydrapotModel

ROOT = Path(__file__).resolve().parent.parent
POTENTIAL = small_potential()
BACKENDS = ["torch"] + ["native"] * native.available()
#: Differences of the torch path, eV and eV/Å: sums over rows of another length.
ROUNDING = {"float64": 1e-12, "float32": 2e-5}


def model(**options):
    return HydrapotModel(POTENTIAL, **{"head": CRYSTALS, "threads": 1, **options})


def crystal(seed, *, repeat=(1, 1, 1)):
    """Cu with O and Ag, strained and rattled; a single cell is smaller than the cutoff."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", cubic=True, a=3.7).repeat(repeat)
    atoms.numbers[rng.integers(len(atoms))] = 8
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3))), scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def crystals():
    return [crystal(1), crystal(2, repeat=(2, 1, 1)), bulk("Ag"), crystal(3, repeat=(1, 2, 2))]


def molecules():
    return [molecule(name) for name in ("CH4", "C2H6", "C2H2", "H2")]


def expected(structures, **options):
    energies, forces, stresses, per_atom = [], [], [], []
    for one in structures:
        atoms = one.copy()
        atoms.calc = HydrapotCalculator(POTENTIAL, **{"head": CRYSTALS, "threads": 1, "dtype": "float64", **options})
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
        per_atom.append(atoms.get_potential_energies())
        stresses.append(atoms.get_stress(voigt=False) if atoms.pbc.all() else np.full((3, 3), np.nan))
    return {
        "energy": np.array(energies),
        "forces": np.concatenate(forces),
        "stress": np.array(stresses),
        "energies": np.concatenate(per_atom),
    }


def same(got, wanted, tolerance):
    for name, values in wanted.items():
        np.testing.assert_allclose(got[name].detach().numpy(), values, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.filterwarnings(
    "ignore:head .* predicts forces", "ignore:head .* was trained on structures with 3 periodic"
)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torchsims_own_validation_passes(backend, dtype):
    shipped = load("hydrapot-s")  # its structures are of silicon and iron
    made = HydrapotModel(shipped, head="mptrj_subset_mattersim", dtype=dtype, backend=backend, threads=1)
    made.compute_stress = made.compute_forces = False
    validate_model_outputs(made, torch.device("cpu"), dtype)
    assert made.compute_stress
    assert made.compute_forces


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("structures", [crystals, molecules])
def test_results_are_those_of_the_ase_calculator(backend, precision, structures):
    atoms, head = structures(), MOLECULES if structures is molecules else CRYSTALS
    made = model(backend=backend, head=head, precision=precision, per_atom_energies=True)
    assert made.backend == backend
    wanted = expected(atoms, head=head, dtype=precision, backend=backend)
    same(made(made.state(atoms)), wanted, ROUNDING[precision])
    assert abs(wanted["forces"]).max() > 0.05
    if backend == "native":
        got = made(made.state(atoms))
        for name in ("energy", "forces", "energies"):
            assert np.array_equal(got[name].numpy(), wanted[name]), name


def test_states_in_float32_cost_no_more_than_their_own_rounding():
    atoms = crystals()
    made = model(dtype=torch.float32)
    results = made(made.state(atoms))
    assert {tensor.dtype for tensor in results.values()} == {torch.float32}
    assert made.precision == "float32"
    same(results, {k: v for k, v in expected(atoms).items() if k != "energies"}, 1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_result_does_not_depend_on_what_else_is_in_the_batch(backend, precision, threads, monkeypatch):
    monkeypatch.setattr("hydrapot.calculators.batch_native.DIVIDED", 12)  # some divided among threads, some not
    atoms = crystals()
    made = model(backend=backend, precision=precision, threads=threads, per_atom_energies=True)
    alone = [made(made.state(a)) for a in atoms]
    tolerance = 0 if backend == "native" else ROUNDING[precision]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 0], [1, 3]):
        together = made(made.state([atoms[k] for k in order]))
        same(together, {n: np.concatenate([alone[k][n].numpy() for k in order]) for n in alone[0]}, tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_stress_and_forces_are_derivatives_of_the_energy_through_torchsims_state(backend):
    made = model(backend=backend)
    state = made.state(crystals())
    results, h = made(state), 1e-4
    cells, positions = state.row_vector_cell, state.positions
    volumes = torch.linalg.det(cells).abs()

    def energy(new_cells, new_positions):
        moved = state.clone()
        moved.row_vector_cell, moved.positions = new_cells, new_positions
        return made(moved)["energy"]

    for i, j in [(0, 0), (1, 1), (0, 1), (2, 0), (2, 1)]:
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[i, j] += h / 2
        strain[j, i] += h / 2
        up, down = torch.eye(3) + strain, torch.eye(3) - strain
        slope = (energy(cells @ up, positions @ up) - energy(cells @ down, positions @ down)) / (2 * h) / volumes
        np.testing.assert_allclose(results["stress"][:, i, j].numpy(), slope.numpy(), rtol=0, atol=1e-8)
    assert results["stress"].abs().max() > 1e-3
    for atom, axis in [(0, 0), (5, 1), (13, 2)]:
        moved = torch.zeros_like(positions)
        moved[atom, axis] = h
        slope = (energy(cells, positions + moved) - energy(cells, positions - moved)).sum() / (2 * h)
        assert -slope.item() == pytest.approx(results["forces"][atom, axis].item(), abs=1e-7)


def test_results_can_be_differentiated_where_that_is_asked_for():
    made = model(retain_graph=True)
    assert made.backend == "torch"
    state = made.state(crystals())
    same(made(state), {n: t.numpy() for n, t in model()(state).items()}, 1e-12)
    state.positions.requires_grad_()
    state.cell.requires_grad_()
    results = made(state)
    forces, virial = torch.autograd.grad(results["energy"].sum(), [state.positions, state.cell], retain_graph=True)
    np.testing.assert_allclose(-forces.numpy(), results["forces"].detach().numpy(), rtol=0, atol=1e-12)
    assert virial.abs().max() > 0
    (second,) = torch.autograd.grad(results["forces"][0, 0], state.positions)
    h, moved = 1e-5, []
    for sign in (1, -1):
        shifted = made.state(crystals())
        shifted.positions[1, 2] += sign * h
        moved.append(made(shifted)["forces"][0, 0].item())
    assert second[1, 2].item() == pytest.approx((moved[0] - moved[1]) / (2 * h), abs=1e-6)
    made.retain_graph = False
    assert not made(state)["energy"].requires_grad


def test_only_what_is_asked_for_is_returned():
    made = model(compute_forces=False, compute_stress=False)
    state = made.state(crystals())
    energy = made(state)["energy"]
    assert set(made(state)) == {"energy"}
    made.compute_forces = True
    assert set(made(state)) == {"energy", "forces"}
    assert torch.equal(made(state)["energy"], energy)
    made.compute_stress = made.per_atom_energies = True
    results = made(state)
    assert set(results) == {"energy", "forces", "stress", "energies"}
    sums = torch.zeros(4, dtype=torch.float64).index_add(0, state.system_idx, results["energies"])
    np.testing.assert_allclose(sums.numpy(), energy.numpy(), atol=1e-12)


def test_stress_of_a_molecule_is_not_a_number():
    made = model(head=MOLECULES)
    assert made(made.state([molecule("CH4"), molecule("C2H6")]))["stress"].isnan().all()


@pytest.mark.skipif(find_spec("torch_sim.testing") is None, reason="TorchSim has these helpers from 0.6 on")
@pytest.mark.filterwarnings("ignore:head ")
def test_torchsims_own_comparison_with_ase_calculators_passes():
    from torch_sim.testing import SIMSTATE_GENERATORS, ModelTolerance, assert_model_calculator_consistency

    shipped = load("hydrapot-s", dtype=torch.float64)
    calculator = HydrapotCalculator(shipped, head="mattersim_highTP", dtype="float64", threads=1)
    made = HydrapotModel(shipped, head="mattersim_highTP", threads=1)
    names = ("energy_rtol", "energy_atol", "force_rtol", "force_atol", "stress_rtol", "stress_atol")
    for name, generate in SIMSTATE_GENERATORS.items():
        state = generate(torch.device("cpu"), torch.float64)
        made.compute_stress = bool(state.pbc.all())
        strict = dict.fromkeys(names, ModelTolerance.STRICT)
        assert_model_calculator_consistency(made, calculator, state, **strict)
        assert name


# --------------------------------------------------------------------------------------------------------- motion


def nve(made, *, timestep, temperature):
    """Functions that begin and continue dynamics, by whichever interface TorchSim has; fs and K."""
    dt = torch.tensor(1e-3 * timestep * ts.units.MetalUnits.time, dtype=torch.float64)
    kT = torch.tensor(temperature * ts.units.MetalUnits.temperature, dtype=torch.float64)
    if hasattr(ts, "nve_step"):

        def initialize(state):
            state.rng = 3
            return ts.nve_init(state, made, kT=kT)

        return initialize, lambda state: ts.nve_step(state, made, dt=dt)
    initialize, step = ts.integrators.nve(model=made, dt=dt, kT=kT)
    return lambda state: initialize(state, seed=3), step


def fire(*, cell):
    if hasattr(ts, "Optimizer"):
        filters = {"init_kwargs": {"cell_filter": ts.CellFilter.frechet}} if cell else {}
        return {"optimizer": ts.Optimizer.fire, **filters}
    return {"optimizer": ts.optimizers.frechet_cell_fire if cell else ts.optimizers.fire}


@pytest.mark.parametrize("backend", BACKENDS)
def test_lists_are_kept_while_systems_move_wrap_breathe_and_leave(backend):
    made, fresh = model(backend=backend), model(backend=backend, skin=0.0)
    atoms = [crystal(k, repeat=(1 + k % 2, 1, 1)) for k in range(6)]
    rng = np.random.default_rng(0)
    made(made.state(atoms))
    assert made.searches == 6

    def check(most_searches):
        before = made.searches
        state = made.state(atoms)
        same(made(state), {n: t.numpy() for n, t in fresh(state).items()}, 0 if backend == "native" else 1e-12)
        assert made.searches - before <= most_searches

    for one in atoms:  # thermal motion and a common translation, and wrapping back into the cell, as TorchSim does
        one.positions += 0.05 * rng.normal(size=(len(one), 3)).clip(-1, 1) + [0.0, 1.7, 0.3]
        one.wrap()
    check(0)
    atoms.append(atoms.pop(2))  # systems in another order
    del atoms[0]
    check(1)
    for one in atoms:
        one.set_cell(one.cell.array * 1.004, scale_atoms=True)
    check(0)
    atoms[1].positions[0] += 1.0  # one that moved too far, alone
    check(1)
    atoms.insert(2, crystal(11))
    check(1)
    for one in atoms:
        one.set_cell(one.cell.array * 0.8, scale_atoms=True)
    check(6)


def test_the_criterion_never_keeps_a_list_that_misses_a_pair():
    """Against a search anew, at skins from nothing to much and motions around the limit."""
    rng = np.random.default_rng(4)
    for trial in range(40):
        pbc = rng.integers(2, size=3).astype(bool)
        lists = BatchLists(cutoff=3.0, skin=rng.choice([0.0, 0.2, 0.6]))
        structures = [crystal(10 * trial + k) for k in range(2)]
        kinds = [Kind(a.numbers.astype(np.int64), pbc, 0, None) for a in structures]

        def tensors(structures=structures):
            x = torch.from_numpy(np.concatenate([a.positions for a in structures]))
            return x, torch.from_numpy(np.stack([a.cell.array for a in structures]))

        lists.update(kinds, *tensors(), changed=True)
        for one in structures:
            one.positions += rng.choice([0.0, 0.05, 0.15]) * rng.normal(size=(len(one), 3))
            one.set_cell(
                one.cell.array @ (np.eye(3) + rng.choice([0, 0.02]) * rng.normal(size=(3, 3))), scale_atoms=True
            )
        x, h = tensors()
        lists.update(kinds, x, h, changed=False)
        for k, one in enumerate(structures):
            own = slice(*lists.offsets[k : k + 2])
            found = pairs_within(3.0, lists.lists[k], one, lists.wraps[own].numpy())
            anew = BatchLists(cutoff=3.0, skin=0.0)
            anew.update([kinds[k]], x[own], h[k : k + 1], changed=True)
            assert found == pairs_within(3.0, anew.lists[0], one, None)


def pairs_within(cutoff, found, atoms, wraps):
    shifts = found.shifts_now(wraps).numpy()
    i, j = found.receivers.numpy(), found.senders.numpy()
    vectors = atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array
    near = np.linalg.norm(vectors, axis=1) < cutoff
    return set(zip(i[near], j[near], *shifts[near].T.astype(int), strict=True))


def test_energy_is_conserved():
    """The standard deviation of the total energy of each system falls four times when the step is halved."""
    atoms = [bulk("Cu", cubic=True, a=3.7).repeat((2, 1, 1)), bulk("Cu", cubic=True, a=3.7)]
    for k, one in enumerate(atoms):
        one.rattle(0.05, seed=k)
    made = model(compute_stress=False)
    fluctuation = []
    for timestep in (2.0, 1.0):
        initialize, step = nve(made, timestep=timestep, temperature=300)
        state = initialize(made.state(atoms))
        totals = []
        for _ in range(round(200 / timestep)):
            state = step(state)
            kinetic = ts.calc_kinetic_energy(momenta=state.momenta, masses=state.masses, system_idx=state.system_idx)
            totals.append((kinetic + state.energy).numpy())
        fluctuation.append(np.std(totals, axis=0))
    ratio = fluctuation[0] / fluctuation[1]
    assert ((ratio > 3.2) & (ratio < 4.8)).all(), ratio
    assert (fluctuation[1] > 0).all()
    assert made.searches < 20


@pytest.mark.parametrize(("cell", "fmax"), [(False, 1e-3), (True, 1e-2)])
def test_relaxation_in_swapped_batches_ends_where_each_system_ends_alone(cell, fmax):
    atoms = [crystal(k, repeat=(1 + k % 2, 1, 1)) for k in range(4)]
    made = model()
    options = {
        **fire(cell=cell),
        "convergence_fn": ts.generate_force_convergence_fn(fmax, include_cell_forces=cell),
        "max_steps": 8000,
    }
    batcher = ts.InFlightAutoBatcher(made, memory_scales_with="n_atoms", max_memory_scaler=17)
    together = ts.optimize(made.state(atoms), made, autobatcher=batcher, **options)
    assert made(together)["forces"].norm(dim=1).max() < fmax
    for one, energy, final in zip(atoms, together.energy, together.split(), strict=True):
        alone = ts.optimize(made.state(one), made, **options)
        # The same minimum, by another path: when a system joins a batch, TorchSim's FIRE lets the others take one step
        # without mixing their velocities.
        assert alone.energy.item() == pytest.approx(energy.item(), abs=fmax**2)  # f²/2k, k about 1 eV/Å²
        np.testing.assert_allclose(alone.positions, final.positions, atol=0.01)


def test_static_and_dictionaries():
    atoms = crystals()
    made = model()
    wanted = made(made.state(atoms))
    static = ts.static(atoms, made)
    np.testing.assert_array_equal([float(one["potential_energy"]) for one in static], wanted["energy"].numpy())
    state = made.state(atoms)
    fields = {n: getattr(state, n) for n in ("positions", "cell", "atomic_numbers", "system_idx", "pbc")}
    assert torch.equal(made(fields)["forces"], wanted["forces"])
    one = made.state(atoms[0])
    fields = {"positions": one.positions, "cell": one.cell[0], "atomic_numbers": one.atomic_numbers, "pbc": True}
    assert torch.equal(made(fields)["energy"], wanted["energy"][:1])


def test_copies_work_on_their_own():
    made = model()
    state = made.state(crystals())
    wanted = made(state)["forces"]
    other = copy.deepcopy(made)
    made.to(torch.float32)  # must not change the precision of a model that has been made
    assert torch.equal(other(state)["forces"], wanted)
    assert torch.equal(made(state)["forces"], wanted)


# -------------------------------------------------------------------------------------- heads, charges, refusals


def stated(state, **extras):
    """The state with tensors of its user's, as TorchSim 0.5 has them."""
    fields = {n: getattr(state, n) for n in ("positions", "cell", "pbc", "atomic_numbers", "system_idx")}
    return fields | {name: torch.tensor(values) for name, values in extras.items()}


@pytest.mark.filterwarnings("ignore:head .* was trained on structures with 3 periodic directions")
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_system_may_have_its_own_head_and_charge(backend):
    atoms = [molecule("CH4"), molecule("CH4"), molecule("C2H6"), molecule("CH4")]
    made = model(backend=backend, head=MOLECULES)
    heads = [0, 1, 1, 1]
    state = stated(made.state(atoms), head=heads, charge=[0.0, 0.0, 0.0, 1.0], spin=[0, 0, 0, 2])
    got = made(state)
    for k, (one, head) in enumerate(zip(atoms, heads, strict=True)):
        if k == 3:
            one.info = {"charge": 1, "spin": 2}
        wanted = expected([one], head=[CRYSTALS, MOLECULES][head], backend=backend)
        np.testing.assert_allclose(got["energy"][k : k + 1].numpy(), wanted["energy"], atol=1e-12)
        own = (state["system_idx"] == k).numpy()
        np.testing.assert_allclose(got["forces"].numpy()[own], wanted["forces"], atol=1e-12)
    assert got["energy"][0] != got["energy"][1]
    state["head"] = torch.tensor([1, 1, 1, 1])
    assert made(state)["energy"][0] == made(state)["energy"][1]
    with pytest.raises(ConfigurationError, match=r"charge and of head and of spin .* dropped"):
        made(made.state(atoms[:3]))


def test_charge_and_spin_of_the_model_hold_for_all_its_systems():
    made = model(head=MOLECULES, charge=1, spin=2)
    ion = molecule("CH4")
    got = made(made.state([ion, ion]))["energy"]
    ion.info = {"charge": 1, "spin": 2}
    assert got.numpy() == pytest.approx(expected([ion, ion], head=MOLECULES)["energy"], abs=1e-12)
    assert torch.equal(made(made.state([ion, ion]))["energy"], got)
    with pytest.raises(UnsupportedChargeError, match=r"system 0.*charge \+2"):
        model(head=MOLECULES, charge=2)(made.state(ion))
    for wrong in ({"charge": 0.5}, {"spin": 0}):
        with pytest.raises(UnsupportedChargeError, match="is not a"):
            model(**wrong)


@pytest.mark.skipif(not hasattr(ts.SimState, "system_extras"), reason="TorchSim carries them from 0.5 on")
@pytest.mark.filterwarnings("ignore:head .* was trained on structures", "ignore:All systems have reached the maximum")
def test_heads_and_charges_last_through_a_relaxation():
    ion = molecule("CH4")
    ion.info = {"charge": 1, "spin": 2}
    made = model(head=MOLECULES)
    state = made.state([molecule("CH4"), ion, molecule("C2H6")], heads=[CRYSTALS, MOLECULES, MOLECULES])
    made.compute_stress = False
    batcher = ts.InFlightAutoBatcher(made, memory_scales_with="n_atoms", max_memory_scaler=11)
    options = {"convergence_fn": ts.generate_force_convergence_fn(1e-3), "autobatcher": batcher, "max_steps": 20}
    final = ts.optimize(state, made, **fire(cell=False), **options)
    assert final.system_extras["charge"].tolist() == [0, 1, 0]
    for k, (one, head) in enumerate(zip(final.to_atoms(), (CRYSTALS, MOLECULES, MOLECULES), strict=True)):
        one.info = ion.info if k == 1 else {}
        assert expected([one], head=head)["energy"][0] == pytest.approx(final.energy[k].item(), abs=1e-12)


@pytest.mark.skipif(hasattr(ts.SimState, "system_extras"), reason="this TorchSim carries them")
def test_what_torchsim_would_drop_is_refused():
    made = model(head=MOLECULES)
    ion, slab = molecule("CH4"), bulk("Cu", cubic=True)
    ion.info = {"charge": 1, "spin": 2}
    with pytest.raises(ConfigurationError, match=r"structure 1 .* model for each"):
        made.state([molecule("CH4"), ion])
    with pytest.raises(ConfigurationError, match=r"structure 0 .* model for each"):
        made.state([molecule("CH4")], heads=[CRYSTALS])
    slab.pbc = [True, True, False]
    with pytest.raises(ConfigurationError, match=r"structure 0 has pbc .*vacuum than the cutoff of 4"):
        made.state(slab)
    with pytest.raises(ConfigurationError, match=r"structure 1 has pbc|one periodicity"):
        made.state([molecule("CH4"), slab])
    with pytest.raises(ConfigurationError, match="no structures"):
        made.state([])


@pytest.mark.filterwarnings("ignore:head .* was trained on structures with 3 periodic directions")
def test_mixed_periodicity_is_right_where_the_state_can_say_so():
    slab = crystal(5)
    slab.pbc = [True, True, False]
    made = model()
    state = made.state(crystal(5))
    state.pbc = torch.tensor([True, True, False])
    got = made(state)
    wanted = expected([slab])
    np.testing.assert_array_equal(got["forces"].numpy(), wanted["forces"])
    assert got["stress"].isnan().all()


def test_refusals_name_the_system_and_the_way_out():
    with pytest.raises(UnknownHeadError, match="name one of crystals, molecules"):
        model(head=None)
    with pytest.raises(ConfigurationError, match="float16"):
        model(dtype=torch.float16)
    with pytest.raises(ConfigurationError, match="float16"):
        model(precision="float16")
    with pytest.raises(ConfigurationError, match="threads"):
        model(threads=0)
    with pytest.raises(ConfigurationError, match="backend='torch'"):
        model(retain_graph=True, backend="native")
    made = model()
    gold = [bulk("Cu"), bulk("Au")]
    for _ in range(2):  # refused structures stay refused
        with pytest.raises(UnknownElementError, match="system 1: head 'crystals' was not trained on element Au"):
            made(made.state(gold))
    good = made.state([bulk("Cu"), bulk("Ag")])
    wanted = made(good)["energy"]
    broken = good.clone()
    broken.positions[1, 0] = torch.nan
    for _ in range(2):
        with pytest.raises(InvalidStructureError, match="system 1: atom 0 has a position that is not finite"):
            made(broken)
    assert torch.equal(made(good)["energy"], wanted)
    flat = good.clone()
    flat.cell[0, :, 0] = 0.0
    with pytest.raises(InvalidStructureError, match="system 0: the cell has no volume"):
        made(flat)
    for wrong, error in ({"head": [0, 2]}, UnknownHeadError), ({"charge": [0, 1, 0]}, ConfigurationError):
        with pytest.raises(error):
            model()(stated(good, **wrong))


@pytest.mark.parametrize("backend", BACKENDS)
def test_coincident_atoms_are_named_with_their_system(backend):
    made = model(backend=backend)
    state = made.state([bulk("Cu"), crystal(1)])
    made(state)
    state.positions[2] = state.positions[3] + 1e-5
    with pytest.raises(InvalidStructureError, match=r"system 1: atoms [12] and [12] are at one place"):
        model(backend=backend)(state)
    kept = made.state([bulk("Cu"), Atoms("CuO", [[0, 0, 0], [0, 0, 0.3]], cell=[9, 9, 9], pbc=True)])
    made(kept)
    kept.positions[2, 2] = 1e-5  # within the skin: found by the evaluation, not by a search
    with pytest.raises(InvalidStructureError, match=r"system 1: atoms [01] and [01] are at one place"):
        made(kept)


def test_each_reason_for_doubt_is_given_once():
    made = model(head=MOLECULES)
    with pytest.warns(UserWarning, match="only 5 training structures"):
        made(made.state([molecule("H2O")] * 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made(made.state([molecule("CH3OH")]))


def test_the_example_runs():
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "torchsim_batch.py"), "--steps", "5", "--structures", "2"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "relaxed 2 structures" in done.stdout
