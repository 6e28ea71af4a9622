"""Matched short trainings on several numbers of processes, each started through the user's launcher in a folder of its own."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydrapot.potential.errors import ConfigurationError, SimulationError
from hydrapot.training.config import TrainConfig
from hydrapot.training.scaling import Mode, Point, read_point

#: Launchers by name; anything else is a command line of the user's own with {processes} in it.
LAUNCHERS = {
    "mpiexec": "mpiexec -n {processes}",
    "torchrun": "torchrun --standalone --no-python --nproc-per-node {processes}",
    "srun": "srun --ntasks {processes}",
}
#: Those that start everything on this machine.
_LOCAL = ("mpiexec", "torchrun")
LOG_FILE = "output.txt"


def measured_overrides(config: TrainConfig, *, mode: Mode, processes: int, largest: int, steps: int) -> dict[str, Any]:
    """Fields of the configuration that differ in a run that is measured.

    Strong: all runs have the batches of the largest one. Weak: one part of a batch for each process. A row of telemetry is one
    step, so that waiting for the slowest is told from communication; there are no saves and next to no validation.
    """
    parts = processes
    if mode == "strong":
        own = config.sampler.parts
        parts = own if own is not None and own % largest == 0 else largest
    return {
        "run.steps": steps,
        "run.validate_every": steps,
        "run.checkpoint_minutes": 1e6,
        "run.walltime_minutes": None,
        "data.validation": 16,
        "sampler.parts": parts,
        "telemetry.every": 1,
    }


def launch_command(launcher: str, processes: int) -> list[str]:
    """Words that start a command on `processes` processes.

    Raises
    ------
    ConfigurationError
        The launcher is not installed, or a command line without {processes}.
    """
    template = LAUNCHERS.get(launcher, launcher)
    if "{processes}" not in template:
        raise ConfigurationError(
            f"--launcher {launcher!r} is none of {', '.join(LAUNCHERS)}, and as a command line it lacks {{processes}}:"
            " such as 'srun --ntasks {processes} --gpus-per-task 1'"
        )
    words = [word.replace("{processes}", str(processes)) for word in shlex.split(template)]
    beside = str(Path(sys.executable).parent)
    found = shutil.which(words[0], path=beside) or shutil.which(words[0])
    if found is None:
        raise ConfigurationError(f"{words[0]} is not installed here: name another with --launcher")
    return [found, *words[1:]]


def run_matched(
    config_file: Path,
    config: TrainConfig,
    *,
    data: Path,
    out: Path,
    processes: Sequence[int],
    mode: Mode,
    steps: int,
    launcher: str = "mpiexec",
    threads: int | None = None,
    settings: Mapping[str, Any] | None = None,
    started: Callable[[int, str], None] = lambda _, __: None,
) -> list[Point]:
    """Train on each number of processes, one after the other, and read what was measured.

    Parameters
    ----------
    config_file, config
        The training: its file, and what it holds together with `settings`.
    data
        Directory of the datasets.
    out
        Gets a folder ``MODE-PROCESSES`` for each run.
    processes
        Numbers of them.
    mode
        What stays the same: the batch (strong) or the work of a process (weak).
    steps
        Of each run; the first quarter does not count.
    launcher
        A name of :data:`LAUNCHERS`, or a command line with {processes}.
    threads
        Of each process in all runs; by default the cores of this machine over the largest number of processes.
    settings
        Further fields that replace those of the file.
    started
        Told of each run before it starts: its processes and its command.

    Raises
    ------
    ConfigurationError
        A folder holds a run already, the launcher does not exist, or the numbers make no sense.
    SimulationError
        A run failed; its output is in its folder.
    """
    numbers = sorted(set(processes))
    if len(numbers) < 2 or numbers[0] < 1:
        raise ConfigurationError(f"--processes {list(processes)}: name two different numbers at least, such as 1,2,4")
    if steps < 8:
        raise ConfigurationError(f"--steps {steps} is too short to measure: 8 at least, better 50")
    if mode == "strong" and any(numbers[-1] % n for n in numbers):
        raise ConfigurationError(
            f"strong scaling shares {numbers[-1]} parts of a batch: every number of processes must divide it, not"
            f" {', '.join(map(str, numbers))}"
        )
    cores = len(os.sched_getaffinity(0))
    threads = threads or max(cores // numbers[-1], 1)
    folders = {n: out / f"{mode}-{n}" for n in numbers}
    for folder in folders.values():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigurationError(f"{folder} is not empty: choose another -o, or read its runs with --from")
    commands = {}
    for n in numbers:
        fields = dict(settings or {})
        fields |= measured_overrides(config, mode=mode, processes=n, largest=numbers[-1], steps=steps)
        words = [*([] if n == 1 else launch_command(launcher, n)), *_hydrapot(), "train", str(config_file.resolve())]
        words += ["--data", str(data.resolve()), "-o", str(folders[n].resolve()), "--threads", str(threads)]
        for name, value in fields.items():
            words += ["--set", f"{name}={'null' if value is None else value}"]
        commands[n] = words
    points = []
    for n, words in commands.items():
        started(n, shlex.join(words))
        _run(words, folders[n], processes=n)
        point = read_point(folders[n])
        on_cores = point.hardware.get("device", "cpu") == "cpu"
        points.append(replace(point, oversubscribed=launcher in _LOCAL and on_cores and n * threads > cores))
    return points


def _hydrapot() -> list[str]:
    beside = shutil.which("hydrapot", path=str(Path(sys.executable).parent))
    return [beside] if beside else [sys.executable, "-c", "from hydrapot.cli.main import app_main; app_main()"]


def _run(words: Sequence[str], folder: Path, *, processes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / LOG_FILE
    with log.open("w", encoding="utf-8") as stream:
        stream.write(shlex.join(words) + "\n")
        stream.flush()
        done = subprocess.run(words, stdout=stream, stderr=subprocess.STDOUT, check=False)  # noqa: S603 - the user's launcher
    if done.returncode:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if "error" in line), lines[-1])
        raise SimulationError(
            f"the run on {processes} processes ended with exit code {done.returncode} ({said[:200]}): see {log}"
        )
