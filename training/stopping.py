"""Why a run ends before its last step: a signal, or the end of the time that a scheduler gave it."""

import time

from hydrapot.training.interrupt import StopRequest

#: In the order of :meth:`Stops.flags`.
STOP_REASONS = ("SIGTERM", "SIGINT", "SIGUSR1", "walltime")


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
