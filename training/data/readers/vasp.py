"""VASP: ``vasprun.xml`` and ``OUTCAR`` of single points, relaxations and molecular dynamics, read by ASE.

VASP prints stress in kbar, positive under compression; ASE turns it into eV/Å³ with its own sign, positive under tension.
The energy is ``free_energy`` (VASP's "free energy TOTEN", ``e_fr_energy``), of which the forces are the gradient; ``energy`` asks
for the one extrapolated to zero smearing (``e_0_energy``), for data that are published with that one.
"""

from collections.abc import Iterator
from pathlib import Path

from ase import Atoms
from ase.io import iread

from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.readers.opening import reading
from hydrapot.training.data.readers.records import ReaderOptions, Record, Reject, attempt, full_stress

ENERGIES = ("free_energy", "energy")


def read_xml(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield the ionic steps of a ``vasprun.xml``; the group is the run."""
    yield from _steps(path, "vasp-xml", start, options)


def read_outcar(path: Path, *, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    """Yield the ionic steps of an ``OUTCAR``; the group is the run."""
    yield from _steps(path, "vasp-out", start, options)


def _steps(path: Path, kind: str, start: int, options: ReaderOptions) -> Iterator[Record | Reject]:
    energy = options.energy or ENERGIES[0]
    steps = iread(str(path), index=":", format=kind)
    position = 0
    with reading(path):
        while True:
            try:
                atoms = next(steps)
            except StopIteration:
                return
            except OSError:
                raise
            except Exception as error:  # ASE raises whatever its parser stumbles over
                reason = " ".join(str(error).split()) or type(error).__name__
                raise DatasetError(f"{path}, step {position}: truncated or no output of VASP ({reason})") from error
            position += 1
            if position <= start:
                continue
            where = f"step {position - 1}"
            yield attempt(_record, atoms, energy, f"{path.parent.name}/{path.name}", where=where, position=position)


def _record(atoms: Atoms, energy: str, run: str, where: str, position: int) -> Record:
    labels = atoms.calc.results if atoms.calc is not None else {}
    stress = labels.get("stress")
    return Record(
        position,
        where,
        atoms.numbers,
        atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        energy=labels.get(energy),
        # As VASP has them, also on fixed atoms.
        forces=labels.get("forces"),
        stress=None if stress is None else full_stress(stress),
        group=run,
    )
