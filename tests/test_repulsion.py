"""ZBL repulsion: numbers of the published formula, and a smooth end."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii

from hydrapot.potential.graph import build_graph
from hydrapot.potential.repulsion import RANGE_FACTOR, ZBLRepulsion

CUTOFF = 5.0


def pair_energy(a, b, r):
    graph = build_graph(Atoms([a, b], positions=[[0, 0, 0], [0, 0, r]]), cutoff=CUTOFF)
    energies = ZBLRepulsion(cutoff=CUTOFF)(graph)
    assert energies.dtype == torch.float64
    assert float(energies[0]) == float(energies[1])
    return float(energies.sum())


def switch(a, b, r):
    """1 − 10 x³ + 15 x⁴ − 6 x⁵, the expanded form of what the code writes as a product."""
    x = r / (RANGE_FACTOR * (covalent_radii[a] + covalent_radii[b]))
    return 1 - 10 * x**3 + 15 * x**4 - 6 * x**5 if x < 1 else 0.0


def zbl(a, b, r):
    """Ziegler, Biersack & Littmark 1985, constants as printed in most codes: lengths in Å, energies in eV."""
    screening = 0.8853 * 0.529177 / (a**0.23 + b**0.23)
    x = r / screening
    phi = 0.1818 * math.exp(-3.2 * x) + 0.5099 * math.exp(-0.9423 * x)
    phi += 0.2802 * math.exp(-0.4029 * x) + 0.02817 * math.exp(-0.2016 * x)
    return 14.3996 * a * b / r * phi


@pytest.mark.parametrize(("a", "b"), [(14, 14), (1, 1), (8, 29), (92, 6)])
@pytest.mark.parametrize("r", [0.05, 0.3, 0.6, 1.0])
def test_the_published_formula(a, b, r):
    """Rounded constants of the literature differ from ours in the fourth digit."""
    assert pair_energy(a, b, r) == pytest.approx(zbl(a, b, r) * switch(a, b, r), rel=2e-3, abs=1e-12)


@pytest.mark.parametrize(
    ("r", "expected"),
    # 14.399645478425668 · 196 / r · φ(r · 2 · 14^0.23 / 0.46850), evaluated with 50 decimal digits.
    [(0.1, 13744.261811300177), (0.5, 470.49311380427963), (1.0, 50.974363684826244), (1.5, 9.610616549888125)],
)
def test_silicon_to_all_digits(r, expected):
    assert pair_energy(14, 14, r) == pytest.approx(expected * switch(14, 14, r), rel=1e-12)


def test_bare_nuclei_at_no_distance():
    r = 2e-3
    assert pair_energy(14, 14, r) == pytest.approx(14.399645478425668 * 196 / r, rel=0.03)


@pytest.mark.parametrize(("a", "b"), [(14, 14), (1, 8), (55, 55)])
def test_the_end_is_smooth(a, b):
    """Value, first and second derivative vanish at the range: the energy falls as δ³ and is exactly 0 beyond."""
    end = min(CUTOFF, RANGE_FACTOR * (covalent_radii[a] + covalent_radii[b]))
    energies = np.array([pair_energy(a, b, end - d) for d in (1e-2, 1e-3, 1e-4)])
    assert np.all(energies > 0)
    assert np.log10(energies[:-1] / energies[1:]) == pytest.approx(3.0, abs=0.1)
    assert pair_energy(a, b, end) == pytest.approx(0.0, abs=1e-40)
    assert pair_energy(a, b, end + 1e-6) == 0.0


def test_bonds_at_their_usual_length():
    """Single and most double bonds feel nothing; the shortest triple bonds a tenth of an eV."""
    for a, b, r in ((6, 1, 1.09), (8, 1, 0.96), (1, 1, 0.74), (6, 6, 1.34), (29, 29, 2.55), (14, 14, 2.35)):
        assert pair_energy(a, b, r) == 0.0
    for a, b, r in ((6, 8, 1.128), (7, 7, 1.098), (6, 6, 1.203)):
        assert 0.0 < pair_energy(a, b, r) < 0.15


def test_elements_beyond_the_table_repel_too():
    assert pair_energy(118, 118, 1.0) > 100.0


def test_two_pairs_add_up():
    line = build_graph(Atoms("Si3", positions=[[0, 0, 0], [0, 0, 1.5], [0, 0, 3.0]]), cutoff=CUTOFF)
    energies = ZBLRepulsion(cutoff=CUTOFF)(line)
    assert float(energies.sum()) == pytest.approx(2 * pair_energy(14, 14, 1.5), rel=1e-12)
    assert float(energies[1]) == pytest.approx(2 * float(energies[0]), rel=1e-12)
