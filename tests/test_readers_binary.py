"""HDF5, LMDB, SQLite and TFRecord layouts, made here with the libraries that publishers use."""

import json
import zlib

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.stress import voigt_6_to_full_3x3_stress

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers import format_of
from tests.reader_helpers import BOHR, HARTREE, HARTREE_PER_BOHR, crc32c, only_chunk, read_all, tf_record

h5py = pytest.importorskip("h5py")
lmdb = pytest.importorskip("lmdb")
RNG = np.random.default_rng(7)


# --- HDF5 ---


@pytest.fixture
def ani1x(tmp_path):
    path = tmp_path / "ani1x-release.h5"
    with h5py.File(path, "w") as file:
        for formula, numbers, n in (("C1H4", [6, 1, 1, 1, 1], 3), ("H2O1", [8, 1, 1], 2)):
            group = file.create_group(formula)
            group["atomic_numbers"] = np.array(numbers, np.uint8)
            group["coordinates"] = RNG.normal(size=(n, len(numbers), 3)).astype(np.float32)
            group["wb97x_dz.energy"] = -40.0 - np.arange(n, dtype=np.float64)
            group["wb97x_dz.forces"] = np.full((n, len(numbers), 3), 0.01, np.float32)
            group["wb97x_tz.energy"] = np.where(np.arange(n) == 0, np.nan, -41.0)
    return path


def test_ani1x(ani1x):
    assert format_of(ani1x) == "ani1x"
    chunk = only_chunk(ani1x)
    frames = chunk.frames
    np.testing.assert_allclose(frames.energy[:3], np.array([-40.0, -41.0, -42.0]) * HARTREE, rtol=1e-14)
    assert frames.energy[0] == pytest.approx(-1088.45544984, rel=1e-10)
    # hartree/Å: the length is not converted
    np.testing.assert_allclose(frames.forces, np.float64(np.float32(0.01)) * HARTREE, rtol=1e-14)
    assert frames.group.tolist() == ["C1H4"] * 3 + ["H2O1"] * 2
    assert not frames.pbc.any()
    assert chunk.places[4] == "H2O1/1"


def test_ani1x_at_another_level_has_gaps(ani1x):
    frames = only_chunk(ani1x, energy="wb97x_tz.energy").frames
    assert np.isnan(frames.energy).tolist() == [True, False, False, True, False]
    assert not frames.has_forces.any(), "forces of another level do not belong to these energies"


def test_energies_that_a_layout_does_not_have(ani1x):
    with pytest.raises(ConfigurationError, match=r"ani1x has wb97x_dz\.energy, "):
        only_chunk(ani1x, energy="hf.energy")
    with pytest.raises(ConfigurationError, match="groups of ani1x"):
        only_chunk(ani1x, group="path")


def test_conformations_in_slices(ani1x, monkeypatch):
    monkeypatch.setattr("hydrapot.training.data.readers.hdf5.SLICE", 2)
    whole = only_chunk(ani1x).frames
    for start in range(6):
        rest = [chunk.frames.energy for chunk in read_all(ani1x, start=start)]
        np.testing.assert_array_equal(np.concatenate([np.zeros(0), *rest]), whole.energy[start:])


def test_transition1x(tmp_path):
    path = tmp_path / "Transition1x.h5"
    level = "wB97x_6-31G(d)"
    numbers = np.array([6, 8, 1, 1])

    def fill(group, energies, *, shift):
        n = len(energies)
        group["atomic_numbers"] = numbers
        group["positions"] = np.arange(n * 12, dtype=float).reshape(n, 4, 3) + shift
        group[f"{level}.energy"] = np.array(energies)
        group[f"{level}.atomization_energy"] = np.array(energies) + 100.0
        group[f"{level}.forces"] = np.full((n, 4, 3), 0.5)

    with h5py.File(path, "w") as file:
        reaction = file.create_group("data/C1H2O1/rxn0001")
        fill(reaction, [-3000.0, -2998.0, -2999.0], shift=0.0)
        fill(reaction.create_group("reactant"), [-3001.0], shift=0.1)
        fill(reaction.create_group("transition_state"), [-2998.0], shift=12.0)
        fill(reaction.create_group("product"), [-3000.5], shift=0.2)
        file["train"] = h5py.SoftLink("/data")
    assert format_of(path) == "transition1x"
    chunk = only_chunk(path)
    assert chunk.frames.energy.tolist() == [-3001.0, -3000.5, -3000.0, -2998.0, -2999.0]
    assert chunk.places[:2] == ["C1H2O1/rxn0001/reactant", "C1H2O1/rxn0001/product"]
    assert set(chunk.frames.group) == {"C1H2O1/rxn0001"}
    assert (chunk.frames.forces == 0.5).all()
    assert only_chunk(path, energy=f"{level}.atomization_energy").frames.energy[0] == -2901.0
    assert read_all(path, start=3)[0].frames.energy.tolist() == [-2998.0, -2999.0]


def test_qm7x(tmp_path):
    path = tmp_path / "1000.hdf5"
    with h5py.File(path, "w") as file:
        for molecule_name, structures in (("1", ("opt", "d1")), ("2", ("opt",))):
            for k, structure in enumerate(structures):
                group = file.create_group(f"{molecule_name}/Geom-m{molecule_name}-i1-c1-{structure}")
                group["atNUM"] = np.array([8, 1, 1])
                group["atXYZ"] = molecule("H2O").positions + 0.01 * k
                group["ePBE0+MBD"] = np.array([-2078.5 + k])
                group["ePBE0"] = np.array([-2078.0 + k])
                group["totFOR"] = np.full((3, 3), 0.25)
                group["pbe0FOR"] = np.full((3, 3), 0.125)
    assert format_of(path) == "qm7x"
    chunk = only_chunk(path)
    assert sorted(zip(chunk.frames.group, chunk.frames.energy, strict=True)) == [
        ("1", -2078.5),
        ("1", -2077.5),
        ("2", -2078.5),
    ]
    assert (chunk.frames.forces == 0.25).all()
    without_dispersion = only_chunk(path, energy="ePBE0").frames
    assert (without_dispersion.forces == 0.125).all(), "the gradient of the energy that is asked for"


def test_truncated_hdf5(ani1x):
    ani1x.write_bytes(ani1x.read_bytes()[:2500])
    with pytest.raises(DatasetError, match=r"truncated or corrupt HDF5"):
        read_all(ani1x, layout="ani1x")


# --- aselmdb ---


def old_array(values):
    values = np.asarray(values)
    return {"__ndarray__": [list(values.shape), str(values.dtype), values.ravel().tolist()]}


def write_aselmdb(path, rows, *, deleted=()):
    """As fairchem's LMDBDatabase does: zlib-compressed JSON under ids from 1, and the next id."""
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 24, lock=False)
    with environment.begin(write=True) as transaction:
        for i, row in enumerate(rows, start=1):
            if i not in deleted:
                transaction.put(str(i).encode(), zlib.compress(json.dumps(row).encode()))
        transaction.put(b"nextid", zlib.compress(json.dumps(len(rows) + 1).encode()))
        if deleted:
            transaction.put(b"deleted_ids", zlib.compress(json.dumps(list(deleted)).encode()))
        transaction.put(b"metadata", zlib.compress(b"{}"))
    environment.close()
    return path


def lmdb_row(energy, **changes):
    return {
        "numbers": [29, 8],
        "positions": [[0.0, 0.0, 0.0], [1.9, 0.1, 0.0]],
        "cell": [[5.0, 0.0, 0.0], [0.0, 6.0, 0.0], [0.0, 0.0, 7.0]],
        "pbc": [True, True, True],
        "energy": energy,
        "forces": [[0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]],
        "calculator": "unknown",
        "unique_id": "0" * 32,
        "mtime": 25.0,
        "data": {"sid": "random123", "fid": 4},
        "key_value_pairs": {},
        **changes,
    }


def test_aselmdb_of_catalysts_and_materials(tmp_path):
    stress = [0.01, 0.02, 0.03, 0.004, 0.005, 0.006]  # xx yy zz yz xz xy, ASE's sign
    rows = [
        lmdb_row(-10.0, stress=stress),
        lmdb_row(-11.0, positions=old_array(np.eye(2, 3)), cell=old_array(np.eye(3) * 9.0), pbc=old_array([True] * 3)),
        lmdb_row(-12.0),
    ]
    path = write_aselmdb(tmp_path / "data.0000.aselmdb", rows)
    assert format_of(path) == "aselmdb"
    frames = only_chunk(path).frames
    assert frames.energy.tolist() == [-10.0, -11.0, -12.0]
    np.testing.assert_array_equal(frames.stress[0], [[0.01, 0.006, 0.005], [0.006, 0.02, 0.004], [0.005, 0.004, 0.03]])
    assert frames.has_stress.tolist() == [True, False, False]
    assert frames.cells[1, 2, 2] == 9.0
    assert set(frames.group) == {"random123"}
    assert only_chunk(path, group="fid").frames.group.tolist() == ["4"] * 3


def test_aselmdb_of_molecules_keeps_charge_and_spin(tmp_path):
    row = lmdb_row(
        -2000.0, pbc=[False] * 3, cell=[[0.0] * 3] * 3, data={"charge": -1, "spin": 2, "source": "omol/x/step3"}
    )
    frames = only_chunk(write_aselmdb(tmp_path / "x.aselmdb", [row])).frames
    assert (frames.charge.tolist(), frames.spin.tolist()) == ([-1], [2])
    assert frames.group.tolist() == [""], "a path to one calculation names no trajectory"


def test_aselmdb_rows_that_are_gone_or_broken(tmp_path):
    rows = [lmdb_row(-float(i)) for i in range(1, 6)]
    path = write_aselmdb(tmp_path / "x.aselmdb", rows, deleted=[2])
    environment = lmdb.open(str(path), subdir=False, map_size=1 << 24, lock=False)
    with environment.begin(write=True) as transaction:
        transaction.put(b"4", b"rubbish")
        transaction.delete(b"5")
    environment.close()
    chunk = only_chunk(path)
    assert chunk.frames.energy.tolist() == [-1.0, -3.0]
    assert [(r.where, r.reason) for r in chunk.rejects] == [("row 4", "unreadable row"), ("row 5", "missing row")]
    assert read_all(path, start=1)[0].frames.energy.tolist() == [-3.0]
    assert not list(tmp_path.glob("*lock*")), "reading leaves nothing beside the data"


@pytest.mark.parametrize(
    "change", [{"cell": [[1.0], [2.0, 3.0]]}, {"numbers": None}, {"data": {"charge": "x"}}, {"pbc": [True, False]}]
)
def test_aselmdb_rows_of_the_wrong_type(tmp_path, change):
    path = write_aselmdb(tmp_path / "x.aselmdb", [lmdb_row(-1.0), lmdb_row(-2.0, **change)])
    chunk = only_chunk(path)
    assert len(chunk.frames) == len(chunk.rejects) == 1


def test_pickled_lmdb_is_refused(tmp_path):
    environment = lmdb.open(str(tmp_path / "data.lmdb"), subdir=False, map_size=1 << 24, lock=False)
    with environment.begin(write=True) as transaction:
        transaction.put(b"0", b"\x80\x04\x95pickle")
    environment.close()
    with pytest.raises(DatasetError, match="pickled objects"):
        format_of(tmp_path / "data.lmdb")


# --- ASE databases ---


def test_ase_db(tmp_path):
    path = tmp_path / "set.db"
    with ase.db.connect(path) as database:
        for k in range(3):
            atoms = bulk("Cu", cubic=True)
            atoms.rattle(0.05, seed=k)
            atoms.set_cell(atoms.cell.array * 0.98 + 0.01 * k, scale_atoms=True)
            atoms.calc = EMT()
            atoms.get_stress()
            # A fixed atom: its force belongs to the label all the same.
            atoms.set_constraint(FixAtoms([0]))
            database.write(atoms, charge=k, group=f"run{k}", data={"spin": k + 1})
            last = atoms
    assert format_of(path) == "ase-db"
    frames = only_chunk(path).frames
    last.set_constraint()
    assert frames.energy[2] == pytest.approx(last.get_potential_energy(), abs=1e-12)
    np.testing.assert_allclose(frames.structure(2).forces, last.get_forces(), atol=1e-12)
    np.testing.assert_allclose(frames.stress[2], voigt_6_to_full_3x3_stress(last.get_stress()), atol=1e-12)
    assert np.trace(frames.stress[0]) < 0, "compressed: negative with ASE's sign"
    assert frames.charge.tolist() == [0, 1, 2]
    assert frames.spin.tolist() == [1, 2, 3]
    assert frames.group.tolist() == ["run0", "run1", "run2"]


def write_data_db(path, metadata=None):
    with ase.db.connect(path) as database:
        for k in range(3):
            data = {"energy": np.array([-0.5 * k]), "forces": np.full((3, 3), 0.1 * k)}
            database.write(molecule("H2O"), data=data)
    if metadata:
        ase.db.connect(path).metadata = metadata
    return path


def test_nabla2dft_has_to_be_named(tmp_path):
    path = write_data_db(tmp_path / "train_2k.db")
    with pytest.raises(DatasetError, match=r"nabla2dft or schnetpack-db.*--format"):
        format_of(path)
    frames = only_chunk(path, layout="nabla2dft").frames
    np.testing.assert_allclose(frames.energy, [0.0, -0.5 * HARTREE, -HARTREE], rtol=1e-14)
    np.testing.assert_allclose(frames.structure(1).forces, 0.1 * HARTREE, rtol=1e-14)
    np.testing.assert_array_equal(frames.structure(0).positions, molecule("H2O").positions)
    assert read_all(path, layout="nabla2dft", start=2)[0].frames.energy[0] == pytest.approx(-HARTREE)


def test_schnetpack_db_states_its_units(tmp_path):
    units = {"energy": "kcal/mol", "forces": "Hartree/Bohr"}
    path = write_data_db(tmp_path / "a.db", {"_property_unit_dict": units, "_distance_unit": "Bohr"})
    assert format_of(path) == "schnetpack-db"
    frames = only_chunk(path).frames
    assert frames.energy[2] == pytest.approx(-0.0433641, rel=1e-6)  # 1 kcal/mol
    np.testing.assert_allclose(frames.structure(1).forces, 0.1 * HARTREE_PER_BOHR, rtol=1e-12)
    np.testing.assert_allclose(frames.structure(0).positions, molecule("H2O").positions * BOHR, rtol=1e-14)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"_property_unit_dict": {"energy": "furlong"}, "_distance_unit": "Ang"}, "no known unit of 'energy'"),
        ({"_property_unit_dict": {"energy": "eV", "forces": "N"}, "_distance_unit": "Ang"}, "unit of forces: N"),
        ({"_property_unit_dict": {"energy": "eV"}}, "no known unit of length"),
    ],
)
def test_unknown_units_are_an_error(tmp_path, metadata, message):
    path = write_data_db(tmp_path / "a.db", metadata)
    with pytest.raises(DatasetError, match=message):
        only_chunk(path, layout="schnetpack-db")


def test_pages_of_a_database(tmp_path, monkeypatch):
    path = tmp_path / "set.db"
    with ase.db.connect(path) as database:
        for k in range(7):
            atoms = Atoms("H")
            atoms.calc = SinglePointCalculator(atoms, energy=-float(k))
            database.write(atoms)
    with ase.db.connect(path) as database:
        del database[3]
    monkeypatch.setattr("hydrapot.training.data.readers.asedb.PAGE", 2)
    assert only_chunk(path).frames.energy.tolist() == [0.0, -1.0, -3.0, -4.0, -5.0, -6.0]
    assert [c.frames.energy.tolist() for c in read_all(path, start=4, size=2)] == [[-4.0, -5.0], [-6.0]]


# --- QCML ---


def qcml_features(k, **changes):
    return {
        "atomic_numbers": [8, 1, 1],
        "positions": (molecule("H2O").positions / BOHR).ravel(),
        "pbe0_energy": [-76.4 - k],
        "pbe0_formation_energy": [-0.35 - k],
        "pbe0_forces": np.arange(9.0) * 0.01,
        "charge": [-1],
        "multiplicity": [2],
        "is_outlier": [0],
        "key_hash": b"abc",
        **changes,
    }


def test_qcml(tmp_path):
    path = tmp_path / "qcml-full.tfrecord-00000-of-00011"
    outlier = qcml_features(1, is_outlier=[1])
    path.write_bytes(b"".join(map(tf_record, (qcml_features(0), outlier, qcml_features(2)))))
    assert format_of(path) == "qcml"
    chunk = only_chunk(path)
    frames = chunk.frames
    single = np.float64(np.float32(-0.35))
    assert frames.energy[0] == pytest.approx(single * HARTREE, rel=1e-15)
    np.testing.assert_allclose(frames.structure(0).positions, molecule("H2O").positions, atol=1e-7)
    np.testing.assert_allclose(frames.structure(0).forces.ravel(), np.arange(9) * 0.01 * HARTREE_PER_BOHR, rtol=1e-6)
    assert (frames.charge.tolist(), frames.spin.tolist()) == ([-1, -1], [2, 2])
    assert [(r.where, r.reason) for r in chunk.rejects] == [("record 1", "outlier")]
    total = only_chunk(path, energy="pbe0_energy").frames.energy
    assert total[0] == pytest.approx(np.float64(np.float32(-76.4)) * HARTREE, rel=1e-15)
    assert read_all(path, start=2)[0].frames.energy[0] == pytest.approx(-2.35 * HARTREE, rel=1e-6)


def test_qcml_records_of_the_wrong_length(tmp_path):
    path = tmp_path / "x.tfrecord"
    broken = [qcml_features(0, positions=np.zeros(8)), qcml_features(0, charge=[]), {"pbe0_forces": [0.0]}]
    path.write_bytes(b"".join(map(tf_record, (qcml_features(0), *broken))))
    chunk = only_chunk(path)
    assert (len(chunk.frames), len(chunk.rejects)) == (1, 3)


def test_checksum_of_the_definition():
    """The vectors of RFC 3720 hold for the helper, and with it for what reads."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damaged_tfrecord(tmp_path, damage):
    path = tmp_path / "x.tfrecord"
    raw = bytearray(b"".join(map(tf_record, (qcml_features(0), qcml_features(1)))))
    if damage == "flip":
        raw[-40] ^= 1
    path.write_bytes(bytes(raw[:-10] if damage == "cut" else raw))
    with pytest.raises(DatasetError, match=r"record 1: (corrupt|the file ends)"):
        read_all(path)


def test_other_feature_groups_of_qcml_have_no_forces(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(tf_record({"key_hash": b"a", "smiles": b"O"}))
    with pytest.raises(DatasetError, match="dft_force_field"):
        format_of(path)
