"""Phonons of the domain's crystals, vibrations of its molecules, and both held against first-principles force sets.

Crystals are relaxed to 1e-5 eV/Å in the best precision there is and displaced by four distances: where frequencies depend
on the distance, they are noise or strongly anharmonic. A frequency counts as imaginary below −max(0.05 THz, 3 × noise).
"""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from hydrapot.validation.crystals import is_crystal, is_molecule, primitive_cell
from hydrapot.validation.guarded import GuardedCalculator, PotentialFailure, failed, guarded
from hydrapot.validation.metrics import Figure, Metric, Outcome, skipped
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.stability import stability
from hydrapot.validation.suite import Context, Suite
from hydrapot.validation.suites.phonon_references import reference_phonons
from hydrapot.validation.vibrations import hessian, vibrations

Array = NDArray[np.float64]

#: eV/Å, in double and in single precision.
FMAX, FMAX_SINGLE = 1e-5, 1e-3
#: Å.
DISTANCES = (0.005, 0.01, 0.02, 0.03)
#: Å; of the frequencies that are reported.
DISTANCE = 0.01
#: THz: imaginary above this, or above three times the noise where that is more; noise does not excuse more than the cap.
IMAGINARY, IMAGINARY_CAP = 0.05, 0.3
#: Spread of a frequency over the displacements: THz, or of the highest frequency where that is more. EMT copper 0.008 THz,
#: heads of hydrapot-s for a metal or MgO 0.02 to 0.17; 3 % is what functionals differ by.
PLATEAU_LIMIT, PLATEAU_RELATIVE = 0.1, 0.03
#: Difference between the two shortest displacements, where anharmonic terms do not matter yet: THz, or of the highest
#: frequency where that is more. EMT copper 0.0007 THz, heads of hydrapot-s for a metal or MgO 0.004 to 0.02; random forces
#: of 1e-4 eV/Å give 0.1.
NOISE_LIMIT, NOISE_RELATIVE = 0.05, 0.005
#: THz; softer modes are not asked for a plateau: their frequency is the root of a small difference.
SOFT = 0.5
#: Largest sum over the force constants of an atom, relative to the largest constant, by the shortest displacement (what is
#: left of anharmonic terms falls with its square). EMT 1e-13, heads of hydrapot-s 1e-4 to 5e-3.
ACOUSTIC_LIMIT = 0.01
#: THz; translations and rotations of a molecule (ethanol and methanol with hydrapot-s: 0.02), in double and in single
#: precision, where the forces that are left turn it.
RIGID_LIMIT, RIGID_LIMIT_SINGLE = 0.15, 1.0
#: K.
TEMPERATURE = 300.0
_MAIN = "lowest frequency"


def run(context: Context) -> Outcome:
    """Every crystal and molecule of the domain, and every reference."""
    metrics: list[Metric] = []
    figures: list[Figure] = []
    compared: list[Metric] = []
    unstable: set[str] = set()  # crystals of the domain that are unstable at the level of theory too
    for reference in context.domain.references.phonons:
        found = reference_phonons(context, reference, fmax=_fmax(context))
        compared += found.metrics
        figures += found.figures
        if found.unstable:
            unstable.add(reference.name)
    for name, atoms in context.structures.items():
        try:
            if is_crystal(atoms):
                values, curves = _crystal(context, name, atoms, unstable=name in unstable)
            elif is_molecule(atoms):
                values, curves = _molecule(context, name, atoms), []
            else:
                reason = "neither periodic in all directions nor a molecule"
                values, curves = [skipped(_MAIN, name, reason, unit="THz")], []
        except PotentialFailure as error:
            values, curves = [failed(_MAIN, name, error, unit="THz")], []
        except PropertyNotImplementedError:
            values, curves = [skipped(_MAIN, name, "the potential has no forces or no stress", unit="THz")], []
        metrics += values
        figures += curves
    metrics += compared
    if not metrics:
        metrics.append(skipped(_MAIN, "all structures", "no structures", unit="THz"))
    note = (
        "Frequencies between the wave vectors that fit into the supercell are interpolated; a lowest frequency whose limit "
        "lies between the interpolated and the exact value is inconclusive. Polar splitting at Γ is left out."
    )
    return Outcome(metrics, figures, notes=[note])


def _fmax(context: Context) -> float:
    return FMAX if context.subject.resolution < 1e-12 else FMAX_SINGLE


# --- crystals ---------------------------------------------------------------------------------------------------------
def _crystal(context: Context, name: str, atoms: Atoms, *, unstable: bool) -> tuple[list[Metric], list[Figure]]:
    cell = primitive_cell(atoms)
    if len(cell) > context.max_atoms:
        reason = f"{len(cell)} atoms in the primitive cell, more than this tier allows"
        return [skipped(_MAIN, name, reason, unit="THz")], []
    calculator = guarded(context.subject.calculator())
    start, before = _relaxed(context, name, cell, calculator, what="phonons")
    data = context.piece(f"phonons {name}", lambda: _forces(start, calculator, max_atoms=context.max_atoms))
    values, figure = _report(context, name, data, unstable=unstable)
    return [before, *values], [figure] if figure else []


def _relaxed(
    context: Context, name: str, atoms: Atoms, calculator: GuardedCalculator, *, what: str
) -> tuple[Atoms, Metric]:
    """The structure to displace, and the metric on its forces; the one given where there is no minimum near it."""
    fmax = _fmax(context)
    crystal = is_crystal(atoms)
    for quantity in ("forces", *(("stress",) if crystal else ())):
        calculator.ask(quantity, atoms)  # raises what `relaxed` would keep to itself
    found, converged = relaxed(atoms, calculator, fmax=fmax, cell=crystal)
    forces = calculator.ask("forces", found)
    force = float(np.linalg.norm(forces, axis=1).max())
    quantity = f"largest force before {what}"
    if not converged:
        detail = f"not converged, or blown up; largest force {force:.2g} eV/Å"
        return found, Metric(quantity, name, float("nan"), "eV/Å", upper=fmax, detail=detail)
    return found, Metric(quantity, name, force, "eV/Å", upper=fmax)


def _forces(start: Atoms, calculator: GuardedCalculator, *, max_atoms: int) -> dict[str, Any]:
    """Forces on displaced supercells for every distance, plain."""
    from hydrapot.validation.lattice_dynamics import displaced_forces, forces_on, phonons_of, supercell_matrix

    matrix = supercell_matrix(start, max_atoms=max_atoms)
    phonons = phonons_of(start, matrix)
    phonons.generate_displacements(distance=DISTANCE)
    rest = forces_on(phonons.supercell, calculator)
    many = len(phonons.supercells_with_displacements) > 24
    sets = {}
    for distance in (0.005, DISTANCE, 0.03) if many else DISTANCES:
        phonons.generate_displacements(distance=distance)
        sets[str(distance)] = displaced_forces(phonons, calculator, rest=rest).tolist()
    return {
        "numbers": start.numbers.tolist(), "cell": start.cell.array.tolist(),
        "positions": start.get_scaled_positions(wrap=False).tolist(), "matrix": matrix.tolist(), "forces": sets,
    }  # fmt: skip


def _report(context: Context, name: str, data: dict[str, Any], *, unstable: bool) -> tuple[list[Metric], Figure | None]:
    from hydrapot.validation.lattice_dynamics import (
        acoustic_sum_residual,
        commensurate_points,
        frequencies,
        mesh,
        phonons_of,
        thermal_properties,
    )
    from hydrapot.validation.suites.phonon_references import band_figure

    start = Atoms(data["numbers"], cell=data["cell"], scaled_positions=data["positions"], pbc=True)
    matrix = np.array(data["matrix"])
    phonons = phonons_of(start, matrix)
    exact = commensurate_points(matrix)
    gamma = np.abs(exact).max(axis=1) == 0
    by_distance: dict[float, Array] = {}
    residuals: dict[float, float] = {}
    for distance in sorted(map(float, data["forces"]), key=lambda d: d == DISTANCE):  # the one reported comes last
        phonons.generate_displacements(distance=distance)
        phonons.forces = np.array(data["forces"][str(distance)])
        phonons.produce_force_constants(show_drift=False)
        residuals[distance] = acoustic_sum_residual(phonons)
        phonons.symmetrize_force_constants(show_drift=False)
        at_exact = frequencies(phonons, exact)
        # Three frequencies at Γ are zero, by symmetrization.
        optical = np.sort(at_exact[gamma][0][np.argsort(np.abs(at_exact[gamma][0]))[3:]])
        interpolated = frequencies(phonons, mesh(phonons))
        by_distance[distance] = np.concatenate([at_exact[~gamma].ravel(), optical, interpolated.ravel()])
    residual = residuals[min(residuals)]
    hard = by_distance[DISTANCE] > SOFT
    change = np.abs(by_distance[DISTANCES[0]] - by_distance[DISTANCE])
    spread = float(np.ptp(list(by_distance.values()), axis=0)[hard].max()) if hard.any() else float("nan")
    highest = float(by_distance[DISTANCE].max())
    plateau = max(PLATEAU_LIMIT, PLATEAU_RELATIVE * highest)
    quiet = max(NOISE_LIMIT, NOISE_RELATIVE * highest)
    noise = float(change.max())
    threshold = min(max(IMAGINARY, 3.0 * noise), IMAGINARY_CAP)
    values = by_distance[DISTANCE]
    known = values[: values.size - interpolated.size]
    low = float(values.min())
    low_exact = float(known.min()) if known.size else low
    thermal = thermal_properties(interpolated, temperature=TEMPERATURE)
    at = f"{TEMPERATURE:.0f} K, per mole of atoms"
    cell = f"supercell of {len(phonons.supercell)} atoms"
    stable = None if unstable else context.limit("phonons", _MAIN, -threshold)
    remark = "; the reference of this name has imaginary modes too" if unstable else ""
    metrics = [
        Metric("displacement plateau", name, spread, "THz", upper=context.limit("phonons", "displacement plateau", plateau),
               detail=f"displacements {min(by_distance)} to {max(by_distance)} Å, modes above {SOFT} THz"),
        Metric("frequency noise", name, float(change[hard].max()) if hard.any() else float("nan"), "THz",
               upper=context.limit("phonons", "frequency noise", quiet), detail="0.005 against 0.01 Å"),
        Metric("acoustic sum residual", name, residual, "",
               upper=context.limit("phonons", "acoustic sum residual", ACOUSTIC_LIMIT), detail="of the largest force constant"),
        Metric("lowest frequency that is exact", name, low_exact, "THz", lower=stable,
               detail=f"{len(exact)} wave vectors that fit into a {cell}; noise {noise:.2g} THz{remark}"),
        Metric(_MAIN, name, low, "THz", lower=stable, interval=(low, low_exact),
               detail=f"interpolated mesh, interval up to the lowest exact one; {cell}{remark}"),
        Metric("highest frequency", name, highest, "THz", detail=cell),
        Metric("heat capacity", name, thermal.heat_capacity, "J/(K mol)", detail=f"C_V, {at}"),
        Metric("vibrational entropy", name, thermal.entropy, "J/(K mol)", detail=at),
        Metric("vibrational free energy", name, thermal.free_energy, "kJ/mol", detail=at),
    ]  # fmt: skip
    return [stability(context, metric) if metric.lower is not None else metric for metric in metrics], band_figure(
        f"Phonons of {name}", phonons
    )


# --- molecules --------------------------------------------------------------------------------------------------------
def _molecule(context: Context, name: str, atoms: Atoms) -> list[Metric]:
    if len(atoms) > context.max_atoms:
        return [skipped("lowest vibration", name, f"{len(atoms)} atoms, more than this tier allows", unit="THz")]
    calculator = guarded(context.subject.calculator())
    start, before = _relaxed(context, name, atoms, calculator, what="vibrations")
    distance = 0.005 if context.subject.resolution < 1e-12 else 0.02
    data = context.piece(
        f"vibrations {name}",
        lambda: {
            "positions": start.positions.tolist(),
            "hessians": [hessian(start, calculator, distance=d).tolist() for d in (distance, 2.0 * distance)],
        },
    )
    start.positions[:] = data["positions"]
    near, far = (np.array(matrix) for matrix in data["hessians"])
    # Richardson: without the term of the distance squared, which would make rotations cost energy.
    fine, reported = vibrations(start, near), vibrations(start, (4.0 * near - far) / 3.0)
    noise = float(np.abs(fine.internal - reported.internal).max()) if len(fine.internal) else 0.0
    threshold = min(max(IMAGINARY, 3.0 * noise), IMAGINARY_CAP)
    rigid = float(np.abs(reported.rigid).max())
    rigid_limit = RIGID_LIMIT if context.subject.resolution < 1e-12 else RIGID_LIMIT_SINGLE
    lowest = Metric(
        "lowest vibration",
        name,
        float(reported.internal.min()),
        "THz",
        lower=context.limit("phonons", "lowest vibration", -threshold),
        detail=f"{len(reported.internal)} vibrations; noise {noise:.2g} THz",
    )
    zero_point = 0.5 * 4.135667696 * float(reported.internal[reported.internal > 0].sum())  # h in meV/THz
    return [
        before,
        stability(context, lowest),
        Metric("translations and rotations", name, rigid, "THz",
               upper=context.limit("phonons", "translations and rotations", rigid_limit),
               detail=f"largest of {len(reported.rigid)} that cost no energy"),
        Metric("highest vibration", name, float(reported.internal.max()), "THz"),
        Metric("asymmetry of the Hessian", name, reported.asymmetry, "",
               upper=context.limit("phonons", "asymmetry of the Hessian", ACOUSTIC_LIMIT)),
        Metric("zero-point energy", name, zero_point, "meV"),
    ]  # fmt: skip


def evaluations(context: Context) -> float:
    """Evaluations times atoms: relaxation, a displacement per atom and distance, two geometries of a reference."""
    total = 0.0
    for atoms in context.structures.values():
        if is_crystal(atoms):
            primitive = len(primitive_cell(atoms))
            total += 20 * primitive + (1 + len(DISTANCES) * min(primitive, 24)) * context.max_atoms
        elif is_molecule(atoms):
            total += (60 + 12 * len(atoms)) * len(atoms)
    return total + 1000.0 * len(context.domain.references.phonons)


SUITE = Suite(
    name="phonons",
    title="Phonons and vibrations",
    purpose="Crystals and molecules are dynamically stable; vibrations are those of the level of theory.",
    category="B",
    run=run,
    evaluations=evaluations,
    requires=("phonopy", "spglib"),
)
