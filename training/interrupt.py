"""Stop a run cleanly when the system asks for it."""

import signal
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Self


class StopRequest:
    """Context in which signals set a flag instead of ending the process; a further one ends it.

    Parameters
    ----------
    signals
        Those that are asked for.
    patience
        Seconds within which a further signal is the same request: launchers pass on what a terminal sends to everybody.
    last
        Whether the process ends after this: from then on the signals are ignored, since one that comes too late (Slurm's
        warning, the end of other processes) would only replace the exit code.

    Attributes
    ----------
    requested
        Name of the signal received, or None.
    """

    def __init__(
        self,
        *,
        signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
        patience: float = 0.0,
        last: bool = False,
    ) -> None:
        self.requested: str | None = None
        self.signals, self.patience, self.last = signals, patience, last
        self._since = 0.0
        self._previous: dict[int, object] = {}

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.requested is not None:
            if time.monotonic() - self._since >= self.patience:
                raise KeyboardInterrupt
            return
        self.requested, self._since = signal.Signals(number).name, time.monotonic()

    def __enter__(self) -> Self:
        for number in self.signals:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, signal.SIG_IGN if self.last else previous)  # type: ignore[arg-type]
