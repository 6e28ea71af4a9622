"""The same potential in every engine: energies, forces, stresses and energies of atoms, and short runs.

The structures are those that adapters get wrong: skewed cells, cells smaller than the cutoff, slabs, wires, elements that the
potential knows and the structure lacks, atoms and types in another order. The reference is a new ASE calculator for
each structure, in the best precision; ``ase`` itself tests one calculator that is kept from structure to structure, and
each path that the calculator has.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError

from hydrapot.validation.engines import Engine, EngineResult, engines, reference_engine
from hydrapot.validation.guarded import PotentialFailure
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.nve import equilibrate
from hydrapot.validation.structures import representative, spacing, standard_structures
from hydrapot.validation.suite import Context, Suite, Tier
from hydrapot.validation.suites.nve import choose, slope_limit

#: Largest differences between two engines in float64; about a thousand times what the order of sums changes.
LIMITS = {
    "energy difference": (1e-9, "eV/atom"),
    "force difference": (1e-8, "eV/Å"),
    "stress difference": (1e-8, "eV/Å³"),
    "per-atom energy difference": (1e-8, "eV"),
}
#: In units of the limits: what a float32 engine may differ by, and no engine more.
_CAP = 1e4
#: Rounding of a float64 engine, to which the limits belong.
_DOUBLE = 1e-15
#: eV; next to total energies of all-electron codes, 1e6 eV, differences of energies are rounded to 1e-10 eV.
_ROUNDING = 1e-15
_STEPS = {Tier.SMOKE: 100, Tier.STANDARD: 1000, Tier.FULL: 1000}
_MAX_ATOMS = 16
_TEMPERATURE = 300.0  # K, at most


def run(context: Context) -> Outcome:
    """Every engine that was asked for, on every structure."""
    reference = reference_engine(context.subject)
    cases = structures(context)
    expected = {name: _try(reference, atoms, species) for name, (atoms, species) in cases.items()}
    metrics: list[Metric] = []
    figures: list[Figure] = []
    start = _start(context)
    base = None if start is None else _run(context, reference, start)
    for asked in context.engines:
        for engine in engines(asked, context.subject):
            reason = engine.available()
            if reason is not None:
                metrics += [skipped(name, engine.name, reason, unit=unit) for name, (_, unit) in LIMITS.items()]
                continue
            metrics += _compare(context, engine, cases, expected)
            if start is not None and base is not None:
                metrics.append(_dynamics(context, engine, start, base, figures))
    if not metrics:
        metrics = [skipped("energy difference", "", "no engine was asked for", unit="eV/atom")]
    return Outcome(metrics, figures)


def structures(context: Context) -> dict[str, tuple[Atoms, tuple[int, ...]]]:
    """Structures by name, each with the species in the order of the engine's types."""
    elements, cutoff = context.subject.elements, context.subject.cutoff
    made = standard_structures(elements, cutoff=cutoff, seed=context.seeds[0])
    few = tuple(representative(elements))
    cases = {name: (atoms, few) for name, atoms in made.items()}
    crystal = made["crystal"]
    # More than one type in LAMMPS, of which the structure has the last only.
    alone = bulk("Cu", a=math.sqrt(2) * spacing([few[-1]], cutoff=cutoff), cubic=True)
    alone.numbers[:] = few[-1]
    alone.rattle(0.05, seed=context.seeds[0])
    cases["missing species"] = (alone, few)
    order = np.random.default_rng(context.seeds[0]).permutation(len(crystal))
    cases["permuted atoms"] = (crystal[order], few)
    cases["permuted types"] = (crystal, few[::-1])
    triclinic = crystal.copy()
    triclinic.set_cell(crystal.cell.array @ np.array([[1, 0, 0], [0.3, 1, 0], [-0.2, 0.25, 1]]), scale_atoms=True)
    cases["triclinic"] = (triclinic, few)
    far = crystal.copy()
    far.positions += np.array([[2, 0, 0], [0, -3, 0], [1, 1, 1], [0, 0, 0]]) @ crystal.cell.array
    cases["outside the cell"] = (far, few)
    return cases


def _try(engine: Engine, atoms: Atoms, species: Sequence[int]) -> EngineResult | str:
    try:
        return engine.evaluate(atoms, species=species)
    except (PotentialFailure, PropertyNotImplementedError) as error:
        return str(error) or "not implemented"


def _compare(
    context: Context,
    engine: Engine,
    cases: Mapping[str, tuple[Atoms, tuple[int, ...]]],
    expected: Mapping[str, EngineResult | str],
) -> list[Metric]:
    """Worst differences over the structures that the reference has an answer for."""
    worst: dict[str, tuple[float, str]] = {}
    refused = []
    factor = min(_CAP, max(1.0, max(engine.resolution, context.subject.resolution) / _DOUBLE))
    for name, (atoms, species) in cases.items():
        reference = expected[name]
        if isinstance(reference, str):
            refused.append(name)
            continue
        found = _try(engine, atoms, species)
        if isinstance(found, str):
            worst = dict.fromkeys(LIMITS, (math.nan, f"{name}: {found}"))
            break
        for key, value in _differences(found, reference).items():
            if not value <= worst.get(key, (-1.0, ""))[0]:
                worst[key] = (value, name)
    note = f"; not compared, as the reference has no answer: {', '.join(refused)}" if refused else ""
    metrics = []
    for key, (limit, unit) in LIMITS.items():
        if key not in worst:
            metrics.append(skipped(key, engine.name, f"not given by both engines for any structure{note}", unit=unit))
            continue
        value, where = worst[key]
        upper = context.limit("parity", key, factor * limit)
        detail = f"worst: {where}; {len(cases) - len(refused)} structures{note}"
        metrics.append(Metric(key, engine.name, value, unit, upper=upper, detail=detail))
    return metrics


def _differences(found: EngineResult, reference: EngineResult) -> dict[str, float]:
    n = len(reference.forces)
    slack = _ROUNDING * abs(reference.energy)
    differences = {
        "energy difference": max(0.0, abs(found.energy - reference.energy) - slack) / n,
        "force difference": float(np.abs(found.forces - reference.forces).max()),
    }
    if found.stress is not None and reference.stress is not None:
        differences["stress difference"] = float(np.abs(found.stress - reference.stress).max())
    if found.energies is not None and reference.energies is not None:
        difference = np.abs(found.energies - reference.energies) - _ROUNDING * np.abs(reference.energies)
        differences["per-atom energy difference"] = float(np.maximum(0.0, difference).max())
    return differences


# --- dynamics ---------------------------------------------------------------------------------------------------------
def _start(context: Context) -> Atoms | None:
    names = choose(context, 1)
    if not names:
        return None
    atoms = context.repeated(names[0], max_atoms=_MAX_ATOMS)
    atoms.calc = context.subject.calculator()
    temperature = min(_TEMPERATURE, max(10.0, context.domain.temperature[1]))
    try:
        equilibrate(
            atoms, temperature=temperature, duration=50.0, timestep=context.domain.step(atoms), seed=context.seeds[0],
            friction=0.02,
        )  # fmt: skip
    except Exception:  # noqa: BLE001 - calculators raise what they like; the suites nve and md report it
        return None
    atoms.calc = None
    return atoms


def _run(context: Context, engine: Engine, start: Atoms) -> Any:
    """Total energies of 1 ps (less in smoke), or None."""
    step = context.domain.step(start)
    steps = round(_STEPS[context.tier] / step)

    def compute() -> dict[str, Any]:
        try:
            return {
                "energies": engine.nve(start, species=context.subject.elements, timestep=step, steps=steps).tolist()
            }
        except PotentialFailure as error:
            return {"failure": str(error)}

    return context.piece(f"parity nve {engine.name} {steps} {step}", compute)


def _dynamics(context: Context, engine: Engine, start: Atoms, base: Any, figures: list[Figure]) -> Metric:
    """How far the energies of two runs from one start part.

    Trajectories of two engines part exponentially; their energies stay within the fluctuation of velocity Verlet, plus
    the drift that the use allows.
    """
    name, unit = "energy difference along a run", "meV/atom"
    subject = f"{engine.name}, {start.get_chemical_formula()}"
    if "failure" in base:
        return skipped(name, subject, f"the run of the reference failed: {base['failure']}", unit=unit)
    found = _run(context, engine, start)
    scale = 1000.0 / len(start)
    reference = scale * (np.array(base["energies"]) - base["energies"][0])
    upper = context.limit(
        "parity", name, 6.0 * float(reference.std()) + slope_limit(context.domain) * _STEPS[context.tier] / 1e3
    )
    if "failure" in found:
        return Metric(name, subject, math.nan, unit, upper=upper, detail=found["failure"])
    energies = scale * (np.array(found["energies"]) - base["energies"][0])
    time = context.domain.step(start) * np.arange(len(reference))
    every = max(1, len(time) // 200)
    series = [
        Series(label, time[::every].tolist(), values[::every].tolist())
        for label, values in (("reference", reference), (engine.name, energies))
    ]
    figures.append(Figure(f"Energy at constant energy: {subject}", "Time (fs)", "H − H(0) (meV/atom)", series))
    detail = f"{time[-1] / 1000.0:.2f} ps"
    return Metric(name, subject, float(np.abs(energies - reference).max()), unit, upper=upper, detail=detail)


def _evaluations(context: Context) -> float:
    names = choose(context, 1)
    if not names:
        return 100.0
    atoms = context.repeated(names[0], max_atoms=_MAX_ATOMS)
    runs = 1 + sum(e.available() is None for name in context.engines for e in engines(name, context.subject))
    return float(runs * (100 + len(atoms) * _STEPS[context.tier] / context.domain.step(atoms)))


SUITE = Suite(
    name="parity",
    title="Parity of engines",
    purpose="a deployed potential that is not the one that was validated",
    category="A",
    run=run,
    evaluations=_evaluations,
)
