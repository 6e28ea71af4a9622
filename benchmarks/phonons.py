"""Phonons of a head against first-principles force sets.

    python benchmarks/phonons.py MODEL HEAD=FOLDER[:LEVEL OF THEORY] ... [--plot FOLDER] [-o RESULTS.json]

FOLDER holds phonopy's displacements and FORCE_SETS (see `hydrapot.validation.phonon_reference`). Forces are compared on
the displaced supercells of the reference, at its geometry and at the model's own relaxed one; frequencies over a mesh,
without the non-analytic term. Prints the table of docs/validation.md. Seconds per reference on one core.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

from hydrapot.calculators import HydrapotCalculator
from hydrapot.validation.lattice_dynamics import to_ase
from hydrapot.validation.metrics import Figure
from hydrapot.validation.phonon_reference import Comparison, compare, load_reference
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.suites.phonon_references import band_figure

COLUMNS = (
    ("volume", "V, Å³/atom", ".3f"),
    ("force_error", "force MAE, meV/Å", ".2f"),
    ("relative", "of mean force, %", ".0f"),
    ("stiffness", "stiffness", ".3f"),
    ("frequency_error", "frequency MAE, THz", ".3f"),
    ("worst_frequency_error", "largest, THz", ".2f"),
    ("overlap", "DOS overlap", ".3f"),
    ("lowest", "lowest, THz", ".2f"),
    ("highest", "highest, THz", ".2f"),
)


def row(found: Comparison) -> dict[str, float]:
    """Plain numbers."""
    values = {name: float(getattr(found, name)) for name, _, _ in COLUMNS if name != "relative"}
    values["force_error"] *= 1e3
    values["relative"] = 100 * found.force_error / found.force_scale
    values["reference_lowest"], values["reference_highest"] = found.reference_lowest, found.reference_highest
    return values


def measure(model: str, head: str, folder: Path) -> tuple[dict[str, Any], Figure | None]:
    """Both geometries, and bands at the model's own."""
    reference = load_reference(folder)
    calculator = HydrapotCalculator(model, head=head, dtype="float64", threads=1)
    unit_cell = to_ase(reference.phonons.unitcell)
    there = compare(reference, calculator)
    own, converged = relaxed(unit_cell, calculator, fmax=1e-5, cell=True)
    formula = unit_cell.symbols.get_chemical_formula("metal", empirical=True)
    result: dict[str, Any] = {"formula": formula, "reference geometry": row(there), "relaxed": converged}
    if not converged:
        return result, None
    here = compare(reference, calculator, unit_cell=own)
    result["own geometry"] = row(here)
    return result, band_figure(f"{formula}, head {head}", here.phonons, reference=reference.phonons)


def plot(figure: Figure, path: Path) -> None:
    """Bands and density of states with matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    drawn, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    seen = set()
    for series in figure.series:
        style = {"color": "0.55", "linestyle": "--"} if series.style == "reference" else {"color": "C0"}
        axes.plot(series.x, series.y, linewidth=1, label=None if series.label in seen else series.label, **style)
        seen.add(series.label)
    for at, _ in figure.x_ticks or ():
        axes.axvline(at, color="0.9", linewidth=0.8, zorder=0)
    axes.set_xticks([at for at, _ in figure.x_ticks or ()], [label for _, label in figure.x_ticks or ()])
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.set(ylabel=figure.y_label, title=figure.title)
    axes.legend()
    drawn.savefig(path, dpi=120)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("pairs", nargs="+", metavar="HEAD=FOLDER[:LEVEL]")
    parser.add_argument("--plot", type=Path, help="folder for pictures of the bands")
    parser.add_argument("-o", "--output", type=Path, help="JSON")
    arguments = parser.parse_args()
    results = {}
    print("| reference | head | geometry | " + " | ".join(title for _, title, _ in COLUMNS) + " |")
    print("| --- | --- | --- |" + " ---: |" * len(COLUMNS))
    for number, pair in enumerate(arguments.pairs):
        head, _, rest = pair.partition("=")
        folder, _, level = rest.partition(":")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a head has not seen such structures: the table shows it
            found, figure = measure(arguments.model, head, Path(folder))
        results[pair] = found
        name = f"{found['formula']}{f' ({level})' if level else ''}"
        for geometry in ("reference geometry", "own geometry"):
            if geometry in found:
                cells = [format(found[geometry][key], form) for key, _, form in COLUMNS]
                print(f"| {name} | {head} | {geometry.removesuffix(' geometry')} | " + " | ".join(cells) + " |")
        extremes = found["reference geometry"]
        low, high = extremes["reference_lowest"], extremes["reference_highest"]
        print(f"| {name} | first principles | |" + " |" * (len(COLUMNS) - 2) + f" {low:.2f} | {high:.2f} |")
        if figure is not None and arguments.plot is not None:
            arguments.plot.mkdir(parents=True, exist_ok=True)
            plot(figure, arguments.plot / f"{number}-{found['formula']}-{head}.png")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
