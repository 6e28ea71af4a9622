"""Loading by name or path: what users call first, and the messages that they meet when it does not work."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ase.build import bulk

import hydrapot.potential
from hydrapot.potential import CheckpointError, ConfigurationError, evaluate, load, save, shipped_models
from hydrapot.potential.graph import build_graph
from tests.potential_helpers import METALS, tiny_potential


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("load") / "tiny.safetensors"
    save(tiny_potential(), path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_loaded_model_is_frozen_and_in_the_asked_precision(path, kind, dtype):
    potential = load(kind(path), dtype=dtype)
    assert not potential.training
    assert {p.dtype for p in potential.parameters()} == {dtype}
    assert not any(p.requires_grad for p in potential.parameters())


def test_the_default_is_float32_on_the_cpu(path):
    potential = load(path)
    assert potential.dtype == torch.float32
    assert {p.device.type for p in potential.parameters()} == {"cpu"}


def test_a_loaded_model_gives_the_energies_of_the_saved_one(path):
    graph = build_graph(bulk("Cu"), cutoff=4.0)
    before = evaluate(tiny_potential().double(), graph, head=METALS)
    after = evaluate(load(path, dtype=torch.float64), graph, head=METALS)
    assert torch.equal(before.energy, after.energy)
    assert torch.equal(before.stress, after.stress)


def test_a_name_means_a_shipped_file(path, tmp_path, monkeypatch):
    (tmp_path / "hydrapot-test.safetensors").write_bytes(path.read_bytes())
    (tmp_path / "hydrapot-test.md").write_text("not a model", encoding="utf-8")
    # The submodule's name is also that of the function which the package exports.
    monkeypatch.setattr(sys.modules["hydrapot.potential.load"], "files", lambda _: tmp_path)
    assert shipped_models() == ["hydrapot-test"]
    assert load("hydrapot-test").heads == tiny_potential().heads
    with pytest.raises(CheckpointError, match=r"'hydrapot-x'.*hydrapot-test.*\.safetensors"):
        load("hydrapot-x")


def test_every_shipped_model_loads():
    for name in shipped_models():
        assert load(name).heads


@pytest.mark.parametrize("name", ["no-such-model", "folder/model.pt", ""])
def test_an_unknown_name_says_which_exist_and_how_a_path_looks(name):
    with pytest.raises(CheckpointError) as caught:
        load(name)
    assert repr(name) in str(caught.value)
    assert ".safetensors" in str(caught.value)
    assert all(known in str(caught.value) for known in shipped_models())


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match=r"absent\.safetensors: no such file"):
        load("~/absent.safetensors")


def test_unusable_precision_and_device(path):
    with pytest.raises(ConfigurationError, match="float16"):
        load(path, dtype=torch.float16)
    with pytest.raises(ConfigurationError, match="device 'nonsense'"):
        load(path, device="nonsense")


def test_the_package_exports_what_its_documentation_promises():
    for name in hydrapot.potential.__all__:
        assert hasattr(hydrapot.potential, name)
    assert callable(hydrapot.potential.load)
    assert callable(hydrapot.potential.evaluate)


def test_importing_the_package_loads_no_plotting_or_engine():
    """Every command and every MD engine's start waits for this import; torch and ASE are its whole cost."""
    heavy = ["matplotlib", "scipy.optimize", "torch._dynamo", "torch._inductor", "typer", "rich"]
    code = f"import sys, hydrapot.potential; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
