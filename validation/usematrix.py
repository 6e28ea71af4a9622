"""The use matrix: what a potential may be used for, in which precision and engine; no score.

Every cell is the worst of what its use requires (:data:`hydrapot.validation.uses.USES`). Red: something failed. Amber:
something straddles its limit. Grey: something required was not tested, be it by choice, by lack of a package or of
reference data. Green is what is left: everything required was tested and passed. A cell never becomes green because
something is missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from hydrapot.validation.document import Document
from hydrapot.validation.domain import Domain
from hydrapot.validation.margin import margin, worst
from hydrapot.validation.metrics import Metric, Outcome, Verdict
from hydrapot.validation.suites.nve import slope_limit
from hydrapot.validation.uses import USES, Use

#: Numbers that are reported and decide nothing, measured or not.
_INFORMATIVE = {("nve", "shadow energy slope at twice the step"), ("walls", "barrier before a hole")}
#: Where not to be applicable is no lack: calculators have neither batches nor heads, engines need not give atomic energies.
_OPTIONAL = {
    ("contract", "batch"),
    ("contract", "charge and spin"),
    ("walls", "dimers refused"),
    ("parity", "per-atom energy difference"),
}
_ENGINES = {"ase": "ASE", "lammps": "LAMMPS", "openmm": "OpenMM"}
#: In the names of metrics that concern the stress.
_STRESS_WORDS = ("stress", "strain", "virial", "pressure", "compression")
#: Suites whose metrics belong to a column each, not to all.
_BY_PRECISION, _BY_ENGINE = "precision", "parity"


class Color(StrEnum):
    """Colour of a cell."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"
    GREY = "grey"

    @property
    def word(self) -> str:
        """What it means for the reader, who may not see colours."""
        return {"green": "yes", "amber": "unclear", "red": "no", "grey": "not shown"}[self.value]


@dataclass(frozen=True)
class Column:
    """One way to run the potential: an engine and a precision."""

    engine: str
    precision: str

    @property
    def title(self) -> str:
        """Heading."""
        return f"{_ENGINES.get(self.engine, self.engine)} {self.precision}".strip()


@dataclass(frozen=True)
class Cell:
    """One answer.

    Attributes
    ----------
    color
        The answer.
    sound
        Everything passed except that no reference data were compared: grey, but not for want of testing the potential
        itself.
    reasons
        Why it is not green; for a green one nothing.
    gaps
        What parts of a suite were left out although the quantity was tested elsewhere.
    """

    color: Color
    reasons: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    sound: bool = False

    @property
    def word(self) -> str:
        """The answer in one or two words."""
        return "sound only" if self.sound else self.color.word

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "color": self.color.value,
            "word": self.word,
            "reasons": list(self.reasons),
            "gaps": list(self.gaps),
        }


@dataclass(frozen=True)
class UseMatrix:
    """Uses by columns."""

    columns: tuple[Column, ...]
    rows: dict[str, tuple[Cell, ...]]

    def cell(self, use: str, column: Column) -> Cell:
        """One cell."""
        return self.rows[use][self.columns.index(column)]

    def allowed(self) -> list[tuple[str, Column]]:
        """Green cells."""
        return [
            (use, column)
            for use, cells in self.rows.items()
            for column, cell in zip(self.columns, cells, strict=True)
            if cell.color is Color.GREEN
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "columns": [{"engine": c.engine, "precision": c.precision} for c in self.columns],
            "rows": {use: [cell.as_dict() for cell in cells] for use, cells in self.rows.items()},
        }


@dataclass
class _Findings:
    """What speaks against a use, collected over its requirements."""

    failed: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    untested: list[str] = field(default_factory=list)
    uncompared: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    def judge(self, suite: str, metrics: Sequence[Metric]) -> None:
        """Add the metrics of one requirement."""
        if not any(m.verdict in {Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE} for m in metrics):
            reasons = dict.fromkeys(m.detail for m in metrics if m.value is None and m.detail)
            why = f": {_listed(reasons)}" if reasons else ""
            self.untested.append(f"{suite}: not tested{why}")
            return
        for verdict, found in ((Verdict.FAIL, self.failed), (Verdict.INCONCLUSIVE, self.unclear)):
            bad = [m for m in metrics if m.verdict is verdict]
            for name in dict.fromkeys(m.name for m in bad):
                found.append(_statement(suite, [m for m in bad if m.name == name], verdict))

    def cell(self) -> Cell:
        """Red before amber before grey: what is known to be wrong is said first."""
        reasons = (*self.failed, *self.unclear, *self.untested, *self.uncompared)
        if self.failed:
            color = Color.RED
        elif self.unclear:
            color = Color.AMBER
        else:
            color = Color.GREY if reasons else Color.GREEN
        sound = bool(self.uncompared) and not (self.failed or self.unclear or self.untested)
        return Cell(color, reasons, tuple(dict.fromkeys(self.gaps)), sound)


def matrix_of(document: Document) -> UseMatrix:
    """The matrix of a results document."""
    outcomes = {record.name: found for record in document.suites if (found := record.found) is not None}
    without = {r.name: r.reason or r.verdict for r in document.suites if r.outcome is None}
    return use_matrix(
        outcomes,
        precisions=precisions_of(document),
        engines=document.settings.engines,
        categories={record.name: record.category for record in document.suites},
        errors={name: f"not tested: {reason}" for name, reason in without.items()},
        domain=Domain.model_validate(document.settings.domain),
    )


def precisions_of(document: Document) -> tuple[str, ...]:
    """Precisions with a column: that in which the suites ran, then those that were asked for and exist."""
    reference, *others = document.subject.precisions
    return (reference, *(p for p in document.settings.precisions if p in others))


def use_matrix(
    outcomes: Mapping[str, Outcome],
    *,
    precisions: Sequence[str],
    engines: Sequence[str] = ("ase",),
    categories: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
    domain: Domain | None = None,
) -> UseMatrix:
    """The matrix of a validation.

    Parameters
    ----------
    outcomes
        By name of the suite.
    precisions
        The first is the one in which the suites ran; the others need the precision suite's verdict.
    engines
        ``ase`` is the one in which the suites ran; the others need the parity suite's verdict.
    categories
        ``"A"`` or ``"B"`` by suite; in a suite of class A every quantity has to be tested somewhere.
    errors
        Suites that could not be carried out, and why.
    domain
        Decides which limit of the energy's slope the runs were held to.
    """
    required = _Requirements(outcomes, categories or {}, errors or {}, domain or Domain())
    columns = [Column("ase", p) for p in precisions]
    columns += [Column(e, p) for e in engines if e != "ase" for p in required.engine_precisions(e) or ("",)]
    rows = {use.key: tuple(required.cell(use, column, reference=precisions[0]) for column in columns) for use in USES}
    return UseMatrix(tuple(columns), rows)


class _Requirements:
    def __init__(
        self,
        outcomes: Mapping[str, Outcome],
        categories: Mapping[str, str],
        errors: Mapping[str, str],
        domain: Domain,
    ) -> None:
        self.outcomes, self.categories, self.errors, self.domain = outcomes, categories, errors, domain

    def engine_precisions(self, engine: str) -> tuple[str, ...]:
        """Precisions in which the parity suite ran an engine."""
        found = [m.precision for m in self._of_engine(engine)]
        return tuple(p for p in dict.fromkeys(found) if p)

    def cell(self, use: Use, column: Column, *, reference: str) -> Cell:
        """Everything that `use` requires in `column`."""
        findings = _Findings()
        for suite in use.suites:
            self._suite(findings, use, suite, {"", column.precision or reference})
        self._measured(findings, use)
        self._accuracy(findings, use)
        if column.precision not in {"", reference}:
            self._precision(findings, use, column.precision)
        if column.engine != "ase":
            found = self._of_engine(column.engine)
            self._add(findings, f"{_BY_ENGINE} ({column.engine})", _BY_ENGINE, _relevant(use, found))
        return findings.cell()

    def _suite(self, findings: _Findings, use: Use, suite: str, precisions: set[str]) -> None:
        outcome = self.outcomes.get(suite)
        if outcome is None:
            findings.untested.append(f"{suite}: {self.errors.get(suite, 'not tested: not part of this validation')}")
            return
        metrics = [self._for_use(use, suite, m) for m in _relevant(use, outcome.metrics)]
        metrics = [m for m in metrics if (suite, m.name) not in _INFORMATIVE and _precision(m) in precisions]
        self._add(findings, suite, suite, metrics)

    def _add(self, findings: _Findings, label: str, suite: str, metrics: Sequence[Metric]) -> None:
        if suite in self.errors:
            findings.untested.append(f"{label}: {self.errors[suite]}")
        findings.judge(label, metrics)
        if all(m.value is None for m in metrics):
            return
        for name in dict.fromkeys(m.name for m in metrics):
            group = [m for m in metrics if m.name == name]
            missing = [m for m in group if m.value is None]
            if not missing:
                continue
            statement = f"{label}, {name}: {_listed(dict.fromkeys(f'{m.subject}: {m.detail}' for m in missing))}"
            whole = len(missing) == len(group)
            lack = whole and self.categories.get(suite, "A") == "A" and (suite, name) not in _OPTIONAL
            (findings.untested if lack else findings.gaps).append(statement)

    def _measured(self, findings: _Findings, use: Use) -> None:
        """What the use cannot do without, and a suite may leave out for want of a stress or of a crystal."""
        needed: list[tuple[str, tuple[str, ...]]] = [(suite, (name,)) for suite, name in use.measured]
        needed += [("gradient", _STRESS_WORDS)] if use.stress else []
        for suite, words in needed:
            outcome = self.outcomes.get(suite)
            if outcome is None:
                continue  # said already
            found = [m for m in outcome.metrics if any(word in m.name.lower() for word in words)]
            if not any(m.verdict not in {None, Verdict.NOT_APPLICABLE} for m in found):
                findings.untested.append(f"{suite}: {words[0]} was not tested")

    def _accuracy(self, findings: _Findings, use: Use) -> None:
        """A comparison with reference data for everything that the use asks for, and none that speaks against it."""
        compared = [
            (suite, m)
            for suite in use.accuracy
            for m in (self.outcomes[suite].metrics if suite in self.outcomes else ())
            if m.level_of_theory and m.value is not None and _concerns(use, m)
        ]
        limited = [(suite, m) for suite, m in compared if m.verdict is not None]
        for words in use.compared:
            if any(word in m.name for _, m in limited for word in words):
                continue
            what = f"{' or '.join(words)}: " if words != ("",) else ""
            free = [f"{s}, {m.name} {m.value:.3g} {m.unit}" for s, m in compared if any(w in m.name for w in words)]
            why = f"compared without a limit ({_listed(free)})" if free else "no reference data were compared"
            findings.uncompared.append(f"accuracy: {what}{why} ({', '.join(use.accuracy)})")
        for suite in dict.fromkeys(s for s, _ in limited if s not in use.suites):
            findings.judge(suite, [m for s, m in limited if s == suite])

    def _precision(self, findings: _Findings, use: Use, precision: str) -> None:
        """What the precision suite says on this use: its metric ``allowed: KEY``."""
        label = f"{_BY_PRECISION} ({precision})"
        outcome = self.outcomes.get(_BY_PRECISION)
        of_precision = [] if outcome is None else [m for m in outcome.metrics if m.precision == precision]
        found = [m for m in of_precision if m.name == f"allowed: {use.key}"]
        # A suite that could not run says so once, not for every use.
        self._add(findings, label, _BY_PRECISION, found or [m for m in of_precision if m.value is None])

    def _of_engine(self, engine: str) -> list[Metric]:
        outcome = self.outcomes.get(_BY_ENGINE)
        return [] if outcome is None else [m for m in outcome.metrics if _names_engine(m, engine)]

    def _for_use(self, use: Use, suite: str, metric: Metric) -> Metric:
        """NVE asks for a smaller slope of the energy than a thermostat does: the same runs, judged for each."""
        if use.key != "nve" or (suite, metric.name) != ("nve", "shadow energy slope") or metric.upper is None:
            return metric
        limit = min(metric.upper, slope_limit(self.domain.model_copy(update={"ensemble": "nve"})))
        return replace(metric, lower=-limit, upper=limit)


def _relevant(use: Use, metrics: Iterable[Metric]) -> list[Metric]:
    return [m for m in metrics if _concerns(use, m)]


def _concerns(use: Use, metric: Metric) -> bool:
    """Whether a metric counts for a use: those of the stress only where a stress is needed."""
    return use.stress or not any(word in metric.name.lower() for word in _STRESS_WORDS)


def _precision(metric: Metric) -> str:
    """What a metric holds for; the suites of the contract write ``ASE f32`` at the end of the subject."""
    before, _, last = metric.subject.rpartition(" ")
    return metric.precision or (last if before.endswith("ASE") else "")


def _names_engine(metric: Metric, engine: str) -> bool:
    words = f"{metric.name} {metric.subject}".lower().replace(",", " ").replace(":", " ").replace("/", " ").split()
    return engine in words


def _statement(suite: str, metrics: Sequence[Metric], verdict: Verdict) -> str:
    found = worst(metrics)
    assert found is not None  # noqa: S101 - for the type checker
    word = "fails" if verdict is Verdict.FAIL else "straddles its limit"
    more = f", and {len(metrics) - 1} more" if len(metrics) > 1 else ""
    used = margin(found)
    return f"{suite}: {found.name} {word} ({found.subject}{more}{f'; {used}' if used else ''})"


def _listed(items: Iterable[str]) -> str:
    """The first three, and how many more."""
    found = list(items)
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
