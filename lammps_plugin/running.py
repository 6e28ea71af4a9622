"""Run an input deck with the LAMMPS of this environment, on one or many processes."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hydrapot.lammps_plugin.deck import Deck, deck_settings, read_deck
from hydrapot.lammps_plugin.external import ExternalForces, import_lammps
from hydrapot.lammps_plugin.guards import abort
from hydrapot.lammps_plugin.settings import Model
from hydrapot.potential.errors import ConfigurationError


@dataclass(frozen=True)
class DeckRun:
    """What to run.

    Attributes
    ----------
    deck
        Path of an input deck that holds ``pair_style hydrapot``.
    model, head, elements
        In place of those in the deck.
    threads
        Threads of each process; 1 with several processes, torch's own choice with one.
    arguments
        Further arguments of the ``lmp`` command, such as ``-var T 300`` or ``-log none``.
    """

    deck: Path
    model: str | None = None
    head: str | None = None
    elements: tuple[str, ...] = ()
    threads: int | None = None
    arguments: Sequence[str] = ()


def run_deck(run: DeckRun) -> None:
    """Run a deck; collective under ``mpiexec``.

    Raises
    ------
    ConfigurationError, CheckpointError, UnknownHeadError, UnknownElementError
        With a single process, before the run. An error of one of several processes, and any error of an evaluation, ends
        all of them with the message: nothing that stands in the deck after it is done.
    """
    lammps = import_lammps()
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    threads = run.threads or (1 if comm.size > 1 else None)
    if threads is not None:
        torch.set_num_threads(threads)
    lmp = None
    try:
        deck = read_deck(run.deck)
        lmp = lammps(comm=comm, cmdargs=list(run.arguments))
        _run(lmp, comm, deck, run)
    except Exception as error:
        if comm.size > 1:  # closing LAMMPS would wait for the others
            abort(comm, error)
        if lmp is not None:
            lmp.close()
        raise
    lmp.close()


def _run(lmp: Any, comm: Any, deck: Deck, run: DeckRun) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("before", deck.before), ("after", deck.after)):
            (Path(folder) / name).write_text(text, encoding="utf-8")
        _file(lmp, Path(folder) / "before")
        settings = deck_settings(deck, variable=_Variables(lmp), model=run.model, head=run.head, elements=run.elements)
        model = Model(settings)
        if comm.rank == 0:
            model.announce()
        forces = ExternalForces(lmp, comm, model)
        forces.attach()
        _file(lmp, Path(folder) / "after")


def _file(lmp: Any, path: Path) -> None:
    """Execute a file of commands; LAMMPS' errors, plain `Exception`, become one of ours."""
    try:
        lmp.file(str(path))
    except Exception as error:
        if type(error) is Exception or type(error).__module__.startswith("lammps"):
            raise ConfigurationError(f"LAMMPS: {str(error).removeprefix('ERROR: ')}") from error
        raise


class _Variables:
    """Values of LAMMPS' variables, by name."""

    def __init__(self, lmp: Any) -> None:
        self.lmp = lmp

    def __call__(self, name: str) -> str | None:
        value = self.lmp.extract_variable(name)
        return None if value is None else str(value)
