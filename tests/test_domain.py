"""Domain files: defaults, structures of every source, and errors that name the field."""

import numpy as np
import pytest
import yaml
from ase.build import bulk, molecule
from ase.io import write

from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation.domain import Domain, load_domain, supercell


def written(folder, text):
    path = folder / "domain.yaml"
    path.write_text(text)
    return path


def test_every_field_has_a_default(tmp_path):
    assert load_domain(written(tmp_path, "")) == Domain(folder=tmp_path)


def test_structures_come_from_files_beside_the_domain_lattices_and_molecules(tmp_path):
    write(tmp_path / "frames.xyz", [molecule("H2O"), molecule("CO2")])
    path = written(
        tmp_path,
        """
structures:
  - {name: gas, file: frames.xyz, index: 1}
  - {name: solid, crystal: rocksalt, formula: MgO, a: 4.21}
  - {name: ion, molecule: OH, charge: -1, spin: 1}
""",
    )
    structures = load_domain(path).build()
    assert list(structures) == ["gas", "solid", "ion"]
    assert structures["gas"].get_chemical_formula() == "CO2"
    assert structures["solid"].get_volume() == pytest.approx(4.21**3 / 4)
    assert structures["ion"].info == {"charge": -1, "spin": 1}
    assert all(atoms.calc is None for atoms in structures.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temperature: [300, 100]", "temperature"),
        ("temperature: [-1, 100]", "not negative"),
        ("elements: [Xx]", "Xx"),
        ("tempreature: [0, 1]", "tempreature"),
        ("timestep: 0", "timestep"),
        ("structures: [{name: a, crystal: fcc}]", "formula"),
        ("structures: [{name: a}]", "exactly one"),
        ("structures: [{name: a, molecule: H2O}, {name: a, molecule: CO2}]", "same name"),
        ("- 1", "no fields"),
        ("a: [", "not YAML"),
    ],
)
def test_errors_are_one_line_that_names_file_and_field(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ConfigurationError, match=message) as raised:
        load_domain(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "source",
    [{"file": "absent.xyz"}, {"crystal": "fcc", "formula": "Qq"}, {"molecule": "unobtainium"}],
)
def test_structures_that_cannot_be_made_are_named(tmp_path, source):
    path = written(tmp_path, yaml.safe_dump({"structures": [{"name": "mine", **source}]}))
    with pytest.raises(ConfigurationError, match="mine"):
        load_domain(path).build()


def test_a_limit_of_the_domain_replaces_the_default():
    domain = Domain(limits={"nve/slope": 2.0})
    assert domain.limit("nve", "slope", 1.0) == 2.0
    assert domain.limit("md", "slope", 1.0) == 1.0


def test_time_step_follows_hydrogen_unless_it_is_given():
    assert Domain().step(molecule("H2O")) == 0.5
    assert Domain().step(molecule("CO2")) == 1.0
    assert Domain(timestep=2.0).step(molecule("H2O")) == 2.0


@pytest.mark.parametrize("most", [1, 2, 8, 32, 33, 64])
def test_supercells_keep_to_their_number_of_atoms_and_are_as_cubic_as_can_be(most):
    atoms = bulk("Cu", cubic=True)
    repeated = supercell(atoms, max_atoms=most)
    assert len(repeated) <= max(most, len(atoms))
    lengths = repeated.cell.lengths()
    assert lengths.max() / lengths.min() < 2.0 + 1e-9
    assert len(repeated) / repeated.get_volume() == pytest.approx(len(atoms) / atoms.get_volume())


def test_molecules_and_vacuum_are_not_repeated():
    assert len(supercell(molecule("H2O"), max_atoms=64)) == 3
    slab = bulk("Cu", cubic=True)
    slab.pbc = (True, True, False)
    repeated = supercell(slab, max_atoms=64)
    assert np.allclose(repeated.cell[2], slab.cell[2])
    assert len(repeated) > len(slab)
