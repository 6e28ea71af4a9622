"""The native engine under domain decomposition: local atoms with ghosts and an exchange equal the whole structure.

The exchange copies rows of owners to ghosts, in both directions of the network, as ``hydrapot.h`` describes; forces and virials
of ghosts are added to their owners afterwards, as an engine's reverse communication does.
"""

import threading

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from hydrapot.potential import build_graph
from hydrapot.potential.errors import SimulationError
from hydrapot.potential.native import NativeEngine, NativeModel
from tests.contract_helpers import random_potential
from tests.native_helpers import Domain, domains, needs_native, rows

pytestmark = needs_native


class World:
    """Processes played by threads: what one of them owns is there for all others after a barrier."""

    def __init__(self, parts):
        self.parts = parts
        self.barrier = threading.Barrier(len(parts), timeout=60)
        self.values = {}
        self.calls = [[] for _ in parts]

    def exchange(self, rank):
        domain = self.parts[rank]
        n_local = len(domain.owned)

        def call(stage, layer, array):
            self.calls[rank].append((stage, layer, array.shape[1]))
            self.values.update({int(k): array[n].copy() for n, k in enumerate(domain.owned)})
            self.barrier.wait()
            assert np.isfinite(array[:n_local]).all()
            for n, owner in enumerate(domain.owner_of_ghost):
                array[n_local + n] = self.values[owner]
            self.barrier.wait()

        return call


def evaluate_parts(model, parts, *, threads=1, n_atoms):
    world = World(parts)
    results = [None] * len(parts)

    def work(rank):
        domain = parts[rank]
        results[rank] = NativeEngine(model, threads=threads).evaluate_arrays(
            domain.numbers,
            domain.offsets,
            domain.senders,
            domain.vectors,
            heads={"a": 0.7, "b": 0.3},
            exchange=world.exchange(rank),
            virials=True,
            features=True,
        )

    workers = [threading.Thread(target=work, args=(rank,)) for rank in range(len(parts))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    total = {"energy": 0.0, "virial": np.zeros((3, 3))}
    arrays = {
        "energies": np.zeros(n_atoms),
        "forces": np.zeros((n_atoms, 3)),
        "virials": np.zeros((n_atoms, 3, 3)),
        "features": np.zeros((n_atoms, model.channels)),
    }
    for domain, result in zip(parts, results, strict=True):
        owners = np.concatenate([domain.owned, np.array(domain.owner_of_ghost, dtype=int)]).astype(int)
        total["energy"] += result.energy[0]
        total["virial"] += result.virial[0]
        np.add.at(arrays["energies"], domain.owned, result.energies)
        np.add.at(arrays["features"], domain.owned, result.features)
        np.add.at(arrays["forces"], owners, result.forces)
        np.add.at(arrays["virials"], owners, result.virials)
    return {**total, **arrays}, world


def structure(kind):
    if kind == "small cell":  # smaller than the cutoff: an atom neighbors many images of itself
        atoms = bulk("NaCl", "rocksalt", a=4.3)
        atoms.rattle(0.1, seed=4)
        return atoms
    if kind == "slab":
        atoms = bulk("Cu", cubic=True) * (3, 2, 1)
        atoms.pbc = (True, True, False)
    else:
        atoms = bulk("NaCl", "rocksalt", a=5.2, cubic=True) * (2, 1, 1)
        atoms.set_cell(atoms.cell.array @ np.array([[1, 0.2, 0], [0, 1, 0.1], [0, 0, 1]]), scale_atoms=True)
    atoms.rattle(0.1, seed=4)
    return atoms


@pytest.mark.parametrize("kind", ["triclinic", "slab", "small cell"])
@pytest.mark.parametrize("n_parts", [1, 2, 4])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_domains_equal_the_whole(kind, n_parts, layers):
    potential = random_potential(layers=layers, channels=13, heads=("a", "b"), seed=layers)
    atoms = structure(kind)
    graph = build_graph(atoms, cutoff=5.0)
    model = NativeModel(potential, dtype="float64", knots=0)
    whole = NativeEngine(model).evaluate(graph, heads={"a": 0.7, "b": 0.3}, features=True)
    # One of four domains is empty and makes its exchanges all the same.
    owners = np.arange(len(atoms)) % max(n_parts - (n_parts == 4), 1)
    parts = list(domains(graph, [np.flatnonzero(owners == rank) for rank in range(n_parts)]))
    assert any(part.owner_of_ghost for part in parts)
    split, world = evaluate_parts(model, parts, n_atoms=len(atoms))
    np.testing.assert_allclose(split["energy"], whole.energy[0], rtol=1e-12)
    np.testing.assert_allclose(split["virial"], whole.virial[0], atol=1e-10)
    for name in ("energies", "forces", "virials", "features"):
        np.testing.assert_allclose(split[name], getattr(whole, name), atol=1e-10, err_msg=name)
    expected = [("features", k, 4 * 13) for k in range(1, layers)]
    expected += [("gradients", k, 4 * 13) for k in range(layers - 1, 0, -1)]
    assert world.calls == [expected] * n_parts


def test_domains_in_single_precision_with_threads():
    potential = random_potential(layers=3, heads=("a", "b"))
    atoms = structure("slab")
    graph = build_graph(atoms, cutoff=5.0)
    model = NativeModel(potential)
    whole = NativeEngine(model, threads=2).evaluate(graph, heads={"a": 0.7, "b": 0.3})
    halves = np.array_split(np.arange(len(atoms)), 2)
    split, _ = evaluate_parts(model, list(domains(graph, halves)), threads=2, n_atoms=len(atoms))
    np.testing.assert_allclose(split["forces"], whole.forces, atol=2e-5 * np.abs(whole.forces).max())


def test_a_failing_exchange_stops_the_evaluation():
    potential = random_potential(layers=2, heads=("a", "b"))
    graph = build_graph(Atoms("Cu2", positions=[[0, 0, 0], [2.2, 0, 0]]), cutoff=5.0)
    part = Domain(*rows(graph), np.array([0]))
    engine = NativeEngine(NativeModel(potential))

    def fail(*_):
        raise SimulationError("a neighbor is gone")

    with pytest.raises(SimulationError, match="a neighbor is gone"):
        engine.evaluate_arrays(part.numbers, part.offsets, part.senders, part.vectors, heads="a", exchange=fail)


def test_energies_alone_need_half_of_the_exchanges():
    potential = random_potential(layers=3)
    graph = build_graph(Atoms("Cu2", positions=[[0, 0, 0], [2.2, 0, 0]]), cutoff=5.0)
    calls = []
    result = NativeEngine(NativeModel(potential)).evaluate_arrays(
        *rows(graph), heads="a", forces=False, exchange=lambda stage, layer, _: calls.append((stage, layer))
    )
    assert calls == [("features", 1), ("features", 2)]
    assert result.forces is None
    expected = NativeEngine(NativeModel(potential)).evaluate(graph, heads="a")
    np.testing.assert_array_equal(result.energies, expected.energies)
