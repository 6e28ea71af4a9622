"""Validate a third-party potential end to end: CHGNet from PyPI, in an environment of its own.

    python benchmarks/validate_chgnet.py [-o FOLDER] [--elements Mg,O] [--tier smoke] [-- MORE OPTIONS OF hydrapot validate]

makes `.venv-chgnet` beside `.venv` at the first call (about 1.5 GB, most of it torch), installs torch, chgnet and this
checkout into it, and runs `hydrapot validate`. Nothing of it touches the environment of the package. What the run
writes is checked to be complete, and its verdicts are printed; a FAIL is a result, not an error of this script.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-chgnet"
PYTHON = ENVIRONMENT / "bin" / "python"
#: The torch that hydrapot is tested with, first and pinned: a dependency of chgnet would bring in the newest CUDA build.
TORCH = "torch==2.13.0"
CHGNET = "chgnet==0.4.2"
ARTEFACTS = ("results.json", "report.html", "junit.xml", "certificate.json")
#: Å; of the atom graph of the published checkpoint. The receptive field is four message-passing layers of it.
CUTOFF = 6.0


def build():
    """Make the environment, unless it is there already."""
    if (
        PYTHON.exists()
        and subprocess.run([PYTHON, "-c", "import chgnet, hydrapot.validation"], check=False).returncode == 0
    ):
        return
    subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    constraints = ENVIRONMENT / "constraints.txt"
    constraints.write_text(TORCH + "\n", encoding="utf-8")
    pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--constraint", constraints]
    subprocess.run([*pip, TORCH], check=True)
    subprocess.run([*pip, CHGNET, "setuptools>=77"], check=True)
    subprocess.run([*pip, "--no-build-isolation", "--editable", f"{ROOT}[validation]"], check=True)


def validate(
    output: Path, *, elements: str, tier: str, factory: str = "in_box", more: Sequence[str] = ()
) -> tuple[int, float]:
    """Run the validation; exit code and seconds."""
    command = [
        ENVIRONMENT / "bin" / "hydrapot", "validate",
        "--calculator", f"{ROOT / 'benchmarks' / 'chgnet_calculator.py'}:{factory}",
        "--elements", elements, "--cutoff", str(CUTOFF), "--receptive-field", str(4 * CUTOFF),
        "--tier", tier, "-o", output, *more,
    ]  # fmt: skip
    begin = time.perf_counter()
    code = subprocess.run([str(word) for word in command], check=False).returncode
    return code, time.perf_counter() - begin


def summary(output: Path) -> dict[str, Any]:
    """Verdict of every suite, and what failed, from results.json."""
    missing = [name for name in ARTEFACTS if not (output / name).is_file()]
    if missing:
        raise SystemExit(f"not written: {', '.join(missing)}")
    return json.loads((output / "results.json").read_text(encoding="utf-8"))


def main():
    """Build, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "runs" / "validate-chgnet")
    parser.add_argument("--elements", default="Mg,O")
    parser.add_argument("--tier", default="smoke")
    parser.add_argument("--factory", default="in_box", help="in_box, or chgnet: as published, for crystals only")
    parser.add_argument("more", nargs="*", help="after --: more options of hydrapot validate")
    arguments = parser.parse_args()
    build()
    code, seconds = validate(
        arguments.output,
        elements=arguments.elements,
        tier=arguments.tier,
        factory=arguments.factory,
        more=arguments.more,
    )
    if code not in {0, 1, 3}:
        raise SystemExit(f"hydrapot validate ended with {code}")
    results = summary(arguments.output)
    print(f"\nexit code {code} after {seconds:.0f} s")
    for suite in results["suites"]:
        if suite["verdict"] != "N-A":
            print(f"{suite['name']:<12} {suite['verdict']}")


if __name__ == "__main__":
    main()
