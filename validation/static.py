"""What the suites without dynamics share: structures to test on, limits that follow the rounding, potentials that refuse."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from hydrapot.potential.errors import HydrapotError
from hydrapot.validation.evaluators import CalculatorEvaluator, Evaluation, Evaluator
from hydrapot.validation.guarded import PotentialFailure, failed
from hydrapot.validation.metrics import Metric, from_checks, skipped
from hydrapot.validation.results import CheckResult
from hydrapot.validation.structures import standard_structures
from hydrapot.validation.suite import Context, Tier

#: Relative rounding of a network in single precision.
SINGLE = float(np.finfo(np.float32).eps)
#: Structures of the domain in each tier; a domain names the ones that matter most first.
_STRUCTURES = {Tier.SMOKE: 3, Tier.STANDARD: 6, Tier.FULL: 30}
#: Å; at a minimum, where all forces vanish, nothing would be tested.
_RATTLE = 0.05


@dataclass(frozen=True)
class Case:
    """A structure to test on.

    Attributes
    ----------
    name, atoms
        Of the structure.
    legal
        Whether the potential has to have an answer: of periodicities that the domain does not have, a foreign potential
        may refuse (a checkpoint of ours must not).
    """

    name: str
    atoms: Atoms
    legal: bool


class Widening(NamedTuple):
    """How a limit that holds in float64 follows the rounding: max(limit, factor · resolution), at most `cap`."""

    factor: float
    cap: float


class GuardedEvaluator(CalculatorEvaluator):
    """A calculator's evaluator that turns whatever the calculator raises into :class:`PotentialFailure`."""

    def __call__(self, atoms: Atoms) -> Evaluation:
        """Evaluate one structure."""
        try:
            return super().__call__(atoms)
        except Exception as error:
            raise PotentialFailure(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Variant:
    """A way in which the subject is used: `make` gives a fresh evaluator whose relative rounding is `resolution`."""

    name: str
    make: Callable[[], Evaluator]
    resolution: float

    def label(self, subject: str) -> str:
        """`subject` with the variant's name, where there is more than one."""
        return f"{subject}, {self.name}" if self.name else subject


def evaluator(context: Context) -> Evaluator:
    """The subject in its best precision; of a foreign calculator guarded."""
    if context.subject.head_info is not None:
        return context.subject.evaluator
    return _guarded(context, None)()


def deployed(context: Context) -> list[Variant]:
    """Calculators as they are deployed: of a checkpoint in float64 and float32."""
    subject = context.subject
    if subject.head_info is None:
        return [Variant("", _guarded(context, None), subject.resolution)]
    return [
        Variant(f"ASE {precision}", _guarded(context, precision), resolution)
        for precision, resolution in (("f64", subject.resolution), ("f32", SINGLE))
        if precision in subject.precisions
    ]


def _guarded(context: Context, precision: str | None) -> Callable[[], Evaluator]:
    subject = context.subject

    def make() -> Evaluator:
        return GuardedEvaluator(
            subject.calculator(precision),
            cutoff=subject.cutoff,
            elements=elements(context),
            receptive_field=subject.receptive_field,
        )

    return make


def elements(context: Context) -> tuple[int, ...]:
    """Atomic numbers that both domain and subject know; all of the subject's where the domain names none."""
    wanted = context.domain.elements
    known = context.subject.elements
    if wanted is None:
        return known
    return tuple(z for z in known if chemical_symbols[z] in wanted) or known


def made(context: Context) -> dict[str, Atoms]:
    """Standard structures of the elements."""
    return standard_structures(elements(context), cutoff=context.subject.cutoff)


def is_legal(context: Context, atoms: Atoms) -> bool:
    """Whether the potential must not refuse a structure with such periodicity."""
    if context.subject.head_info is not None or atoms.pbc.all():
        return True
    return any(np.array_equal(atoms.pbc, known.pbc) for known in context.structures.values())


def cases(
    context: Context, *, standard: Sequence[str], max_atoms: int | None = None, seed: int = 0, rattle: float = _RATTLE
) -> list[Case]:
    """Structures of the domain, repeated and rattled, and the named ones of :func:`standard_structures`."""
    rng = np.random.default_rng(seed)
    found = []
    for name in list(context.structures)[: _STRUCTURES[context.tier]]:
        atoms = context.repeated(name, max_atoms=max_atoms)
        atoms.positions += rattle * rng.normal(size=(len(atoms), 3))
        found.append(Case(name, atoms, is_legal(context, atoms)))
    known = made(context)
    return found + [Case(f"made {name}", known[name], is_legal(context, known[name])) for name in standard]


@contextmanager
def quiet() -> Iterator[None]:
    """A block in which a potential may warn about structures that it has not seen, and overflow."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def attempt(
    name: str, subject: str, compute: Callable[[], Iterable[Metric]], *, legal: bool = True, unit: str = ""
) -> list[Metric]:
    """Metrics of `compute`; of a potential that raises, one that fails, or does not apply where refusing is legal."""
    try:
        with quiet():
            return list(compute())
    except (PotentialFailure, HydrapotError) as error:
        if legal:
            return [failed(name, subject, error, unit=unit)]
        return [skipped(name, subject, f"refused: {' '.join(str(error).split())[:200]}", unit=unit)]


def widened(
    checks: Iterable[CheckResult],
    context: Context,
    suite: str,
    table: Mapping[str, Widening],
    *,
    resolution: float | None = None,
    label: Callable[[str], str] = str,
) -> list[Metric]:
    """Results of checks with limits from the domain, or widened by the rounding of the subject."""
    metrics = []
    for metric in from_checks(checks):
        changed = replace(metric, subject=label(metric.subject))
        if metric.upper is not None:
            changed = replace(changed, upper=limit(context, suite, metric.name, metric.upper, table, resolution))
        elif metric.lower is not None:
            changed = replace(changed, lower=context.limit(suite, metric.name, metric.lower))
        metrics.append(changed)
    return metrics


def limit(
    context: Context,
    suite: str,
    name: str,
    strict: float,
    table: Mapping[str, Widening],
    resolution: float | None = None,
) -> float:
    """Upper limit of a metric: that of the domain, else `strict`, widened as `table` says."""
    rounding = context.subject.resolution if resolution is None else resolution
    widening = table.get(name)
    if widening is not None:
        strict = max(strict, min(widening.cap, widening.factor * rounding))
    return context.limit(suite, name, strict)
