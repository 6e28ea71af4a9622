"""The native engine against the torch model, which is the definition."""

import copy
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from hydrapot.potential import build_graph, collate, evaluate, load
from hydrapot.potential.errors import (
    ConfigurationError,
    InvalidStructureError,
    SimulationError,
    UnknownElementError,
    UnknownHeadError,
    UnsupportedChargeError,
)
from hydrapot.potential.native import NativeEngine, NativeModel, instruction_sets, reason_missing
from hydrapot.validation.structures import standard_structures
from tests.contract_helpers import random_potential
from tests.native_helpers import check_exact, compare, exact, needs_native, rms, rows

pytestmark = needs_native

STRUCTURES = list(standard_structures([1, 8, 29], cutoff=5.0))
SETS = instruction_sets() if reason_missing() is None else []


def structure(name, elements=(1, 8, 29)):
    return standard_structures(list(elements), cutoff=5.0)[name]


def copper(n=2, seed=3):
    atoms = bulk("Cu", cubic=True) * (n, n, n)
    atoms.rattle(0.08, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def potential():
    return random_potential(layers=3, channels=20, n_radial=9, heads=("a", "b", "c.v2"), seed=5)


@pytest.fixture(scope="module")
def trained():
    return load("hydrapot-s", dtype=torch.float64)


# ---- exact mode -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_exact_mode_equals_torch(potential, name, instruction_set):
    check_exact(potential, structure(name), head="b", instruction_set=instruction_set)


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 16, 33])
@pytest.mark.parametrize("n_radial", [1, 17])
def test_any_architecture(layers, channels, n_radial):
    model = random_potential(layers=layers, channels=channels, n_radial=n_radial, seed=layers)
    for name in ("molecule", "crystal"):
        check_exact(model, structure(name), head="a")


@pytest.mark.parametrize("options", [{"repulsion": "none"}, {"charge_spin": False}, {"cutoff": 3.1}])
def test_options_of_the_model(options):
    model = random_potential(**options)
    check_exact(model, structure("molecule"), head="a")
    check_exact(model, copper(), head="a")


def test_repulsion_of_short_bonds():
    model = random_potential(channels=4)
    for distance in (0.05, 0.3, 0.9, 1.4):
        check_exact(model, Atoms("UCl", positions=[[0, 0, 0], [distance, 0.01, 0]]), head="a")


@pytest.mark.parametrize(
    ("name", "head"),
    [("crystal", "mattersim_highTP"), ("molecule", "qm22_b3lyp_molecules"), ("slab", "mptrj_subset_mattersim")],
)
def test_shipped_potential(trained, name, head):
    check_exact(trained, structure(name, elements=(1, 6, 8)), head=head)


def test_heads_differ_and_blend_exactly(potential):
    graph = build_graph(structure("molecule"), cutoff=5.0)
    engine = exact(potential)
    single = {head: evaluate(potential, graph, head=head) for head in potential.heads}
    assert single["a"].energy != single["b"].energy
    weights = {"a": 0.25, "c.v2": -1.5}
    blend = engine.predict(graph, heads=weights)
    for name in ("interaction_energy", "energies", "forces", "virial", "virials", "energy"):
        expected = sum(w * getattr(single[h], name) for h, w in weights.items())
        torch.testing.assert_close(getattr(blend, name), expected, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("state", [(0, None), (-1, 2)])
def test_charge_and_spin(potential, state):
    atoms = structure("molecule")
    atoms.info.update(charge=state[0], **({} if state[1] is None else {"spin": state[1]}))
    check_exact(potential, atoms, head="a")


def test_batches_equal_single_structures(potential):
    structures = [structure(name) for name in STRUCTURES] + [
        Atoms("H"),
        Atoms("Cu2", positions=[[0, 0, 0], [40, 0, 0]]),
    ]
    charged = structure("molecule")
    charged.info.update(charge=-1, spin=2)
    graphs = [build_graph(atoms, cutoff=5.0) for atoms in [*structures, charged]]
    batch = collate(graphs, cutoff=5.0)
    engine = exact(potential, threads=2)
    compare(engine.predict(batch, heads="a"), evaluate(potential, batch, head="a"))
    # A head of its own for each structure.
    choices = [["a", "b", {"a": 0.5, "c.v2": 0.5}][k % 3] for k in range(len(graphs))]
    mixed = engine.predict(batch, heads=choices)
    for k, graph in enumerate(graphs):
        alone = engine.predict(graph, heads=choices[k])
        torch.testing.assert_close(mixed.energy[k], alone.energy[0], rtol=1e-12, atol=1e-11)
        torch.testing.assert_close(mixed.virial[k], alone.virial[0], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(mixed.forces[batch.batch == k], alone.forces, rtol=1e-11, atol=1e-11)


def test_node_features(potential):
    graph = build_graph(structure("molecule"), cutoff=5.0)
    features = exact(potential).evaluate(graph, heads="a", features=True).features
    expected, _ = potential.features(graph)
    np.testing.assert_allclose(features, expected.detach().numpy(), rtol=1e-11, atol=1e-12)


def test_empty_single_and_isolated_atoms(potential):
    for engine in (exact(potential, threads=2), NativeEngine(NativeModel(potential))):
        empty = engine.predict(build_graph(Atoms(), cutoff=5.0), heads="a")
        assert empty.energy.tolist() == [0.0]
        assert empty.forces.shape == (0, 3)
        for atoms in (Atoms("U"), Atoms("HCu", positions=[[0, 0, 0], [0, 0, 5.0]])):
            alone = engine.evaluate(build_graph(atoms, cutoff=5.0), heads={"a": 0.3, "b": 2.0})
            assert (alone.energies == 0.0).all()
            assert (alone.forces == 0.0).all()


def test_an_atom_at_rest_beside_a_crystal_is_exactly_zero(potential):
    atoms = copper() + Atoms("O", positions=[[100.0, 0, 0]])
    atoms.pbc = False
    result = NativeEngine(NativeModel(potential)).evaluate(build_graph(atoms, cutoff=5.0), heads="a")
    assert result.energies[-1] == 0.0


def test_positions_and_shifts_instead_of_vectors(potential):
    atoms = copper()
    graph = build_graph(atoms, cutoff=5.0)
    numbers, offsets, senders, vectors = rows(graph)
    shifts = graph.edge_shifts.numpy()[graph.edge_mask.numpy()]
    engine = exact(potential)
    a = engine.evaluate_arrays(numbers, offsets, senders, vectors, heads="a")
    b = engine.evaluate_arrays(
        numbers,
        offsets,
        senders,
        heads="a",
        positions=atoms.positions,
        shifts=shifts,
        cells=atoms.cell.array[None],
        check_full=True,
    )
    np.testing.assert_allclose(b.energy, a.energy, rtol=1e-12)
    np.testing.assert_allclose(b.forces, a.forces, atol=1e-11)


# ---- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_splines_within_their_bound(potential, name, instruction_set):
    """The stated bound: 2e-7 of the root mean square force (or of 1 eV/Å, if that is more), energies likewise."""
    graph = build_graph(structure(name), cutoff=5.0)
    reference = exact(potential).evaluate(graph, heads="a")
    model = NativeModel(potential, dtype="float64", instruction_set=instruction_set)
    result = NativeEngine(model).evaluate(graph, heads="a")
    scale = max(rms(reference.forces), 1.0)
    assert rms(result.forces - reference.forces) <= 2e-7 * scale
    assert np.abs(result.energies - reference.energies).max() <= 2e-7 * scale
    assert np.abs(result.virial - reference.virial).max() <= 2e-6 * scale
    assert not np.array_equal(result.energies, reference.energies)


@pytest.mark.parametrize("name", ["molecule", "crystal", "skewed"])
def test_spline_forces_are_the_gradient_of_the_spline_energy(potential, name):
    atoms = structure(name)
    engine = NativeEngine(NativeModel(potential, dtype="float64", knots=48))  # coarse: its own surface all the same

    def energy(displaced):
        return float(engine.evaluate(build_graph(displaced, cutoff=5.0), heads="a").energy[0])

    forces = engine.evaluate(build_graph(atoms, cutoff=5.0), heads="a").forces
    rng = np.random.default_rng(0)
    h = 2e-5
    for _ in range(4):
        direction = rng.normal(size=forces.shape)
        direction /= np.linalg.norm(direction)
        steps = []
        for k in (-2, -1, 1, 2):
            moved = atoms.copy()
            moved.positions += k * h * direction
            steps.append(energy(moved))
        slope = (steps[0] - 8 * steps[1] + 8 * steps[2] - steps[3]) / (12 * h)
        assert slope == pytest.approx(-np.sum(forces * direction), abs=1e-7 * max(1.0, np.abs(forces).max()))


def test_edges_leave_at_the_cutoff_without_a_jump(potential):
    engine = NativeEngine(NativeModel(potential, dtype="float64", knots=64))
    inside, at = (
        engine.evaluate(build_graph(Atoms("OCu", positions=[[0, 0, 0], [r, 0, 0]]), cutoff=5.0), heads="a")
        for r in (5.0 - 1e-4, 5.0)
    )
    assert np.abs(inside.energies).max() < 1e-9
    assert np.abs(inside.forces).max() < 1e-6
    assert (at.energies == 0).all()


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("knots", [0, 256])
def test_single_precision_is_as_good_as_that_of_torch(trained, instruction_set, knots):
    """Within twice torch's own error, typically: a single model's may come from one sum that happens to cancel.

    Which one that is depends on the order of additions, hence on the processor.
    """
    models = [(random_potential(layers=3, channels=20, n_radial=9, seed=seed), "a") for seed in range(4)]
    models += [(trained, "mattersim_highTP"), (trained, "mvl_snap_Cu")]
    ratios: dict[str, list[float]] = {"forces": [], "energies": [], "virials": []}
    structures = [copper(2, seed) for seed in range(2)]
    crystals = structures[:]
    structures += [structure(name) for name in ("molecule", "crystal", "slab")]
    for model, head in models:
        some = crystals if head == "mvl_snap_Cu" else structures
        graph = collate([build_graph(atoms, cutoff=5.0) for atoms in some], cutoff=5.0)
        reference = evaluate(model, graph, head=head)
        torch_result = evaluate(copy.deepcopy(model).float(), graph, head=head)
        engine = NativeEngine(NativeModel(model, instruction_set=instruction_set, knots=knots))
        result = engine.predict(graph, heads=head)
        for name, of_models in ratios.items():
            expected = getattr(reference, name).numpy()
            own, theirs = (rms(getattr(r, name).numpy() - expected) for r in (result, torch_result))
            of_models.append(own / theirs)
    for name, of_models in ratios.items():
        assert np.exp(np.mean(np.log(of_models))) < 2.0, (name, of_models)
        assert max(of_models) < 5.0, (name, of_models)


# ---- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_again(potential, dtype):
    graph = build_graph(copper(3), cutoff=5.0)
    model = NativeModel(potential, dtype=dtype)
    results = [NativeEngine(model, threads=2).evaluate(graph, heads="a") for _ in range(3)]
    for other in results[1:]:
        for name in ("energy", "energies", "forces", "virial", "virials"):
            assert np.array_equal(getattr(other, name), getattr(results[0], name))


def test_the_number_of_threads_changes_rounding_only(potential):
    graph = build_graph(copper(3), cutoff=5.0)
    model = NativeModel(potential, dtype="float64")
    one, *others = [NativeEngine(model, threads=n).evaluate(graph, heads="a") for n in (1, 2, 3, 7)]
    for other in others:
        np.testing.assert_array_equal(other.energies, one.energies)
        np.testing.assert_allclose(other.forces, one.forces, atol=1e-11)


def test_threads_of_the_caller_share_a_model(potential):
    graphs = [build_graph(copper(2, seed), cutoff=5.0) for seed in range(4)]
    model = NativeModel(potential)
    expected = [NativeEngine(model).evaluate(graph, heads="a").forces for graph in graphs]
    results: dict[int, np.ndarray] = {}

    def work(k):
        engine = NativeEngine(model)
        for _ in range(5):
            results[k] = engine.evaluate(graphs[k], heads="a").forces

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        assert np.array_equal(results[k], expected[k])


def test_one_engine_in_two_threads_is_refused(potential):
    engine = NativeEngine(NativeModel(potential))
    graph = build_graph(copper(2), cutoff=5.0)
    refused = []

    def inside(*_):  # while the engine is at work
        with pytest.raises(ConfigurationError, match="in use by another thread"):
            engine.evaluate(graph, heads="a")
        refused.append(True)

    engine.evaluate_arrays(*rows(graph), heads="a", exchange=inside)
    assert refused
    engine.evaluate(graph, heads="a")


def test_an_engine_survives_a_fork(potential):
    engine = NativeEngine(NativeModel(potential), threads=2)
    graph = build_graph(copper(2), cutoff=5.0)
    expected = engine.evaluate(graph, heads="a").energy[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: forks with threads are the point here
        child = os.fork()
    if child == 0:
        os._exit(0 if engine.evaluate(graph, heads="a").energy[0] == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert engine.evaluate(graph, heads="a").energy[0] == expected


def test_the_end_of_the_interpreter_is_silent():
    program = (
        "from hydrapot.potential.native import NativeEngine, NativeModel\n"
        "from tests.contract_helpers import random_potential\n"
        "engine = NativeEngine(NativeModel(random_potential()), threads=2)\n"
    )
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parent.parent)
    assert done.stdout == done.stderr == ""


def test_an_engine_serves_systems_of_any_size_one_after_the_other(potential):
    engine = exact(potential, threads=2)
    for atoms in (Atoms("H"), copper(2), structure("molecule"), copper(3), Atoms(), structure("wire")):
        graph = build_graph(atoms, cutoff=5.0)
        compare(engine.predict(graph, heads="a"), evaluate(potential, graph, head="a"))
    assert engine.bytes > 0


def test_large_systems_keep_less_and_compute_the_same(potential):
    """Beyond a size, part of what the derivative needs is computed again."""
    graph = build_graph(copper(9), cutoff=5.0)
    model = NativeModel(potential, dtype="float64")
    large = NativeEngine(model).evaluate(graph, heads="a")
    small = collate([build_graph(copper(2), cutoff=5.0)], cutoff=5.0)
    reference = evaluate(potential, graph, head="a")
    assert small.n_atoms < graph.n_atoms
    assert rms(large.forces - reference.forces.numpy()) <= 2e-7 * max(rms(large.forces), 1.0)


# ---- errors -----------------------------------------------------------------------------------------------------------


def test_unknown_things_raise(potential):
    engine = NativeEngine(NativeModel(potential))
    graph = build_graph(structure("molecule"), cutoff=5.0)
    with pytest.raises(UnknownHeadError, match=r"unknown head 'x': this model has a, b, c\.v2"):
        engine.evaluate(graph, heads="x")
    with pytest.raises(UnknownHeadError, match="no head has a weight"):
        engine.evaluate(graph, heads={"a": 0.0})
    with pytest.raises(UnknownHeadError, match="not finite"):
        engine.evaluate(graph, heads={"a": float("nan")})
    with pytest.raises(
        UnknownElementError, match="head 'a' was not trained on element Xe; no head of this model knows"
    ):
        engine.evaluate(build_graph(Atoms("Xe"), cutoff=5.0), heads="a")
    engine.evaluate(build_graph(Atoms("Xe"), cutoff=5.0), heads="a", check_support=False)
    atoms = structure("molecule")
    atoms.info.update(charge=2)
    with pytest.raises(UnsupportedChargeError, match="charge 2 with spin multiplicity not stated"):
        engine.evaluate(build_graph(atoms, cutoff=5.0), heads="a")
    numbers, offsets, senders, vectors = rows(graph)
    with pytest.raises(UnsupportedChargeError, match="outside"):
        engine.evaluate_arrays(numbers, offsets, senders, vectors, heads="a", charge=[11])
    with pytest.raises(UnknownElementError, match="atomic number 0"):
        engine.evaluate_arrays(numbers * 0, offsets, senders, vectors, heads="a")


def test_arrays_that_make_no_sense_raise(potential):
    engine = NativeEngine(NativeModel(potential))
    numbers, offsets, senders, vectors = rows(build_graph(structure("molecule"), cutoff=5.0))

    def run(**changes):
        arrays = {
            "numbers": numbers,
            "offsets": offsets,
            "senders": senders,
            "vectors": vectors,
            "heads": "a",
            **changes,
        }
        return engine.evaluate_arrays(**arrays)

    run()
    with pytest.raises(InvalidStructureError, match="a sender that is not an atom"):
        run(senders=np.full_like(senders, 99))
    with pytest.raises(InvalidStructureError, match="at one place"):
        run(vectors=vectors * 0)
    with pytest.raises(InvalidStructureError, match="not finite"):
        run(vectors=vectors * np.nan)
    receivers = np.arange(6).repeat(np.diff(offsets))
    half = receivers < senders
    half_offsets = np.searchsorted(receivers[half], np.arange(7))
    with pytest.raises(InvalidStructureError, match="not full"):
        run(offsets=half_offsets, senders=senders[half], vectors=vectors[half], check_full=True)
    with pytest.raises(ConfigurationError, match="offsets decrease"):
        run(offsets=np.array([0, 3, 2, *offsets[3:]]))
    for changes in (
        {"offsets": offsets[:0]},
        {"offsets": offsets + 1},
        {"senders": senders[:-1]},
        {"vectors": vectors[:, :2]},
        {"vectors": None},
        {"structure_offsets": [0, 2, 1]},
        {"structure_offsets": [0, 5, 2, 6], "heads": ["a", "b", "a"]},
        {"heads": ["a", "b"]},
        {"numbers": np.append(numbers, 1)},  # a ghost without an exchange
    ):
        with pytest.raises(ConfigurationError):
            run(**changes)
    assert np.isfinite(run().energy).all()


def test_options_that_make_no_sense_raise(potential):
    for options, text in (
        ({"dtype": "float16"}, "float16"),
        ({"knots": 3}, "knots"),
        ({"instruction_set": "mmx"}, "'mmx' is unknown, not built, or not supported"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            NativeModel(potential, **options)
    with pytest.raises(ConfigurationError, match="threads must be at least 1"):
        NativeEngine(NativeModel(potential), threads=0)


def test_damaged_weights_raise(potential):
    damaged = copy.deepcopy(potential)
    with torch.no_grad():
        damaged.encoder.embedding.weight.fill_(torch.nan)
    graph = build_graph(molecule("H2O"), cutoff=5.0)
    with pytest.raises(SimulationError, match="not finite"):
        NativeEngine(NativeModel(damaged)).evaluate(graph, heads="a")
