"""Reference energies carry almost all of an energy: a wrong one is wrong by eV per atom, not by meV."""

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrapot.potential.errors import ConfigurationError, HydrapotError, UnknownElementError
from hydrapot.potential.references import (
    fit_references,
    isolated_references,
    prior_array,
    zero_references,
)
from hydrapot.training.data.references import make_references
from tests.data_helpers import frames_of

H, C, N, O, CU = 1, 6, 7, 8, 29


def compositions(*counts):
    rows = np.zeros((len(counts), 119), int)
    for row, count in zip(rows, counts, strict=True):
        for z, n in count.items():
            row[z] = n
    return rows


@st.composite
def datasets(draw):
    """Random compositions of up to five elements, often rank-deficient, with random energies per element."""
    elements = draw(st.lists(st.integers(1, 118), min_size=1, max_size=5, unique=True))
    n = draw(st.integers(1, 12))
    counts = [{z: draw(st.integers(0, 9)) for z in elements} for _ in range(n)]
    for count in counts:
        count[elements[0]] += 1
    scale = draw(st.sampled_from([1.0, 100.0, 1e5]))
    truth = np.zeros(119)
    truth[elements] = [scale * draw(st.floats(-1, 1)) for _ in elements]
    return compositions(*counts), truth, scale


@given(datasets())
@settings(deadline=None, max_examples=60)
def test_exact_energies_are_reproduced_whatever_the_rank(data):
    counts, truth, scale = data
    references = fit_references(counts, counts @ truth)
    fitted = counts[:, references.elements] @ references.values[references.elements]
    np.testing.assert_allclose(fitted / counts.sum(1), counts @ truth / counts.sum(1), atol=1e-7 * scale)
    for row in counts:
        assert references.determined(np.repeat(np.arange(119), row))


@given(datasets(), st.floats(-1e4, 1e4))
@settings(deadline=None, max_examples=60)
def test_combinations_that_do_not_occur_keep_the_prior(data, offset):
    counts, truth, scale = data
    prior = np.random.default_rng(0).normal(0, scale, 119) + offset
    references = fit_references(counts, counts @ truth, prior=prior)
    moved = np.zeros(119)
    moved[references.elements] = (references.values - prior)[references.elements]
    outside = moved - (moved @ references.span.T) @ references.span
    assert np.abs(outside).max() <= 1e-9 * (scale + abs(offset) + 1)


@given(datasets())
@settings(deadline=None, max_examples=30)
def test_a_prior_that_is_right_is_returned(data):
    counts, truth, scale = data
    references = fit_references(counts, counts @ truth, prior=truth)
    np.testing.assert_allclose(references.values[references.elements], truth[references.elements], atol=1e-7 * scale)


@given(datasets())
@settings(deadline=None, max_examples=30)
def test_span_is_orthonormal_and_counts_independent_compositions(data):
    counts, truth, _ = data
    span = fit_references(counts, counts @ truth).span
    np.testing.assert_allclose(span @ span.T, np.eye(len(span)), atol=1e-10)
    assert len(span) == np.linalg.matrix_rank(counts)


def test_only_elements_of_the_data_are_known():
    references = fit_references(compositions({CU: 4}), [-15.0], prior=np.zeros(119))
    assert references.elements.tolist() == [CU]
    assert references.energy([CU, CU]) == pytest.approx(-7.5)
    with pytest.raises(UnknownElementError, match="H"):
        references.energy([CU, H])


def test_one_composition_determines_one_number():
    references = fit_references(
        compositions({H: 2, O: 1}, {H: 4, O: 2}),
        [-2080.0, -4160.2],
        prior=prior_array({"H": -13.6, "O": -2040}),
    )
    assert references.energy([H, H, O]) == pytest.approx(-2080.05, abs=0.06)
    assert references.determined([H, O, H])
    assert references.determined([H, O, H] * 5)
    assert not references.determined([H, O])
    assert not references.determined([H, H])
    assert references.values[H] == pytest.approx(-13.6, abs=12)
    assert references.values[O] == pytest.approx(-2040, abs=6)


def test_default_prior_is_the_same_for_all_elements():
    """Protects from the minimum-norm solution, which gives atoms of a rank-deficient set absurd energies."""
    references = fit_references(compositions({CU: 1, O: 1}, {CU: 32, O: 32}), [-10.0, -320.0])
    assert references.values[[CU, O]].tolist() == pytest.approx([-5, -5])


def test_large_cells_do_not_outweigh_small_ones():
    counts = compositions({CU: 1}, {CU: 1}, {CU: 1}, {CU: 500})
    energies = np.array([-3.0, -3.01, -2.99, -4.0 * 500])
    assert fit_references(counts, energies).values[CU] == pytest.approx(-3, abs=0.02)


def test_a_compressed_tail_does_not_draw_the_references_along():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 8, (400, 119)) * np.isin(np.arange(119), [C, O, CU])
    counts[:, C] += 1
    truth = np.zeros(119)
    truth[[C, O, CU]] = [-8, -5, -3]
    atoms = counts.sum(1)
    energies = counts @ truth + atoms * rng.normal(0, 0.05, 400)
    energies[:40] += 12 * atoms[:40]  # eV/atom, as at 1000 GPa
    fitted = fit_references(counts, energies).values[[C, O, CU]]
    np.testing.assert_allclose(fitted, truth[[C, O, CU]], atol=0.05)


def test_one_structure_of_a_rare_element_moves_it_only_part_of_the_way():
    counts = compositions(*[{CU: 10}] * 50, {CU: 19, N: 1})
    noise = np.random.default_rng(0).normal(0, 0.5, 51)
    energies = -3.0 * counts.sum(1) + noise * counts.sum(1)
    energies[-1] = 20 * (-3.0 - 1.5)  # three standard deviations, at a fraction of 5 %: naively -33 eV
    assert -20 < fit_references(counts, energies).values[N] < -3


@pytest.mark.parametrize("scatter", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("zero", [30.0, 3_000.0, 45_000.0])
@pytest.mark.parametrize("n", [20, 200])
def test_a_prior_of_another_code_does_not_draw_the_references_along(scatter, zero, n):
    """All-electron and pseudopotential zeros are thousands of eV apart: the pull of a prior is bounded, its width fixed."""
    rng = np.random.default_rng(0)
    for elements in ([CU], [C, O, CU]):
        counts = np.zeros((n, 119))
        counts[:, elements] = rng.integers(1, 9, (n, len(elements)))
        truth = np.zeros(119)
        truth[elements] = -zero * rng.uniform(0.2, 1.0, len(elements))
        atoms = counts.sum(1)
        energies = counts @ truth + atoms * rng.normal(0, scatter, n)
        fitted = fit_references(counts, energies, prior=np.full(119, -3.0))
        error = counts[:, elements] @ (fitted.values - truth)[elements] / atoms
        assert np.abs(error).max() < 6.0 * scatter * np.sqrt(len(elements) / n)


def test_a_rare_element_of_another_code_is_found_all_the_same():
    """Three structures of 43 hold one gold in 32 atoms; what is left of their energies is of the order of the scatter."""
    rng = np.random.default_rng(1)
    counts = compositions(*[{CU: 32}] * 40, *[{CU: 31, N: 1}] * 3)
    energies = counts[:, CU] * -45_000.0 + counts[:, N] * -1_500.0 + 32 * rng.normal(0, 0.05, 43)
    fitted = fit_references(counts, energies, prior=np.full(119, -3.0)).values
    assert abs(fitted[CU] + 45_000.0) < 0.05
    assert abs(fitted[N] + 1_500.0) < 5.0  # a twentieth of it per atom is 0.15 eV


def test_missing_energies_are_left_out():
    references = fit_references(compositions({CU: 1}, {CU: 1}), [np.nan, -3.0])
    assert references.values[CU] == pytest.approx(-3)
    with pytest.raises(ConfigurationError, match="there is none"):
        fit_references(compositions({CU: 1}), [np.nan])


def test_isolated_atoms_are_taken_as_they_are_and_must_cover_the_data():
    references = isolated_references([H, O], [-13.6, -2041.5], required=[H, O])
    assert references.energy([H, O, H]) == -2041.5 - 2 * 13.6
    assert references.determined([H])
    assert not references.determined([H, C])
    with pytest.raises(ConfigurationError, match="no isolated atom of C, N"):
        isolated_references([H, O], [-13.6, -2041.5], required=[H, C, N])
    with pytest.raises(ConfigurationError, match="isolated atoms of H differ"):
        isolated_references([H, H], [-13.6, -12.6])


def test_zero_is_zero_for_known_elements_only():
    references = zero_references([H, C])
    assert references.energy([H, C]) == 0.0
    with pytest.raises(UnknownElementError, match="O"):
        references.energy([O])
    assert zero_references([]).energy([]) == 0.0


@pytest.mark.parametrize("z", [0, -1, 119])
def test_numbers_that_are_no_elements(z):
    with pytest.raises(UnknownElementError, match=f"atomic number {z}"):
        zero_references([H]).energy([H, z])


def test_prior_names_elements():
    assert np.isfinite(prior_array({"H": -13.6})).sum() == 1
    with pytest.raises(ConfigurationError, match="'Hx'"):
        prior_array({"Hx": 1.0})


def water_with_isolated_atoms():
    structures = []
    for k in range(4):
        water = molecule("H2O")
        water.positions[0, 2] += 0.01 * k
        water.calc = SinglePointCalculator(water, energy=-2080.0 - 100.0 * (k == 3))
        structures.append(water)
    for symbol, energy in (("H", -13.6), ("O", -2041.5), ("N", -1480.0)):
        atom = molecule(symbol)
        atom.info["config_type"] = "isolated_atom"
        atom.calc = SinglePointCalculator(atom, energy=energy)
        structures.append(atom)
    return frames_of(structures)


def test_a_dataset_is_fitted_to_its_training_structures_alone():
    """Frame 3 is for validation and has an energy of its own: neither it nor the isolated atoms may leak."""
    references = make_references(water_with_isolated_atoms(), np.array([0, 1, 2]), mode="fit")
    assert references.energy([H, H, O]) == pytest.approx(-2080)
    assert references.elements.tolist() == [H, O]


def test_modes_of_a_dataset():
    frames, train = water_with_isolated_atoms(), np.array([0, 1, 2])
    assert make_references(frames, train, mode="isolated").values[O] == -2041.5
    assert make_references(frames, train, mode="zero").energy([H, H, O]) == 0.0
    with pytest.raises(HydrapotError, match="prior has no effect"):
        make_references(frames, train, mode="zero", prior={"H": 0.0})
