"""How many steps of dynamics an engine may do before something needs to see the atoms."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from hydrapot.workflows.mdsettings import MDSettings

#: Seconds that a block should take at most: so late a request to stop is heard.
PATIENCE = 0.5


class Blocks:
    """Lengths of the blocks of a run.

    A block ends where a row, a frame or a restart file is due, after `longest` steps, or when `PATIENCE` is over, as far as
    the blocks before tell; the first ones are therefore short.

    Parameters
    ----------
    settings
        Of the run.
    shadow
        Whether the forces right before and after each row are needed too, for the shadow energy.
    longest
        Most steps at once.
    """

    def __init__(self, settings: MDSettings, *, shadow: bool, longest: int) -> None:
        self.settings, self.shadow, self.longest = settings, shadow, longest
        self._affordable = 1

    def steps(self, done: int) -> int:
        """Length of the next block after `done` steps, at least 1."""
        needed = [self.settings.steps, _after(done, self.settings.checkpoint_interval)]
        row = _after(done, self.settings.interval)
        needed.append(row)
        if self.shadow:
            if done % self.settings.interval == 0:
                needed.append(done + 1)
            if row - 1 > done:
                needed.append(row - 1)
        return max(1, min(min(needed) - done, self.longest, self._affordable))

    @contextmanager
    def timed(self, steps: int) -> Iterator[None]:
        """Around a block of `steps`: learn how long steps take."""
        began = time.perf_counter()
        yield
        seconds = max(time.perf_counter() - began, 1e-9)
        # Twice the longest so far at most: first steps, or steps without new neighbors, may be quick.
        self._affordable = max(1, min(max(self._affordable, 2 * steps), int(PATIENCE * steps / seconds)))


def _after(step: int, interval: int) -> int:
    """The next multiple of `interval`."""
    return step - step % interval + interval
