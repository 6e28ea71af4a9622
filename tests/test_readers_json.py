"""MPtrj, Alexandria and mlearn: keys, units, signs, streaming, and what happens to structures that make no sense."""

import bz2
import json

import numpy as np
import pytest

from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers import format_of, jsonstream
from tests.reader_helpers import CELL, FRACTIONS, KBAR, ROCK_SALT, dump, only_chunk, pymatgen_structure, read_all

FORCES = [[0.1, 0.2, -0.3], [-0.1, -0.2, 0.3]]
STRESS = [[10.0, 1.0, 2.0], [1.0, 20.0, 3.0], [2.0, 3.0, 30.0]]  # kbar, compressed


def mptrj_frame(energy=-12.5, **changes):
    return {
        "structure": ROCK_SALT,
        "uncorrected_total_energy": energy,
        "corrected_total_energy": energy - 0.7,
        "energy_per_atom": (energy - 0.7) / 2,
        "force": FORCES,
        "stress": STRESS,
        "magmom": None,
        "mp_id": "mp-1",
        **changes,
    }


def test_mptrj(tmp_path):
    document = {
        "mp-1": {"mp-1-0-0": mptrj_frame(), "mp-1-0-1": mptrj_frame(-12.0, stress=None)},
        "mp-2": {"mp-2-0-0": mptrj_frame(-11.0, force=None)},
    }
    chunk = only_chunk(dump(tmp_path / "MPtrj.json", document))
    frames = chunk.frames
    assert format_of(tmp_path / "MPtrj.json") == "mptrj"
    assert frames.energy.tolist() == [-12.5, -12.0, -11.0]
    assert frames.group.tolist() == ["mp-1", "mp-1", "mp-2"]
    assert chunk.places == ["mp-1/mp-1-0-0", "mp-1/mp-1-0-1", "mp-2/mp-2-0-0"]
    # 10 kbar = 1 GPa = 0.006241509 eV/Å³; VASP is positive under compression, ASE under tension.
    np.testing.assert_allclose(frames.stress[0], -np.array(STRESS) * KBAR, rtol=1e-14)
    assert frames.stress[0, 0, 0] == pytest.approx(-0.006241509074, rel=1e-9)
    assert frames.has_stress.tolist() == [True, False, True]
    assert frames.has_forces.tolist() == [True, True, False]
    np.testing.assert_array_equal(frames.structure(0).forces, FORCES)
    np.testing.assert_allclose(frames.structure(0).positions[1], [2.25, 2.125, 2.5])
    np.testing.assert_array_equal(frames.cells[0], CELL)
    assert frames.pbc.all()


def test_mptrj_with_corrections(tmp_path):
    path = dump(tmp_path / "MPtrj.json", {"mp-1": {"mp-1-0-0": mptrj_frame()}})
    assert only_chunk(path, energy="corrected_total_energy").frames.energy.tolist() == [-13.2]


def test_labels_that_are_not_wanted_stay_missing(tmp_path):
    path = dump(tmp_path / "MPtrj.json", {"mp-1": {"mp-1-0-0": mptrj_frame()}})
    frames = only_chunk(path, labels=("energy", "forces")).frames
    assert (frames.has_forces.all(), frames.has_stress.any()) == (True, False)


def test_alexandria_trajectories(tmp_path):
    step = {"structure": ROCK_SALT, "energy": -9.0, "forces": FORCES, "stress": STRESS}
    document = {
        "agm1": [{"kpoints": [2, 2, 2], "steps": [step, {**step, "energy": -9.5}]}, {"steps": [step]}],
        "agm2": [{"steps": [{**step, "energy": -8.0}]}],
    }
    path = tmp_path / "alex_go_aao_001.json.bz2"
    path.write_bytes(bz2.compress(json.dumps(document).encode()))
    assert format_of(path) == "alexandria"
    chunk = only_chunk(path)
    assert chunk.frames.energy.tolist() == [-9.0, -9.5, -9.0, -8.0]
    assert chunk.places == ["agm1/0/0", "agm1/0/1", "agm1/1/0", "agm2/0/0"]
    assert chunk.frames.group.tolist() == ["agm1"] * 3 + ["agm2"]
    np.testing.assert_allclose(chunk.frames.stress[0], -np.array(STRESS) * KBAR, rtol=1e-14)


def test_alexandria_entries(tmp_path):
    structure = pymatgen_structure(["Li", "O"], FRACTIONS, CELL, properties={"forces": FORCES, "magmom": [0.0, 0.1]})
    entry = {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedStructureEntry",
        "energy": -9.5,
        "correction": 0.0,
        "data": {"mat_id": "agm7", "energy_total": -9.0, "energy_corrected": -9.5, "stress": STRESS},
        "structure": structure,
    }
    path = tmp_path / "alexandria_000.json.bz2"
    path.write_bytes(bz2.compress(json.dumps({"entries": [entry, entry]}).encode()))
    assert format_of(path) == "alexandria-entries"
    frames = only_chunk(path).frames
    assert frames.energy.tolist() == [-9.0, -9.0]
    assert frames.group.tolist() == ["agm7", "agm7"]
    np.testing.assert_array_equal(frames.structure(1).forces, FORCES)
    assert not frames.has_stress.any(), "its unit is not documented"


@pytest.mark.parametrize(
    ("labels", "energy"),
    [
        ({"outputs": {"energy": -3.0, "forces": FORCES, "virial_stress": [1, 2, 3, 4, 5, 6]}}, -3.0),
        ({"outputs": {"energy": -3.0, "forces": FORCES, "stress": [1, 2, 3, 4, 5, 6]}}, -3.0),
        ({"data": {"energy_per_atom": -1.5, "forces": FORCES, "virial_stress": [1, 2, 3, 4, 5, 6]}}, -3.0),
    ],
)
def test_mlearn_maml_and_snap(tmp_path, labels, energy):
    document = [{"structure": ROCK_SALT, "group": "AIMD-NVT", "num_atoms": 2, "tag": "train", **labels}] * 2
    path = dump(tmp_path / "training.json", document)
    assert format_of(path) == "mlearn"
    frames = only_chunk(path).frames
    assert frames.energy.tolist() == [energy] * 2
    assert frames.group.tolist() == ["AIMD-NVT"] * 2
    # xx yy zz xy yz zx as VASP prints them
    expected = -KBAR * np.array([[1, 4, 6], [4, 2, 5], [6, 5, 3]])
    np.testing.assert_allclose(frames.stress[0], expected, rtol=1e-14)


def test_positions_by_fractions_alone(tmp_path):
    structure = pymatgen_structure(["Li", "O"], FRACTIONS, CELL, cartesian=False)
    path = dump(tmp_path / "a.json", {"m": {"f": mptrj_frame(structure=structure)}})
    np.testing.assert_allclose(only_chunk(path).frames.structure(0).positions[1], [2.25, 2.125, 2.5])


def disordered():
    structure = json.loads(json.dumps(ROCK_SALT))
    structure["sites"][1]["species"] = [{"element": "O", "occu": 0.5}, {"element": "F", "occu": 0.5}]
    return structure


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"structure": disordered()}, "disordered site"),
        ({"structure": {"lattice": {}}}, "malformed structure"),
        ({"uncorrected_total_energy": float("nan")}, "energy not finite"),
        ({"force": [[0.0, 0.0, 0.0]]}, "malformed forces"),
        ({"stress": [1.0, 2.0]}, "malformed stress"),
        ({"stress": [[1.0], [2.0, 3.0]]}, "malformed structure"),
        ({"force": "lost"}, "malformed forces"),
        ({"uncorrected_total_energy": {"a": 1}}, "malformed energy"),
        ({"structure": {**ROCK_SALT, "sites": 7}}, "malformed structure"),
    ],
)
def test_a_structure_without_sense_is_left_out_and_the_rest_is_read(tmp_path, change, reason):
    document = {"mp-1": {"a": mptrj_frame(-1.0), "b": mptrj_frame(**change), "c": mptrj_frame(-3.0)}}
    chunk = only_chunk(dump(tmp_path / "a.json", document))
    assert chunk.frames.energy.tolist() == [-1.0, -3.0]
    assert [(r.where, r.reason) for r in chunk.rejects] == [("mp-1/b", reason)]
    assert chunk.position == 3


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_reading_goes_on_where_it_was(tmp_path, start):
    document = {f"mp-{i}": {f"f{j}": mptrj_frame(-10.0 * i - j) for j in range(2)} for i in range(4)}
    path = dump(tmp_path / "a.json", document)
    whole = only_chunk(path).frames.energy
    pieces = read_all(path, start=start, size=3)
    np.testing.assert_array_equal(np.concatenate([c.frames.energy for c in pieces]), whole[start:])
    assert [c.position for c in pieces][-1] == 8


def test_documents_larger_than_the_buffer(tmp_path, monkeypatch):
    """Values, numbers and characters that are cut by the end of a block."""
    monkeypatch.setattr(jsonstream, "BLOCK", 7)
    document = {"é" * 5: {"f": {"a": [1.5, -2e3, True, None], "ö": "x" * 50}}, "b": {}, "c": {"g": 1234567890123}}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
    with path.open("rb") as handle:
        stream = jsonstream.JsonStream(handle, path)
        found = {key: {inner: stream.value() for inner in stream.members()} for key in stream.members()}
    assert found == document


def test_memory_does_not_grow_with_the_document(tmp_path):
    path = dump(tmp_path / "x.json", {f"k{i}": {"f": "y" * 10_000} for i in range(2000)})  # 20 MB
    with path.open("rb") as handle:
        stream = jsonstream.JsonStream(handle, path)
        held = 0
        for _ in stream.members():
            for _ in stream.members():
                stream.value()
                held = max(held, len(stream._text))
    assert held < 4 * jsonstream.BLOCK


def test_a_truncated_file_is_an_error_of_the_file(tmp_path):
    path = dump(tmp_path / "a.json", {"mp-1": {"a": mptrj_frame(), "b": mptrj_frame()}})
    path.write_text(path.read_text()[:-300])
    with pytest.raises(DatasetError, match=r"a\.json: truncated or no JSON"):
        read_all(path)
