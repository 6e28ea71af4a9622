"""How the command line speaks: results on standard output, everything else in single lines on standard error."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

#: Input that has no answer; a command line that makes no sense (typer's, too); a run that had to stop, or did not
#: converge. (130, 138 and 143 are a run ended by Ctrl-C, by SIGUSR1 and by SIGTERM.)
ERROR, MISUSE, STOPPED = 1, 2, 3
INTERRUPTED = {"SIGINT": 130, "SIGUSR1": 138, "SIGTERM": 143}


class _Lines(logging.Handler):
    """Log records as ``note: …`` and ``warning: …``."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        kind = "warning" if record.levelno >= logging.WARNING else "note"
        say(f"{kind}: {record.getMessage()}")


def say(line: str) -> None:
    """One line on standard error, whatever the text holds."""
    sys.stderr.write(" ".join(line.split()) + "\n")
    sys.stderr.flush()


def listen() -> None:
    """Let the library's log records and warnings appear as lines."""
    logger = logging.getLogger("hydrapot")
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    warnings.simplefilter("default", UserWarning)
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"warning: {message}")


def explain(error: BaseException) -> tuple[int, str] | None:
    """Exit code and one line for an error that the user can do something about; None for a defect of ours."""
    from hydrapot.potential.errors import HydrapotError, SimulationError  # brings torch, which --help need not wait for

    if isinstance(error, SimulationError):
        return STOPPED, str(error)
    if isinstance(error, HydrapotError):
        return ERROR, str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return ERROR, f"{Path(str(error.filename))}: {error.strerror or type(error).__name__}"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return ERROR, "out of memory: use a smaller structure, or another device"
    return None
