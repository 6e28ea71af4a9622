"""Extended XYZ, frame by frame: the same rules as `hydrapot.training.data.extxyz`, without holding the file in memory.

``energy`` (eV), ``forces`` (eV/Å), ``stress`` (eV/Å³, ASE's sign), ``charge`` (e), ``spin`` (2S+1),
``config_type=isolated_atom``, and the group under one of ``group``, ``molecule``, ``src``. A label under any other name, and
any other unit, is an error of the frame.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

from ase import Atoms
from ase.io.extxyz import read_xyz

from hydrapot.training.data.extxyz import GROUP_KEYS, ISOLATED_MARK, misfit
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers.opening import open_binary, reading
from hydrapot.training.data.readers.records import MalformedError, ReaderOptions, Record, Reject, attempt, full_stress

ENERGIES = ("energy", "free_energy")


def read(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield all frames."""
    for position, lines in enumerate(blocks(path), start=1):
        if position <= start:
            continue
        where = f"frame {position - 1}"
        yield attempt(_record, lines, options, where=where, position=position)


def blocks(path: Path) -> Iterator[list[str]]:
    """Yield the lines of each frame.

    Raises
    ------
    DatasetError
        A frame that does not begin with its number of atoms, or that the file ends in: what follows cannot be found.
    """
    with reading(path), open_binary(path) as handle:
        lines = io.TextIOWrapper(handle, encoding="utf-8")
        frame = 0
        while True:
            head = lines.readline()
            if not head:
                return
            if not head.strip():
                if any(line.strip() for line in lines):
                    raise DatasetError(f"{path}, frame {frame}: no number of atoms but an empty line")
                return
            try:
                count = int(head)
            except ValueError:
                found = head.strip()[:40]
                raise DatasetError(f"{path}, frame {frame}: no number of atoms but {found!r}") from None
            block = [head, *(lines.readline() for _ in range(count + 1))]
            if not block[-1] or count < 1:
                what = "the file ends in the middle of it (truncated?)" if count > 0 else f"{count} atoms"
                raise DatasetError(f"{path}, frame {frame}: {what}")
            yield block
            frame += 1


def _record(lines: list[str], options: ReaderOptions, where: str, position: int) -> Record:
    try:
        atoms: Atoms = next(read_xyz(io.StringIO("".join(lines)), index=slice(None)))
    except Exception as error:  # ASE raises whatever its parser stumbles over
        raise MalformedError("not extended XYZ", str(error)) from error
    labels = dict(atoms.calc.results) if atoms.calc is not None else {}
    info = atoms.info
    wrong = misfit([*info, *atoms.arrays], info)
    if wrong is not None:
        raise MalformedError(*wrong)
    if "spin" in info and str(info["spin"]) in {"0", "0.0"}:
        raise MalformedError("charge or spin", "spin=0; it is the multiplicity 2S+1, at least 1")
    keys = GROUP_KEYS if options.group is None else (options.group,)
    if options.group is not None and options.group not in info:
        raise MalformedError("no group", f"no key {options.group!r}")
    mark = re.sub(r"[\s_-]", "", str(info.get("config_type", ""))).lower()
    stress = labels.get("stress")
    return Record(
        position,
        where,
        atoms.numbers,
        atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        energy=labels.get(options.energy or ENERGIES[0]),
        forces=labels.get("forces"),
        stress=None if stress is None else full_stress(stress),
        charge=info.get("charge", 0),
        spin=info.get("spin", 0),
        group=next((str(info[key]) for key in keys if key in info), ""),
        isolated=mark == ISOLATED_MARK,
    )
