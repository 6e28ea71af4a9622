"""Run input decks with the LAMMPS library of this environment as it is, each in its own folder; `-kokkos` turns Kokkos on.

Without a deck, say what the library can do: PYTHON and ML-IAP, and ML-IAP with Kokkos.
"""

import os
import sys
from pathlib import Path

from mpi4py import MPI  # noqa: F401 - before LAMMPS, whose library it brings

# isort: split
from lammps import lammps
from lammps.mliap import activate_mliappy, activate_mliappy_kokkos

KOKKOS = ["-k", "on", "-sf", "kk", "-pk", "kokkos", "newton", "on", "neigh", "half"]

if __name__ == "__main__":
    decks = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    options = KOKKOS if "-kokkos" in sys.argv else []
    if not decks:
        lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
        plain = lmp.lib.lammps_python_api_version() > 0 and lmp.has_style("pair", "mliap")
        sys.stdout.write(
            " ".join(["plain"] * plain + ["kokkos"] * (plain and lmp.has_style("pair", "mliap/kk"))) + "\n"
        )
    for deck in map(Path, decks):
        os.chdir(deck.parent)
        lmp = lammps(cmdargs=["-screen", "none", "-log", "none", *options])
        activate_mliappy(lmp)
        if options:
            activate_mliappy_kokkos(lmp)
        lmp.file(str(deck))
        lmp.close()
