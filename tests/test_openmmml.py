"""openmm-ml knows the shipped models, and puts them into parts of systems of a force field."""

import subprocess
import sys
import warnings
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

openmm = pytest.importorskip("openmm")
openmmml = pytest.importorskip("openmmml")

from ase.build import molecule  # noqa: E402
from openmm import app, unit  # noqa: E402
from openmmml import MLPotential  # noqa: E402

from hydrapot.calculators import HydrapotCalculator  # noqa: E402
from hydrapot.calculators.openmm import MOLECULES, NAME, stored_forces  # noqa: E402
from hydrapot.calculators.openmm_mixed import create_mixed_system  # noqa: E402
from hydrapot.potential import save, shipped_models  # noqa: E402
from hydrapot.potential.constants import KJ_PER_MOL  # noqa: E402
from hydrapot.potential.errors import ConfigurationError, UnknownElementError, UnknownHeadError  # noqa: E402
from tests.engine_helpers import MOLECULES as MOLECULES_HEAD  # noqa: E402
from tests.engine_helpers import small_potential  # noqa: E402
from tests.openmm_helpers import ETHANOL, ORGANIC, SHIPPED, answers, context_of, ethanol, topology_of  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
EXACT = {"model": SHIPPED, "head": ORGANIC, "dtype": "float64"}


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


# The entry point ---------------------------------------------------------------------------------------------------------


def test_every_shipped_model_is_registered():
    names = {entry.name for entry in entry_points(group="openmmml.potentials") if entry.value.startswith("hydrapot.")}
    assert names == {"hydrapot", *shipped_models()}


def test_openmm_ml_starts_without_torch_and_without_our_dependencies():
    """openmm-ml loads every entry point when it is imported: one that fails or takes seconds would harm all others."""
    done = run(
        "import sys, importlib.abc\n"
        "class Refuse(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'ase', 'scipy', 'vesin', 'safetensors', 'pydantic'}:\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from openmmml import MLPotential\n"
        "assert 'hydrapot-s' in MLPotential._implFactories\n"
        "print(sorted(name for name in sys.modules if name.startswith('hydrapot')))\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['hydrapot', 'hydrapot.calculators', 'hydrapot.calculators.openmmml']"


def test_system_of_a_shipped_model():
    atoms, bonds = ethanol()
    system = MLPotential(SHIPPED).createSystem(topology_of(atoms, bonds=bonds), head=ETHANOL, dtype="float64")
    energy, forces = answers(context_of(system, atoms.positions))
    atoms.calc = HydrapotCalculator(SHIPPED, head=ETHANOL, dtype="float64")
    wanted = atoms.get_forces() * KJ_PER_MOL * 10
    assert np.abs(forces - wanted).max() <= 1e-9 * np.abs(wanted).max()
    assert energy == pytest.approx(atoms.calc.results["interaction_energy"] * KJ_PER_MOL, rel=1e-9)
    assert {force.getName() for force in system.getForces()} == {NAME, MOLECULES, "CMMotionRemover"}


def test_head_is_never_guessed():
    atoms, _ = ethanol()
    with pytest.raises(UnknownHeadError, match=rf"21 heads.*{ETHANOL}"):
        MLPotential(SHIPPED).createSystem(topology_of(atoms))


def test_arguments_may_come_first_or_later_and_the_later_counts():
    atoms, _ = ethanol()
    topology = topology_of(atoms)
    energies = []
    for first, later in (({"head": ETHANOL}, {}), ({"head": ORGANIC}, {"head": ETHANOL})):
        system = MLPotential(SHIPPED, **first).createSystem(topology, **later)
        energies.append(answers(context_of(system, atoms.positions))[0])
    assert energies[0] == energies[1]


@pytest.mark.filterwarnings("ignore:head 'molecules' saw O in only 5 training structures")
def test_checkpoint_by_its_path(tmp_path):
    path = tmp_path / "mine.safetensors"
    save(small_potential(), path)
    atoms, _ = ethanol()
    system = MLPotential("hydrapot", model=path).createSystem(topology_of(atoms), head=MOLECULES_HEAD)
    assert np.isfinite(answers(context_of(system, atoms.positions))[0])


def test_mistakes_are_named():
    atoms, _ = ethanol()
    with pytest.raises(ConfigurationError, match="argument 'multiplicity' is not known"):
        MLPotential(SHIPPED).createSystem(topology_of(atoms), head=ETHANOL, multiplicity=1)
    with pytest.raises(ConfigurationError, match="name a model"):
        MLPotential("hydrapot")
    with pytest.raises(ConfigurationError, match="'hydrapot-s' is a model"):
        MLPotential(SHIPPED, model="other.safetensors")
    with pytest.raises(UnknownElementError):
        MLPotential(SHIPPED).createSystem(topology_of(Atoms("Xe")), head=ETHANOL)


# Mixed systems -----------------------------------------------------------------------------------------------------------


def waters(*, box=None):
    """Three molecules, their topology, and the system of TIP3P with flexible bonds."""
    topology, atoms = app.Topology(), Atoms()
    chain = topology.addChain()
    for k in range(3):
        water = molecule("H2O")
        water.rotate(50 * k, (1, 2, 0.5 * k))
        water.positions += (2.9 * k, 0.4 * k * k, 0)
        atoms += water
        residue = topology.addResidue("HOH", chain)
        oxygen, *hydrogens = (
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in ("O", "H1", "H2")
        )
        for hydrogen in hydrogens:
            topology.addBond(oxygen, hydrogen)
    method = app.NoCutoff
    if box is not None:
        topology.setUnitCellDimensions(openmm.Vec3(box, box, box) * unit.angstrom)
        method = app.CutoffPeriodic
    atoms.rattle(0.02, seed=5)
    force_field = app.ForceField("amber14/tip3p.xml")
    system = force_field.createSystem(
        topology, nonbondedMethod=method, nonbondedCutoff=0.5 * unit.nanometer, rigidWater=False, constraints=None
    )
    return atoms, topology, system


def internal(atoms):
    """Energy of one molecule by the force field, kJ/mol, and by the potential."""
    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    added = [topology.addAtom(n, app.Element.getBySymbol(n[0]), residue) for n in ("O", "H1", "H2")]
    topology.addBond(added[0], added[1])
    topology.addBond(added[0], added[2])
    system = app.ForceField("amber14/tip3p.xml").createSystem(topology, rigidWater=False, constraints=None)
    return answers(context_of(system, atoms.positions))[0], potential(atoms)


def potential(atoms):
    atoms = atoms.copy()
    atoms.calc = HydrapotCalculator(SHIPPED, head=ORGANIC, dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms.get_potential_energy()
    return atoms.calc.results["interaction_energy"] * KJ_PER_MOL


def test_interactions_within_the_part_are_the_potentials_and_all_others_the_force_fields():
    atoms, topology, system = waters()
    part = [3, 4, 5]
    mixed, extended = create_mixed_system(topology, system, part, force_group=2, **EXACT)
    assert extended.getNumAtoms() == 9
    context = context_of(mixed, atoms.positions)
    before, _ = answers(context_of(system, atoms.positions))
    removed, added = internal(atoms[part])
    total, forces = answers(context)
    assert total == pytest.approx(before - removed + added, rel=1e-9)
    assert answers(context, groups={2})[0] == pytest.approx(added, rel=1e-9)
    # The whole is the gradient of its energy; with 1e-3 Å the third derivative shows.
    step = 2e-4
    for atom, axis in ((3, 0), (4, 1), (0, 2)):
        sides = []
        for sign in (1, -1):
            moved = atoms.positions.copy()
            moved[atom, axis] += sign * step
            context.setPositions(moved * 0.1)
            sides.append(answers(context)[0])
        assert forces[atom, axis] == pytest.approx(
            -(sides[0] - sides[1]) / (0.2 * step), abs=1e-5 * np.abs(forces).max()
        )


def test_order_of_the_part_does_not_matter():
    atoms, topology, system = waters()
    both = []
    for part in ([3, 4, 5], [5, 3, 4]):
        mixed, _ = create_mixed_system(topology, system, part, **EXACT)
        both.append(answers(context_of(mixed, atoms.positions)))
    assert both[0][0] == pytest.approx(both[1][0], rel=1e-12)
    assert both[0][1] == pytest.approx(both[1][1], abs=1e-8)


@pytest.mark.filterwarnings("ignore:head 'qm22_b3lyp_molecules' was trained on structures with 0 periodic")
def test_periodic_mixed_system_is_the_same_for_a_part_that_the_boundary_cuts():
    atoms, topology, system = waters(box=14.0)
    mixed, _ = create_mixed_system(topology, system, [3, 4, 5], **EXACT)
    assert mixed.usesPeriodicBoundaryConditions()
    context = context_of(mixed, atoms.positions)
    whole = answers(context)
    cut = atoms.positions.copy()
    cut[4] += (14.0, -28.0, 0.0)
    context.setPositions(cut * 0.1)
    # The potential takes the nearest image; so do nonbonded interactions. Bonds of the force field are not within the part.
    found = answers(context)
    assert found[0] == pytest.approx(whole[0], rel=1e-9)


def test_cut_bond_is_capped():
    """The potential sees a hydrogen along the bond; its force goes to the two atoms of the bond."""
    atoms, topology, system = waters()
    part = [3, 4]  # O and H1 of the second molecule; the bond from O to H2 is cut
    distance = 1.01 * unit.angstrom
    mixed, extended = create_mixed_system(
        topology, system, part, force_group=2, link_atom_distances=[(3, 5, distance)], **EXACT
    )
    assert mixed.getNumParticles() == extended.getNumAtoms() == 10
    assert mixed.isVirtualSite(9)
    context = openmm.Context(mixed, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))

    def evaluate(positions, **groups):
        context.setPositions(np.vstack([positions, np.zeros(3)]) * 0.1)
        context.computeVirtualSites()
        return answers(context, **groups)

    found, forces = evaluate(atoms.positions, groups={2})
    along = atoms.positions[5] - atoms.positions[3]
    cap = atoms.positions[3] + 1.01 * along / np.linalg.norm(along)
    capped = atoms[part] + Atoms("H", positions=[cap])
    assert found == pytest.approx(potential(capped), rel=1e-9)
    assert np.abs(forces[5]).max() > 1.0  # part of the force on the cap
    step = 1e-3
    for atom, axis in ((3, 0), (5, 0), (5, 1)):
        sides = []
        for sign in (1, -1):
            moved = atoms.positions.copy()
            moved[atom, axis] += sign * step
            sides.append(evaluate(moved, groups={2})[0])
        assert forces[atom, axis] == pytest.approx(
            -(sides[0] - sides[1]) / (0.2 * step), abs=1e-5 * np.abs(forces).max()
        )


def test_interpolation_goes_from_the_force_field_to_the_mixed_system():
    atoms, topology, system = waters()
    part = [3, 4, 5]
    mixed, _ = create_mixed_system(topology, system, part, **EXACT)
    between, _ = create_mixed_system(topology, system, part, interpolate=True, **EXACT)
    ends = [answers(context_of(one, atoms.positions)) for one in (system, mixed)]
    context = context_of(between, atoms.positions)
    for value in (0.0, 0.3, 1.0):
        context.setParameter("lambda_interpolate", value)
        energy, forces = answers(context)
        assert energy == pytest.approx((1 - value) * ends[0][0] + value * ends[1][0], rel=1e-7)
        wanted = (1 - value) * ends[0][1] + value * ends[1][1]
        assert forces == pytest.approx(wanted, abs=1e-6 * np.abs(ends[1][1]).max())


@pytest.mark.filterwarnings("ignore:head 'qm22_b3lyp_molecules' was trained on structures with 0 periodic")
@pytest.mark.parametrize("interpolate", [False, True])
def test_part_stays_a_molecule_for_openmm(interpolate):
    """With the force field's bonds gone, a barostat would scale its atoms apart."""
    atoms, topology, system = waters(box=14.0)
    mixed, _ = create_mixed_system(topology, system, [3, 4, 5], interpolate=interpolate, **EXACT)
    molecules = context_of(mixed, atoms.positions).getMolecules()
    assert sorted(map(tuple, molecules)) == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]


def test_constraints_within_the_part_go():
    atoms, topology, _ = waters()
    rigid = app.ForceField("amber14/tip3p.xml").createSystem(topology)
    assert rigid.getNumConstraints() == 9
    mixed, _ = create_mixed_system(topology, rigid, [3, 4, 5], **EXACT)
    assert mixed.getNumConstraints() == 6
    kept, _ = create_mixed_system(topology, rigid, [3, 4, 5], remove_constraints=False, **EXACT)
    assert kept.getNumConstraints() == 9
    assert len(atoms) == 9


def test_mixed_system_is_stored_and_restored():
    atoms, topology, system = waters()
    mixed, _ = create_mixed_system(topology, system, [3, 4, 5], interpolate=True, **EXACT)
    restored = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(mixed))
    assert [record.head for record in stored_forces(restored)] == [ORGANIC]  # inside a collective variable
    energies = [answers(context_of(one, atoms.positions))[0] for one in (mixed, restored)]
    assert energies[0] == energies[1]


def test_what_openmm_ml_cannot_mix_is_named():
    _, topology, system = waters()
    custom = openmm.CustomNonbondedForce("0")
    for _ in range(9):
        custom.addParticle([])
    system.addForce(custom)
    with pytest.raises(ConfigurationError, match=r"openmm-ml cannot make this mixed system.*CustomNonbondedForce"):
        create_mixed_system(topology, system, [3, 4, 5], interpolate=True, **EXACT)
    with pytest.raises(ConfigurationError, match="name at least one"):
        create_mixed_system(topology, system, [], **EXACT)


def test_example_runs_as_it_is(tmp_path):
    example = ROOT / "examples" / "openmm_mixed.py"
    done = subprocess.run(
        [sys.executable, str(example), "--steps", "50"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "9 of them by hydrapot-s" in done.stdout
    structure = app.PDBxFile(str(tmp_path / "ethanol.cif"))
    names = [atom.name for atom in structure.topology.atoms() if atom.residue.name == "ETOH"]
    assert len(names) == 9
    assert "hydrapot force" in bytes.fromhex(
        (tmp_path / "ethanol.xml").read_text().partition('function="')[2].partition('"')[0]
    ).decode(errors="ignore")
