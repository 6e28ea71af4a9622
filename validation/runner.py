"""Suites in worker processes side by side: one that dies takes nothing along but itself.

Workers are started afresh (spawn) with one thread each, run one suite after the other, and end with their parent. What they and
their engines write goes into a log file per worker.
"""

import faulthandler
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from threadpoolctl import threadpool_limits

from hydrapot.validation.document import ERROR
from hydrapot.validation.domain import Domain
from hydrapot.validation.metrics import Outcome
from hydrapot.validation.subject import SubjectSpec, open_subject
from hydrapot.validation.suite import Context, Tier

#: Seconds between looks at whether to stop, and seconds that a worker is given to end.
_POLL, _PATIENCE = 0.2, 5.0


@dataclass(frozen=True)
class Job:
    """One suite for a worker, which makes the rest anew: subject, context.

    Attributes
    ----------
    name, place
        The suite and its module.
    spec, domain, tier, precisions, engines, seeds
        See :class:`~hydrapot.validation.suite.Context`.
    folder
        For its pieces.
    prepared
        Structures of the domain.
    """

    name: str
    place: str
    spec: SubjectSpec
    domain: Domain
    tier: Tier
    precisions: tuple[str, ...]
    engines: tuple[str, ...]
    seeds: tuple[int, ...]
    folder: Path
    prepared: Mapping[str, Atoms] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What came of a job: an outcome as plain values, or the reason why there is none."""

    name: str
    outcome: dict[str, Any] | None
    verdict: str
    reason: str
    seconds: float


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    log: Path
    job: Job | None = None
    began: float = 0.0


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    folder: Path,
    started: Callable[[Job], None],
    finished: Callable[[Reply], None],
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Run jobs, in their order as workers become free.

    Parameters
    ----------
    jobs
        The longest first, for the least time in all.
    workers
        Processes.
    folder
        For the log of each worker; it must exist.
    started, finished
        Called in this process as jobs begin and end.
    stop
        Asked five times a second; True ends all workers.

    Returns
    -------
    False when it was stopped; then some jobs have not finished.
    """
    left = deque(jobs)
    crew: list[_Worker] = []
    started_workers = 0
    try:
        while left or crew:
            if stop():
                return False
            while left and len(crew) < workers:
                crew.append(_hire(folder / f"worker-{started_workers}.log"))
                started_workers += 1
                _assign(crew[-1], left.popleft(), started)
            wait([source for w in crew for source in (w.connection, w.process.sentinel)], timeout=_POLL)
            for worker in list(crew):
                reply, alive = _collect(worker)
                if reply is not None:
                    finished(reply)
                    worker.job = None
                if worker.job is None and alive and left:
                    _assign(worker, left.popleft(), started)
                elif worker.job is None or not alive:
                    crew.remove(worker)
                    _dismiss(worker)
        return True
    finally:
        for worker in crew:
            _dismiss(worker)


def _hire(log: Path) -> _Worker:
    spawn = multiprocessing.get_context("spawn")  # a forked torch has the locks of threads that do not exist
    here, there = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(there, str(log)), name=log.stem)
    process.start()
    there.close()
    return _Worker(process, here, log)


def _assign(worker: _Worker, job: Job, started: Callable[[Job], None]) -> None:
    worker.job, worker.began = job, time.perf_counter()
    with suppress(BrokenPipeError):  # died at its start: the next look finds out
        worker.connection.send(job)
    started(job)


def _collect(worker: _Worker) -> tuple[Reply | None, bool]:
    """A reply, if there is one, and whether the worker lives."""
    dead = not worker.process.is_alive()  # before looking for the reply, which may be its last
    try:
        if worker.connection.poll():
            return worker.connection.recv(), not dead
    except (EOFError, OSError):
        worker.process.join(_PATIENCE)
        dead = True
    if not dead or worker.job is None:
        return None, not dead
    seconds = time.perf_counter() - worker.began
    reason = f"its process {_ending(worker.process.exitcode)}; what it wrote: {worker.log}"
    return Reply(worker.job.name, None, ERROR, reason, seconds), False


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"was ended by {name}" + (" (perhaps for want of memory)" if name == "SIGKILL" else "")
    return f"was ended by signal {-code}"


def _dismiss(worker: _Worker) -> None:
    """End a worker with everything that it has started."""
    worker.connection.close()  # an idle one ends by itself
    if worker.job is None:
        worker.process.join(_PATIENCE)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not worker.process.is_alive():
            break
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(worker.process.pid or 0) == worker.process.pid:
                os.killpg(worker.process.pid, number)
            else:  # so young that it has no group of its own yet
                os.kill(worker.process.pid or 0, number)
        worker.process.join(_PATIENCE)
    worker.process.close()


# --- in the worker ----------------------------------------------------------------------------------------------------
def _serve(connection: Connection, log: str) -> None:
    """Run jobs until there are no more."""
    os.setsid()  # Ctrl-C is for the parent, which ends this one and the engines that it has started
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Path(log).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    warnings.simplefilter("ignore")  # suites ask for what nobody trained on
    torch.set_num_threads(1)
    threading.Thread(target=_follow_parent, daemon=True).start()
    with threadpool_limits(limits=1):
        while True:
            try:
                job = connection.recv()
            except (EOFError, OSError):
                return
            connection.send(run_job(job))


def run_job(job: Job) -> Reply:
    """Run a suite in this process; whatever it raises becomes the reason of an ERROR."""
    began = time.perf_counter()
    try:
        suite = import_module(job.place).SUITE
        context = Context(
            open_subject(job.spec),
            job.domain,
            tier=job.tier,
            precisions=job.precisions,
            engines=job.engines,
            seeds=job.seeds,
            folder=job.folder,
            prepared=job.prepared or None,
        )
        outcome = suite.run(context)
        if not outcome.metrics:
            raise ValueError("the suite returned no metric at all")
        # What has been through JSON is what a rerun will read.
        plain = json.loads(json.dumps(outcome.as_dict(), default=_plain, allow_nan=False))
        verdict = Outcome.from_dict(plain).verdict.value
    except Exception as error:  # noqa: BLE001 - a defect of one suite must not cost the others
        traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())
        reason = f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"
        return Reply(job.name, None, ERROR, reason, time.perf_counter() - began)
    return Reply(job.name, plain, verdict, "", time.perf_counter() - began)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _plain(value: object) -> Any:
    """Numbers and arrays of numpy for JSON."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} in an outcome is not JSON")
