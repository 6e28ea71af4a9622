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

    Attributes
    ----------
    requested
        Name of the signal received, or None.
    """

    def __init__(
        self, *, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT), patience: float = 0.0
    ) -> None:
        self.requested: str | None = None
        self.signals, self.patience = signals, patience
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
            signal.signal(number, previous)  # type: ignore[arg-type]
