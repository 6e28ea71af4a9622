"""Output files of a workflow: names from one prefix, nothing overwritten unasked, nothing half-written."""

import json
import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hydrapot.potential.errors import ConfigurationError


class Outputs:
    """The files ``PREFIX.traj``, ``PREFIX.json``, … of one run.

    Parameters
    ----------
    prefix
        Folder and beginning of the names; the folder must exist.
    suffixes
        What the run may write, e.g. ``(".traj", ".json")``.
    overwrite
        Whether files of an earlier run may be replaced.
    resume
        Whether files of an earlier run are continued.

    Raises
    ------
    ConfigurationError
        A missing folder, or files that are there already although neither `overwrite` nor `resume` is set.
    """

    def __init__(
        self, prefix: str | Path, suffixes: Iterable[str], *, overwrite: bool = False, resume: bool = False
    ) -> None:
        self.prefix = Path(prefix)
        self.suffixes = tuple(suffixes)
        if not self.prefix.parent.is_dir():
            raise ConfigurationError(f"output folder {self.prefix.parent} does not exist: create it first")
        if not self.prefix.name:
            raise ConfigurationError(f"output {str(prefix)!r} names a folder: add the beginning of the file names")
        existing = [path for path in map(self.path, self.suffixes) if path.exists()]
        if existing and not (overwrite or resume):
            raise ConfigurationError(
                f"{existing[0]} exists already: choose another --output, or use --overwrite or --resume"
            )

        self._sweep()

    def _sweep(self) -> None:
        """Remove what a process that was killed while it wrote has left under a temporary name."""
        ends = {Path(f"x{suffix}").suffix for suffix in self.suffixes}
        stems = {Path(f"{self.prefix.name}{suffix}").stem for suffix in self.suffixes}
        pattern = re.compile(rf"\.(?:{'|'.join(map(re.escape, stems))})\.\d+\.tmp(?:{'|'.join(map(re.escape, ends))})")
        for path in self.prefix.parent.iterdir():
            if pattern.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def path(self, suffix: str) -> Path:
        """``PREFIX`` + `suffix`."""
        return self.prefix.with_name(self.prefix.name + suffix)

    def clear(self) -> None:
        """Remove what an earlier run left; called only once the new run has something to write."""
        for suffix in self.suffixes:
            self.path(suffix).unlink(missing_ok=True)

    def write(self, suffix: str, writer: Callable[[Path], None]) -> Path:
        """Let `writer` fill a temporary file, then give it its name in one step."""
        return write_atomically(self.path(suffix), writer)

    def write_json(self, suffix: str, document: dict[str, Any]) -> Path:
        """Write a JSON document; numbers that are not finite become null, which every reader understands."""
        text = json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

        def writer(path: Path) -> None:
            path.write_text(text, encoding="utf-8")

        return self.write(suffix, writer)


def write_atomically(path: Path, writer: Callable[[Path], None]) -> Path:
    """Call ``writer(temporary)`` and rename the result to `path`; on an error nothing is left behind."""
    # The suffix stays last: ASE and matplotlib choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        writer(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
