"""Structures with names of atoms, residues and chains: PDB and mmCIF files, by way of OpenMM.

The names travel with a structure as the arrays ``atomtypes``, ``residuenames``, ``residuenumbers`` and ``chainids``, so that
what is written has the names that were read. ASE reads PDB files too, but no mmCIF, and no chains.
"""

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hydrapot.potential.errors import ConfigurationError, InvalidStructureError

#: Of files that OpenMM reads where it is installed.
PDB_SUFFIXES = frozenset({".pdb", ".ent"})
MMCIF_SUFFIXES = frozenset({".cif", ".mmcif", ".pdbx"})
#: Array of residue names, which says that a structure has residues.
RESIDUES = "residuenames"
_NAMES, _NUMBERS, _CHAINS = "atomtypes", "residuenumbers", "chainids"


def is_mmcif(path: Path) -> bool:
    """Whether a CIF file is of macromolecules, whose names have a dot, rather than of a crystal."""
    return path.suffix.lower() in MMCIF_SUFFIXES and "_atom_site." in path.read_text(encoding="utf-8", errors="replace")


def has_openmm() -> bool:
    """Whether files can be read and written here."""
    try:
        import openmm.app  # noqa: F401
    except ImportError:
        return False
    return True


def is_biomolecule(path: Path) -> bool:
    """Whether :func:`read_biomolecule` is to read a file: mmCIF always, PDB where OpenMM is installed."""
    if not path.is_file():
        return False
    return is_mmcif(path) or (path.suffix.lower() in PDB_SUFFIXES and has_openmm())


def read_biomolecule(path: Path, *, index: int = -1) -> Atoms:
    """A model of a PDB or mmCIF file, with its names and, if it has one, its box.

    Parameters
    ----------
    path
        Its suffix decides the format.
    index
        Of the model, counted from 0, or from the end if negative.

    Raises
    ------
    InvalidStructureError
        OpenMM is not installed, there is no such model, or an atom has no element.
    """
    if not has_openmm():
        raise InvalidStructureError(f"{path}: reading it takes OpenMM: pip install 'hydrapot[openmm]'")
    from openmm import app, unit

    file = (app.PDBFile if path.suffix.lower() in PDB_SUFFIXES else app.PDBxFile)(str(path))
    models = file.getNumFrames()
    if not -models <= index < models:
        raise InvalidStructureError(f"{path}: there is no model {index} among {models}")
    members = list(file.topology.atoms())
    for atom in members:
        if atom.element is None:
            raise InvalidStructureError(
                f"{path}: atom {atom.name} of residue {atom.residue.name} {atom.residue.id} has no element: state it in the "
                "file, or take out sites that are no atoms"
            )
    positions = file.getPositions(asNumpy=True, frame=index % models).value_in_unit(unit.angstrom)
    atoms = Atoms([atom.element.atomic_number for atom in members], np.asarray(positions))
    vectors = file.topology.getPeriodicBoxVectors()
    if vectors is not None:
        cell = np.array([[x.value_in_unit(unit.angstrom) for x in vector] for vector in vectors])
        if not np.allclose(cell, np.eye(3)):  # what files of structures that have no box say instead
            atoms.cell, atoms.pbc = cell, True
    for name, values in {
        _NAMES: [atom.name for atom in members],
        RESIDUES: [atom.residue.name for atom in members],
        _NUMBERS: [atom.residue.id for atom in members],
        _CHAINS: [atom.residue.chain.id for atom in members],
    }.items():
        atoms.set_array(name, np.array(values, dtype=str))
    return atoms


def check_writable(atoms: Atoms, suffix: str) -> None:
    """Raise for what :class:`BiomoleculeWriter` would refuse, before a file is touched; nothing for other formats.

    Parameters
    ----------
    suffix
        Of the file, with its dot.

    Raises
    ------
    ConfigurationError
        OpenMM is not installed.
    InvalidStructureError
        A left-handed cell.
    """
    if suffix not in PDB_SUFFIXES | MMCIF_SUFFIXES:
        return
    _demand_openmm(suffix)
    topology_of(atoms)


def _demand_openmm(suffix: str) -> None:
    if not has_openmm():
        raise ConfigurationError(f"writing {suffix} files takes OpenMM: pip install 'hydrapot[openmm]'")


class BiomoleculeWriter:
    """Models appended to a PDB or mmCIF file.

    A file has one box: that of the first frame. PDB has three decimals.

    Parameters
    ----------
    path
        Its suffix decides the format.

    Raises
    ------
    ConfigurationError
        OpenMM is not installed.
    """

    def __init__(self, path: Path) -> None:
        _demand_openmm(path.suffix)
        from openmm import app

        self.path = path
        self._format = app.PDBFile if path.suffix.lower() in PDB_SUFFIXES else app.PDBxFile
        self._written = 0
        if path.exists():
            with path.open(encoding="utf-8") as lines:
                self._written = sum(line.startswith(("ATOM", "HETATM")) for line in lines)

    def append(self, atoms: Atoms) -> None:
        """Write one model.

        Raises
        ------
        InvalidStructureError
            A left-handed cell, which lengths and angles cannot describe.
        """
        from openmm import unit

        topology, turn = topology_of(atoms)
        positions = (atoms.positions @ turn) * unit.angstrom
        with self.path.open("a", encoding="utf-8") as file:
            if self._written == 0:
                self._format.writeHeader(topology, file)
            model = self._written // len(atoms) + 1
            self._format.writeModel(topology, positions, file, modelIndex=model, keepIds=True)
        self._written += len(atoms)


def topology_of(atoms: Atoms) -> tuple[Any, NDArray[np.float64]]:
    """OpenMM's topology with the names of a structure, and how the structure has to be turned for its box.

    Bonds are those that OpenMM knows for the residues. Atoms without names are one residue MOL and are called C1, C2, H1, …

    Raises
    ------
    InvalidStructureError
        A left-handed cell.
    """
    from openmm import Vec3, app, unit

    topology = app.Topology()
    names, residues, numbers, chains = (_labels(atoms, name) for name in (_NAMES, RESIDUES, _NUMBERS, _CHAINS))
    if not atoms.has(_NAMES):
        counts: dict[str, int] = {}
        for k, symbol in enumerate(atoms.symbols):
            counts[symbol] = counts.get(symbol, 0) + 1
            names[k] = f"{symbol}{counts[symbol]}"
    chain = residue = None
    before: tuple[str, ...] = ()
    for number, *labels in zip(atoms.numbers, chains, numbers, residues, names, strict=True):
        if chain is None or labels[0] != before[0]:
            chain, residue = topology.addChain(labels[0] or None), None
        if residue is None or labels[:3] != list(before[:3]):
            residue = topology.addResidue(labels[2] or "MOL", chain, labels[1] or None)
        topology.addAtom(labels[3], app.Element.getByAtomicNumber(int(number)), residue)
        before = tuple(labels)
    topology.createStandardBonds()
    turn = np.eye(3)
    if atoms.pbc.all():
        from hydrapot.calculators.openmm_box import ReducedBox

        turn = ReducedBox.of(atoms).turn
        if np.linalg.det(turn) < 0:
            raise InvalidStructureError(
                "a left-handed cell has no place in PDB and mmCIF files: swap two of its vectors"
            )
        rows = np.tril(atoms.cell.array @ turn) * 0.1
        topology.setPeriodicBoxVectors([Vec3(*row) for row in rows.tolist()] * unit.nanometer)
    return topology, turn


def _labels(atoms: Atoms, name: str) -> list[str]:
    """An array of names as text; empty where there is none."""
    return [str(value).strip() for value in atoms.arrays[name]] if atoms.has(name) else [""] * len(atoms)
