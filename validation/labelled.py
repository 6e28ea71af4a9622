"""Labelled structures of the domain's references, and what a potential says to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from hydrapot.validation.domain import LabelledReference
from hydrapot.validation.guarded import PotentialFailure, guarded
from hydrapot.validation.levels import comparison
from hydrapot.validation.suite import Context

Array = NDArray[np.float64]

#: Names under which labels are found, beside those that ASE keeps in a calculator.
_PREFIXES = ("", "REF_", "ref_", "DFT_", "dft_")
_SUFFIXES = ("", "_ref", "_REF", "_dft", "_DFT")
_GROUP_KEYS = ("group", "molecule", "src", "config_type")


class ReferenceDataError(Exception):
    """A reference file that is missing, unreadable or without usable structures; the message is the reason."""


@dataclass(frozen=True)
class Labelled:
    """A structure of N atoms with its labels; each may be missing.

    Attributes
    ----------
    atoms
        Without calculator; charge and spin in ``info``.
    energy, forces, stress
        eV; ``(N, 3)`` eV/Å; ``(6,)`` eV/Å³ in Voigt order with ASE's sign.
    group
        Name of the trajectory or system that it belongs to; its chemical formula when the file names none.
    """

    atoms: Atoms
    energy: float | None
    forces: Array | None
    stress: Array | None
    group: str


@dataclass(frozen=True)
class Prediction:
    """What the potential gives for one structure; None for what it does not implement or failed on.

    `failure` is the reason of a failure, and `uncertainty` holds what :data:`UNCERTAINTY_KEYS` name.
    """

    energy: float | None
    forces: Array | None
    stress: Array | None
    failure: str = ""
    energy_uncertainty: float | None = None
    forces_uncertainty: Array | None = None


#: Where a calculator puts standard deviations into ``results``: of the total energy (eV), and of force components
#: (eV/Å; ``(N, 3)``, or ``(N,)`` where all three components of an atom share one). The first name found counts.
UNCERTAINTY_KEYS = {
    "energy": ("energy_uncertainty", "energy_std", "energy_stddev"),
    "forces": ("forces_uncertainty", "forces_std", "forces_stddev"),
}


def read_labelled(
    path: Path, *, elements: Sequence[int], max_structures: int, seed: int
) -> tuple[list[Labelled], list[str]]:
    """Read a file of labelled structures, in any format of ASE.

    Energies are found under ``energy``, also with a prefix or suffix such as ``REF_`` or ``_dft``; likewise ``forces``,
    ``stress``, and ``virial`` (eV) in place of a stress.

    Parameters
    ----------
    path
        The file; extended XYZ may be compressed.
    elements
        Atomic numbers that the potential knows; structures with others are left out, and counted.
    max_structures, seed
        At most so many are drawn at random.

    Returns
    -------
    The structures, and lines that say what was left out.

    Raises
    ------
    ReferenceDataError
    """
    try:
        plain = any(suffix in {".extxyz", ".xyz"} for suffix in path.suffixes)
        frames = read(path, index=":", format="extxyz" if plain else None)
    except Exception as error:
        reason = " ".join(str(error).split())[:150]
        raise ReferenceDataError(f"{path.name} cannot be read: {type(error).__name__}: {reason}") from error
    atoms_known = [a for a in frames if set(a.numbers.tolist()) <= set(elements)]
    notes = []
    if len(atoms_known) < len(frames):
        notes.append(
            f"{path.name}: {len(frames) - len(atoms_known)} of {len(frames)} structures left out, whose elements "
            "the potential does not know."
        )
    several = [a for a in atoms_known if len(a) > 1 or a.pbc.any()]
    if not several:
        raise ReferenceDataError(f"{path.name}: none of {len(frames)} structures has only elements that are known")
    if len(several) > max_structures:
        chosen = np.random.default_rng(seed).choice(len(several), size=max_structures, replace=False)
        notes.append(f"{path.name}: {max_structures} of {len(several)} structures, drawn at random (seed {seed}).")
        several = [several[k] for k in sorted(chosen.tolist())]
    labelled = [_labelled(atoms) for atoms in several]
    if all(item.energy is None and item.forces is None and item.stress is None for item in labelled):
        raise ReferenceDataError(f"{path.name} has neither energy nor forces nor stress under names that are known")
    return labelled, notes


def answered(context: Context, structures: Sequence[Labelled]) -> list[Prediction]:
    """What the subject gives for each structure."""
    return [_prediction(row) for row in _rows(context, structures)]


def open_reference(
    context: Context, reference: LabelledReference
) -> tuple[list[Labelled], list[Prediction], list[str]]:
    """Structures of a reference, predictions for them, and lines for the report.

    Raises
    ------
    ReferenceDataError
    """
    structures, notes = read_labelled(
        context.domain.folder / reference.file,
        elements=context.subject.elements,
        max_structures=reference.max_structures,
        seed=context.seeds[0],
    )
    key = f"predictions {reference.name} {reference.file} {len(structures)} {context.seeds[0]}"
    document = context.piece(key, lambda: {"rows": _rows(context, structures)})
    predictions = [_prediction(row) for row in document["rows"]]
    caution = comparison(context.subject.identity.level_of_theory, reference.level_of_theory)
    if caution:
        notes.append(f"{reference.name}: {caution}.")
    return structures, predictions, notes


def force_pairs(structures: Sequence[Labelled], predictions: Sequence[Prediction]) -> list[tuple[int, Array, Array]]:
    """Index, predicted and reference force components ``(3N,)`` of every structure that has both."""
    return [
        (k, p.forces.ravel(), s.forces.ravel())
        for k, (s, p) in enumerate(zip(structures, predictions, strict=True))
        if s.forces is not None and p.forces is not None
    ]


def aligned_energies(structures: Sequence[Labelled], predictions: Sequence[Prediction]) -> tuple[Array, Array, str]:
    """Energy errors before and after the removal of one shift per element.

    Levels of theory differ in the energy of free atoms; a shift per element, fitted to the errors by least squares, is
    what a different zero amounts to.

    Returns
    -------
    raw
        ``(S,)`` predicted minus reference energy, eV; NaN where one of them is missing.
    aligned
        The same minus the fitted shifts, rescaled for the fitted parameters; NaN throughout when there are too few
        structures to fit any.
    remark
        What the alignment did.
    """
    raw = np.array(
        [
            np.nan if s.energy is None or p.energy is None else p.energy - s.energy
            for s, p in zip(structures, predictions, strict=True)
        ]
    )
    known = np.isfinite(raw)
    elements = sorted({int(z) for s in structures for z in s.atoms.numbers})
    counts = np.array([[float(np.sum(s.atoms.numbers == z)) for z in elements] for s in structures])
    sizes = counts.sum(axis=1)
    aligned = np.full(len(raw), np.nan)
    rank = int(np.linalg.matrix_rank(counts[known])) if known.any() else 0
    if known.sum() < 2 * rank or known.sum() < 2:
        return raw, aligned, f"{int(known.sum())} energies do not determine a shift per element"
    # Per atom: a large structure must not decide alone.
    solution = np.linalg.lstsq((counts / sizes[:, None])[known], (raw / sizes)[known], rcond=None)[0]
    freedom = np.sqrt(known.sum() / (known.sum() - rank))
    aligned[known] = (raw - counts @ solution)[known] * freedom
    return raw, aligned, f"one shift per element removed ({rank} fitted to {int(known.sum())} structures)"


def _labelled(atoms: Atoms) -> Labelled:
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    stress = _label(atoms, results, "stress")
    if stress is None and atoms.pbc.all():
        virial = _label(atoms, results, "virial")
        stress = None if virial is None else -virial / atoms.get_volume()
    if stress is not None:
        stress = full_3x3_to_voigt_6_stress(stress.reshape(3, 3)) if stress.size == 9 else stress.reshape(6)
    energy = _label(atoms, results, "energy")
    forces = _label(atoms, results, "forces")
    group = next((str(atoms.info[key]) for key in _GROUP_KEYS if key in atoms.info), "")
    copy = atoms.copy()
    copy.calc = None
    return Labelled(
        copy,
        None if energy is None else float(energy),
        None if forces is None or forces.shape != (len(atoms), 3) else forces,
        stress if atoms.pbc.all() else None,
        group or atoms.get_chemical_formula(),
    )


def _label(atoms: Atoms, results: dict[str, Any], name: str) -> Array | None:
    for prefix in _PREFIXES:
        for suffix in _SUFFIXES:
            key = f"{prefix}{name}{suffix}"
            for place in (results, atoms.info, atoms.arrays):
                value = place.get(key)
                if value is not None:
                    array = np.asarray(value, dtype=np.float64)
                    return array if np.all(np.isfinite(array)) else None
    return None


def _rows(context: Context, structures: Sequence[Labelled]) -> list[dict[str, Any]]:
    calculator: Any = guarded(context.subject.calculator())
    rows = []
    for item in structures:
        row: dict[str, Any] = {"failure": ""}
        wanted = ["energy", "forces"] + (["stress"] if item.stress is not None else [])
        try:
            for name in wanted:
                if name in calculator.implemented_properties:
                    row[name] = np.asarray(calculator.get_property(name, item.atoms)).tolist()
        except PotentialFailure as error:
            row["failure"] = str(error)
        results = calculator.calculator.results
        for name, keys in UNCERTAINTY_KEYS.items():
            found = next((key for key in keys if results.get(key) is not None), None)
            if found is not None:
                row[f"{name}_uncertainty"] = np.asarray(results[found], dtype=np.float64).tolist()
        rows.append(row)
    return rows


def _prediction(row: dict[str, Any]) -> Prediction:
    def array(name: str) -> Array | None:
        return None if row.get(name) is None else np.asarray(row[name], dtype=np.float64)

    if row["failure"]:
        return Prediction(None, None, None, row["failure"])
    spread = array("energy_uncertainty")
    stress = array("stress")
    if stress is not None and stress.size == 9:
        stress = full_3x3_to_voigt_6_stress(stress.reshape(3, 3))
    return Prediction(
        None if row.get("energy") is None else float(row["energy"]),
        array("forces"),
        stress,
        energy_uncertainty=None if spread is None else float(spread),
        forces_uncertainty=array("forces_uncertainty"),
    )
