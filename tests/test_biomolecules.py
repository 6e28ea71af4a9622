"""PDB and mmCIF in and out: elements, boxes and names survive a run."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write
from typer.testing import CliRunner

openmm = pytest.importorskip("openmm")

from openmm import app  # noqa: E402

from hydrapot.calculators import HydrapotCalculator  # noqa: E402
from hydrapot.cli.main import build_app  # noqa: E402
from hydrapot.potential.errors import ConfigurationError, InvalidStructureError  # noqa: E402
from hydrapot.workflows import MDSettings, biomolecules, md  # noqa: E402
from hydrapot.workflows.biomolecules import BiomoleculeWriter, read_biomolecule  # noqa: E402
from hydrapot.workflows.structures import read_structure  # noqa: E402
from tests.openmm_helpers import ORGANIC, SHIPPED  # noqa: E402

DIPEPTIDE = """\
CRYST1   25.000   26.000   27.000  90.00 100.00  90.00 P 1           1
ATOM      1  N   GLY A   7       2.100   0.400   0.300  1.00  0.00           N
ATOM      2  CA  GLY A   7       1.200   1.500   0.100  1.00  0.00           C
ATOM      3  HA2 GLY A   7       1.500   2.100  -0.700  1.00  0.00           H
ATOM      4  HA3 GLY A   7       1.300   2.100   1.000  1.00  0.00           H
ATOM      5  C   GLY A   7      -0.200   1.000  -0.100  1.00  0.00           C
ATOM      6  O   GLY A   7      -0.400  -0.200  -0.300  1.00  0.00           O
TER
HETATM    7  O   HOH B 101       8.000   8.000   8.000  1.00  0.00           O
HETATM    8  H1  HOH B 101       8.957   8.000   8.000  1.00  0.00           H
HETATM    9  H2  HOH B 101       7.760   8.927   8.000  1.00  0.00           H
END
"""
ARRAYS = ("atomtypes", "residuenames", "residuenumbers", "chainids")


@pytest.fixture
def pdb(tmp_path):
    path = tmp_path / "peptide.pdb"
    path.write_text(DIPEPTIDE)
    return path


@pytest.fixture
def mmcif(tmp_path, pdb):
    path = tmp_path / "peptide.cif"
    file = app.PDBFile(str(pdb))
    with path.open("w") as handle:
        app.PDBxFile.writeFile(file.topology, file.positions, handle, keepIds=True)
    return path


@pytest.mark.parametrize("kind", ["pdb", "mmcif"])
def test_elements_names_and_box_are_read(kind, request):
    atoms = read_structure(request.getfixturevalue(kind))
    assert atoms.get_chemical_formula() == Atoms("NC2H2OOH2").get_chemical_formula()
    assert atoms.pbc.all()
    assert atoms.cell.cellpar() == pytest.approx([25, 26, 27, 90, 100, 90], abs=1e-3)
    assert list(atoms.arrays["atomtypes"][:3]) == ["N", "CA", "HA2"]
    assert list(atoms.arrays["residuenames"][5:7]) == ["GLY", "HOH"]
    assert list(atoms.arrays["residuenumbers"][5:7]) == ["7", "101"]
    assert list(atoms.arrays["chainids"][5:7]) == ["A", "B"]
    assert atoms.positions[1] == pytest.approx([1.2, 1.5, 0.1])


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_what_is_written_has_what_was_read(pdb, tmp_path, suffix):
    atoms = read_structure(pdb)
    path = tmp_path / f"out{suffix}"
    frames = []
    for k in range(3):
        moved = atoms.copy()
        moved.positions += 0.25 * k
        frames.append(moved)
    writer = BiomoleculeWriter(path)
    for frame in frames[:2]:
        writer.append(frame)
    BiomoleculeWriter(path).append(frames[2])  # of a run that goes on
    for k, frame in enumerate(frames):
        found = read_structure(f"{path}@{k}")
        for name in ("numbers", *ARRAYS):
            assert (found.arrays[name] == atoms.arrays[name]).all(), name
        assert found.positions == pytest.approx(frame.positions, abs=1e-3)
        assert found.cell.array == pytest.approx(atoms.cell.array, abs=1e-2)
    assert read_structure(path).positions == pytest.approx(frames[2].positions, abs=1e-3)  # the last one


def test_cell_in_any_orientation_is_turned_for_the_file(tmp_path):
    """A file has lengths and angles only; positions have to turn with them."""
    atoms = molecule("H2O")
    atoms.cell, atoms.pbc = [[0, 9, 0], [0, 1, 10], [11, 0, 2]], True
    path = tmp_path / "out.pdb"
    BiomoleculeWriter(path).append(atoms)
    found = read_structure(path)
    assert found.get_all_distances(mic=True) == pytest.approx(atoms.get_all_distances(mic=True), abs=2e-3)
    # Every image, too: the same neighbors within 12 Å.
    from ase.neighborlist import neighbor_list

    both = [np.sort(neighbor_list("d", one, 12.0)) for one in (atoms, found)]
    assert both[0] == pytest.approx(both[1], abs=5e-3)
    atoms.cell = atoms.cell.array[[1, 0, 2]]
    with pytest.raises(InvalidStructureError, match="left-handed"):
        BiomoleculeWriter(tmp_path / "other.pdb").append(atoms)


def test_structure_without_names_gets_some(tmp_path):
    path = tmp_path / "out.pdb"
    BiomoleculeWriter(path).append(molecule("CH3CH2OH"))
    found = read_structure(path)
    assert list(found.arrays["atomtypes"][:4]) == ["C1", "C2", "O1", "H1"]
    assert set(found.arrays["residuenames"]) == {"MOL"}
    assert not found.pbc.any()


def test_crystal_cif_is_still_one_of_ase(tmp_path):
    path = tmp_path / "cu.cif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(path, bulk("Cu", cubic=True))
    assert len(read_structure(path)) == 4


def test_models_that_are_not_there_and_files_that_are_none_are_named(pdb, tmp_path):
    with pytest.raises(InvalidStructureError, match="no model 5 among 1"):
        read_structure(f"{pdb}@5")
    broken = tmp_path / "broken.cif"
    broken.write_text("data_x\nloop_\n_atom_site.id\n")
    with pytest.raises(InvalidStructureError, match=r"broken\.cif"):
        read_structure(broken)


def test_site_that_is_no_atom_is_named(tmp_path, pdb):
    path = tmp_path / "site.pdb"
    *atoms, last, end = pdb.read_text().splitlines()
    path.write_text("\n".join([*atoms, last[:76].replace(" H2 ", " EP "), end, ""]))
    with pytest.raises(InvalidStructureError, match=r"atom .* of residue HOH 101 has no element"):
        read_structure(path)


def test_without_openmm_pdb_is_read_by_ase_and_mmcif_says_what_is_missing(pdb, mmcif, monkeypatch, tmp_path):
    monkeypatch.setattr(biomolecules, "has_openmm", lambda: False)
    assert len(read_structure(pdb)) == 9
    with pytest.raises(InvalidStructureError, match=r"hydrapot\[openmm\]"):
        read_structure(mmcif)
    with pytest.raises(ConfigurationError, match=r"hydrapot\[openmm\]"):
        BiomoleculeWriter(tmp_path / "out.pdb")


@pytest.mark.filterwarnings("ignore:head 'qm22_b3lyp_molecules' was trained on structures with 0 periodic")
@pytest.mark.parametrize(("engine", "frames"), [("openmm", "pdb"), ("ase", "cif")])
def test_command_line_keeps_the_names(pdb, tmp_path, monkeypatch, engine, frames):
    monkeypatch.chdir(tmp_path)
    command = ["md", SHIPPED, "peptide.pdb", "-H", ORGANIC, "--engine", engine, "--frames", frames, "--interval", "2"]
    command += ["--timestep", "0.1", "-T", "10", "-e", "nve"]
    for steps in ("4", "8"):
        done = CliRunner().invoke(build_app(), [*command, "-n", steps, "--resume"])
        assert done.exit_code == 0, done.output
    path = Path(f"peptide-md.{frames}")
    for k in range(5):
        frame = read_biomolecule(path, index=k)
        assert list(frame.arrays["atomtypes"][:3]) == ["N", "CA", "HA2"]
        assert list(frame.arrays["residuenames"][5:7]) == ["GLY", "HOH"]
    with pytest.raises(InvalidStructureError, match="no model 5 among 5"):
        read_biomolecule(path, index=5)


def test_names_go_into_extxyz_too(pdb, tmp_path):
    atoms = read_structure(pdb)
    atoms.pbc = False
    atoms.calc = HydrapotCalculator(SHIPPED, head=ORGANIC)
    md(atoms, MDSettings(ensemble="nve", steps=2, interval=1, temperature=1), output=tmp_path / "run", frames="extxyz")
    found = read_structure(tmp_path / "run.extxyz")
    assert list(found.arrays["residuenames"]) == list(atoms.arrays["residuenames"])
