"""Vacancies: formation energies, relaxed and not, in two supercells.

E_f = E(N − 1 atoms) − (N − 1)/N · E(N) in a crystal of one element. In a compound the energy of a single vacancy depends
on a chemical potential that nothing fixes; there the Schottky energy is given: one vacancy for each atom of a formula
unit, each in a cell of its own (so not interacting), minus the formula unit of the crystal put back. All vacancies are neutral.
"""

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
from ase import Atoms

from hydrapot.validation.answers import energy, refusal
from hydrapot.validation.crystals import crystals, primitive_cell
from hydrapot.validation.defects import (
    first_sites,
    image_distance,
    largest_displacement,
    nearest_distance,
    sizes,
    without,
)
from hydrapot.validation.guarded import PotentialFailure, failed, guarded
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.suite import Context, Suite, Tier

#: eV/Å.
FMAX = 0.01
#: eV per vacancy, between the two supercells. 27 against 64 sites: EMT 0.01, EAM 0.01; more means that a vacancy is felt by
#: its images, and that the larger cell is not converged either.
SIZE_LIMIT = 0.1
#: Of the nearest distance; an atom that moves as far has left its site.
DISPLACEMENT_LIMIT = 0.5
#: Atoms in a formula unit up to which a Schottky energy is a sum of a few vacancies.
_MOST_ATOMS = 8
_STEPS = 300


def run(context: Context) -> Outcome:
    """Formation energies in every crystal of the domain."""
    name = "vacancy formation energy"
    metrics: list[Metric] = []
    figures: list[Figure] = []
    found = crystals(context.structures)
    if not found:
        return Outcome([skipped(name, "crystals", "no structure of the domain is a crystal", unit="eV")])
    for label, atoms in found.items():
        metrics += _crystal(context, label, atoms, figures)
    notes = ["Vacancies are neutral and single; of inequivalent sites of an element the first one is taken."]
    return Outcome(metrics, figures, notes)


def _crystal(context: Context, label: str, atoms: Atoms, figures: list[Figure]) -> list[Metric]:
    name = "vacancy formation energy"
    calculator = guarded(context.subject.calculator())
    refused = refusal(calculator, atoms, name, label, unit="eV")
    if refused is not None:
        return [refused]
    formula = Counter(primitive_cell(atoms).get_chemical_symbols())
    divisor = int(np.gcd.reduce(list(formula.values())))
    unit = {symbol: count // divisor for symbol, count in formula.items()}
    if sum(unit.values()) > _MOST_ATOMS:
        return [skipped(name, label, f"a formula unit of {sum(unit.values())} atoms", unit="eV")]
    start, _ = relaxed(atoms, calculator, fmax=FMAX, cell=True, max_steps=100)
    cells = sizes(start, max_atoms=context.max_atoms)
    if not cells:
        return [skipped(name, label, f"no supercell of at most {context.max_atoms} atoms", unit="eV")]
    name = name if len(unit) == 1 else "Schottky energy"
    results = []
    for cell in cells:
        subject = f"{label}, {len(cell)} sites"
        try:
            results.append(context.piece(f"vacancy {label} {len(cell)}", partial(_energies, context, cell, unit)))
        except PotentialFailure as error:
            return [failed(name, subject, error, unit="eV")]
    return _judge(context, label, name, unit, results, figures)


def _energies(context: Context, cell: Atoms, unit: dict[str, int]) -> dict[str, Any]:
    """Energies with a vacancy of each element, before and after relaxation, as plain numbers."""
    calculator = guarded(context.subject.calculator())
    bulk = energy(calculator, cell) / len(cell)
    relaxed_energy = unrelaxed_energy = 0.0
    failure = ""
    displacement = 0.0
    for symbol, site in first_sites(cell).items():
        vacant = without(cell, site)
        count = unit[symbol]
        # Sum over the formula unit of E(vacancy) − (N − 1)/N E(N) equals the Schottky energy, for which one formula
        # unit is put back: Σ n [E(N−1) − E(N)] + E(N)/N · Σ n.
        unrelaxed_energy += count * (energy(calculator, vacant) - (len(cell) - 1) * bulk)
        final, converged = relaxed(vacant, calculator, fmax=FMAX, max_steps=_STEPS)
        if not converged:
            failure = f"the cell with a {symbol} vacancy did not relax to {FMAX} eV/Å in {_STEPS} steps, or blew up"
        relaxed_energy += count * (energy(calculator, final) - (len(cell) - 1) * bulk)
        displacement = max(displacement, largest_displacement(vacant, final))
    return {
        "sites": len(cell),
        "images": image_distance(cell),
        "unrelaxed": unrelaxed_energy,
        "relaxed": relaxed_energy,
        "displacement": displacement,
        "nearest": nearest_distance(cell),
        "failure": failure,
    }


def _judge(
    context: Context, label: str, name: str, unit: dict[str, int], results: list[dict[str, Any]], figures: list[Figure]
) -> list[Metric]:
    largest = results[-1]
    subject = f"{label}, {largest['sites']} sites"
    vacancies = sum(unit.values())
    words = f"images {largest['images']:.1f} Å apart"
    if vacancies > 1:
        words += f"; sum over {vacancies} separate vacancies: " + ", ".join(f"{n} {s}" for s, n in unit.items())
    value = float("nan") if largest["failure"] else largest["relaxed"]
    metrics = [
        Metric(
            name, subject, value, "eV", lower=context.limit("vacancy", name, 0.0), detail=largest["failure"] or words
        ),
        Metric(f"{name}, unrelaxed", subject, largest["unrelaxed"], "eV", detail=words),
        Metric(
            "vacancy relaxation energy", subject, largest["unrelaxed"] - largest["relaxed"], "eV", lower=-1e-3,
            detail="unrelaxed minus relaxed: a relaxation lowers the energy",
        ),
        Metric(
            "displacement around a vacancy", subject, largest["displacement"], "Å",
            upper=DISPLACEMENT_LIMIT * largest["nearest"], detail="largest; no atom leaves its site",
        ),
    ]  # fmt: skip
    if len(results) == 2 and not any(r["failure"] for r in results):
        small = results[0]
        change = abs(largest["relaxed"] - small["relaxed"]) / vacancies
        metrics.append(
            Metric(
                "vacancy size change", label, change, "eV",
                upper=context.limit("vacancy", "vacancy size change", SIZE_LIMIT),
                detail=f"{small['sites']} against {largest['sites']} sites, images {small['images']:.1f} and "
                f"{largest['images']:.1f} Å apart; per vacancy",
            )
        )  # fmt: skip
        # The field of a strained vacancy adds an energy ∝ 1/volume (M. J. Gillan, Phil. Mag. A 43, 301 (1981)).
        ends = [r["relaxed"] * r["sites"] for r in results]
        limit = (ends[1] - ends[0]) / (largest["sites"] - small["sites"])
        metrics.append(
            Metric(f"{name}, extrapolated", label, limit, "eV", detail="linear in 1/sites from both supercells")
        )
        x = [1.0 / r["sites"] for r in results]
        figures.append(
            Figure(
                f"{name}: {label}",
                "1 / sites of the supercell",
                "eV",
                [Series(state, x, [r[state] for r in results]) for state in ("relaxed", "unrelaxed")],
            )
        )
    else:
        reason = "only one supercell fits this tier" if len(results) < 2 else "a cell did not relax"
        metrics.append(skipped("vacancy size change", label, reason, unit="eV"))
    return metrics


def evaluations(context: Context) -> float:
    """Evaluations times atoms: some 30 steps for each element, in cells of the tier's size and half of it."""
    return sum(
        30.0 * 1.4 * context.max_atoms * len(set(a.numbers.tolist())) for a in crystals(context.structures).values()
    )


SUITE = Suite(
    name="vacancy",
    title="Vacancies",
    purpose="Formation energies of vacancies are positive, converged with the size of the cell, and known.",
    category="B",
    run=run,
    evaluations=evaluations,
    tiers=frozenset({Tier.STANDARD, Tier.FULL}),
    requires=("spglib",),
)
