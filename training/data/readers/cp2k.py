"""CP2K molecular dynamics and relaxations: ``PROJECT-pos-1.xyz`` and what stands beside it.

As CP2K names and prints them by default: positions in Å with the energy in hartree in the comment line (``i = 3, time = 1.5,
E = -17.16``), ``PROJECT-frc-1.xyz`` with forces in hartree/bohr, ``PROJECT-1.cell`` with the vectors in Å, and
``PROJECT-1.stress`` in bar, positive under compression (the opposite of ASE's sign, as ASE's CP2K calculator has it).
Frames are matched by the number of the step. A restarted run goes back to its last restart file and appends: what it repeats
is left out, in all files alike.

The trajectory does not tell the cell: without a ``.cell`` file it has to be given (`ReaderOptions` has no guess to offer).
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hydrapot.potential.constants import BOHR, HARTREE
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers.extxyz import blocks
from hydrapot.training.data.readers.records import MalformedError, ReaderOptions, Record, Reject, number_of
from hydrapot.training.data.readers.units import BAR

COMMENT = re.compile(r"^\s*i\s*=\s*(\d+),.*?\bE\s*=\s*([-+0-9.EeDd]+|\*+|NaN)", re.IGNORECASE)
KIND = re.compile(r"^([A-Z][a-z]?)([\d_].*)?$")
"""A kind of atoms in CP2K: the symbol, and perhaps a number or a suffix after an underscore."""


class _Step(NamedTuple):
    number: int
    energy: float
    symbols: list[str]
    values: NDArray[np.float64]


def read(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield the steps of a run; the group is the run."""
    if "-pos-" not in path.name:
        raise DatasetError(f"{path}: name the trajectory of positions, PROJECT-pos-1.xyz; the rest is found beside it")
    project, _, rest = path.name.rpartition("-pos-")
    run = rest.partition(".")[0]
    forces = path.with_name(f"{project}-frc-{rest}")
    cells = _table(path.with_name(f"{project}-{run}.cell"), "[Angstrom]")
    stresses = _table(path.with_name(f"{project}-{run}.stress"), "[bar]")
    if cells is None and options.cell is None:
        raise DatasetError(
            f"{path}: no {project}-{run}.cell beside it: give the cell (--cell 'ax ay az bx by bz cx cy cz', Å),"
            " or --cell none for atoms in empty space"
        )
    with ExitStack() as stack:
        following = _steps(forces) if forces.exists() else iter(())
        stack.callback(getattr(following, "close", lambda: None))
        force = next(following, None)
        last = -1
        for position, step in enumerate(_steps(path), start=1):
            repeated, last = step.number <= last, max(step.number, last)
            while force is not None and force.number < step.number:
                force = next(following, None)
            if position <= start:
                continue
            where = f"step {step.number}"
            if repeated:
                yield Reject(where, "repeated step", f"a restarted run wrote it again, after step {last}", position)
                continue
            try:
                cell = options.cell if cells is None else cells.get(step.number)
                if cell is None:
                    raise MalformedError("no cell", f"no step {step.number} in the .cell file")
                stress = None if stresses is None else stresses.get(step.number)
                yield Record(
                    position,
                    where,
                    [_number(symbol) for symbol in step.symbols],
                    step.values,
                    cell=np.reshape(cell, (3, 3)) if len(cell) else None,
                    energy=step.energy * HARTREE,
                    forces=None if force is None or force.number != step.number else force.values * (HARTREE / BOHR),
                    stress=None if stress is None else -BAR * np.reshape(stress, (3, 3)),
                    group=f"{path.parent.name}/{project}-{run}",
                )
            except MalformedError as error:
                yield Reject(where, error.reason, error.detail, position)


def _steps(path: Path) -> Iterator[_Step]:
    for frame, lines in enumerate(blocks(path)):
        comment = COMMENT.match(lines[1])
        if comment is None:
            raise DatasetError(f"{path}, frame {frame}: no 'i = …, E = …' in the comment: not a trajectory of CP2K")
        fields = [line.split() for line in lines[2:]]
        if not all(fields):
            raise DatasetError(f"{path}, frame {frame}: an empty line among the atoms: fetch the file again")
        try:
            values = np.array([row[1:4] for row in fields], np.float64)
            energy = float(comment[2].replace("D", "E").replace("d", "e"))
        except ValueError:
            # Asterisks stand where a number did not fit; the frame is then rejected as not finite.
            values = np.full((len(fields), 3), np.nan)
            energy = np.nan
        yield _Step(int(comment[1]), energy, [row[0] for row in fields], values)


def _table(path: Path, unit: str) -> dict[int, list[float]] | None:
    """Return step → nine numbers of a ``.cell`` or ``.stress`` file; None if there is none."""
    if not path.exists():
        return None
    found: dict[int, list[float]] = {}
    with path.open(encoding="utf-8") as lines:
        for n, line in enumerate(lines, start=1):
            if line.startswith("#"):
                if "[" in line and unit.lower() not in line.lower():
                    raise DatasetError(f"{path}: expected {unit} in its header: {line.strip()[:80]}")
                continue
            fields = line.split()
            try:
                found.setdefault(int(fields[0]), [float(field) for field in fields[2:11]])
            except (IndexError, ValueError):
                raise DatasetError(f"{path}, line {n}: no step, time and nine numbers") from None
            if len(fields) < 11:
                raise DatasetError(f"{path}, line {n}: no step, time and nine numbers")
    return found


def _number(symbol: str) -> int:
    kind = KIND.match(symbol)
    return number_of(kind[1] if kind else symbol)
