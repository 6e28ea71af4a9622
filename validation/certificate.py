"""``certificate.json``: what was shown about a checkpoint, bound to it by hashes and, on request, signed.

The file is one line of canonical JSON (:mod:`hydrapot.validation.canonical`) with a line end. It has these members:

``schema``, ``schema_version``
    ``"hydrapot certificate"`` and an integer.
``statement``
    Verdict, uses, validity envelope and hashes.
``digest``
    SHA-256 of the statement's canonical JSON: notices damage, not intent.
``signature``
    null, or algorithm, public key, its fingerprint, and the Ed25519 signature of the words ``hydrapot certificate``, a
    line end, and the canonical JSON of ``schema``, ``schema_version`` and ``statement``.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrapot.potential.container import write_atomically
from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation import signing
from hydrapot.validation.canonical import canonical, digest, parse
from hydrapot.validation.document import Document, now
from hydrapot.validation.domain import Domain
from hydrapot.validation.usematrix import UseMatrix, matrix_of

SCHEMA = "hydrapot certificate"
SCHEMA_VERSION = 1
_DYNAMICS = ("nve", "nvt", "npt")


class AlteredError(ConfigurationError):
    """A certificate that is not as it was written, or does not belong to the file it is held against."""


@dataclass(frozen=True)
class Certificate:
    """A certificate whose form and digest hold; `signer` is the fingerprint of the key whose signature holds."""

    statement: dict[str, Any]
    signer: str | None


def write_certificate(
    document: Document,
    path: str | Path,
    *,
    results: str | Path | None = None,
    artifacts: Mapping[str, str | Path] | None = None,
    key: str | Path | None = None,
    created: str | None = None,
) -> None:
    """Write ``certificate.json``.

    Parameters
    ----------
    document
        The results that it certifies.
    path
        Of the certificate.
    results
        The file ``results.json`` that holds `document`; None leaves its hash out.
    artifacts
        Files that are deployed (exported models), by what they are for.
    key
        PEM file of a private Ed25519 key; None leaves the certificate unsigned, which it then says.
    created
        UTC, ISO 8601; now by default.

    Raises
    ------
    ConfigurationError
        A key that cannot be used, or signing without the package ``cryptography``.
    OSError
    """
    statement = make_statement(document, results=results, artifacts=artifacts or {}, created=created or now())
    certificate = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "statement": statement,
        "digest": digest(statement),
        "signature": None if key is None else signing.sign(_signed_part(statement), key),
    }
    write_atomically(path, canonical(certificate) + b"\n")


def make_statement(
    document: Document, *, results: str | Path | None, artifacts: Mapping[str, str | Path], created: str
) -> dict[str, Any]:
    """Everything that is certified, in plain values."""
    matrix = matrix_of(document)
    subject = document.subject
    return {
        "created": created,
        "validated": document.created,
        "hydrapot": document.environment.versions.get("hydrapot", ""),
        "verdict": document.verdict,
        "subject": {
            "kind": subject.kind,
            "name": subject.name,
            "head": subject.head,
            "level_of_theory": subject.level_of_theory,
        },
        "sha256": {
            "subject": subject.sha256,
            "artifacts": {name: file_hash(artifact) for name, artifact in artifacts.items()},
            "settings": digest(document.settings.model_dump(mode="json")),
            "environment": digest(document.environment.model_dump(mode="json")),
            "results": None if results is None else file_hash(results),
        },
        "tier": document.settings.tier,
        "suites": {record.name: record.verdict for record in document.suites},
        "uses": {
            "columns": [{"engine": c.engine, "precision": c.precision} for c in matrix.columns],
            "answers": {use: [cell.word for cell in cells] for use, cells in matrix.rows.items()},
        },
        "envelope": envelope(document, matrix),
    }


def envelope(document: Document, matrix: UseMatrix) -> dict[str, Any]:
    """Within what the green cells hold: nothing that did not pass is inside.

    Conditions of dynamics (T, P, time step, duration) stand only where an ensemble passed, a pressure only where NPT did.
    """
    domain = Domain.model_validate(document.settings.domain)
    allowed = matrix.allowed()
    ensembles = [use for use in _DYNAMICS if any(green == use for green, _ in allowed)]
    dynamics = bool(ensembles)
    return {
        "elements": list(domain.elements or document.subject.elements) if allowed else [],
        "uses": [{"use": use, "engine": c.engine, "precision": c.precision} for use, c in allowed],
        "engines": sorted({c.engine for _, c in allowed}),
        "precisions": sorted({c.precision for _, c in allowed}),
        "ensembles": ensembles,
        "temperature_K": list(domain.temperature) if dynamics else None,
        "pressure_GPa": list(domain.pressure) if "npt" in ensembles else None,
        "timestep_fs": domain.timestep if dynamics else None,
        "timestep_rule": "0.5 fs with hydrogen, else 1 fs" if dynamics and domain.timestep is None else None,
        "duration_ns": domain.duration if dynamics else None,
    }


def read_certificate(path: str | Path) -> Certificate:
    """Read a certificate and verify form, digest and signature.

    Raises
    ------
    AlteredError
        Any byte is not as it was written, as far as digest and signature can tell.
    ConfigurationError
        Not a certificate at all, of another schema version, or signed while ``cryptography`` is missing.
    OSError
    """
    data = Path(path).read_bytes()
    try:
        document = parse(data.removesuffix(b"\n"))
    except ConfigurationError as error:
        raise AlteredError(f"{path} is not a certificate as it was written: {error}") from error
    if not data.endswith(b"\n"):
        raise AlteredError(f"{path} does not end as it was written")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise AlteredError(f"{path} is not a {SCHEMA}")
    if document.get("schema_version") != SCHEMA_VERSION:
        version = document.get("schema_version")
        raise AlteredError(f"{path} has schema version {version!r}; this hydrapot reads {SCHEMA_VERSION}")
    if set(document) != {"schema", "schema_version", "statement", "digest", "signature"}:
        raise AlteredError(f"{path} has other members than a certificate")
    statement = document["statement"]
    if not isinstance(statement, dict) or digest(statement) != document["digest"]:
        raise AlteredError(f"{path} was altered: its digest does not match")
    if document["signature"] is None:
        return Certificate(statement, None)
    try:
        return Certificate(statement, signing.verify(_signed_part(statement), document["signature"]))
    except signing.SignatureError as error:
        raise AlteredError(f"{path}: {error}") from error


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _signed_part(statement: Mapping[str, Any]) -> bytes:
    return canonical({"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "statement": dict(statement)})
