"""What ``hydrapot verify`` finds: does a certificate hold, who signed it, and does it belong to these files?"""

from dataclasses import dataclass
from pathlib import Path

from hydrapot.potential.errors import CheckpointError
from hydrapot.potential.load import load
from hydrapot.validation.certificate import AlteredError, Certificate, file_hash, read_certificate
from hydrapot.validation.signing import read_fingerprint

#: In plain words, for every reader of a verification.
PROVES = (
    "A signature proves that the holder of the key signed exactly this statement, and that nothing in it changed since.",
    "It does not prove that the tests were run, or run honestly, nor anything outside of the envelope.",
    "A key inside a certificate proves nothing by itself: anybody can make one. Compare it with one from another source.",
)


@dataclass(frozen=True)
class Verification:
    """Result of :func:`verify`.

    Attributes
    ----------
    certificate
        None when it does not hold.
    problems
        What is altered, or does not match; empty when the certificate holds.
    checked
        What was verified.
    unchecked
        What was not, and what it would take.
    trusted
        Signed by the key that was named as trusted.
    """

    certificate: Certificate | None
    problems: tuple[str, ...]
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    trusted: bool = False


def verify(
    certificate: str | Path,
    *,
    model: str | None = None,
    results: str | Path | None = None,
    artifact: str | Path | None = None,
    public_key: str | None = None,
) -> Verification:
    """Verify a certificate, and that it belongs to the files that are given.

    Parameters
    ----------
    certificate
        Path of ``certificate.json``.
    model
        Shipped model or checkpoint that it should be about.
    results
        ``results.json`` that it should be about.
    artifact
        Deployed file that it should be about.
    public_key
        Trusted key: PEM file, or fingerprint in hexadecimal.

    Raises
    ------
    ConfigurationError, OSError
        Files that cannot be read; a signature without the package ``cryptography``.
    """
    trusted = None if public_key is None else read_fingerprint(public_key)
    try:
        found = read_certificate(certificate)
    except AlteredError as error:
        return Verification(None, (str(error),))
    checked, unchecked, problems = ["form and digest"], [], []
    model_hash, reason = _model_hash(model)
    if reason:
        problems.append(reason)
    hashes = found.statement["sha256"]
    for what, option, given, expected in (
        ("checkpoint", "--model", model_hash, {hashes["subject"]}),
        ("results", "--results", _hash(results), {hashes["results"]}),
        ("artifact", "--artifact", _hash(artifact), set(hashes["artifacts"].values())),
    ):
        if given is None:
            if expected - {None} and not (what == "checkpoint" and reason):
                unchecked.append(f"{what}: name it with {option}")
        elif given in expected:
            checked.append(f"{what} {given[:16]}…")
        else:
            problems.append(f"the {what} is another one than was certified: its SHA-256 is {given}")
    if found.signer is None:
        unchecked.append("signature: there is none, so that anybody could have written this certificate")
    else:
        checked.append(f"signature by the key {found.signer}")
        if trusted is None:
            unchecked.append("whose key that is: name the key that you trust with --public-key")
    if trusted is not None and found.signer != trusted:
        problems.append(
            "it is not signed at all" if found.signer is None else f"it is signed by another key than {trusted}"
        )
    return Verification(
        found, tuple(problems), tuple(checked), tuple(unchecked), trusted=trusted is not None and not problems
    )


def _model_hash(model: str | None) -> tuple[str | None, str]:
    """Content hash of a checkpoint, which loading verifies, or what is wrong with the file."""
    if model is None:
        return None, ""
    try:
        content_hash = load(model).info.content_hash
    except CheckpointError as error:
        if not Path(model).is_file():
            raise
        return None, f"the checkpoint does not hold: {error}"
    return (content_hash, "") if content_hash else (None, f"{model} has no content hash")


def _hash(path: str | Path | None) -> str | None:
    return None if path is None else file_hash(path)
