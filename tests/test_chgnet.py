"""A potential that is not ours, in an environment of its own: CHGNet from PyPI through the command line."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import validate_chgnet  # noqa: E402 - benchmarks/ is a folder of scripts


@pytest.mark.slow
def test_chgnet_is_validated_end_to_end(tmp_path):
    """All artefacts are written; extensivity holds, and the missing wall at short distances is found."""
    if not validate_chgnet.PYTHON.exists():
        pytest.skip("no .venv-chgnet; `python benchmarks/validate_chgnet.py` makes it")
    code, _ = validate_chgnet.validate(
        tmp_path / "out", elements="Mg,O", tier="smoke", more=("--suites", "size,walls", "--workers", "1")
    )
    results = validate_chgnet.summary(tmp_path / "out")
    verdicts = {suite["name"]: suite["verdict"] for suite in results["suites"]}
    assert code == 1
    # The energy of Mg₂ falls from 27 eV at 0.9 Å to 3 eV at 0.3 Å: a property of CHGNet (docs/validation.md).
    assert verdicts["walls"] == "FAIL"
    assert "ERROR" not in verdicts.values()
