"""``hydrapot export``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hydrapot.cli import options


class Target(StrEnum):
    """What the file is for."""

    lammps = "lammps"


class Energy(StrEnum):
    """Which energy LAMMPS reports."""

    total = "total"
    interaction = "interaction"


def export(
    model: options.Model,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; for LAMMPS it ends in .mliap.pt.")],
    target: Annotated[Target, typer.Option(help="lammps: for `pair_style mliap unified`.")] = Target.lammps,
    head: Annotated[
        str | None, typer.Option("--head", "-H", help="Head, that is level of theory; NAME:0.5,NAME:0.5 blends.")
    ] = None,
    dtype: options.Dtype = options.Precision.float32,
    energy: Annotated[
        Energy, typer.Option(help="total includes the energies of isolated atoms, interaction does not.")
    ] = Energy.total,
    charge: Annotated[int, typer.Option("--charge", help="Total charge, e.")] = 0,
    spin: Annotated[int | None, typer.Option("--spin", help="Multiplicity 2S+1.", show_default="not stated")] = None,
) -> None:
    """Write one head of MODEL as a file that another program loads.

    A LAMMPS with ML-IAP and Python uses it with `pair_style mliap unified x.mliap.pt 0` and `pair_coeff * * Cu O`. Where LAMMPS
    runs, hydrapot has to be installed too.
    """
    import torch
    from ase.data import atomic_numbers

    from hydrapot.lammps_plugin.export import export_mliap
    from hydrapot.lammps_plugin.settings import Settings, parse_heads
    from hydrapot.potential import load

    del target  # there is one
    potential = load(model, dtype=torch.float64)
    heads = parse_heads(head) if head is not None else {potential.check_head(None): 1.0}
    known = [
        {
            symbol
            for symbol, count in potential.info.heads[potential.check_head(name)].structures_per_element.items()
            if count
        }
        for name in heads
    ]
    elements = tuple(sorted(set.intersection(*known), key=atomic_numbers.__getitem__))
    settings = Settings(
        model=model,
        heads=heads,
        elements=elements,
        precision="double" if dtype is options.Precision.float64 else "single",
        energy=energy.value,
        charge=charge,
        spin=spin,
    )
    stored = load(model, dtype=getattr(torch, dtype.value))
    export_mliap(output, settings, stored)
    typer.echo(f"written     {output}: {', '.join(heads)}; elements {' '.join(elements)}")
