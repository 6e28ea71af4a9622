"""Barriers: the saddle of a vacancy's hop, and energies along reaction paths of the domain.

In every crystal of the domain the nearest atom of the same element hops into a vacancy. Both ends are relaxed, a band with a
climbing image is converged between them, and its top is refined to a saddle, whose full Hessian must have exactly one
negative eigenvalue. Both ends are equal by symmetry where the crystal has it; the work of the forces from either end to the
saddle must give the same barriers as the energies.
"""

from functools import partial
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read

from hydrapot.validation.answers import energy, refusal
from hydrapot.validation.crystals import crystals
from hydrapot.validation.defects import compact_supercell, first_sites, nearest_hop
from hydrapot.validation.domain import PathReference
from hydrapot.validation.guarded import PotentialFailure, failed, guarded
from hydrapot.validation.levels import comparison
from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.paths import energies, nudged_elastic_band, refine_saddle, work
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.suite import Context, Suite, Tier

#: eV/Å; of relaxed ends and of the refined saddle. An energy is then exact to 1e-4 eV at 0.5 eV/Å².
FMAX = 0.01
#: eV/Å; of the band. The saddle is refined afterwards, so that its energy does not depend on this.
BAND_FMAX = 0.08
BAND_STEPS = 150
IMAGES = 5
#: eV; forward minus reverse barrier by the work of the forces, against the difference of the energies of the ends.
#: EMT and EAM: below 1e-4.
WORK_LIMIT = 5e-3
#: eV/Å²; a mode counts as negative below minus this. Vibrations of heavy atoms begin at 0.5; central differences of float32
#: forces scatter by 1e-3.
_FLAT = 0.05


def run(context: Context) -> Outcome:
    """Hops in crystals, then reference paths."""
    metrics: list[Metric] = []
    figures: list[Figure] = []
    notes: list[str] = []
    found = crystals(context.structures)
    for name, atoms in found.items():
        metrics += _crystal(context, name, atoms, figures)
    if not found:
        metrics.append(skipped("migration barrier", "vacancy", "no structure of the domain is a crystal", unit="eV"))
    for reference in context.domain.references.paths:
        metrics += _path(context, reference, figures, notes)
    return Outcome(metrics, figures, notes)


# --- vacancy hops -----------------------------------------------------------------------------------------------------
def _crystal(context: Context, name: str, atoms: Atoms, figures: list[Figure]) -> list[Metric]:
    calculator = guarded(context.subject.calculator())
    refused = refusal(calculator, atoms, "migration barrier", name, unit="eV")
    if refused is not None:
        return [refused]
    start, _ = relaxed(atoms, calculator, fmax=FMAX, cell=True, max_steps=100)
    cell = compact_supercell(start, max_atoms=context.max_atoms)
    if cell is None:
        return [skipped("migration barrier", name, "no supercell is small enough for this tier", unit="eV")]
    species = first_sites(cell)
    chosen = dict(list(species.items())[: 1 if context.tier is not Tier.FULL else None])
    metrics = []
    for symbol, site in chosen.items():
        subject = f"{name}, {symbol} vacancy, {len(cell) - 1} atoms"
        try:
            result = context.piece(f"hop {name} {symbol} {len(cell)}", partial(_hop, context, cell, site))
        except PotentialFailure as error:
            metrics.append(failed("migration barrier", subject, error, unit="eV"))
            continue
        metrics += _judge(context, subject, result, figures)
    return metrics


def _hop(context: Context, cell: Atoms, site: int) -> dict[str, Any]:
    """Plain numbers of one hop; `failure` says what went wrong."""
    calculator = guarded(context.subject.calculator())
    hop = nearest_hop(cell, site)
    ends = []
    for which, end in (("initial", hop.initial), ("final", hop.final)):
        minimum, converged = relaxed(end, calculator, fmax=FMAX, max_steps=300)
        if not converged:
            return {"failure": f"the {which} structure did not relax to {FMAX} eV/Å"}
        minimum.calc = calculator
        ends.append(minimum)
    moved = np.linalg.norm(ends[1].positions[hop.atom] - ends[0].positions[hop.atom])
    if moved < 0.5 * hop.length:
        return {"failure": f"relaxed ends are one structure: the hop of {hop.length:.2f} Å shrank to {moved:.2f} Å"}
    band, converged = nudged_elastic_band(
        ends[0], ends[1], calculator, images=IMAGES, fmax=BAND_FMAX, max_steps=BAND_STEPS, seed=context.seeds[0]
    )
    profile = energies(band)
    top = int(profile.argmax())
    saddle = refine_saddle(band[top], fmax=FMAX)
    # The refined saddle is compared with both ends along straight lines through the neighboring images.
    forward = work([*band[:top], saddle.atoms], calculator) if top > 0 else np.zeros(1)
    backward = work([*band[:top:-1], saddle.atoms], calculator) if top < len(band) - 1 else np.zeros(1)
    lengths = np.linalg.norm(np.diff([a.positions for a in band], axis=0), axis=(1, 2))
    return {
        "failure": "",
        "converged": converged,
        "profile": (profile - profile[0]).tolist(),
        "distance": np.concatenate([[0.0], np.cumsum(lengths)]).tolist(),
        "top": top,
        "barrier": saddle.energy - float(profile[0]),
        "reverse": saddle.energy - float(profile[-1]),
        "force": saddle.force,
        "curvatures": saddle.curvatures.tolist(),
        "work": [float(forward.sum()), float(backward.sum())],
        "length": hop.length,
    }


def _judge(context: Context, subject: str, result: dict[str, Any], figures: list[Figure]) -> list[Metric]:
    if result["failure"]:
        return [Metric("migration barrier", subject, float("nan"), "eV", lower=0.0, detail=result["failure"])]
    barrier, reverse, difference = result["barrier"], result["reverse"], result["barrier"] - result["reverse"]
    flat = max(_FLAT, min(0.5, 20 * context.subject.resolution / 0.01))
    negative = sum(value < -flat for value in result["curvatures"])
    forward_work, reverse_work = result["work"]
    lowest = ", ".join(f"{value:.3f}" for value in result["curvatures"][:3])
    figures.append(
        Figure(
            f"Energy along the hop: {subject}",
            "length of the path, Å",
            "energy, eV",
            [
                Series("band", result["distance"], result["profile"]),
                Series("refined saddle", [result["distance"][result["top"]]], [barrier], style="points"),
            ],
        )
    )
    return [
        Metric(
            "migration barrier", subject, barrier, "eV", lower=0.0,
            detail=f"hop of {result['length']:.2f} Å; reverse {reverse:.4f} eV",
        ),
        Metric(
            "negative modes at the saddle", subject, float(negative), "modes", lower=1, upper=1,
            detail=f"lowest curvatures {lowest} eV/Å²; all atoms of the cell move",
        ),
        Metric("force at the saddle", subject, result["force"], "eV/Å", upper=FMAX, detail="after refinement"),
        Metric(
            "forward minus reverse barrier by work", subject, abs(forward_work - reverse_work - difference), "eV",
            upper=context.limit("barrier", "forward minus reverse barrier by work", WORK_LIMIT),
            detail=f"work {forward_work:.4f} and {reverse_work:.4f} eV; ends differ by {difference:.1e} eV in energy"
            + ("" if result["converged"] else "; the band itself did not converge"),
        ),
    ]  # fmt: skip


# --- reference paths --------------------------------------------------------------------------------------------------
def _path(context: Context, reference: PathReference, figures: list[Figure], notes: list[str]) -> list[Metric]:
    name = "barrier error"
    try:
        images = read(context.domain.folder / reference.file, index=":")
        exact = np.array([image.get_potential_energy() for image in images])
    except Exception as error:  # noqa: BLE001 - whatever a reader of files or a frame without energy raises
        return [skipped(name, reference.name, f"{reference.file}: {' '.join(str(error).split())[:150]}", unit="eV")]
    unknown = sorted({s for a in images for s in a.get_chemical_symbols()} - set(context.subject.symbols))
    if unknown:
        return [skipped(name, reference.name, f"the potential does not know {', '.join(unknown)}", unit="eV")]
    if len(images) < 3:
        return [skipped(name, reference.name, f"{len(images)} images are no path", unit="eV")]
    calculator = guarded(context.subject.calculator())
    try:
        predicted = np.array([energy(calculator, image.copy()) for image in images])
    except PotentialFailure as error:
        return [failed(name, reference.name, error, unit="eV")]
    caution = comparison(context.subject.identity.level_of_theory, reference.level_of_theory)
    if caution:
        notes.append(f"{reference.name}: {caution}.")
    exact, predicted = exact - exact[0], predicted - predicted[0]
    errors = {
        name: (predicted.max() - exact.max(), f"{predicted.max():.3f}, reference {exact.max():.3f} eV, highest image"),
        "reaction energy error": (
            predicted[-1] - exact[-1],
            f"{predicted[-1]:.3f}, reference {exact[-1]:.3f} eV, last minus first",
        ),
        "path energy MAE": (np.abs(predicted - exact)[1:].mean(), "images after the first, relative to it"),
    }
    steps = [float(k) for k in range(len(images))]
    figures.append(
        Figure(
            f"Energies along {reference.name}",
            "image",
            "energy relative to the first image, eV",
            [
                Series("predicted", steps, predicted.tolist()),
                Series(f"reference ({reference.level_of_theory})", steps, exact.tolist(), style="points"),
            ],
        )
    )
    metrics = []
    for title, (value, detail) in errors.items():
        limit = context.domain.limits.get(f"barrier/{title}")
        metrics.append(
            Metric(
                title,
                reference.name,
                float(value),
                "eV",
                lower=None if limit is None or title.endswith("MAE") else -limit,
                upper=limit,
                detail=f"{detail}; images as in the file" + (f"; {caution}" if caution else ""),
                level_of_theory=reference.level_of_theory,
            )
        )
    return metrics


def evaluations(context: Context) -> float:
    """Evaluations times atoms: band (5 images, 130 steps), Hessian (6 per atom), relaxations."""
    atoms = context.max_atoms
    hops = sum(
        (len(set(a.numbers.tolist())) if context.tier is Tier.FULL else 1)
        for a in crystals(context.structures).values()
    )
    return float(hops * atoms * (IMAGES * 130 + 9 * atoms + 100) + 10 * 60 * len(context.domain.references.paths))


SUITE = Suite(
    name="barrier",
    title="Barriers",
    purpose="Rates of diffusion and reactions: saddles are saddles, and their energies those of the reference.",
    category="B",
    run=run,
    evaluations=evaluations,
    tiers=frozenset({Tier.STANDARD, Tier.FULL}),
    requires=("spglib",),
)
