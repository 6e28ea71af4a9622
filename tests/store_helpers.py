"""Datasets that exercise every column of a store, and their comparison."""

from dataclasses import fields, replace

import numpy as np

from hydrapot.potential.metadata import LevelOfTheory
from hydrapot.training.data.frames import Frames, structure_hash
from hydrapot.training.data.store_layout import StoreAttributes

ATTRIBUTES = StoreAttributes(
    level_of_theory=LevelOfTheory(functional="PBE", code="none"), licence="CC0", attribution="made up", note="für Tests"
)


def random_frames(n, *, seed=0, name="set", atoms=12):
    """Structures of 1 to `atoms` atoms with every kind of gap in their labels."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, atoms + 1, n)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    total = int(offsets[-1])
    numbers = rng.integers(1, 119, total).astype(np.int16)
    positions = rng.normal(size=(total, 3)) * 5
    cells, pbc = rng.normal(size=(n, 3, 3)) * 4, rng.random((n, 3)) < 0.5
    forces, energy, stress = rng.normal(size=(total, 3)), rng.normal(size=n) * 1e5, rng.normal(size=(n, 3, 3))
    forces[np.repeat(rng.random(n) < 0.3, counts)] = np.nan
    energy[rng.random(n) < 0.2] = np.nan
    stress[rng.random(n) < 0.5] = np.nan
    hashes = [
        structure_hash(numbers[a:b], positions[a:b], cell, periodic)
        for a, b, cell, periodic in zip(offsets[:-1], offsets[1:], cells, pbc, strict=True)
    ]
    return Frames(
        name=name,
        numbers=numbers,
        positions=positions,
        forces=forces,
        offsets=offsets,
        cells=cells,
        pbc=pbc,
        energy=energy,
        stress=stress,
        charge=rng.integers(-3, 4, n).astype(np.int16),
        spin=rng.integers(0, 6, n).astype(np.int16),
        isolated=(counts == 1) & (rng.random(n) < 0.5),
        group=np.array([f"Gruppe {rng.integers(5)} Å" if rng.random() < 0.8 else "" for _ in range(n)], np.str_),
        hashes=np.array(hashes, "<U16"),
    )


def as_float32(frames):
    """What a store of single precision gives back."""
    return replace(
        frames,
        positions=frames.positions.astype(np.float32).astype(np.float64),
        forces=frames.forces.astype(np.float32).astype(np.float64),
    )


def assert_same(found, expected):
    """Every column to the last bit, and of the same type."""
    for field in fields(Frames):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "name":
            assert a == b
        elif a.dtype.kind == "U":
            assert a.tolist() == b.tolist(), field.name
        else:
            assert a.dtype == b.dtype, field.name
            assert a.shape == b.shape, field.name
            assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes(), field.name
