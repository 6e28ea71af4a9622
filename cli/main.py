"""The command ``hydrapot``: one verb for each thing it can do, and errors in one line.

A verb is a function in a module of its own; :data:`VERBS` lists them. Such a module imports nothing heavy at its top,
so that ``--help`` does not wait for torch.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from hydrapot.cli.reporting import ERROR, MISUSE, explain, listen, say

#: Verb → module and function.
VERBS = {
    "info": "hydrapot.cli.info:info",
    "eval": "hydrapot.cli.evaluate:evaluate",
    "relax": "hydrapot.cli.relax:relax",
    "md": "hydrapot.cli.md:md",
    "lammps": "hydrapot.cli.lammps:lammps",
    "export": "hydrapot.cli.export:export",
    "data": "hydrapot.cli.data:data",
    "split": "hydrapot.cli.split:split",
    "train": "hydrapot.cli.train:train",
    "finetune": "hydrapot.cli.finetune:finetune",
    "card": "hydrapot.cli.train:card",
    "scaling": "hydrapot.cli.scaling:scaling",
    "job": "hydrapot.cli.job:job",
    "validate": "hydrapot.cli.validate:validate",
    "verify": "hydrapot.cli.verify:verify",
    "key": "hydrapot.cli.verify:key",
    "compare": "hydrapot.cli.compare:compare",
}

#: Verbs whose exit code 1 is a verdict; an error is 2 there.
_JUDGES = {"validate", "verify", "compare"}


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hydrapot {version('hydrapot')}")
        raise typer.Exit


def _common(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Machine-learning interatomic potential: one encoder, one head per first-principles dataset.

    MODEL is the name of a shipped model, such as hydrapot-s, or the path of a .safetensors checkpoint. Units: eV, Å,
    fs, K, GPa.
    """


def build_app() -> typer.Typer:
    """The application with all its verbs."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",  # the only mode that fills paragraphs anew
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_common)
    for verb, place in VERBS.items():
        module, _, function = place.partition(":")
        found = getattr(import_module(module), function)
        if isinstance(found, typer.Typer):  # a verb with verbs of its own
            app.add_typer(found, name=verb)
        else:
            app.command(verb, no_args_is_help=True)(found)
    return app


def app_main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code.

    0 is success, 1 input that has no answer, 2 a command line that makes no sense, 3 a run that had to stop or did not
    converge, 130 and 143 a run ended by Ctrl-C and by SIGTERM. Of verbs that judge, 1 is a FAIL, 2 any error, and 3 no
    statement either way.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments  # in any place, also after the verb
    judges = next((a for a in arguments if not a.startswith("-")), None) in _JUDGES
    listen()
    try:
        build_app()(args=[argument for argument in arguments if argument != "--debug"], prog_name="hydrapot")
    except Exception as error:
        explained = explain(error)
        if debug:
            raise
        if explained is None:
            say(f"error: {type(error).__name__}: {error} (a defect of hydrapot: --debug shows where)")
            sys.exit(MISUSE if judges else ERROR)
        code, line = explained
        say(f"error: {line}")
        sys.exit(MISUSE if judges else code)
