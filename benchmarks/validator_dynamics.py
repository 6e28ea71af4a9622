"""The suites nve and md on potentials that are known to be sound, and nve on seeded defects.

    python benchmarks/validator_dynamics.py controls [--repeats 5] [-o controls.json]
    python benchmarks/validator_dynamics.py defects [-o defects.json]

Tier smoke, 27 atoms of Cu (12 in md), 300 K, NVT. Every repetition has two seeds of its own. A control has to pass
every time; of each defect the verdict is shown at three strengths. One process, one thread: about five minutes for
either on an idle core.
"""

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT

sys.path.insert(0, str(Path(__file__).parent.parent))  # for tests.seeded_defects
from validator import EAM, lennard_jones

from hydrapot.validation.domain import Domain, StructureSource
from hydrapot.validation.metrics import Metric, Outcome
from hydrapot.validation.subject import CalculatorSubject
from hydrapot.validation.suite import Context, Tier
from hydrapot.validation.suites import load_suite
from tests.seeded_defects import DEFECTS, PairPotential

CONTROLS: dict[str, tuple[Callable[[], Calculator], float]] = {
    "EMT": (EMT, 3.60),
    "LJ smooth, 6 Å": (lennard_jones(rc=6.0, ro=4.0, smooth=True), 3.53),
    "EAM Cu_mishin1": (EAM, 3.615),
    "Morse, C² switch": (PairPotential, 3.55),
}
#: Those that dynamics can see.
SEEN = (
    *("small curl", "direct forces", "forces of another head", "forces zeroed", "one force zeroed"),
    *("bfloat16 forces", "noise", "coarse energy", "stale neighbors", "truncated cutoff", "neighbor cap"),
)


def context(factory: Callable[[], Calculator], *, a: float, seeds: tuple[int, ...]) -> Context:
    """A subject whose cutoff is not asked for."""
    subject = CalculatorSubject(factory, name="control", elements=("Cu",), cutoff=6.0, receptive_field=12.0)
    copper = StructureSource(name="Cu", crystal="fcc", formula="Cu", a=a)
    return Context(subject, Domain(structures=(copper,)), Tier.SMOKE, seeds=seeds)


def judged(outcome: Outcome, name: str) -> list[Metric]:
    """Metrics of a name that have a verdict."""
    return [m for m in outcome.metrics if m.name == name and m.verdict is not None and m.value is not None]


def summary(outcome: Outcome) -> dict[str, Any]:
    """Verdict and the numbers behind it."""
    slopes, ratios = judged(outcome, "shadow energy slope"), judged(outcome, "fluctuation ratio")
    deviations = [m.value for m in outcome.metrics if m.unit == "standard errors" and m.value is not None]
    return {
        "verdict": outcome.verdict.value,
        "slope": max((abs(m.value) for m in slopes if m.value is not None), default=None),
        "bound": max((max(map(abs, m.interval)) for m in slopes if m.interval), default=None),
        "ratio": [[*m.interval] for m in ratios if m.interval],
        "deviation": max(deviations, default=None),
        "failed": sorted(
            {f"{m.name}: {m.value:.3g}" for m in outcome.metrics if m.verdict and m.verdict.value == "FAIL"}
        ),
    }


def controls(repeats: int, names: Sequence[str], suites: Sequence[str]) -> list[dict[str, Any]]:
    """The suites on every control, with new seeds each time."""
    rows = []
    for name, (factory, a) in CONTROLS.items():
        if names and name not in names:
            continue
        for suite in suites:
            began = time.perf_counter()
            seeds = [(2 * k, 2 * k + 1) for k in range(repeats)]
            found = [summary(load_suite(suite).run(context(factory, a=a, seeds=pair))) for pair in seeds]
            row = {
                "control": name,
                "suite": suite,
                "verdicts": dict(Counter(f["verdict"] for f in found)),
                "largest bound (meV/atom/ps)": max((f["bound"] for f in found if f["bound"]), default=None),
                "ratio": [
                    min((x[0] for f in found for x in f["ratio"]), default=None),
                    max((x[1] for f in found for x in f["ratio"]), default=None),
                ],
                "largest deviation (standard errors)": max(
                    (f["deviation"] for f in found if f["deviation"]), default=None
                ),
                "failed": [f["failed"] for f in found if f["failed"]],
                "seconds": round(time.perf_counter() - began, 1),
            }
            print(json.dumps(row, ensure_ascii=False), flush=True)
            rows.append(row)
    return rows


def defects() -> list[dict[str, Any]]:
    """Each defect at each strength in the suite nve."""
    rows = []
    suite = load_suite("nve")
    for name in SEEN:
        defect = DEFECTS[name]
        for strength in defect.strengths:
            found = summary(suite.run(context(lambda d=defect, s=strength: d.make(s), a=3.6, seeds=(0, 1))))
            row = {"defect": name, "strength": strength, "unit": defect.unit, **found}
            print(json.dumps(row, ensure_ascii=False), flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("controls", "defects"))
    parser.add_argument("--repeats", type=int, default=5, help="with two seeds each")
    parser.add_argument("--controls", nargs="*", default=(), help="some of them only")
    parser.add_argument("--suites", nargs="*", default=("nve", "md"))
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = controls(options.repeats, options.controls, options.suites) if options.what == "controls" else defects()
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
