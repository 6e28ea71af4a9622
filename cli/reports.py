"""How `hydrapot data` shows what it found."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hydrapot.cli.columns import print_columns

if TYPE_CHECKING:
    from hydrapot.potential.references import ReferenceEnergies
    from hydrapot.training.data.datasets import Dataset
    from hydrapot.training.data.frames import Frames
    from hydrapot.training.data.import_report import ImportReport
    from hydrapot.training.data.inspection import Inspection, Range
    from hydrapot.training.data.statistics import Statistics

_FILES = 20
_ELEMENTS = 30


def show_import(report: "ImportReport", store: Path) -> None:
    """Files, what was left out and why, duplicates."""
    rows = [
        {
            "file": file.name,
            "format": file.layout,
            "structures": f"{file.structures:,}",
            "atoms": f"{file.atoms:,}",
            "energies": f"{file.energies:,}",
            "forces": f"{file.forces:,}",
            "stresses": f"{file.stresses:,}",
            "left out": f"{sum(file.rejected.values()):,}",
        }
        for file in report.files
    ]
    numbers = ["structures", "atoms", "energies", "forces", "stresses", "left out"]
    print_columns(rows[:_FILES], flexible="file", numbers=numbers)
    if len(rows) > _FILES:
        typer.echo(f"… and {len(rows) - _FILES} more files")
    if report.rejected:
        typer.echo("")
        first: dict[str, str] = {}
        for file in report.files:
            for example in file.examples:
                first.setdefault(example.reason, f"{file.name}, {example.where}: {example.detail}")
        print_columns(
            [
                {"left out because": reason, "structures": f"{count:,}", "for example": first.get(reason, "")}
                for reason, count in report.rejected.items()
            ],
            flexible="for example",
            numbers=["structures"],
        )
    typer.echo("")
    if report.duplicates is not None and report.duplicates.structures:
        typer.echo(
            f"{report.duplicates.structures:,} structures repeat the geometry of another one"
            f" ({report.duplicates.geometries:,} geometries); they stay, and a split keeps them on one side"
        )
    elif report.duplicates is not None:
        typer.echo("no geometry occurs twice")
    typer.echo(f"wrote {store}: {report.structures:,} structures; {store}/report.json has the details")


def show_inspection(found: "Inspection", dataset: "Dataset") -> None:
    """Everything, one fact per line."""
    seen = "all" if found.complete else "the first"
    facts = {"name": found.name, "what it is": found.layout}
    if dataset.store is not None:
        store = dataset.store
        facts["splits"] = ", ".join(f"{name} {info.structures:,}" for name, info in store.splits.items())
        facts["precision"] = f"{store.precision} (energies float64)"
        facts["content"] = store.content[:16]
        facts["level of theory"] = str(store.attributes.level_of_theory)
        facts["energies"] = store.attributes.level_of_theory.energy_kind
        facts["licence"] = store.attributes.licence
        facts["attribution"] = " ".join(store.attributes.attribution.split())
        facts["from"] = f"{len(store.attributes.provenance)} files, written by hydrapot {store.hydrapot}"
    else:
        facts["level of theory"] = "a file does not say"
    facts["looked at"] = f"{seen} {found.structures:,} structures, {found.atoms:,} atoms"
    facts["atoms"] = _range(found.sizes, "", digits=0)
    facts["elements"] = _elements(found.elements)
    facts["labels"] = ", ".join(f"{label} {count:,}" for label, count in found.labels.items()) or "none"
    facts["periodic"] = ", ".join(f"{pbc} {count:,}" for pbc, count in found.periodicity.most_common())
    facts["charge, spin"] = ", ".join(
        f"{charge:+d}, {spin or 'not given'}: {count:,}" for (charge, spin), count in found.charge_spin.most_common(8)
    )
    facts["groups"] = f"{len(found.groups - {''}):,}" if found.groups - {""} else "none: the composition is the group"
    if found.isolated:
        facts["isolated atoms"] = str(found.isolated)
    facts["energy"] = _range(found.energy, "eV/atom")
    facts["force"] = _range(found.force, "eV/Å")
    facts["pressure"] = _range(found.pressure, "GPa, positive under compression")
    width = max(map(len, facts))
    for key, value in facts.items():
        typer.echo(f"{key:{width}}  {value}")
    if not found.problems:
        typer.echo(f"{'problems':{width}}  none")
        return
    total = sum(found.problems.values())
    typer.echo(f"{'problems':{width}}  {total:,} structures would be left out of an import:")
    print_columns([{"where": e.where, "reason": e.reason, "found": e.detail} for e in found.examples], flexible="found")
    if total > len(found.examples):
        typer.echo(f"… and {total - len(found.examples):,} more")


def show_statistics(found: "Sequence[Statistics]") -> None:
    """A line per dataset: medians and central ranges."""
    rows = []
    for s in found:
        row = {"dataset": s.name, "structures": "?" if s.structures is None else f"{s.structures:,}"}
        for key, title, digits in (
            ("atoms", "atoms", 0),
            ("energy", "E − ref eV/atom", 3),
            ("force", "|F| eV/Å", 2),
            ("pressure", "p GPa", 1),
            ("distance", "nearest Å", 2),
            ("neighbors", "neighbors", 0),
        ):
            quantiles = s.distributions[key].quantiles()
            row[title] = (
                f"{quantiles[2]:.{digits}f} ({quantiles[1]:.{digits}f} … {quantiles[3]:.{digits}f})"
                if quantiles
                else "–"
            )
        rows.append(row)
    print_columns(rows, numbers=["structures"])
    typer.echo("median (1 % … 99 %)")


def show_references(found: "ReferenceEnergies", training: "Frames") -> None:
    """A line per element."""
    import numpy as np
    from ase.data import chemical_symbols

    present = training.compositions() > 0
    typer.echo(f"{training.name}: {found.mode}, {len(training):,} training structures")
    print_columns(
        [
            {
                "element": chemical_symbols[z],
                "reference eV": f"{found.values[z]:.6f}",
                "structures": f"{int(present[:, z].sum()):,}",
                "": "" if found.determined([z]) else "not determined by itself, only in combination",
            }
            for z in found.elements.tolist()
        ],
        numbers=["reference eV", "structures"],
    )
    labelled = ~np.isnan(training.energy)
    if labelled.any():
        off = training.compositions()[labelled] @ np.nan_to_num(found.values)
        rest = (training.energy[labelled] - off) / training.counts[labelled]
        typer.echo(f"what is left: {rest.mean():+.4f} ± {rest.std():.4f} eV/atom")


def _range(found: "Range", unit: str, *, digits: int = 4) -> str:
    if found.empty:
        return "none"
    return f"{found.low:.{digits}f} … {found.high:.{digits}f} {unit}".rstrip()


def _elements(elements: dict[str, int]) -> str:
    shown = [f"{symbol} {count:,}" for symbol, count in list(elements.items())[:_ELEMENTS]]
    return ", ".join(shown) + (f" … ({len(elements)} in all)" if len(elements) > _ELEMENTS else "")
