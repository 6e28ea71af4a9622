"""Progress of a long run on a terminal: a bar, steps per second, a few numbers; nothing when it is not
wanted.
"""

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class ProgressBar:
    """A bar on standard error.

    Parameters
    ----------
    title
        What is going on.
    total
        Steps in all.
    start
        Steps done before, by the run that is continued.
    shown
        False makes every call do nothing.
    unit
        What is counted.
    bar
        Draw a bar and the time that is left; false for a run that ends when it is done, not at `total`.
    """

    def __init__(
        self, title: str, *, total: int, start: int = 0, shown: bool = True, unit: str = "steps", bar: bool = True
    ) -> None:
        self._start = start
        self._unit = unit
        self._began = time.perf_counter()
        self._shown_at = 0.0
        self._progress: Progress | None = None
        self._task = TaskID(0)
        if shown:
            numbers = TextColumn("{task.completed}/{task.total}  {task.fields[rate]}  {task.fields[state]}")
            columns = [BarColumn(bar_width=12), numbers, TimeRemainingColumn(compact=True)] if bar else [numbers]
            self._progress = Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True))
            self._task = self._progress.add_task(title, total=total, completed=start, rate="", state="")

    def update(self, step: int, state: Callable[[], str], *, last: bool = False) -> None:
        """Show that `step` is done; drawn five times a second at most."""
        now = time.perf_counter()
        if self._progress is None or (now - self._shown_at < 0.2 and not last):
            return
        self._shown_at = now
        rate = (step - self._start) / max(now - self._began, 1e-9)
        self._progress.update(self._task, completed=step, rate=f"{rate:.1f} {self._unit}/s", state=state())

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()
