"""OpenMM gets the energies and forces of the ASE calculator, for whole systems and for parts, in any box."""

import json
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

openmm = pytest.importorskip("openmm")

from hydrapot.calculators import HydrapotCalculator  # noqa: E402
from hydrapot.calculators.openmm import MOLECULES, HydrapotForce, add_to_system  # noqa: E402
from hydrapot.calculators.openmm_box import ReducedBox, reduce  # noqa: E402
from hydrapot.potential.constants import KJ_PER_MOL  # noqa: E402
from hydrapot.potential.errors import (  # noqa: E402
    CheckpointError,
    ConfigurationError,
    InvalidStructureError,
    UnknownElementError,
    UnknownHeadError,
    UnsupportedChargeError,
)
from tests.openmm_helpers import (  # noqa: E402 - it needs OpenMM
    COPPER,
    ETHANOL,
    ORGANIC,
    SHIPPED,
    answers,
    context_of,
    ethanol,
    reduced,
    system_of,
    topology_of,
)

EXACT = {"model": SHIPPED, "dtype": "float64"}


def water_box():
    """Eight molecules in a triclinic cell that is turned out of OpenMM's frame, spread over several images."""
    cell = np.array([[0.3, 8.0, 0.2], [7.5, 1.0, 2.0], [1.0, 2.0, -8.5]])
    rng = np.random.default_rng(3)
    atoms = Atoms(cell=cell, pbc=True)
    for corner in np.ndindex(2, 2, 2):
        water = molecule("H2O")
        water.rotate(float(rng.uniform(0, 360)), rng.normal(size=3))
        water.positions += (np.array(corner) + 0.25) / 2 @ cell
        atoms += water
    return atoms


def copper():
    atoms = bulk("Cu") * (2, 2, 2)  # the primitive cell: triclinic, smaller than the cutoff
    atoms.rattle(0.08, seed=1)
    return atoms


def expected(atoms, head):
    """Interaction energy (kJ/mol) and forces (kJ/mol/nm) of the ASE calculator."""
    atoms = atoms.copy()
    atoms.calc = HydrapotCalculator(SHIPPED, head=head, dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        forces = atoms.get_forces()
    return atoms.calc.results["interaction_energy"] * KJ_PER_MOL, forces * KJ_PER_MOL * 10.0


def same(found, wanted):
    (energy, forces), (wanted_energy, wanted_forces) = found, wanted
    assert energy == pytest.approx(wanted_energy, rel=1e-9, abs=0)
    assert np.abs(forces - wanted_forces).max() <= 1e-9 * np.abs(wanted_forces).max()


CASES = {
    "molecule": (lambda: ethanol()[0], ORGANIC),
    "box of molecules": (water_box, ORGANIC),
    "triclinic crystal": (copper, COPPER),
}
PATHS = {"native": ("native", "Reference"), "native, CPU": ("native", "CPU"), "torch": ("torch", "Reference")}


@pytest.mark.filterwarnings("ignore:head 'qm22_b3lyp_molecules' was trained on structures with 0 periodic")
@pytest.mark.parametrize(("make", "head"), CASES.values(), ids=CASES)
@pytest.mark.parametrize(("backend", "platform"), PATHS.values(), ids=PATHS)
def test_energy_and_forces_are_those_of_the_ase_calculator(make, head, backend, platform):
    atoms = make()
    frame = ReducedBox.of(atoms)
    system = system_of(atoms, box=frame.box)
    add_to_system(system, topology_of(atoms, box=frame.box), head=head, backend=backend, **EXACT)
    energy, forces = answers(context_of(system, frame.into(atoms.positions), platform=platform))
    same((energy, frame.back(forces)), expected(atoms, head))


@pytest.mark.parametrize(("make", "head"), [CASES["molecule"], CASES["triclinic crystal"]], ids=["molecule", "crystal"])
def test_forces_are_the_derivative_of_openmms_energy(make, head):
    atoms = make() if head == ORGANIC else reduced(make())
    box = atoms.cell.array if atoms.pbc.any() else None
    system = system_of(atoms, box=box)
    add_to_system(system, topology_of(atoms, box=box), head=head, **EXACT)
    context = context_of(system, atoms.positions)
    _, forces = answers(context)
    step = 1e-3  # Å
    for atom, axis in [(0, 0), (1, 2), (len(atoms) - 1, 1)]:
        sides = []
        for sign in (1, -1):
            moved = atoms.positions.copy()
            moved[atom, axis] += sign * step
            context.setPositions(moved * 0.1)
            sides.append(answers(context)[0])
        slope = (sides[0] - sides[1]) / (2 * step * 0.1)
        assert forces[atom, axis] == pytest.approx(-slope, abs=2e-5 * np.abs(forces).max())


def test_part_of_a_system_feels_the_potential_alone():
    atoms, _ = ethanol()
    other = Atoms("Ar3", positions=[[6, 0, 0], [0, 7, 0], [0, 0, 8]])
    # The part is neither first nor in one piece.
    order = [0, *range(3, 8), 1, *range(8, 12), 2]
    whole = (other + atoms)[order]
    part = [k for k, number in enumerate(whole.numbers) if number != 18]
    system = system_of(whole)
    spring = openmm.CustomExternalForce("100*(x^2+y^2+z^2)")
    for k, number in enumerate(whole.numbers):
        if number == 18:
            spring.addParticle(k, [])
    system.addForce(spring)
    add_to_system(system, topology_of(whole), part, head=ORGANIC, force_group=3, **EXACT)
    context = context_of(system, whole.positions)
    energy, forces = expected(whole[part], ORGANIC)
    found, all_forces = answers(context, groups={3})
    same((found, all_forces[part]), (energy, forces))
    rest = np.setdiff1d(np.arange(len(whole)), part)
    assert not all_forces[rest].any()
    # Together with the other force.
    total, _ = answers(context)
    assert total == pytest.approx(energy + (100 * (whole.positions[rest] * 0.1) ** 2).sum(), rel=1e-9)


def test_total_energy_adds_the_reference_energies():
    atoms, _ = ethanol()
    energies = []
    for total in (False, True):
        system = system_of(atoms)
        force = add_to_system(system, topology_of(atoms), head=ETHANOL, total=total, **EXACT)
        energies.append(answers(context_of(system, atoms.positions))[0])
    assert energies[1] - energies[0] == pytest.approx(force.reference_energy * KJ_PER_MOL, rel=1e-12)
    atoms.calc = HydrapotCalculator(SHIPPED, head=ETHANOL, dtype="float64")
    assert energies[1] == pytest.approx(atoms.get_potential_energy() * KJ_PER_MOL, rel=1e-12)


def test_global_parameter_scales_energy_and_forces():
    atoms, _ = ethanol()
    system = system_of(atoms)
    made = add_to_system(system, topology_of(atoms), head=ETHANOL, scale="lambda_ml", **EXACT)
    context = context_of(system, atoms.positions)
    energy, forces = answers(context)
    same((energy, forces), expected(atoms, ETHANOL))
    context.setParameter("lambda_ml", 0.25)
    quarter = answers(context)
    assert quarter[0] == pytest.approx(0.25 * energy, rel=1e-14)
    assert quarter[1] == pytest.approx(0.25 * forces, rel=1e-13)
    # At 0 nothing is evaluated: atoms that are switched off may overlap.
    context.setParameter("lambda_ml", 0.0)
    context.setPositions(np.zeros((len(atoms), 3)))
    done = made.callback.evaluator.evaluations
    nothing = answers(context)
    assert nothing[0] == 0.0
    assert not nothing[1].any()
    assert made.callback.evaluator.evaluations == done


@pytest.mark.filterwarnings("ignore:head 'qm22_b3lyp_molecules' was trained on structures with 0 periodic")
def test_atoms_in_other_images_change_nothing():
    """Unwrapped molecules, and molecules that the boundary cuts, have the same energy and forces."""
    atoms = reduced(water_box())
    box = atoms.cell.array
    system = system_of(atoms, box=box)
    add_to_system(system, topology_of(atoms, box=box), head=ORGANIC, **EXACT)
    context = context_of(system, atoms.positions)
    reference = answers(context)
    images = np.random.default_rng(0).integers(-3, 4, size=(len(atoms), 3))
    context.setPositions((atoms.positions + images @ box) * 0.1)
    assert not np.allclose(images, 0)
    found = answers(context)
    assert found[0] == pytest.approx(reference[0], rel=1e-11)
    assert np.abs(found[1] - reference[1]).max() < 1e-8 * np.abs(reference[1]).max()


@pytest.mark.filterwarnings("ignore:head 'qm22_b3lyp_molecules' was trained on structures with 0 periodic")
def test_periodicity_follows_the_topology_and_is_announced():
    """Without the flag OpenMM hands out no box, and a barostat or a neighbor across the boundary would be lost."""
    atoms = reduced(water_box())
    box = atoms.cell.array
    energies = {}
    for periodic in (None, False):
        system = system_of(atoms, box=box)
        made = add_to_system(system, topology_of(atoms, box=box), head=ORGANIC, periodic=periodic, **EXACT)
        assert made.force.usesPeriodicBoundaryConditions() is (periodic is None)
        assert system.usesPeriodicBoundaryConditions() is (periodic is None)
        energies[periodic] = answers(context_of(system, atoms.positions))[0]
    assert abs(energies[None] - energies[False]) > 1.0
    isolated = system_of(atoms)
    assert not add_to_system(isolated, topology_of(atoms), head=ORGANIC, **EXACT).record.periodic


def test_box_that_was_forgotten_is_named():
    """A System without a box has one of 2 nm in OpenMM, silently."""
    atoms = reduced(copper())
    system = system_of(atoms)
    with pytest.raises(ConfigurationError, match="setDefaultPeriodicBoxVectors"):
        add_to_system(system, topology_of(atoms, box=atoms.cell.array), head=COPPER, **EXACT)
    assert system.getNumForces() == 0


def test_box_that_is_not_reduced_is_refused_by_openmm_and_reduced_here():
    skewed = np.array([[5.0, 0.0, 0.0], [3.0, 5.0, 0.0], [-4.0, 3.0, 6.0]])
    system = openmm.System()
    with pytest.raises(openmm.OpenMMException, match="reduced form"):
        system.setDefaultPeriodicBoxVectors(*skewed)
    box, whole = reduce(skewed)
    system.setDefaultPeriodicBoxVectors(*box)
    assert np.array_equal(whole, np.rint(whole))
    assert np.linalg.det(whole) == pytest.approx(1.0)
    assert whole @ skewed == pytest.approx(box, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_any_cell_has_a_reduced_box_and_comes_back(seed):
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * 6.0
    atoms = Atoms("Cu", positions=rng.normal(size=(1, 3)), cell=cell, pbc=True)
    frame = ReducedBox.of(atoms)
    openmm.System().setDefaultPeriodicBoxVectors(*frame.box)
    assert frame.whole @ cell @ frame.turn == pytest.approx(frame.box, abs=1e-10)
    assert frame.back(frame.into(atoms.positions)) == pytest.approx(atoms.positions, abs=1e-12)
    strained = frame.box * (1 + 0.01 * rng.normal())
    again = frame.cell(strained, cell)
    assert again == pytest.approx(cell * (strained[0, 0] / frame.box[0, 0]), abs=1e-9)
    # OpenMM may take another basis of the same lattice; the structure keeps its own.
    other, _ = reduce(strained + np.array([[0, 0, 0], strained[0], strained[1] - strained[0]]))
    assert frame.cell(other, cell) == pytest.approx(again, abs=1e-9)


def test_hexagonal_box_is_accepted():
    """Half a lattice vector, where rounding decides whether OpenMM takes the box."""
    for a in np.linspace(2.0, 5.0, 50):
        frame = ReducedBox.of(bulk("Mg", "hcp", a=float(a), c=1.6 * float(a)) * (3, 3, 2))
        openmm.System().setDefaultPeriodicBoxVectors(*(frame.box * 0.1))


def test_slab_is_refused_by_name():
    atoms = copper()
    atoms.pbc = [True, True, False]
    with pytest.raises(InvalidStructureError, match=r"periodic in all directions or in none.*\[True, True, False\]"):
        ReducedBox.of(atoms)


@pytest.mark.filterwarnings("ignore:head 'botnet_ethanol_methanol' was trained on structures with 0 periodic")
def test_barostat_moves_whole_molecules():
    """Bonds of no strength tell OpenMM what belongs together; without them each atom is a molecule."""
    atoms, bonds = ethanol()
    atoms.cell, atoms.pbc = np.eye(3) * 12.0, True
    for keep, molecules in ((True, 1), (False, len(atoms))):
        system = system_of(atoms, box=atoms.cell.array)
        topology = topology_of(atoms, bonds=bonds, box=atoms.cell.array)
        add_to_system(system, topology, head=ETHANOL, keep_molecules=keep, **EXACT)
        names = [force.getName() for force in system.getForces()]
        assert (MOLECULES in names) is keep
        context = context_of(system, atoms.positions)
        assert len(context.getMolecules()) == molecules
        if keep:
            zero, forces = answers(context, groups={0})
            wanted = expected(atoms, ETHANOL)
            same((zero, forces), wanted)


REFUSALS = {
    "head not named": ({"head": None}, UnknownHeadError, "21 heads"),
    "head not known": ({"head": "no"}, UnknownHeadError, "unknown head 'no'"),
    "model not known": ({"model": "no"}, CheckpointError, "unknown model 'no'"),
    "charge": ({"charge": 2}, UnsupportedChargeError, r"charge \+2"),
    "element": ({"head": COPPER}, UnknownElementError, "not trained on element"),
    "atom not there": ({"atoms": [0, 99]}, ConfigurationError, "no atom 99"),
    "atom twice": ({"atoms": [0, 0]}, ConfigurationError, "twice"),
    "no atoms": ({"atoms": []}, InvalidStructureError, "no atoms"),
    "force group": ({"force_group": 40}, ConfigurationError, "0 to 31"),
    "precision": ({"dtype": "float16"}, ConfigurationError, "float16"),
}


@pytest.mark.parametrize(("change", "error", "words"), REFUSALS.values(), ids=REFUSALS)
def test_mistakes_are_named_before_anything_is_added(change, error, words):
    atoms, _ = ethanol()
    system = system_of(atoms)
    with pytest.raises(error, match=words):
        add_to_system(system, topology_of(atoms), **{"model": SHIPPED, "head": ORGANIC, **change})
    assert system.getNumForces() == 0


def test_topology_of_another_system_is_refused():
    atoms, _ = ethanol()
    with pytest.raises(ConfigurationError, match="9 atoms, the system 8 particles"):
        add_to_system(system_of(atoms[:-1]), topology_of(atoms), model=SHIPPED, head=ORGANIC)


def test_atom_without_element_is_named():
    atoms, _ = ethanol()
    topology = topology_of(atoms)
    list(topology.atoms())[2].element = None
    with pytest.raises(InvalidStructureError, match=r"atom 2 .* has no element"):
        add_to_system(system_of(atoms), topology, model=SHIPPED, head=ORGANIC)


def test_doubts_about_a_head_are_said_when_the_force_is_made():
    """A warning that is turned into an exception must not stop a simulation."""
    with pytest.warns(UserWarning, match="trained on structures with 0 periodic directions"):
        force = HydrapotForce(SHIPPED, [8, 1, 1], head=ORGANIC, periodic=True)
    force.callback.evaluator(0.1 * molecule("H2O").positions, np.eye(3))  # and not once more


@pytest.mark.filterwarnings("ignore:head 'molecules' saw O in only 5 training structures")
def test_charge_and_spin_reach_the_model(tmp_path):
    from hydrapot.potential import save
    from tests.engine_helpers import MOLECULES as MOLECULES_HEAD
    from tests.engine_helpers import small_potential

    path = tmp_path / "small.safetensors"
    potential = small_potential()
    with torch.no_grad():
        for parameter in potential.conditioning.parameters():
            parameter.copy_(torch.linspace(-1.0, 1.0, parameter.numel()).reshape(parameter.shape))
    save(potential, path)
    atoms, _ = ethanol()
    energies = {}
    for charge, spin in ((0, None), (1, 2)):
        system = system_of(atoms)
        add_to_system(
            system, topology_of(atoms), model=path, head=MOLECULES_HEAD, charge=charge, spin=spin, dtype="float64"
        )
        energies[charge] = answers(context_of(system, atoms.positions))[0]
        charged = atoms.copy()
        charged.info.update({"charge": charge} | ({} if spin is None else {"spin": spin}))
        charged.calc = HydrapotCalculator(path, head=MOLECULES_HEAD, dtype="float64")
        charged.get_potential_energy()
        wanted = charged.calc.results["interaction_energy"] * KJ_PER_MOL
        assert energies[charge] == pytest.approx(wanted, rel=1e-9)
    assert energies[0] != energies[1]


def test_one_evaluation_for_each_step_and_report():
    atoms, _ = ethanol()
    system = system_of(atoms)
    made = add_to_system(system, topology_of(atoms), head=ETHANOL, **EXACT)
    integrator = openmm.LangevinMiddleIntegrator(300, 10, 0.0005)
    context = context_of(system, atoms.positions, integrator=integrator)
    for _ in range(10):
        integrator.step(5)
        answers(context)
    assert made.callback.evaluator.evaluations <= 51


def test_record_is_complete_and_readable():
    record = HydrapotForce(SHIPPED, [8, 1, 1], head=ORGANIC, scale="s", threads=1).record
    assert type(record).parse(record.text()) == record
    assert json.loads(record.text())["content_hash"] == record.content_hash
