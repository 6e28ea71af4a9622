"""Checkpoints: what was saved comes back to the last bit, and what is not sound raises one line."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from ase.build import bulk, molecule

from hydrapot.potential import CheckpointError, build_graph, evaluate, load, save
from hydrapot.potential import container as container_module
from hydrapot.potential.checkpoint import SCHEMA_VERSION, read
from hydrapot.potential.upgraders import UPGRADERS, upgrade
from tests.potential_helpers import METALS, MOLECULES, tiny_potential

DATA = Path(__file__).parent / "data"
KIND = "hydrapot"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save(tiny_potential(), path)
    return path


def content(path):
    raw = container_module.read(path, kind=KIND, what="checkpoint")
    return json.loads(json.dumps(raw.document)), dict(raw.tensors)


def rewrite(path, document, tensors):
    """A file with a valid hash: only the reader's own checks can object to it."""
    container_module.write(path, kind=KIND, document=document, tensors=tensors)


def message(path):
    """The error of reading `path`: one line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


# What comes back


def test_weights_references_scales_and_document_survive_bit_for_bit(saved):
    before, after = tiny_potential(), read(saved)
    assert before.state_dict().keys() == after.state_dict().keys()
    for name, tensor in before.state_dict().items():
        assert tensor.dtype == after.state_dict()[name].dtype == torch.float32
        assert torch.equal(tensor, after.state_dict()[name])
    assert after.heads == before.heads
    for head in before.heads:
        assert after.head(head).scale == before.head(head).scale
        a, b = before.references[head], after.references[head]
        assert np.array_equal(a.values, b.values, equal_nan=True)
        assert b.values.dtype == b.span.dtype == np.float64
        assert np.array_equal(a.span, b.span)
        assert a.mode == b.mode
    unhashed = after.info.model_copy(update={"content_hash": ""})
    assert unhashed == before.info
    assert re.fullmatch("[0-9a-f]{64}", after.info.content_hash)


def test_a_float64_model_is_stored_in_float64(tmp_path):
    potential = tiny_potential().double()
    with torch.no_grad():
        potential.encoder.embedding.weight += 1e-12  # lost if it went through float32
    save(potential, tmp_path / "double.safetensors")
    after = read(tmp_path / "double.safetensors")
    assert after.dtype == torch.float64
    assert torch.equal(after.encoder.embedding.weight, potential.encoder.embedding.weight)


def test_saving_twice_gives_the_same_bytes_and_hash(tmp_path, saved):
    copy = read(saved)
    digest = save(copy, tmp_path / "again.safetensors")
    assert digest == copy.info.content_hash
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()


def test_casting_a_model_to_float32_and_back_rounds_nothing_but_its_weights(saved):
    """Scales, frequencies and references never pass through float32; weights are float32 anyway."""
    graph = build_graph(bulk("Cu", cubic=True), cutoff=4.0)
    straight = evaluate(load(saved, dtype=torch.float64), graph, head=METALS)
    detour = evaluate(load(saved).float().double(), graph, head=METALS)
    assert torch.equal(straight.energy, detour.energy)
    assert torch.equal(straight.forces, detour.forces)


def test_reading_leaves_the_random_state_alone(saved):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    potential = read(saved)
    assert torch.equal(torch.rand(3), expected)
    assert all(p.requires_grad for p in potential.parameters())  # ready to be trained further


def test_reading_does_not_depend_on_the_default_dtype(saved):
    torch.set_default_dtype(torch.float64)
    try:
        assert read(saved).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_file_of_schema_1_keeps_loading():
    """It stands for every checkpoint that users have: it loads, and its energy stays what it was."""
    potential = load(DATA / "schema-1.safetensors", dtype=torch.float64)
    expected = float((DATA / "schema-1.txt").read_text(encoding="utf-8"))
    graph = build_graph(molecule("CH3OH"), cutoff=potential.cutoff)
    assert evaluate(potential, graph, head=MOLECULES).energy.item() == pytest.approx(expected, rel=1e-10)
    assert (DATA / "schema-1.safetensors").stat().st_size < 10_000


def test_every_older_schema_has_an_upgrader_and_a_file():
    for version in range(1, SCHEMA_VERSION + 1):
        assert (DATA / f"schema-{version}.safetensors").is_file()
    assert set(UPGRADERS) == set(range(1, SCHEMA_VERSION))


# What is refused


def test_missing_file(tmp_path):
    assert "no such file" in message(tmp_path / "absent.safetensors")


def test_folder(tmp_path):
    assert "not a file" in message(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_file(tmp_path, saved, keep):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(saved.read_bytes()[:keep])
    assert "truncated" in message(path)


def test_a_file_that_is_no_safetensors_file_is_not_executed(tmp_path):
    """A pickled model of another program must be refused by its format, never opened."""
    path = tmp_path / "model.safetensors"
    torch.save({"weights": torch.zeros(100)}, path)
    assert "not a safetensors file" in message(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_file_of_another_program(tmp_path, metadata):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(3)}, path, metadata=metadata)
    assert "not a hydrapot checkpoint" in message(path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"content_hash": 1}'])
def test_header_that_is_no_document(tmp_path, text):
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(3)}, path, metadata={KIND: text})
    assert "the document in its header" in message(path)


def test_any_altered_byte_of_weights_or_document_is_noticed(tmp_path, saved):
    data = saved.read_bytes()
    weight = len(data) - 1
    energy = data.index(b"-432.1234567890123") + 1  # a reference energy
    for position, byte in ((weight, data[weight] ^ 1), (energy, ord("5"))):
        path = tmp_path / "altered.safetensors"
        path.write_bytes(data[:position] + bytes([byte]) + data[position + 1 :])
        assert "altered" in message(path)


def test_renamed_and_reshaped_tensors_change_the_hash():
    x = torch.arange(6.0)
    variants = [{"a": x}, {"b": x}, {"a": x.view(2, 3)}, {"a": x.view(torch.int32)}, {"a": x + 1}, {}]
    assert len({container_module.content_hash({}, tensors) for tensors in variants}) == len(variants)


@pytest.mark.parametrize(
    ("version", "hint"), [(SCHEMA_VERSION + 1, "upgrade hydrapot"), (0, "unknown"), ("1", "whole number")]
)
def test_other_schema_version(tmp_path, saved, version, hint):
    document, tensors = content(saved)
    rewrite(tmp_path / "v.safetensors", {**document, "schema_version": version}, tensors)
    assert hint in message(tmp_path / "v.safetensors")


WEIGHT = "network.encoder.embedding.weight"
SPAN = f"references.{MOLECULES}.span"
TENSOR_FAULTS = {
    "missing weight": (lambda t: t.pop(WEIGHT), f"missing tensor '{WEIGHT}'"),
    "unexpected weight": (
        lambda t: t.update({"network.extra": torch.zeros(1)}),
        "unexpected tensor 'network.extra'",
    ),
    "unexpected tensor": (lambda t: t.update(extra=torch.zeros(1)), "unexpected tensor 'extra'"),
    "misshaped weight": (
        lambda t: t.update({WEIGHT: t[WEIGHT].T.contiguous()}),
        f"tensor '{WEIGHT}' has shape",
    ),
    "mixed precision": (lambda t: t.update({WEIGHT: t[WEIGHT].double()}), "torch.float32, torch.float64"),
    "missing span": (lambda t: t.pop(SPAN), f"missing tensor '{SPAN}'"),
    "rounded span": (lambda t: t.update({SPAN: t[SPAN].float()}), f"tensor '{SPAN}' is torch.float32"),
    "misshaped span": (lambda t: t.update({SPAN: t[SPAN][:, :1].contiguous()}), f"tensor '{SPAN}' is"),
}


@pytest.mark.parametrize(("alter", "hint"), TENSOR_FAULTS.values(), ids=TENSOR_FAULTS.keys())
def test_tensors_that_do_not_fit(tmp_path, saved, alter, hint):
    document, tensors = content(saved)
    alter(tensors)
    rewrite(tmp_path / "t.safetensors", document, tensors)
    assert hint in message(tmp_path / "t.safetensors")


DOCUMENT_FAULTS = {
    "missing part": (lambda d: d.pop("architecture"), "architecture"),
    "unknown key": (lambda d: d.update(surprise=1), "surprise"),
    "wrong type": (lambda d: d["heads"][METALS].update(structures="many"), "structures"),
    "unknown encoder": (lambda d: d["architecture"]["encoder"].update(name="other"), "encoder.name"),
    "no scale": (lambda d: d["scales"].pop(METALS), "scales"),
    "no references": (lambda d: d["reference_energies"].pop(METALS), "reference_energies"),
    "no element": (
        lambda d: d["reference_energies"][METALS].update(Qq=d["reference_energies"][METALS].pop("O")),
        "Qq",
    ),
}


@pytest.mark.parametrize(("alter", "hint"), DOCUMENT_FAULTS.values(), ids=DOCUMENT_FAULTS.keys())
def test_documents_that_are_not_valid(tmp_path, saved, alter, hint):
    document, tensors = content(saved)
    alter(document)
    rewrite(tmp_path / "d.safetensors", document, tensors)
    text = message(tmp_path / "d.safetensors")
    assert "invalid document" in text
    assert hint in text


# Writing


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path, saved, monkeypatch):
    path = tmp_path / "model.safetensors"
    shutil.copy(saved, path)

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(container_module.os, "fsync", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save(tiny_potential().double(), path)
    assert path.read_bytes() == saved.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_saving_refuses_what_it_could_not_read_back(tmp_path):
    path = tmp_path / "x.safetensors"
    potential = tiny_potential()
    with pytest.raises(CheckpointError, match=r"\.safetensors"):
        save(potential, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(potential, tmp_path / "absent" / "x.safetensors")
    with pytest.raises(CheckpointError, match="bfloat16"):
        save(tiny_potential().bfloat16(), path)
    potential.info.provenance["loss"] = [0.0, float("nan")]
    with pytest.raises(CheckpointError, match=r"provenance.loss\[1\] is not a finite number"):
        save(potential, path)
    potential.info.provenance["loss"] = 0.0
    broken = {METALS: potential.info.heads[METALS].model_copy(update={"structures": None})}
    potential.info = potential.info.model_copy(update={"heads": {**potential.info.heads, **broken}})
    with pytest.raises(CheckpointError, match=r"not written: invalid document: heads.*structures"):
        save(potential, path)
    potential = tiny_potential()
    potential.info.provenance["loss"] = object()
    with pytest.raises(CheckpointError, match=r"provenance\.loss is object"):
        save(potential, path)
    assert list(tmp_path.iterdir()) == []


# Upgrading


def test_upgraders_are_applied_one_after_the_other():
    def one(document, tensors):
        return {**document, "steps": ["1→2"]}, {"new": tensors["old"]}

    def two(document, tensors):
        assert document["schema_version"] == 2
        return {**document, "steps": [*document["steps"], "2→3"]}, tensors

    x = torch.zeros(1)
    upgraders = {1: one, 2: two}
    document, tensors = upgrade({"schema_version": 1}, {"old": x}, target=3, upgraders=upgraders)
    assert document == {"schema_version": 3, "steps": ["1→2", "2→3"]}
    assert tensors == {"new": x}
    with pytest.raises(CheckpointError, match="reads 1 to 3"):
        upgrade({"schema_version": 0}, {}, target=3, upgraders=upgraders)


def test_a_file_of_an_older_schema_goes_through_its_upgrader(tmp_path, saved, monkeypatch):
    """End to end: schema 0, where a head's scale had another name, loads once its step is registered."""
    document, tensors = content(saved)
    document["schema_version"] = 0
    document["factors"] = document.pop("scales")
    rewrite(tmp_path / "old.safetensors", document, tensors)

    def rename(document, tensors):
        document["scales"] = document.pop("factors")
        return document, tensors

    monkeypatch.setitem(UPGRADERS, 0, rename)
    potential = read(tmp_path / "old.safetensors")
    assert potential.head(METALS).scale == tiny_potential().head(METALS).scale
