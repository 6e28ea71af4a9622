"""``hydrapot info``."""

from typing import TYPE_CHECKING, Annotated

import typer

from hydrapot.cli import options
from hydrapot.cli.columns import print_columns

if TYPE_CHECKING:
    from hydrapot.potential.coverage import HeadCoverage
    from hydrapot.potential.metadata import HeadInfo
    from hydrapot.potential.model import Potential


def info(
    model: options.Model,
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A structure: list the heads that cover it.")
    ] = None,
    *,
    head: Annotated[str | None, typer.Option("--head", "-H", help="Everything about one head.")] = None,
    charge: options.Charge = None,
    spin: options.Spin = None,
) -> None:
    """What a model knows: heads, levels of theory, elements, validation errors.

    With FILE, which heads cover that structure. It advises and never chooses: heads are levels of theory, and their
    energies must not be mixed.
    """
    from hydrapot.potential import load

    potential = load(model)
    if file is not None:
        _show_coverage(potential, file, charge=charge, spin=spin)
    elif head is not None:
        _show_head(potential.info.heads[potential.check_head(head)], head)
    else:
        _show_model(potential, model)


def _show_model(potential: "Potential", name: str) -> None:
    config = potential.config
    elements = sorted({e for h in potential.info.heads.values() for e in h.structures_per_element}, key=_atomic_number)
    parameters = sum(p.numel() for p in potential.parameters())
    typer.echo(
        f"{name}: {config.encoder.name} {config.encoder.channels} × {config.encoder.layers}, cutoff {config.cutoff:g} Å, "
        f"{parameters:,} parameters, {len(potential.heads)} heads, {len(elements)} elements"
    )
    if potential.info.content_hash:
        typer.echo(f"content hash {potential.info.content_hash}")
    rows = []
    for head, entry in potential.info.heads.items():
        mark = "*" if entry.split == "interpolation" else " "
        rows.append(
            {
                "head": head,
                "level of theory": str(entry.level_of_theory),
                "elements": _elements(entry),
                "pbc": _periodicity(entry),
                "stress": "yes" if entry.stress_trained else "no",
                "E MAE": _metric(entry, "energy_mae_mev_per_atom") + mark,
                "F MAE": _metric(entry, "force_mae_mev_per_a") + mark,
            }
        )
    print_columns(rows, flexible="level of theory", numbers=["E MAE", "F MAE"])
    typer.echo(
        "E MAE in meV/atom, F MAE in meV/Å, of held-out structures (*: of the same trajectories as the training's)"
    )
    typer.echo("pbc: periodic directions seen in training; everything about a head: hydrapot info MODEL --head HEAD")


def _show_head(entry: "HeadInfo", head: str) -> None:
    level = entry.level_of_theory
    lines = {
        "head": head,
        "level of theory": str(level),
        "energies": level.energy_kind,
        "note": level.note,
        "references": entry.references,
        "training structures": str(entry.structures),
        "per element": ", ".join(f"{e} {n}" for e, n in entry.structures_per_element.items()),
        "periodic directions": ", ".join(entry.periodicity),
        "pressure (GPa)": "" if entry.pressure_range is None else "{:.4g} to {:.4g}".format(*entry.pressure_range),
        "stress trained": "yes" if entry.stress_trained else "no",
        "charge, spin": ", ".join(f"({c:+d}, {s or 'not stated'})" for c, s in entry.charge_spin),
        "validation": entry.split,
        **{name: f"{value:.4g}" for name, value in entry.metrics.items()},
        "licence": entry.licence,
        "attribution": entry.attribution,
    }
    width = max(map(len, lines))
    for name, text in lines.items():
        if text:
            typer.echo(f"{name:{width}}  {text}")


def _show_coverage(potential: "Potential", file: str, *, charge: int | None, spin: int | None) -> None:
    from hydrapot.potential.coverage import coverage_of_atoms
    from hydrapot.workflows.structures import read_structure

    atoms = read_structure(file)
    if charge is not None:
        atoms.info["charge"] = charge
    if spin is not None:
        atoms.info["spin"] = spin
    found = coverage_of_atoms(potential, atoms)
    covering = [item for item in found if item.covered]
    typer.echo(
        f"{file}: {atoms.get_chemical_formula()}, {len(atoms)} atoms, {int(atoms.pbc.sum())} periodic directions; "
        f"{len(covering)} of {len(found)} heads cover it"
    )
    if covering:
        rows = [
            {
                "head": item.head,
                "stress": "yes" if item.info.stress_trained else "no",
                "F MAE": _metric(item.info, "force_mae_mev_per_a"),
                "level of theory": str(item.info.level_of_theory),
            }
            for item in covering
        ]
        print_columns(rows, flexible="level of theory", numbers=["F MAE"])
        for item in covering:
            for remark in _remarks(item):
                typer.echo(f"{item.head}: {remark}")
        typer.echo("F MAE in meV/Å, of the head's own held-out structures, which may be unlike this one.")
        typer.echo("The choice is yours: a head is a level of theory. Energies of different heads do not compare.")
        return
    closest = found[:3]
    for item in closest:
        lacks = (
            f"does not know {', '.join(item.missing)}" if item.missing else "was not trained on this charge and spin"
        )
        typer.echo(f"  {item.head} {lacks}")


def _remarks(item: "HeadCoverage") -> list[str]:
    remarks = [f"only {count} training structures with {symbol}" for symbol, count in item.rare.items()]
    if not item.periodicity_seen:
        remarks.append("periodicity not seen in training")
    if not item.determined:
        remarks.append("the zero of energy is a guess at this composition")
    return remarks


def _atomic_number(symbol: str) -> int:
    from ase.data import atomic_numbers

    return int(atomic_numbers[symbol])


def _elements(entry: "HeadInfo") -> str:
    symbols = sorted(entry.structures_per_element, key=_atomic_number)
    return " ".join(symbols) if len(symbols) <= 8 else f"{len(symbols)} elements"


def _periodicity(entry: "HeadInfo") -> str:
    return ", ".join(str(n) for n in sorted({p.count("T") for p in entry.periodicity})) or "?"


def _metric(entry: "HeadInfo", name: str) -> str:
    return f"{entry.metrics[name]:.1f}" if name in entry.metrics else "?"
