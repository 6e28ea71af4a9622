"""The recipes of the README run as they stand, in an empty folder, with the shipped potential."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hydrapot.potential import shipped_models

README = Path(__file__).parent.parent / "README.md"


def _blocks() -> list[tuple[str, str]]:
    return re.findall(r"```(bash|python)\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.skipif("hydrapot-s" not in shipped_models(), reason="the shipped weights are not in this checkout")
def test_recipes_run(tmp_path: Path) -> None:
    """A recipe that does not run costs a new user the first five minutes."""
    blocks = _blocks()
    assert len(blocks) >= 6
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for language, code in blocks:
        command = ["bash", "-euc", code] if language == "bash" else [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{code}\n{done.stdout[-500:]}\n{done.stderr[-2000:]}"
    assert {p.name for p in tmp_path.iterdir()} >= {
        "mgo-relax.extxyz",
        "copper-md.traj",
        "copper-md.json",
        "copper-md.png",
    }


def test_files_that_the_readme_names_exist() -> None:
    """Links and pictures must not rot."""
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (README.parent / target).exists(), target
