"""Why a run ends before its last step: a signal, or the end of the time that a scheduler gave it."""

import os
import signal
import time
from collections.abc import Mapping
from typing import Literal

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.interrupt import StopRequest

#: SIGUSR1 is what Slurm is asked to send ahead of the end (``--signal=USR1@300``).
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
#: In the order of :meth:`Stops.flags`.
STOP_REASONS = (*(s.name for s in STOP_SIGNALS), "walltime")


class Stops:
    """Wishes of this process to stop; what is done about them all processes decide together.

    Parameters
    ----------
    request
        Signals.
    deadline
        Of ``time.time()``, when to stop; None for no end.
    """

    def __init__(self, request: StopRequest, *, deadline: float | None = None) -> None:
        self.request, self.deadline = request, deadline

    def flags(self) -> list[float]:
        """1 for each of :data:`STOP_REASONS` that this process has, else 0."""
        late = self.deadline is not None and time.time() >= self.deadline
        return [float(self.request.requested == name) for name in STOP_REASONS[:-1]] + [float(late)]


def find_deadline(
    walltime_minutes: float | Literal["scheduler"] | None,
    *,
    margin_minutes: float,
    environment: Mapping[str, str] | None = None,
) -> float | None:
    """When a run has to begin to stop, of ``time.time()``; None for no limit.

    Parameters
    ----------
    walltime_minutes
        From now on; or "scheduler": ``SLURM_JOB_END_TIME``, the end of a Slurm job in seconds since 1970, or
        ``PBS_WALLTIME``, the seconds that a PBS job was given, counted from now.
    margin_minutes
        That are to be left then.
    environment
        Variables; those of the process by default.

    Raises
    ------
    ConfigurationError
        The scheduler does not say.
    """
    if walltime_minutes is None:
        return None
    margin = 60.0 * margin_minutes
    if walltime_minutes != "scheduler":
        return time.time() + 60.0 * walltime_minutes - margin
    environment = os.environ if environment is None else environment
    for name, origin in (("SLURM_JOB_END_TIME", 0.0), ("PBS_WALLTIME", time.time())):
        if name in environment:
            try:
                return origin + float(environment[name]) - margin
            except ValueError as error:
                raise ConfigurationError(
                    f"the scheduler's variable {name}={environment[name]!r} is no number"
                ) from error
    raise ConfigurationError(
        "run.walltime_minutes is scheduler, but neither SLURM_JOB_END_TIME nor PBS_WALLTIME is set: give the minutes"
    )
