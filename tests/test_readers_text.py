"""Extended XYZ, VASP and CP2K: units, signs, companions of a file, streaming, and detection by content."""

import bz2
import gzip
import lzma

import numpy as np
import pytest

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.data.extxyz import read_extxyz
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers import FORMATS, format_of, open_records, reader_of
from hydrapot.training.data.readers.records import Record, Reject, chunks
from tests.reader_helpers import HARTREE, HARTREE_PER_BOHR, KBAR, only_chunk, read_all

LATTICE = 'Lattice="4 0 0 0.5 4 0 0 0.25 5" pbc="T T T"'


def xyz(comment, *, atoms=("Cu 0 0 0 0.1 0 0", "O 1.9 0 0 -0.1 0 0")):
    return f"{len(atoms)}\nProperties=species:S:1:pos:R:3:forces:R:3 {comment}\n" + "\n".join(atoms) + "\n"


FRAMES = (
    xyz(f'{LATTICE} energy=-1.5 stress="0.1 0.4 0.5 0.4 0.2 0.6 0.5 0.6 0.3" group=a')
    + xyz('energy=-2.5 charge=1 spin=2 pbc="F F F" group=b')
    + xyz("energy=-13 config_type=isolated_atom", atoms=("H 0 0 0 0 0 0",))
)


@pytest.mark.parametrize("suffix", ["extxyz", "extxyz.xz", "xyz.gz", "dat", "xyz.bz2"])
def test_extxyz_reads_as_the_reader_of_whole_files_does(tmp_path, suffix):
    compress = {"xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress}.get(suffix.rpartition(".")[2], bytes)
    path = tmp_path / f"set.{suffix}"
    path.write_bytes(compress(FRAMES.encode()))
    assert format_of(path) == "extxyz"
    found = only_chunk(path).frames
    (tmp_path / "set.extxyz").write_text(FRAMES)
    expected = read_extxyz(tmp_path / "set.extxyz", cache_dir=tmp_path / "cache")
    for column in ("numbers", "positions", "forces", "cells", "pbc", "energy", "stress", "charge", "spin"):
        np.testing.assert_array_equal(getattr(found, column), getattr(expected, column), err_msg=column)
    for column in ("isolated", "group", "hashes", "offsets"):
        assert getattr(found, column).tolist() == getattr(expected, column).tolist()


@pytest.mark.parametrize(
    ("comment", "reason"),
    [
        ("energy=nan", "energy not finite"),
        ("energy=-1 energy_unit=Hartree", "unknown units"),
        ("REF_energy=-1", "unknown label"),
        ('energy=-1 virial="1 0 0 0 1 0 0 0 1"', "unknown label"),
        ("energy=-1 charge=0.5", "charge or spin"),
        ("energy=-1 spin=0", "charge or spin"),
        ('Lattice="1 0 0 2 0 0 0 0 1" pbc="T T T"', "degenerate cell"),
        ('energy=-1 stress="1 0 0 0 1 0 0 0 1"', "stress without a volume"),
        ("energy=-1 config_type=isolated_atom", "isolated atom"),
    ],
)
def test_bad_frames_are_left_out_with_their_reason(tmp_path, comment, reason):
    path = tmp_path / "set.extxyz"
    path.write_text(xyz("energy=-1") + xyz(comment) + xyz("energy=-3"))
    chunk = only_chunk(path)
    assert chunk.frames.energy.tolist() == [-1.0, -3.0]
    (reject,) = chunk.rejects
    assert (reject.where, reject.reason, "\n" in reject.detail) == ("frame 1", reason, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xyz("energy=-1") + "oops\n", "frame 1: no number of atoms but 'oops'"),
        (xyz("energy=-1") + xyz("energy=-2").rsplit("\n", 2)[0] + "\n", "frame 1: the file ends in the middle"),
        (xyz("energy=-1") + "0\n\n", "frame 1: 0 atoms"),
    ],
)
def test_text_that_cannot_be_followed_is_an_error(tmp_path, text, message):
    (tmp_path / "set.extxyz").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_all(tmp_path / "set.extxyz")


def test_truncated_compression(tmp_path):
    path = tmp_path / "set.extxyz.xz"
    path.write_bytes(lzma.compress((FRAMES * 50).encode())[:-20])
    with pytest.raises(DatasetError, match="truncated or corrupt"):
        read_all(path, layout="extxyz")


def test_reading_is_lazy(tmp_path):
    """The first structure comes before the last is read: a file of any size is read in bounded memory."""
    (tmp_path / "set.extxyz").write_text(xyz("energy=-1") * 3 + "oops\n")
    records = open_records(tmp_path / "set.extxyz", layout="extxyz")
    assert next(records).energy == -1.0


def test_groups_under_a_key_of_choice(tmp_path):
    (tmp_path / "set.extxyz").write_text(xyz("energy=-1 run=7 group=a") + xyz("energy=-2 group=a"))
    chunk = only_chunk(tmp_path / "set.extxyz", group="run")
    assert chunk.frames.group.tolist() == ["7"]
    assert chunk.rejects[0].reason == "no group"


# --- chunks ---


def record(i, n=2, **changes):
    return Record(i, f"f{i}", [1] * n, np.arange(3.0 * n).reshape(n, 3), **{"energy": -1.0 * i, **changes})


def test_chunks_are_bounded_by_structures_and_by_atoms():
    found = list(chunks((record(i) for i in range(1, 8)), name="set", size=3))
    assert [(len(c.frames), c.position) for c in found] == [(3, 3), (3, 6), (1, 7)]
    found = list(chunks((record(i, n=50) for i in range(1, 6)), name="set", atoms=100))
    assert [len(c.frames) for c in found] == [2, 2, 1]


def test_rejects_alone_make_a_chunk_too():
    rejects = [Reject("f1", "outlier", "x", 1), Reject("f2", "outlier", "y", 2)]
    (chunk,) = chunks(rejects, name="set")
    assert (len(chunk.frames), chunk.rejects, chunk.position) == (0, rejects, 2)
    assert chunk.frames.counts.tolist() == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"numbers": [0, 1]}, "unknown element"),
        ({"numbers": [119, 1]}, "unknown element"),
        ({"numbers": []}, "no atoms"),
        ({"positions": [[0.0, 0.0, np.inf], [0.0] * 3]}, "positions not finite"),
        ({"forces": [[1e400, 0.0, 0.0], [0.0] * 3]}, "forces not finite"),
        ({"forces": "none"}, "malformed forces"),
        ({"charge": 2000}, "charge or spin"),
        ({"spin": -1}, "charge or spin"),
        ({"pbc": ["T", "T", "F"]}, "malformed pbc"),
        ({"pbc": [[True], [True, False]]}, "malformed pbc"),
        ({"cell": [[1.0], [2.0, 3.0]]}, "malformed cell"),
    ],
)
def test_what_no_reader_has_to_check(changes, reason):
    broken = {"position": 1, "where": "f1", "numbers": [1, 1], "positions": np.eye(2, 3), **changes}
    (chunk,) = chunks([Record(**broken)], name="set")
    assert [r.reason for r in chunk.rejects] == [reason]


# --- VASP ---

VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator><i name="program" type="string">vasp </i><i name="version" type="string">6.4.2  </i></generator>
 <kpoints><generation param="Gamma"><v type="int" name="divisions">1 1 1</v></generation>
  <varray name="kpointlist"><v>0.0 0.0 0.0</v></varray><varray name="weights"><v>1.0</v></varray></kpoints>
 <parameters><separator name="general"><i type="string" name="SYSTEM">LiO</i></separator></parameters>
 <atominfo><atoms>2</atoms><types>2</types>
  <array name="atoms"><dimension dim="1">ion</dimension><field type="string">element</field><field>atomtype</field>
   <set><rc><c>Li</c><c>1</c></rc><rc><c>O </c><c>2</c></rc></set></array></atominfo>
 {initial}
 {steps}
</modeling>
"""
STRUCTURE = """<structure{name}><crystal><varray name="basis"><v>4.0 0.0 0.0</v><v>0.5 4.0 0.0</v><v>0.0 0.25 5.0</v></varray>
 </crystal><varray name="positions"><v>0.0 0.0 0.0</v><v>0.5 0.5 0.5</v></varray></structure>"""
STEP = """<calculation><scstep><energy><i name="e_fr_energy">{free}</i><i name="e_wo_entrp">0.0</i>
 <i name="e_0_energy">{zero}</i></energy></scstep>
 {structure}
 <varray name="forces"><v>0.1 0.2 -0.3</v><v>-0.1 -0.2 0.3</v></varray>
 <varray name="stress"><v>10.0 1.0 2.0</v><v>1.0 20.0 3.0</v><v>2.0 3.0 30.0</v></varray>
 <energy><i name="e_fr_energy">{free}</i><i name="e_wo_entrp">0.0</i><i name="e_0_energy">0.0</i></energy></calculation>"""


def vasprun(energies):
    plain = STRUCTURE.format(name="")
    steps = [STEP.format(free=free, zero=free + 0.25, structure=plain) for free in energies]
    return VASPRUN.format(initial=STRUCTURE.format(name=' name="initialpos"'), steps="\n".join(steps))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_vasprun(tmp_path, compress):
    path = tmp_path / ("vasprun.xml" if compress is bytes else "vasprun.xml.gz")
    path.write_bytes(compress(vasprun([-10.0, -10.5]).encode()))
    assert format_of(path) == "vasp-xml"
    frames = only_chunk(path).frames
    assert frames.energy.tolist() == [-10.0, -10.5]
    assert only_chunk(path, energy="energy").frames.energy.tolist() == [-9.75, -10.25]
    expected = -KBAR * np.array([[10.0, 1.0, 2.0], [1.0, 20.0, 3.0], [2.0, 3.0, 30.0]])
    np.testing.assert_allclose(frames.stress[1], expected, rtol=1e-8)  # ASE has CODATA 2014
    np.testing.assert_allclose(frames.structure(0).positions[1], [2.25, 2.125, 2.5])
    assert frames.structure(0).forces[0].tolist() == [0.1, 0.2, -0.3]
    assert set(frames.group) == {f"{tmp_path.name}/{path.name}"}
    assert read_all(path, start=1)[0].frames.energy.tolist() == [-10.5]


OUTCAR = """ vasp.6.4.2 20Jul23 (build) complex

 executed on             LinuxIFC date 2026.01.01  10:00:00
 running on    1 total cores
 INCAR:
 POTCAR:    PAW_PBE Li 17Jan2003
 POTCAR:    PAW_PBE O 08Apr2002
 POTCAR:    PAW_PBE Li 17Jan2003
 POTCAR:    PAW_PBE O 08Apr2002
   ISPIN  =      1    spin polarized calculation?
   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=     4
 k-points in reciprocal lattice and weights: Gamma
   0.00000000  0.00000000  0.00000000       1.000
   ions per type =               1   1
--------------------------------------- Iteration      1(   1)  ---------------------------------------
"""
OUTCAR_STEP = """  FORCE on cell =-STRESS in cart. coord.  units (eV):
  Direction    XX          YY          ZZ          XY          YZ          ZX
  in kB      10.00000    20.00000    30.00000     1.00000     3.00000     2.00000
  external pressure =       20.00 kB  Pullay stress =        0.00 kB
      direct lattice vectors                 reciprocal lattice vectors
     4.000000000  0.000000000  0.000000000     0.250000000  0.000000000  0.000000000
     0.500000000  4.000000000  0.000000000     0.000000000  0.250000000  0.000000000
     0.000000000  0.250000000  5.000000000     0.000000000  0.000000000  0.200000000

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.100000      0.200000     -0.300000
      2.25000      2.12500      2.50000        -0.100000     -0.200000      0.300000
 -----------------------------------------------------------------------------------
    total drift:                                0.000000      0.000000      0.000000

  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =       {free:.8f} eV

  energy  without entropy=      {free:.8f}  energy(sigma->0) =      {zero:.8f}

--------------------------------------- Iteration      2(   1)  ---------------------------------------
"""


def test_outcar(tmp_path):
    path = tmp_path / "OUTCAR"
    path.write_text(OUTCAR + "".join(OUTCAR_STEP.format(free=e, zero=e + 0.25) for e in (-10.0, -10.5)))
    assert format_of(path) == "vasp-outcar"
    frames = only_chunk(path).frames
    assert frames.energy.tolist() == [-10.0, -10.5]
    assert only_chunk(path, energy="energy").frames.energy.tolist() == [-9.75, -10.25]
    expected = -KBAR * np.array([[10.0, 1.0, 2.0], [1.0, 20.0, 3.0], [2.0, 3.0, 30.0]])
    np.testing.assert_allclose(frames.stress[0], expected, rtol=1e-8)
    assert frames.structure(1).forces[1].tolist() == [-0.1, -0.2, 0.3]


# --- CP2K ---


def cp2k_frames(values, *, steps, energies=None):
    text = ""
    for k, step in enumerate(steps):
        energy = -17.0 - k if energies is None else energies[k]
        text += f"2\n i = {step:8d}, time = {0.5 * step:12.3f}, E = {energy:20.10f}\n"
        text += "".join(
            f"  {kind}  {v:20.10f} {v:20.10f} {0.0:20.10f}\n" for kind, v in zip(("Fe1", "O"), values, strict=True)
        )
    return text


@pytest.fixture
def cp2k_run(tmp_path):
    (tmp_path / "md-pos-1.xyz").write_text(cp2k_frames((0.0, 1.5), steps=(0, 10, 20)))
    (tmp_path / "md-frc-1.xyz").write_text(cp2k_frames((0.01, -0.01), steps=(0, 20)))
    (tmp_path / "md-1.cell").write_text(
        "#   Step   Time [fs]       Ax [Angstrom]  Ay [Angstrom] ...  Volume [Angstrom^3]\n"
        + "".join(f"{s} {s / 2} 8.0 0 0  0 {9.0 + s / 10} 0  0 0 10.0  720.0\n" for s in (0, 10, 20))
    )
    (tmp_path / "md-1.stress").write_text(
        "#   Step   Time [fs]            xx [bar]            xy [bar]\n"
        + "".join(f"{s} {s / 2} 1000 1 2  1 2000 3  2 3 3000\n" for s in (0, 10))
    )
    return tmp_path / "md-pos-1.xyz"


def test_cp2k(cp2k_run):
    assert format_of(cp2k_run) == "cp2k"
    frames = only_chunk(cp2k_run).frames
    np.testing.assert_allclose(frames.energy, np.array([-17.0, -18.0, -19.0]) * HARTREE, rtol=1e-14)
    assert frames.has_forces.tolist() == [True, False, True], "step 10 has no forces in the file"
    assert frames.structure(2).forces[1, 0] == pytest.approx(-0.5142206747632590, rel=1e-12)
    np.testing.assert_allclose(frames.structure(2).forces[1, 0], -0.01 * HARTREE_PER_BOHR, rtol=1e-12)
    assert frames.cells[:, 1, 1].tolist() == [9.0, 10.0, 11.0]
    # 1000 bar = 1 kbar of compression
    np.testing.assert_allclose(frames.stress[0], -KBAR * np.array([[1, 1e-3, 2e-3], [1e-3, 2, 3e-3], [2e-3, 3e-3, 3]]))
    assert frames.has_stress.tolist() == [True, True, False]
    assert frames.numbers[:2].tolist() == [26, 8], "Fe1 is a kind of Fe"
    assert frames.pbc.all()
    assert read_all(cp2k_run, start=2)[0].frames.has_forces.tolist() == [True]


def test_a_restarted_cp2k_run_repeats_steps(tmp_path):
    """Positions, forces and cells of one step belong together; those that come a second time are left out and reported."""
    steps, again = (0, 10, 20, 30), (20, 30, 40)
    for name, value in (("md-pos-1.xyz", 1.5), ("md-frc-1.xyz", 0.01)):
        text = "".join(cp2k_frames((0.0, value * (1 + s)), steps=(s,)) for s in steps)
        text += "".join(cp2k_frames((0.0, value * (2 + s)), steps=(s,)) for s in again)
        (tmp_path / name).write_text(text)
    cells = [(s, 9.0) for s in steps] + [(s, 11.0) for s in again]
    lines = [f"{s} {s / 2} 8.0 0 0  0 {b} 0  0 0 10.0  720.0\n" for s, b in cells]
    (tmp_path / "md-1.cell").write_text("#   Step   Time [fs]       Ax [Angstrom]\n" + "".join(lines))
    for start in (0, 3, 5):
        chunk = (
            only_chunk(tmp_path / "md-pos-1.xyz") if not start else read_all(tmp_path / "md-pos-1.xyz", start=start)[0]
        )
        first = {0: 0, 3: 3, 5: 4}[start]
        expected = np.array([0, 10, 20, 30, 41])[first:]
        np.testing.assert_allclose(chunk.frames.positions[1::2, 0], 1.5 * (1 + expected))
        np.testing.assert_allclose(chunk.frames.forces[1::2, 0], 0.01 * HARTREE_PER_BOHR * (1 + expected), rtol=1e-6)
        assert chunk.frames.cells[:, 1, 1].tolist() == [9.0, 9.0, 9.0, 9.0, 11.0][first:]
        assert [reject.where for reject in chunk.rejects] == ["step 20", "step 30"][start == 5 :]


def test_cp2k_does_not_guess_the_cell(cp2k_run):
    (cp2k_run.parent / "md-1.cell").unlink()
    (cp2k_run.parent / "md-1.stress").unlink()
    with pytest.raises(DatasetError, match="--cell none"):
        read_all(cp2k_run)
    assert not only_chunk(cp2k_run, cell=()).frames.pbc.any()
    assert only_chunk(cp2k_run, cell=(8.0, 0, 0, 0, 9.0, 0, 0, 0, 10.0)).frames.cells[0, 2, 2] == 10.0


def test_cp2k_in_other_units_is_an_error(cp2k_run):
    stress = cp2k_run.parent / "md-1.stress"
    stress.write_text(stress.read_text().replace("[bar]", "[GPa]"))
    with pytest.raises(DatasetError, match=r"expected \[bar\]"):
        read_all(cp2k_run)


def test_cp2k_steps_that_did_not_fit_their_columns(cp2k_run):
    text = cp2k_run.read_text()
    cp2k_run.write_text(text.replace("-18.0000000000", "**************"))
    chunk = only_chunk(cp2k_run)
    assert [r.reason for r in chunk.rejects] == ["positions not finite"]
    assert len(chunk.frames) == 2


# --- detection and options ---


@pytest.mark.parametrize("text", ["hello\n", "", "{}", "[1, 2]", "3\nwater\nO 0 0 0\nH 0 0 1\nH 0 1 0\n"])
def test_what_is_not_known_is_said_to_be(tmp_path, text):
    (tmp_path / "x").write_text(text)
    with pytest.raises(DatasetError, match="not a layout that is known"):
        format_of(tmp_path / "x")


def test_missing_file(tmp_path):
    with pytest.raises(DatasetError, match="No such file"):
        format_of(tmp_path / "nothing")


def test_unknown_format_names_those_that_there_are(tmp_path):
    with pytest.raises(ConfigurationError, match="extxyz, ase-db"):
        open_records(tmp_path / "x", layout="xyz")


def test_every_format_has_a_reader():
    for layout in FORMATS:
        assert callable(reader_of(layout))
