"""Helpers of the tests of the native engine."""

from collections.abc import Iterator

import numpy as np
import pytest
from ase import Atoms

from hydrapot.potential import Potential, build_graph, evaluate
from hydrapot.potential.evaluate import Prediction
from hydrapot.potential.graph import Graph
from hydrapot.potential.native import NativeEngine, NativeModel, reason_missing

needs_native = pytest.mark.skipif(reason_missing() is not None, reason=str(reason_missing()))

#: What a prediction is compared in, with the largest accepted difference in exact mode (eV, eV, eV/Å, eV, eV).
EXACT = {"interaction_energy": 0.0, "energies": 1e-11, "forces": 1e-10, "virial": 1e-10, "virials": 1e-10}


def exact(potential: Potential, *, threads: int = 1, instruction_set: str | None = None) -> NativeEngine:
    """Float64 throughout, radial functions themselves."""
    model = NativeModel(potential, dtype="float64", knots=0, instruction_set=instruction_set)
    return NativeEngine(model, threads=threads)


def compare(prediction: Prediction, reference: Prediction) -> None:
    """Exact mode equals the torch model in float64."""
    for name, tolerance in EXACT.items():
        got, expected = getattr(prediction, name).numpy(), getattr(reference, name).numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=max(tolerance, 1e-13), err_msg=name)


def check_exact(potential: Potential, atoms: Atoms, *, head: str, **options) -> None:
    graph = build_graph(atoms, cutoff=potential.cutoff)
    compare(exact(potential, **options).predict(graph, heads=head), evaluate(potential, graph, head=head))


def rows(graph: Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """numbers, offsets, senders, vectors without padding."""
    mask = graph.edge_mask.numpy()
    counts = mask.reshape(graph.n_atoms, -1).sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return (
        graph.numbers.numpy().astype(np.int32),
        offsets,
        graph.edge_index[1].numpy()[mask].astype(np.int32),
        graph.edge_vectors.numpy()[mask],
    )


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


class Domain:
    """Some atoms of a periodic structure with a halo of one cutoff of ghosts: images, or atoms of other domains."""

    def __init__(self, numbers, offsets, senders, vectors, owned):
        self.owned = owned
        owned_set = {int(k): n for n, k in enumerate(owned)}
        self.owner_of_ghost: list[int] = []
        ghosts: dict[tuple, int] = {}
        local_senders, local_vectors, counts = [], [], []
        for i in owned:
            first, last = offsets[i], offsets[i + 1]
            counts.append(last - first)
            for j, r in zip(senders[first:last], vectors[first:last], strict=True):
                # Every sender that is not local, and now and then one that is (an image), becomes a ghost.
                own = int(j) in owned_set and np.linalg.norm(r) < 2.5
                if own:
                    local_senders.append(owned_set[int(j)])
                else:
                    key = (int(j), len(ghosts)) if np.linalg.norm(r) > 4.0 else (int(j),)
                    if key not in ghosts:
                        ghosts[key] = len(ghosts)
                        self.owner_of_ghost.append(int(j))
                    local_senders.append(len(owned) + ghosts[key])
                local_vectors.append(r)
        self.numbers = np.concatenate([numbers[owned], numbers[self.owner_of_ghost]]).astype(np.int32)
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.senders = np.array(local_senders, dtype=np.int32)
        self.vectors = np.array(local_vectors).reshape(-1, 3)


def domains(graph: Graph, parts: list[np.ndarray]) -> Iterator[Domain]:
    numbers, offsets, senders, vectors = rows(graph)
    for owned in parts:
        yield Domain(numbers, offsets, senders, vectors, owned)
