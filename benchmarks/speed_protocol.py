"""Worker processes that answer one line of JSON with one line of JSON.

Every model runs in a process of its own, in its own environment; a worker that the kernel kills for want of memory is a
result, not the end of the benchmark. Standard library only: both environments import this file.
"""

import contextlib
import ctypes
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class WorkerError(Exception):
    """A worker reported an error or died; one line."""


class Worker:
    """A running worker, seen from the benchmark.

    Parameters
    ----------
    python
        Interpreter of the environment.
    script
        File that calls :func:`serve`.
    arguments
        Its command line.
    log
        Receives what the worker prints besides answers.
    """

    def __init__(self, python: Path, script: Path, *arguments: str, log: Path) -> None:
        # The number of threads is set by request; limits of the caller's environment would win silently.
        environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
        with log.open("a") as stream:
            self._process = subprocess.Popen(
                [str(python), str(script), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env=environment,
            )

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises
        ------
        WorkerError
            The worker raised, or is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(describe_exit(self._process.wait()))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process; asked politely by closing its input."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def describe_exit(code: int) -> str:
    """An exit status of :mod:`subprocess` in words."""
    if code == -signal.SIGKILL:
        return "killed, most likely for want of memory"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


class Model(Protocol):
    """What a worker script implements."""

    def describe(self) -> dict[str, Any]:
        """Versions and parameter count, for the record."""

    def prepare(self, name: str, n_cells: int) -> dict[str, Any]:
        """Build the system and its neighbor list; returns `atoms` and `edges`."""

    def set_threads(self, threads: int) -> None:
        """Threads of everything that follows."""

    def evaluate(self) -> float:
        """Energy, forces and stress of the prepared system; seconds."""

    def neighbor_list(self) -> float:
        """Model input from positions and cell; seconds."""


def serve(make: Callable[[], Model]) -> None:
    """Answer requests on standard input until it closes.

    Requests: ``describe``; ``prepare`` (name, n_cells); ``evaluate`` (threads); ``neighbor_list`` (threads); ``memory``
    (threads). Any exception is answered as ``{"error": ...}``.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    with contextlib.suppress(OSError):  # if memory runs out, this process is the one to go
        Path("/proc/self/oom_score_adj").write_text("1000")
    model: Model | None = None
    for line in sys.stdin:
        request = json.loads(line)
        command = request.pop("command")
        try:
            model = make() if model is None else model
            answer = _answer(model, command, request)
        except MemoryError:
            answer = {"error": "out of memory"}
        except Exception as error:  # noqa: BLE001 - whatever it was, it is the answer
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(model: Model, command: str, request: dict[str, Any]) -> dict[str, Any]:
    if "threads" in request:
        model.set_threads(request["threads"])
    if command == "describe":
        return model.describe()
    if command == "prepare":
        prepared = model.prepare(request["name"], request["n_cells"])
        _forget_memory()
        return prepared
    if command == "evaluate":
        return {"seconds": model.evaluate()}
    if command == "neighbor_list":
        return {"seconds": statistics.median(model.neighbor_list() for _ in range(3))}
    if command == "memory":
        return {"bytes": _peak_memory(model.evaluate)}
    raise ValueError(f"unknown command {command!r}")


def _forget_memory() -> None:
    """Give freed memory back to the system, so that one system leaves no state for the next."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def _peak_memory(work: Callable[[], object]) -> int:
    """Largest resident memory during `work`, beyond what was resident before; bytes.

    Raises
    ------
    NotImplementedError
        Not on Linux: nowhere else can the high-water mark be reset.
    """
    if not sys.platform.startswith("linux"):
        raise NotImplementedError("peak memory is measured on Linux only")
    _forget_memory()
    Path("/proc/self/clear_refs").write_text("5")  # reset VmHWM, proc(5)
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def timed(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
