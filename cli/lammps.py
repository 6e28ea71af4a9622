"""``hydrapot lammps``: what has to do with the molecular-dynamics engine LAMMPS."""

from pathlib import Path
from typing import Annotated

import typer

from hydrapot.cli.lammps_build import build


class _RunByDefault(typer.core.TyperGroup):
    """`hydrapot lammps -in in.x` means `hydrapot lammps run -in in.x`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the verb in where an input deck is the first thing said."""
        if args and args[0] in {"-in", "-i", "--in"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


lammps = typer.Typer(
    cls=_RunByDefault, no_args_is_help=True, help="Run LAMMPS with a potential: `hydrapot lammps run -in in.x`."
)
lammps.command("build")(build)


@lammps.command(
    "run", no_args_is_help=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def run(
    context: typer.Context,
    *,
    deck: Annotated[Path, typer.Option("--in", "-in", "-i", help="Input deck with `pair_style hydrapot`.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Instead of that in the deck: shipped model or checkpoint file.")
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", "-H", help="Instead of that in the deck; NAME:0.5,NAME:0.5 blends.")
    ] = None,
    elements: Annotated[
        str | None, typer.Option("--elements", help="Instead of those in the deck: one for each type, e.g. 'Cu O'.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Of each process.", show_default="1 with several processes")
    ] = None,
) -> None:
    """Run an input deck with the LAMMPS of this environment; `mpiexec -n 4 hydrapot lammps run -in in.x` divides it.

    The deck is an ordinary one, with the lines `pair_style hydrapot precision double` and `pair_coeff * * MODEL HEAD Cu O`.
    Everything else on the command line, such as `-var T 300` or `-log none`, goes to LAMMPS. No compiler is needed; the
    compiled pair style is faster.
    """
    from hydrapot.lammps_plugin.running import DeckRun, run_deck

    run_deck(
        DeckRun(
            deck=deck,
            model=model,
            head=head,
            elements=tuple((elements or "").replace(",", " ").split()),
            threads=threads,
            arguments=context.args,
        )
    )
