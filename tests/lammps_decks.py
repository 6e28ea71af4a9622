"""Run many input decks in one process (or one `mpiexec`), each in its own folder: torch starts once.

With --errors, a file `error` beside each deck says why it was refused.
"""

import os
import sys
from pathlib import Path

from hydrapot.cli.reporting import explain, listen
from hydrapot.lammps_plugin.running import DeckRun, run_deck


def run(deck: Path, *, errors: bool) -> None:
    try:
        run_deck(DeckRun(deck=deck, arguments=["-screen", "none", "-log", "none"]))
    except Exception as error:
        explained = explain(error)
        if not errors or explained is None:
            raise
        Path("error").write_text(explained[1])


if __name__ == "__main__":
    listen()
    arguments = sys.argv[1:]
    for place in map(Path, [argument for argument in arguments if argument != "--errors"]):
        os.chdir(place.parent)
        run(place, errors="--errors" in arguments)
