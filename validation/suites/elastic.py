"""Elastic constants: stress over strain with clamped and with relaxed atoms, stability, and agreement of stress and energy.

A crystal is stable against every small strain if and only if all eigenvalues of C are positive (F. Mouhat & F.-X. Coudert,
*Phys. Rev. B* 90, 224104 (2014)).
"""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from hydrapot.validation.crystals import crystals, primitive_cell, space_group
from hydrapot.validation.domain import ElasticReference
from hydrapot.validation.elasticity import (
    bulk_modulus_of_energies,
    elastic_constants,
    independent,
    moduli,
    named,
    symmetric,
)
from hydrapot.validation.guarded import PotentialFailure, failed, guarded
from hydrapot.validation.levels import comparison
from hydrapot.validation.metrics import Metric, Outcome, skipped
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.stability import stability
from hydrapot.validation.suite import Context, Suite

Array = NDArray[np.float64]

#: Distances of the two strains of a central difference: for results, and for a look at how far they depend on it. The EAM of
#: copper has a kink at its minimum, by which constants change in proportion: 0.05 % at 0.002.
STRAINS = (0.001, 0.005)
#: The same in single precision, where stresses carry an error of 1e-6 of their contributions.
STRAINS_SINGLE = (0.01, 0.02)
#: %; |C − Cᵀ| over the largest constant. EMT and EAM: 0.01, from what is left of the stress.
ASYMMETRY_LIMIT = 1.0
#: %; change of C between the two strains. EMT and EAM: 0.1.
PLATEAU_LIMIT = 3.0
#: %; bulk modulus of the stresses against that of the energies, clamped. EMT and EAM: 0.02.
CONSISTENCY_LIMIT = 1.0
#: %; mean over the constants of a reference. Functionals (LDA, PBE, PBEsol) differ by 10 to 15.
REFERENCE_LIMIT = 15.0
_MAIN = "smallest eigenvalue of the elastic constants"


def run(context: Context) -> Outcome:
    """The constants of every crystal of the domain."""
    metrics: list[Metric] = []
    found = crystals(context.structures)
    for name, atoms in found.items():
        cell = primitive_cell(atoms)
        if len(cell) > context.max_atoms:
            reason = f"{len(cell)} atoms in the primitive cell, more than this tier allows"
            metrics.append(skipped(_MAIN, name, reason, unit="GPa"))
            continue
        try:
            data = context.piece(f"elastic {name}", lambda cell=cell: _measure(context, cell))  # type: ignore[misc]
        except PropertyNotImplementedError:
            metrics.append(skipped(_MAIN, name, "the potential has no stress", unit="GPa"))
        except PotentialFailure as error:
            metrics.append(failed(_MAIN, name, error, unit="GPa"))
        else:
            metrics += _report(context, name, cell, data)
    if not found:
        metrics.append(skipped(_MAIN, "all structures", "no crystal among them", unit="GPa"))
    unknown = {r.structure for r in context.domain.references.elastic} - set(found)
    metrics += [
        skipped("error of the elastic constants", name, "no crystal of that name in the domain", unit="%")
        for name in sorted(unknown)
    ]
    return Outcome(metrics, notes=["Elastic constants refer to the axes of the structure as given."])


def _measure(context: Context, cell: Atoms) -> dict[str, Any]:
    calculator = guarded(context.subject.calculator())
    single = context.subject.resolution > 1e-12
    fine, coarse = STRAINS_SINGLE if single else STRAINS
    start, converged = relaxed(cell, calculator, fmax=1e-3 if single else 1e-4, cell=True)
    if not converged:  # the constants of the structure as given still tell what is wrong
        start = cell.copy()
    clamped = elastic_constants(start, calculator, strain=fine, relax=False)
    wide = elastic_constants(start, calculator, strain=coarse, relax=False)
    final = clamped
    if len(start) > 1:
        final = elastic_constants(start, calculator, strain=fine, relax=True, fmax=1e-3 if single else 1e-4)
    return {
        "converged": bool(converged),
        "clamped": clamped.tolist(),
        "wide": wide.tolist(),
        "relaxed": final.tolist(),
        "bulk modulus of energies": bulk_modulus_of_energies(start, calculator, strain=coarse / 2),
    }


def _report(context: Context, name: str, cell: Atoms, data: dict[str, Any]) -> list[Metric]:
    c, clamped, wide = (np.array(data[key]) for key in ("relaxed", "clamped", "wide"))
    largest = float(np.abs(c).max()) or 1.0
    note = "" if data["converged"] else "the cell did not relax: strained from where it was given"
    average = moduli(c)
    eigenvalues = np.linalg.eigvalsh(symmetric(c))
    by_energy = data["bulk modulus of energies"]
    consistency = 100 * abs(moduli(clamped).bulk_voigt / by_energy - 1) if by_energy else float("nan")
    limits = {
        "asymmetry of the elastic constants": ASYMMETRY_LIMIT,
        "change of the elastic constants with the strain": PLATEAU_LIMIT,
        "bulk modulus of stress against energy": CONSISTENCY_LIMIT,
    }
    limits = {key: context.limit("elastic", key, value) for key, value in limits.items()}
    values = (
        100 * float(np.abs(c - c.T).max()) / largest,
        100 * float(np.abs(wide - clamped).max()) / largest,
        consistency,
    )
    details = (
        note or "C of relaxed atoms",
        "clamped atoms, two strains",
        f"clamped atoms: {moduli(clamped).bulk_voigt:.2f} GPa against {by_energy:.2f} GPa",
    )
    return [
        Metric("cell relaxed", name, float(data["converged"]), "", lower=1.0, detail=note),
        stability(
            context, Metric(_MAIN, name, float(eigenvalues[0]), "GPa", lower=0.0, detail=note or "Born stability")
        ),
        *(
            Metric(quantity, name, value, "%", upper=limits[quantity], detail=detail)
            for quantity, value, detail in zip(limits, values, details, strict=True)
        ),
        Metric("bulk modulus", name, average.bulk, "GPa", detail=_averages(average.bulk_voigt, average.bulk_reuss)),
        Metric("shear modulus", name, average.shear, "GPa", detail=_averages(average.shear_voigt, average.shear_reuss)),
        *_constants(name, cell, c, clamped),
        *_references(context, name, c),
    ]


def _averages(voigt: float, reuss: float) -> str:
    return f"Hill; Voigt {voigt:.2f}, Reuss {reuss:.2f}"


def _constants(name: str, cell: Atoms, c: Array, clamped: Array) -> list[Metric]:
    number, _ = space_group(cell, tolerance=1e-3)
    return [
        Metric(key, name, named(c, key), "GPa", detail=f"clamped: {named(clamped, key):.2f}")
        for key in independent(number)
    ]


def _references(context: Context, name: str, c: Array) -> list[Metric]:
    ours = context.subject.identity.level_of_theory
    return [
        _reference(context, name, c, reference, comparison(ours, reference.level_of_theory))
        for reference in context.domain.references.elastic
        if reference.structure == name
    ]


def _reference(context: Context, name: str, c: Array, reference: ElasticReference, remark: str) -> Metric:
    quantity = "error of the elastic constants"
    level = reference.level_of_theory
    found = {"K": moduli(c).bulk, "G": moduli(c).shear}
    errors, words = [], []
    for key, theirs in reference.constants.items():
        try:
            value = found[key] if key in found else named(c, key)
        except KeyError:
            words.append(f"{key} is no name of a constant")
            continue
        if theirs:
            errors.append(abs(value / theirs - 1))
        words.append(f"{key} {value:.1f} against {theirs:.1f}")
    detail = "; ".join([", ".join(words), *([remark] if remark else [])])
    if not errors:
        return skipped(quantity, name, detail or "the reference holds no constants", unit="%")
    limit = context.limit("elastic", quantity, REFERENCE_LIMIT)
    value = 100 * float(np.mean(errors))
    return Metric(quantity, name, value, "%", upper=limit, detail=detail, level_of_theory=level)


def evaluations(context: Context) -> float:
    """Evaluations times atoms: 18 strained cells, clamped twice and relaxed (some three steps), and the cell before."""
    return sum(
        (36 + 5 + 10 + (54 if len(atoms) > 1 else 0)) * len(atoms) for atoms in crystals(context.structures).values()
    )


SUITE = Suite(
    name="elastic",
    title="Elastic constants",
    purpose="The crystal resists every strain, and as strongly as at its level of theory.",
    category="B",
    run=run,
    evaluations=evaluations,
    requires=("matscipy", "spglib"),
)
