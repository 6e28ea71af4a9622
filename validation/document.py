"""``results.json``: everything that a validation found, from which report, certificate and comparison are made.

Schema "hydrapot validation", version :data:`SCHEMA_VERSION`; the fields are those of :class:`Document`. Numbers that
are not finite stand as text (``"nan"``, ``"inf"``), so that the file is JSON for every reader.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hydrapot.potential.container import write_atomically
from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation.metrics import Outcome, Verdict

SCHEMA = "hydrapot validation"
#: Raise it with every change that a reader of the old version would misunderstand.
SCHEMA_VERSION = 1

#: A suite or a validation in which something of ours (or the machine) failed, so that there is no verdict on the subject.
ERROR = "ERROR"
_EXIT_CODES = {Verdict.PASS.value: 0, Verdict.FAIL.value: 1, ERROR: 2}
#: Of INCONCLUSIVE, and where nothing applied: no statement either way.
_NO_STATEMENT = 3


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class SubjectRecord(_Part):
    """What was validated."""

    kind: Literal["checkpoint", "calculator"]
    name: str
    head: str = Field(description="Empty for a calculator.")
    level_of_theory: str
    source: str = Field(description="Model name or path, or the factory of a calculator.")
    sha256: str = Field(description="Content hash of the checkpoint, or hash of the factory's source file.")
    elements: tuple[str, ...]
    cutoff: float = Field(description="Å.")
    receptive_field: float = Field(description="Å.")
    resolution: float = Field(description="Relative rounding of energies and forces.")
    precisions: tuple[str, ...] = Field(description="That it can be evaluated in, best first.")


class Settings(_Part):
    """What was asked for."""

    tier: str
    suites: tuple[str, ...] = Field(description="Suites that were run, in their order.")
    precisions: tuple[str, ...]
    engines: tuple[str, ...]
    seeds: tuple[int, ...]
    domain: dict[str, Any] = Field(description="All fields of the domain file, defaults included.")


class Environment(_Part):
    """Where it ran."""

    platform: str
    processor: str
    cores: int
    workers: int
    threads_per_worker: int
    python: str
    versions: dict[str, str] = Field(description="Distribution → version, of those installed that take part.")


class SuiteRecord(_Part):
    """One suite."""

    name: str
    title: str
    purpose: str
    category: Literal["A", "B"]
    verdict: str = Field(description="PASS, FAIL, INCONCLUSIVE, N-A, or ERROR when the suite itself failed.")
    outcome: dict[str, Any] | None = Field(
        default=None, description="Metrics, figures and notes; see Outcome.as_dict. None with ERROR and when not run."
    )
    reason: str = Field(default="", description="Why it was not run, or what the error was.")
    seconds: float | None = Field(default=None, description="Wall time; None when it was not run.")
    predicted_seconds: float | None = None
    resumed: bool = Field(default=False, description="Kept from an earlier run with the same fingerprint.")
    fingerprint: str = Field(default="", description="Hash of all that the outcome depends on.")

    @model_validator(mode="after")
    def _outcome_is_readable(self) -> Self:
        if self.outcome is not None:
            try:
                found = self.found
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"outcome of suite {self.name!r}: {error!r}") from error
            if found is not None and found.verdict.value != self.verdict:
                raise ValueError(f"suite {self.name!r}: verdict {self.verdict} does not follow from its metrics")
        elif self.verdict not in {ERROR, Verdict.NOT_APPLICABLE.value}:
            raise ValueError(f"suite {self.name!r}: verdict {self.verdict} without an outcome")
        return self

    @property
    def found(self) -> Outcome | None:
        """The outcome as metrics, figures and notes."""
        return None if self.outcome is None else Outcome.from_dict(self.outcome)


class Document(_Part):
    """The whole of ``results.json``."""

    schema_: Literal["hydrapot validation"] = Field(default="hydrapot validation", alias="schema")
    schema_version: int = SCHEMA_VERSION
    created: str = Field(description="UTC, ISO 8601.")
    verdict: str = Field(description="The worst of the suites; ERROR before all.")
    subject: SubjectRecord
    settings: Settings
    environment: Environment
    suites: tuple[SuiteRecord, ...] = Field(description="All of the package in their order, those not run included.")
    seconds: float = Field(description="Wall time of the whole.")
    fingerprint: str = Field(description="Hash of subject, settings, version and source of the validation.")

    @model_validator(mode="after")
    def _verdict_follows(self) -> Self:
        if self.verdict != overall(self.suites):
            raise ValueError(f"verdict {self.verdict} does not follow from the suites ({overall(self.suites)})")
        return self

    @property
    def exit_code(self) -> int:
        """0 PASS, 1 FAIL, 2 an error, 3 INCONCLUSIVE or nothing applicable."""
        return _EXIT_CODES.get(self.verdict, _NO_STATEMENT)

    def suite(self, name: str) -> SuiteRecord | None:
        """The record of a suite; None for one that this version of the package did not have."""
        return next((record for record in self.suites if record.name == name), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in the file."""
        return self.model_dump(mode="json", by_alias=True)


def overall(suites: tuple[SuiteRecord, ...] | list[SuiteRecord]) -> str:
    """The verdict on all suites together: an error before all, then the worst."""
    verdicts = [record.verdict for record in suites]
    if ERROR in verdicts:
        return ERROR
    return Verdict.of(Verdict(verdict) for verdict in verdicts).value


def now() -> str:
    """The time for :attr:`Document.created`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_document(document: Document, path: str | Path) -> None:
    """Write ``results.json`` atomically."""
    write_atomically(path, (json.dumps(document.as_dict(), indent=1, allow_nan=False) + "\n").encode())


def read_document(path: str | Path) -> Document:
    """Read ``results.json``; a folder stands for the file of that name in it.

    Raises
    ------
    ConfigurationError
        Missing, not JSON, of another kind or of another schema version, altered so that verdicts contradict metrics.
    """
    path = Path(path)
    if path.is_dir():
        path /= "results.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise ConfigurationError(f"{path} is not a results.json of hydrapot validate")
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path} has schema version {raw.get('schema_version')!r}, this hydrapot reads {SCHEMA_VERSION}: "
            "run the validation again"
        )
    try:
        return Document.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "document"
        raise ConfigurationError(f"{path}: {place}: {first['msg']}") from error
