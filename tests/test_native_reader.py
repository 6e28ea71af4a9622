"""The native reader of checkpoints: the same model as in Python, or a clear refusal."""

import json
import struct

import numpy as np
import pytest
import torch

from hydrapot.potential import build_graph, load, save
from hydrapot.potential.container import content_hash
from hydrapot.potential.errors import CheckpointError
from hydrapot.potential.native import NativeEngine, NativeModel
from hydrapot.validation.structures import standard_structures
from tests.native_helpers import needs_native
from tests.potential_helpers import METALS, MOLECULES, tiny_potential

pytestmark = needs_native


@pytest.fixture
def path(tmp_path):
    save(tiny_potential(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def parts(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def with_document(path, change):
    """Change the document and hash it again, so that only the change can be what is refused."""
    header, data = parts(path)
    document = json.loads(header["__metadata__"]["hydrapot"])
    change(document)
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            dtype = {"F32": torch.float32, "F64": torch.float64}[entry["dtype"]]
            raw = bytearray(data[slice(*entry["data_offsets"])])
            flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.zeros(0, dtype=dtype)
            tensors[name] = flat.reshape(entry["shape"])
    document["content_hash"] = content_hash(document, tensors)
    header["__metadata__"]["hydrapot"] = json.dumps(document, ensure_ascii=False)
    write(path, header, data)


def test_a_file_gives_the_same_model_as_the_potential_in_memory(path):
    potential = tiny_potential()
    from_file, in_memory = (NativeModel(source, dtype="float64", knots=0) for source in (path, potential))
    assert from_file.heads == in_memory.heads == [METALS, MOLECULES]
    assert (from_file.channels, from_file.layers, from_file.cutoff) == (2, 2, 4.0)
    for head in from_file.heads:
        for z in range(1, 119):
            expected = potential.references[head].values[z]
            np.testing.assert_equal(from_file.reference_energy(head, z), expected)
            np.testing.assert_equal(in_memory.reference_energy(head, z), expected)
    for atoms in standard_structures([8], cutoff=4.0).values():
        graph = build_graph(atoms, cutoff=4.0)
        a, b = (NativeEngine(model).evaluate(graph, heads=MOLECULES) for model in (from_file, in_memory))
        assert np.array_equal(a.energies, b.energies)
        assert np.array_equal(a.forces, b.forces)


def test_the_shipped_file_is_read_and_hashed_alike():
    from importlib.resources import as_file, files

    with as_file(files("hydrapot.potential.weights") / "hydrapot-s.safetensors") as file:
        assert NativeModel(file).heads == load("hydrapot-s").heads


def test_text_beyond_ascii_is_hashed_alike(path):
    with_document(
        path, lambda d: d["provenance"].update({'ångström \U0001f40d "\\\n\t\u0001/': [1e-300, -0.0, True, None, {}]})
    )
    NativeModel(path)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        NativeModel(tmp_path / "none.safetensors")
    for content in (b"", b"abc", b"\xff" * 8 + b"{}", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 3) + b"{} x"):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"x\.safetensors: "):
            NativeModel(tmp_path / "x.safetensors")
    write(tmp_path / "x.safetensors", {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"0000")
    with pytest.raises(CheckpointError, match="not a hydrapot checkpoint"):
        NativeModel(tmp_path / "x.safetensors")


def test_every_truncation_and_every_altered_byte_is_noticed(path):
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for n in [*rng.integers(0, len(whole), size=40), len(whole) - 1]:
        path.write_bytes(whole[:n])
        with pytest.raises(CheckpointError):
            NativeModel(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="truncated or has something after"):
        NativeModel(path)
    (length,) = struct.unpack("<Q", whole[:8])
    text = whole[8 : 8 + length]
    # Blanks between tokens and the order of keys do not matter; anything else does.
    for n in rng.integers(8 + length, len(whole), size=60):
        altered = bytearray(whole)
        altered[n] ^= 1 << int(rng.integers(8))
        path.write_bytes(altered)
        with pytest.raises(CheckpointError, match="altered"):
            NativeModel(path)
    assert text.startswith(b"{")


def test_a_header_of_noise_never_crashes(path):
    whole = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", whole[:8])
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        altered = whole.copy()
        for n in rng.integers(0, 8 + length, size=3):
            altered[n] = int(rng.integers(256))
        path.write_bytes(altered)
        try:
            NativeModel(path)
        except CheckpointError:
            refused += 1
    assert refused >= 295  # a blank at the end of the header may change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(schema_version=2), "schema version 2 cannot be read by this native engine"),
        (lambda d: d.update(schema_version="1"), "schema_version is of the wrong type"),
        (lambda d: d.update(schema_version=1.5), "not a whole number"),
        (lambda d: d.pop("architecture"), "architecture is missing"),
        (lambda d: d["architecture"]["encoder"].update(name="mace"), "encoder 'mace' is not known"),
        (lambda d: d["architecture"]["encoder"].update(extra=1), "entries that the native engine does not know"),
        (lambda d: d["architecture"]["encoder"].update(channels=3), "has shape"),
        (lambda d: d["architecture"]["encoder"].update(channels=-3), "out of range"),
        (lambda d: d["architecture"]["encoder"].update(layers=3), "missing tensor"),
        (lambda d: d["architecture"].update(cutoff=0.0), "not positive"),
        (lambda d: d["architecture"].update(charge_spin=False), "unexpected tensor 'conditioning.charge'"),
        (lambda d: d["architecture"].update(repulsion="lj"), "repulsion 'lj' is not known"),
        (lambda d: d["heads"].pop(METALS), "unexpected tensor 'energy_heads.metals"),
        (lambda d: d["scales"].pop(METALS), "scales.metals is missing"),
        (lambda d: d["reference_energies"][METALS].update(Xx=1.0), "'Xx' is not an element"),
        (lambda d: d["heads"][METALS].update(charge_spin=[[1]]), "not a pair"),
    ],
)
def test_documents_that_do_not_fit(path, change, text):
    with_document(path, change)
    with pytest.raises(CheckpointError, match=text):
        NativeModel(path)


def test_tensors_that_do_not_fit(path):
    header, data = parts(path)
    name = "network.encoder.embedding.weight"
    for change, text in (
        ({"dtype": "F16"}, "is F16, not F32 or F64"),
        ({"shape": [1 << 40, 1 << 40]}, "absurd shape"),
        ({"shape": [119, 3]}, "does not fit its shape"),
        ({"data_offsets": [0, 1 << 50]}, "does not fit its shape"),
        ({"data_offsets": [4]}, "no valid place"),
        ({"data_offsets": [8, 4]}, "no valid place"),
    ):
        write(path, {**header, name: {**header[name], **change}}, data)
        with pytest.raises(CheckpointError, match=text):
            NativeModel(path)
    first, second = header[name]["data_offsets"]
    overlapping = [first - 4, second - 4] if first else [first + 4, second + 4]
    write(path, {**header, name: {**header[name], "data_offsets": overlapping}}, data)
    with pytest.raises(CheckpointError, match="overlap"):
        NativeModel(path)
    write(path, json.dumps(header).encode().replace(b'"__metadata__"', b'"__metadata__": {}, "__metadata__"', 1), data)
    with pytest.raises(CheckpointError, match="occurs twice"):
        NativeModel(path)
