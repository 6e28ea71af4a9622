"""``hydrapot verify`` and ``hydrapot key``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hydrapot.validation.verification import Verification

#: Exit codes of `verify` beside 0, and 2 for an error.
_ALTERED, _NOT_PINNED = 1, 3


def verify(
    certificate: Annotated[Path, typer.Argument(metavar="CERTIFICATE", help="certificate.json of hydrapot validate.")],
    *,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="Checkpoint that it should be about.")
    ] = None,
    results: Annotated[Path | None, typer.Option("--results", help="results.json that it should be about.")] = None,
    artifact: Annotated[
        Path | None, typer.Option("--artifact", help="Deployed (exported) file that it should be about.")
    ] = None,
    public_key: Annotated[
        str | None,
        typer.Option(
            "--public-key", metavar="KEY", help="Key that you trust: PEM file, or fingerprint in hexadecimal."
        ),
    ] = None,
) -> None:
    """Verify a certificate: unaltered, signed by a key that you trust, about this very checkpoint.

    Exit code 0: unaltered, matches the files given, and signed by the key of --public-key. 1: altered, of other files,
    or signed by another key. 2: something cannot be read. 3: unaltered, but not signed, or no trusted key was named.
    """
    from hydrapot.validation.verification import PROVES, verify

    found = verify(certificate, model=model, results=results, artifact=artifact, public_key=public_key)
    if found.certificate is not None:
        for line in _summary(found.certificate.statement):
            typer.echo(line)
    _show(found)
    for line in PROVES:
        typer.echo(f"  {line}")
    if found.problems:
        raise typer.Exit(_ALTERED)
    if not found.trusted:
        raise typer.Exit(_NOT_PINNED)


def _show(found: "Verification") -> None:
    if found.problems:
        typer.echo("NOT VALID")
    else:
        typer.echo("VALID" if found.trusted else "UNALTERED, BUT NOT BY A KEY THAT YOU NAMED")
    for label, lines in (("problem", found.problems), ("verified", found.checked), ("not verified", found.unchecked)):
        for line in lines:
            typer.echo(f"{label:13} {line}")


def _summary(statement: dict[str, Any]) -> list[str]:
    subject, envelope = statement["subject"], statement["envelope"]
    name = ", ".join(part for part in (subject["name"], subject["head"], subject["level_of_theory"]) if part)
    lines = [f"{statement['verdict']}  {name}", f"validated {statement['validated']}, tier {statement['tier']}"]
    uses = dict.fromkeys(entry["use"] for entry in envelope["uses"])
    lines.append(f"certified for: {', '.join(uses) or 'nothing'}")
    if uses:
        lines.append(
            f"within: {' '.join(envelope['elements'])}; {', '.join(envelope['precisions'])}; {_conditions(envelope)}"
        )
    return lines


def _conditions(envelope: dict[str, Any]) -> str:
    parts = [", ".join(envelope["engines"])]
    for key, unit in (("temperature_K", "K"), ("pressure_GPa", "GPa")):
        if envelope[key] is not None:
            parts.append("{:g} to {:g} ".format(*envelope[key]) + unit)
    if envelope["timestep_fs"] is not None:
        parts.append(f"{envelope['timestep_fs']:g} fs")
    elif envelope["timestep_rule"] is not None:
        parts.append(envelope["timestep_rule"])
    if envelope["duration_ns"] is not None:
        parts.append(f"{envelope['duration_ns']:g} ns")
    return ", ".join(parts)


def key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Private key to write; the public one is FILE.pub.")],
) -> None:
    """Make a key for signing certificates (Ed25519), for `hydrapot validate --key FILE`.

    FILE is not encrypted: keep it where only you can read it, and never replace it silently. Give FILE.pub, or the
    fingerprint printed here, to those who verify your certificates.
    """
    from hydrapot.validation.signing import make_key

    fingerprint = make_key(file)
    typer.echo(f"private key  {file} (readable by you only)")
    typer.echo(f"public key   {file}.pub")
    typer.echo(f"fingerprint  {fingerprint}")
