"""`make demo` says in one line what is missing; with the shipped weights it runs to the end."""

import subprocess
import sys
from pathlib import Path

import pytest

from hydrapot.potential import shipped_models

DEMO = Path(__file__).parent.parent / "examples" / "demo.py"


def test_a_model_that_is_not_there(tmp_path):
    done = subprocess.run(
        [sys.executable, DEMO, "none.safetensors"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "none.safetensors" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif("hydrapot-s" not in shipped_models(), reason="the shipped weights are not in this checkout")
def test_demo(tmp_path):
    done = subprocess.run([sys.executable, DEMO], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "converged after" in done.stdout
    folder = tmp_path / "demo-output"
    for name in ("demo.png", "MgO-relax.png", "MgO-md.png", "ethanol-md.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG"), name
