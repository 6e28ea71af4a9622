"""Phonons of a first-principles code, read from phonopy's files, and a potential held against them."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import phonopy
from ase import Atoms
from numpy.typing import NDArray

from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation.lattice_dynamics import (
    Phonons,
    acoustic_sum_residual,
    density_of_states,
    forces_on,
    frequencies,
    mesh,
    phonons_of,
    to_ase,
)

Array = NDArray[np.float64]

#: THz; width of the Gaussians in densities of states that are compared.
WIDTH = 0.2
_NAMES = ("phonopy_params.yaml", "phonopy_params.yaml.xz", "phonopy_disp.yaml", "phonopy.yaml")


@dataclass(frozen=True)
class ReferencePhonons:
    """Displacements, forces and force constants of a first-principles code.

    Attributes
    ----------
    phonons
        With force constants, symmetrized.
    displacements, forces
        ``(D, N, 3)`` in Å and eV/Å: all displacements in each supercell, and the forces as calculated.
    """

    phonons: Phonons
    displacements: Array
    forces: Array

    @property
    def elements(self) -> set[int]:
        """Atomic numbers."""
        return set(to_ase(self.phonons.unitcell).numbers.tolist())


def load_reference(folder: str | Path) -> ReferencePhonons:
    """Read a folder with phonopy's yaml and, unless forces are in it, ``FORCE_SETS``.

    Without a yaml, ``POSCAR-unitcell`` and a ``FORCE_SETS`` of an n × n × n supercell of it. The non-analytic term of polar
    crystals is left out: a potential of finite range has none.

    Raises
    ------
    ConfigurationError
        Files are missing, unreadable, or need a solver of force constants that is not installed.
    """
    folder = Path(folder)
    forces = folder / "FORCE_SETS"
    sets = str(forces) if forces.exists() else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # phonopy's advice on file formats and on cells that it reduces
            options: dict[str, Any] = {
                "force_sets_filename": sets,
                "is_nac": False,
                "produce_fc": False,
                "log_level": 0,
            }
            phonons: Phonons
            named = next((folder / name for name in _NAMES if (folder / name).exists()), None)
            if named is not None:
                phonons = phonopy.load(str(named), **options)
            elif sets and (folder / "POSCAR-unitcell").exists():
                cell = folder / "POSCAR-unitcell"
                matrix = [_repeats(cell, forces)] * 3
                phonons = phonopy.load(
                    unitcell_filename=str(cell), supercell_matrix=matrix, calculator="vasp", **options
                )
            else:
                raise ConfigurationError(f"{folder} holds no displacements of phonopy ({', '.join(_NAMES)})")
            if phonons.forces is None or len(phonons.forces) == 0:
                raise ConfigurationError(f"{folder} holds displacements but no forces (FORCE_SETS)")
            _solve(phonons, folder)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"phonons in {folder} cannot be read: {' '.join(str(error).split())}") from error
    displaced = phonons.supercells_with_displacements
    perfect = to_ase(phonons.supercell).positions
    return ReferencePhonons(
        phonons,
        np.array([to_ase(cell).positions - perfect for cell in displaced]),
        np.array(phonons.forces, dtype=np.float64),
    )


def _repeats(cell: Path, forces: Path) -> int:
    from ase.io import read

    atoms = len(read(cell, format="vasp"))
    found = int(forces.read_text(encoding="utf-8").split(maxsplit=1)[0])
    repeats: int = round((found / atoms) ** (1 / 3))
    if repeats**3 * atoms != found:
        raise ConfigurationError(
            f"{forces}: {found} atoms are no n × n × n supercell of {atoms}; phonopy_disp.yaml is needed"
        )
    return repeats


def _solve(phonons: Phonons, folder: Path) -> None:
    if "first_atoms" in phonons.dataset:
        phonons.produce_force_constants(show_drift=False)
    else:  # random displacements of all atoms
        try:
            phonons.produce_force_constants(fc_calculator="symfc", show_drift=False)
        except (ImportError, ModuleNotFoundError) as error:
            raise ConfigurationError(f"{folder} holds random displacements: pip install symfc") from error
    phonons.symmetrize_force_constants(show_drift=False)


@dataclass(frozen=True)
class Comparison:
    """A potential against a reference, at one geometry.

    Attributes
    ----------
    force_error, force_scale
        Mean absolute error of force components on the displaced supercells, and mean absolute component of the
        reference, both over components above 1e-4 eV/Å, eV/Å.
    stiffness
        Least-squares factor of the potential's forces to the reference's: below one, it is too soft.
    frequency_error, worst_frequency_error, mean_shift
        Mean absolute, largest and mean signed difference over a mesh, THz.
    overlap
        Of the two densities of states, 0 to 1.
    lowest
        Lowest frequency over the mesh, THz; and that of the reference in `reference_lowest`.
    highest, reference_highest
        THz.
    volume
        Å³ per atom.
    phonons
        Of the potential.
    """

    force_error: float
    force_scale: float
    stiffness: float
    frequency_error: float
    worst_frequency_error: float
    mean_shift: float
    overlap: float
    lowest: float
    highest: float
    reference_lowest: float
    reference_highest: float
    volume: float
    residual: float
    phonons: Phonons


def compare(reference: ReferencePhonons, calculator: Any, *, unit_cell: Atoms | None = None) -> Comparison:
    """Forces and phonons of a potential on the displaced supercells of a reference.

    Parameters
    ----------
    unit_cell
        Atoms in the order of the reference's; the displacements (in Å) are applied to its supercell. Default: the
        reference's geometry.
    """
    theirs = reference.phonons
    cell = to_ase(theirs.unitcell) if unit_cell is None else unit_cell
    ours = phonons_of(cell, theirs.supercell_matrix, primitive_matrix=theirs.primitive_matrix)
    perfect = to_ase(ours.supercell)
    rest = forces_on(ours.supercell, calculator)
    forces = []
    for displacement in reference.displacements:
        atoms = perfect.copy()
        atoms.positions += displacement
        atoms.calc = calculator
        forces.append(np.array(atoms.get_forces()))
    found = np.array(forces)
    ours.dataset = _dataset(theirs.dataset, found - rest)
    solver = {} if "first_atoms" in theirs.dataset else {"fc_calculator": "symfc"}
    ours.produce_force_constants(show_drift=False, **solver)
    residual = acoustic_sum_residual(ours)
    ours.symmetrize_force_constants(show_drift=False)
    points = mesh(theirs)
    a, b = frequencies(ours, points), frequencies(theirs, points)
    grid = np.arange(min(a.min(), b.min()) - 1.0, max(a.max(), b.max()) + 1.0, WIDTH / 4)
    densities = [density_of_states(x, grid, width=WIDTH) for x in (a, b)]
    large = np.abs(reference.forces) > 1e-4  # the others are zero by symmetry
    return Comparison(
        force_error=float(np.abs(found - reference.forces)[large].mean()),
        force_scale=float(np.abs(reference.forces)[large].mean()),
        stiffness=float(np.sum(found * reference.forces) / np.sum(reference.forces**2)),
        frequency_error=float(np.abs(a - b).mean()),
        worst_frequency_error=float(np.abs(a - b).max()),
        mean_shift=float((a - b).mean()),
        overlap=float(np.minimum(*densities).sum() / densities[1].sum()),
        lowest=float(a.min()),
        highest=float(a.max()),
        reference_lowest=float(b.min()),
        reference_highest=float(b.max()),
        volume=cell.get_volume() / len(cell),
        residual=residual,
        phonons=ours,
    )


def _dataset(theirs: Any, forces: Array) -> dict[str, Any]:
    """The reference's displacements with other forces, in either of phonopy's two layouts."""
    if "first_atoms" in theirs:
        atoms = [
            {"number": a["number"], "displacement": list(a["displacement"]), "forces": f}
            for a, f in zip(theirs["first_atoms"], forces, strict=True)
        ]
        return {"natom": theirs["natom"], "first_atoms": atoms}
    return {"displacements": np.array(theirs["displacements"]), "forces": forces}
