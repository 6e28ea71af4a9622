"""Adsorption: energies of sites, and the curve along which an adsorbate comes in from outside the cutoff.

Structures of the domain in which other elements sit on a slab are relaxed (lower half fixed) and lifted off. Where the domain
has none, H and O atoms are brought to the close-packed facet of its elemental crystals, if the potential knows them. Slab and
adsorbate stay rigid along the curve.

Reference of the adsorption energy: slab and adsorbate in the same calculation, further apart than the cutoff. It needs no
energies of free atoms, in which potentials of periodic solids are not trained; with respect to half a molecule it is given too.
"""

from functools import partial
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from hydrapot.validation.adsorbates import Adsorbed, find_adsorbate, fix_lower_half, place, sites
from hydrapot.validation.answers import energy, forces
from hydrapot.validation.crystals import crystals, primitive_cell, space_group
from hydrapot.validation.guarded import PotentialFailure, failed, guarded
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.slabs import facet
from hydrapot.validation.structures import bond
from hydrapot.validation.suite import Context, Suite, Tier

Array = NDArray[np.float64]

#: Å.
STEP = 0.1
FMAX = 0.01
#: eV; by which the energy falls anywhere on the way out of the well. An atom leaves a metal uphill all the way; what
#: chemistry there is (a precursor state) is of that size.
DROP_LIMIT = 0.05
#: eV/Å; of a force against a cubic through its four neighbors, from the well outwards. EMT: 0.005 at the end of its cutoff.
ROUGHNESS_LIMIT = 0.1
#: eV; work of the forces against the difference of the energies, from the well outwards.
WORK_LIMIT = 0.01
#: Å; bond lengths of the molecules whose half is a reference.
_MOLECULES = {"H": 0.74, "O": 1.21, "N": 1.10}
_ADSORBATES = ("H", "O")
#: Facets by space group of the primitive crystal of one atom (hcp: of two).
_FACETS = {(225, 1): (1, 1, 1), (229, 1): (1, 1, 0), (194, 2): (0, 0, 1)}
_LAYERS = 4


def run(context: Context) -> Outcome:
    """Adsorbates that the domain names, else atoms on its metals."""
    name = "adsorption energy"
    metrics: list[Metric] = []
    figures: list[Figure] = []
    room = 2.0 * context.subject.cutoff + 4.0
    named = {
        label: adsorbed
        for label, atoms in context.structures.items()
        if (adsorbed := find_adsorbate(atoms, room=room)) is not None
    }
    for label, adsorbed in named.items():
        metrics += _named(context, label, adsorbed, figures)
    if not named:
        metrics = _metals(context, room, figures)
    if not metrics:
        reason = (
            "no structure of the domain is a slab with an adsorbate, and there is no crystal of a close-packed element "
            "together with H or O"
        )
        metrics.append(skipped(name, "slabs", reason, unit="eV"))
    note = (
        "Adsorption energies refer to slab and adsorbate in the same calculation, further apart than the cutoff; slab and "
        "adsorbate are rigid along the curve."
    )
    return Outcome(metrics, figures, [note])


# --- what is lifted off what ------------------------------------------------------------------------------------------
def _named(context: Context, label: str, adsorbed: Adsorbed, figures: list[Figure]) -> list[Metric]:
    calculator = guarded(context.subject.calculator())

    def compute() -> dict[str, Any]:
        both = adsorbed.lifted(0.0)
        fix_lower_half(both)
        final, converged = relaxed(both, calculator, fmax=FMAX, max_steps=200)
        count = adsorbed.count
        rigid = Adsorbed(final[: len(final) - count], final[len(final) - count :])
        return {"converged": converged, **_curve(context, rigid, inward=0.3)}

    try:
        result = context.piece(f"adsorption {label}", compute)
    except PotentialFailure as error:
        return [failed("adsorption energy", label, error, unit="eV")]
    except PropertyNotImplementedError:
        return [skipped("adsorption energy", label, "the potential has no forces", unit="eV")]
    metrics = _judge(context, label, result, figures)
    if not result["converged"]:
        detail = f"the adsorbate did not relax to {FMAX} eV/Å, or left"
        metrics[0] = Metric("adsorption energy", label, float("nan"), "eV", upper=0.0, detail=detail)
    return metrics


def _metals(context: Context, room: float, figures: list[Figure]) -> list[Metric]:
    metrics: list[Metric] = []
    for label, atoms in crystals(context.structures).items():
        primitive = primitive_cell(atoms)
        key = (space_group(primitive, tolerance=1e-3)[0], len(primitive))
        if len(set(primitive.numbers.tolist())) > 1 or key not in _FACETS:
            continue
        element = primitive.get_chemical_symbols()[0]
        for symbol in _ADSORBATES:
            if symbol in context.subject.symbols and symbol != element:
                metrics += _metal(context, f"{symbol} on {label}", primitive, symbol, _FACETS[key], room, figures)
    return metrics


def _metal(
    context: Context,
    label: str,
    crystal: Atoms,
    symbol: str,
    miller: tuple[int, int, int],
    room: float,
    figures: list[Figure],
) -> list[Metric]:
    calculator = guarded(context.subject.calculator())
    label = f"{label} ({''.join(map(str, miller))})"
    try:
        start, _ = relaxed(crystal, calculator, fmax=FMAX, cell=True, max_steps=100)
        stack = facet(start, miller)
        slab = stack.slab(max(2, _LAYERS // len(stack.period)), vacuum=room).repeat((2, 2, 1))
        slab, converged = relaxed(slab, calculator, fmax=FMAX, max_steps=100)
        if not converged:
            detail = f"the clean slab did not relax to {FMAX} eV/Å, or fell apart"
            return [Metric("adsorption energy", label, float("nan"), "eV", upper=0.0, detail=detail)]
        radius = bond(int(slab.numbers[0]), Atoms(symbol).numbers[0], cutoff=context.subject.cutoff)
        metrics: list[Metric] = []
        energies: dict[str, float] = {}
        for site, xy in sites(slab).items():
            adsorbed = place(slab, symbol, xy, height=radius, room=room)
            result = context.piece(
                f"adsorption {label} {site}",
                partial(_curve, context, adsorbed, inward=0.75 * radius),
            )
            metrics += _judge(context, f"{label}, {site}", result, figures)
            energies[site] = min(result["energies"]) - result["energies"][-1]
        metrics += _molecule(context, label, symbol, slab, energies)
    except PotentialFailure as error:
        return [failed("adsorption energy", label, error, unit="eV")]
    except PropertyNotImplementedError:
        return [skipped("adsorption energy", label, "the potential has no forces", unit="eV")]
    return metrics


def _molecule(context: Context, label: str, symbol: str, slab: Atoms, energies: dict[str, float]) -> list[Metric]:
    """The best site with respect to half a molecule: from the free atom of the potential to its molecule."""
    name = "adsorption energy, from the molecule"
    best = min(energies, key=lambda site: energies[site])
    side = 2.0 * context.subject.cutoff + 4.0
    molecule = Atoms([symbol] * 2, [[0, 0, 0], [0, 0, _MOLECULES[symbol]]], cell=np.eye(3) * side, pbc=True)
    calculator = guarded(context.subject.calculator())
    final, converged = relaxed(molecule, calculator, fmax=FMAX, max_steps=100)
    subject = f"{label}, {best}"
    if not converged:
        return [skipped(name, subject, f"the {symbol}₂ molecule does not relax with this potential", unit="eV")]
    length = float(np.linalg.norm(final.positions[1] - final.positions[0]))
    try:
        # The free atom as in the curve: over the slab, further away than the cutoff.
        apart = place(slab, symbol, slab.positions[0, :2], height=context.subject.cutoff + 1.0, room=side).lifted(0.0)
        alone = energy(calculator, apart) - energy(calculator, slab)
        half = 0.5 * energy(calculator, final)
    except PotentialFailure as error:
        return [failed(name, subject, error, unit="eV")]
    detail = f"½ {symbol}₂ (bond of {length:.3f} Å) as the reference; lowest of {len(energies)} sites"
    return [Metric(name, subject, energies[best] + alone - half, "eV", detail=detail)]


# --- curves -----------------------------------------------------------------------------------------------------------
def _curve(context: Context, adsorbed: Adsorbed, *, inward: float) -> dict[str, Any]:
    """Energies and forces over the height, from `inward` (Å) below to where no pair interacts."""
    calculator = guarded(context.subject.calculator())
    top = float(adsorbed.slab.positions[:, 2].max())
    bottom = float(adsorbed.adsorbate.positions[:, 2].min()) - top
    heights = np.arange(-inward, context.subject.cutoff + 0.5 - bottom, STEP)
    energies, pulls = [], []
    for height in heights:
        atoms = adsorbed.lifted(float(height))
        energies.append(energy(calculator, atoms))
        pulls.append(float(np.sum(forces(calculator, atoms)[-adsorbed.count :, 2])))
    return {"heights": (heights + bottom).tolist(), "energies": energies, "forces": pulls}


def _judge(context: Context, subject: str, result: dict[str, Any], figures: list[Figure]) -> list[Metric]:
    z, energies, pulls = (np.array(result[key]) for key in ("heights", "energies", "forces"))
    energies = energies - energies[-1]
    figures.append(_figure(subject, z, energies, pulls))
    well = _well(energies)
    if well is None:
        reason = "not bound at this site: the energy falls all the way out"
        return [Metric("adsorption energy", subject, 0.0, "eV", detail=reason)]
    outside = slice(well, None)
    drop, place_of_drop = _largest_drop(z[outside], energies[outside])
    roughness = _roughness(pulls[outside])
    missing, uncertainty = _missing_work(z[outside], energies[outside], pulls[outside])
    return [
        Metric(
            "adsorption energy", subject, float(energies[well]), "eV",
            detail=f"at {z[well]:.1f} Å over the topmost plane; reference: the same, {z[-1]:.1f} Å apart",
        ),
        Metric(
            "fall of the energy on the way out", subject, drop, "eV",
            upper=context.limit("adsorption", "fall of the energy on the way out", DROP_LIMIT),
            detail=f"beyond {place_of_drop:.1f} Å" if drop > 0 else "uphill all the way",
        ),
        Metric(
            "roughness of the force", subject, roughness, "eV/Å",
            upper=context.limit("adsorption", "roughness of the force", ROUGHNESS_LIMIT),
            detail=f"from a cubic through four neighbors, {STEP} Å apart",
        ),
        Metric(
            "work of the force on the way out", subject, missing, "eV",
            upper=context.limit("adsorption", "work of the force on the way out", WORK_LIMIT),
            interval=(max(0.0, missing - uncertainty), missing + uncertainty),
            detail=f"minus the difference of the energies, {-energies[well]:.3f} eV; interval: from every other point",
        ),
    ]  # fmt: skip


def _well(energies: Array) -> int | None:
    """Index of the lowest energy; None when that is the outer end. A fall to the inner end counts as a well there."""
    lowest = int(energies.argmin())
    return None if energies[lowest] > -1e-4 or lowest > len(energies) - 5 else lowest


def _largest_drop(z: Array, energies: Array) -> tuple[float, float]:
    """The largest fall of the energy at any later point, and from where."""
    later = np.minimum.accumulate(energies[::-1])[::-1]
    falls = energies - later
    return float(falls.max()), float(z[int(falls.argmax())])


def _roughness(forces: Array) -> float:
    """Largest deviation from the cubic through the two neighbors on either side."""
    if len(forces) < 5:
        return 0.0
    cubic = (4.0 * (forces[1:-3] + forces[3:-1]) - (forces[:-4] + forces[4:])) / 6.0
    return float(np.abs(forces[2:-2] - cubic).max())


def _missing_work(z: Array, energies: Array, forces: Array) -> tuple[float, float]:
    """Energy gained minus work done, eV, and the error of the integral.

    The error of a cubic spline falls to a sixteenth with half the spacing; a quarter of the change is a bound also where
    the force is not smooth.
    """
    if len(z) % 2 == 0:  # both integrals have to end at the same points
        z, energies, forces = z[1:], energies[1:], forces[1:]
    fine = float(CubicSpline(z, forces).integrate(z[0], z[-1]))
    coarse = float(CubicSpline(z[::2], forces[::2]).integrate(z[0], z[-1]))
    return abs(float(energies[-1] - energies[0]) + fine), 0.25 * abs(fine - coarse)


def _figure(subject: str, z: Array, energies: Array, forces: Array) -> Figure:
    shown = energies < max(1.0, -2.0 * float(energies.min()))
    return Figure(
        f"Approach: {subject}",
        "height over the topmost plane, Å",
        "energy, eV; force, eV/Å",
        [
            Series("energy", z[shown].tolist(), energies[shown].tolist()),
            Series("force", z[shown].tolist(), np.clip(forces[shown], -10, 10).tolist(), style="points"),
        ],
    )


def evaluations(context: Context) -> float:
    """Evaluations times atoms: curves of some 70 points over 17 atoms for four sites and two adsorbates."""
    room = 2.0 * context.subject.cutoff + 4.0
    named = [a for a in context.structures.values() if find_adsorbate(a, room=room) is not None]
    if named:
        return sum(130.0 * len(a) for a in named)
    known = sum(symbol in context.subject.symbols for symbol in _ADSORBATES)
    metals = sum(len(set(a.numbers.tolist())) == 1 for a in crystals(context.structures).values())
    return known * metals * (4 * 70 + 30) * 17.0


SUITE = Suite(
    name="adsorption",
    title="Adsorption",
    purpose="Adsorbates bind where they should, and come in without spurious wells and kinks.",
    category="B",
    run=run,
    evaluations=evaluations,
    tiers=frozenset({Tier.STANDARD, Tier.FULL}),
    requires=("spglib",),
)
