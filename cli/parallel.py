"""A command that runs on many processes at once speaks with one voice and ends everywhere."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hydrapot.cli.reporting import ERROR, STOPPED, explain, say

if TYPE_CHECKING:
    from hydrapot.training.launch import Launch

#: Seconds that a process waits before it reports an error which came before the processes met: by then process 0 has
#: reported its own, most likely the same, and the launcher has ended the others.
_COURTESY = 5.0


@contextmanager
def ending_together(launch: "Launch") -> Iterator[None]:
    """Context in which process 0 alone reports, and a process that fails is gone at once.

    With one process nothing is changed. With several, an error is said by the one process that knows it first, and each
    ends without the ceremony of libraries that would wait for the others (MPI_Finalize, NCCL).
    """
    if launch.world == 1:
        yield
        return
    from hydrapot.training.processes import SilentError, is_spokesman

    if not launch.main:
        logging.getLogger("hydrapot").setLevel(logging.ERROR)
    try:
        yield
    except SilentError as error:
        # Wrong input is found by all processes at once: each ends with the code of what it has found itself.
        own = None if error.__cause__ is None else explain(error.__cause__)
        code = STOPPED if own is None else own[0]
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        explained = explain(error)
        if explained is None:
            explained = (ERROR, f"{type(error).__name__}: {error} (a defect of hydrapot: --debug shows where)")
        code, line = explained
        if not launch.main and not is_spokesman(error):
            # That end of a launcher (srun --kill-on-bad-exit=1) is what the wait is for, and no reason for another code.
            signal.signal(signal.SIGTERM, lambda *_: os._exit(code))
            time.sleep(_COURTESY)
        say(f"error: {line}" if launch.main else f"error: process {launch.rank}: {line}")
    else:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
