"""`pair_style hydrapot`, compiled: every frame that LAMMPS writes equals the evaluation of the whole structure."""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from hydrapot.potential import build_graph, evaluate
from tests import lammps_matrix as matrix
from tests.mpi_helpers import children_of, wait_for
from tests.pair_style_helpers import LMP, command, environment, lmp, lmp_all, needs_pair_style, plugin

pytestmark = needs_pair_style

POTENTIAL = matrix.make_potential()
SYSTEMS = matrix.systems()


@pytest.fixture(scope="session")
def plugins(tmp_path_factory) -> Path:
    return plugin(tmp_path_factory).parent


def run_systems(folder: Path, plugins: Path, names, processes: int, *, steps: int, runs=None):
    lines = matrix.style_lines(matrix.write_model(folder))
    decks = []
    for name in names:
        place = folder / name.replace(" ", "_")
        place.mkdir()
        decks += matrix.write_decks(SYSTEMS[name], place, lines, steps=steps, runs=runs)
    lmp_all(decks, plugins, folder, processes=processes)
    results = {
        name: matrix.compare_runs(POTENTIAL, SYSTEMS[name], folder / name.replace(" ", "_"), runs=runs)
        for name in names
    }
    matrix.log_worst("pair style", processes, results.values())
    for name, found in results.items():
        for run, errors in found.items():
            assert errors.frames > (run not in {"zero", "first"}), (name, run)
            errors.check()


@pytest.mark.parametrize("processes", [1, 2])
def test_frames_of_every_system_are_exact(processes, plugins, tmp_path):
    run_systems(tmp_path, plugins, SYSTEMS, processes, steps=20)


def test_four_processes_with_empty_ones_and_a_cell_smaller_than_the_cutoff(plugins, tmp_path):
    names = ("four atoms", "empty rank", "tiled balance")
    run_systems(tmp_path, plugins, names, 4, steps=20, runs=("zero",))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_whole_matrix(processes, plugins, tmp_path):
    run_systems(tmp_path, plugins, SYSTEMS, processes, steps=200)


# ---- What LAMMPS may do to atoms between two evaluations --------------------------------------------------------------

#: What a row of the engine is kept for depends on lists, order and types of atoms: all of them change here.
CHANGES = {
    "runs without setup, delayed lists": (
        "neigh_modify delay 10 every 5 check yes\nfix move all nve\nrun 15\nrun 0\nrun 0\nrun 20 pre no\nrun 6 pre no post no"
    ),
    "sorted atoms": "fix move all nve\nrun 30",
    "atoms come and go": (
        "fix move all nve\nrun 7\ndelete_atoms random count 9 yes all NULL 77\nrun 7\nreset_atoms id\nrun 7\n"
        "create_atoms 1 single 1.4 1.4 1.4\nrun 7"
    ),
    "atoms deposited": (
        "region top block 1 10 1 10 2 10\n"
        "fix more all deposit 4 1 3 12345 region top near 1.7 attempt 200\nfix move all nve\nrun 21"
    ),
    # Frames are written afterwards: LAMMPS changes the box between forces and output.
    "box sheared beyond a flip": (
        "undump frames\nfix move all nve\nfix shear all deform 1 xy erate 30.0 remap x flip yes\nrun 22\nunfix shear\n"
        "{frames}run 6"
    ),
    "types swapped by Monte Carlo": (
        "fix move all nve\nfix swap all atom/swap 3 5 4711 50000.0 ke no types 1 2\nneigh_modify delay 20\nrun 12"
    ),
    "types set between runs": "fix move all nve\nrun 6\nset type 1 type/fraction 2 0.4 991\nrun 6",
    "the potential named again": "run 0\npair_coeff * * {model} b {elements}\nrun 0\n{lines}\nrun 0",
    "cell relaxed": "fix box all box/relax aniso 0.0\nminimize 0 1e-4 15 40",
    "cut into tiles while running": "comm_style tiled\nfix cut all balance 3 1.0 rcb\nfix move all nve\nrun 12",
    "other ghosts": "neighbor 0.4 multi\ncomm_modify mode multi\nfix move all nve\nrun 12",
    "cleared": "run 0\nclear\n{header}\n{lines}\n{output}\n{dump}\nrun 0",
}
#: What has to stand before the box is made, or right after.
SETUP = {"sorted atoms": ("atom_modify sort 3 2.0", ""), "box sheared beyond a flip": ("", "change_box all triclinic")}
HEADER = "units metal\natom_modify map array\nboundary p p p\n{setup}\nread_data atoms.data\n{after}\n"
OUTPUT = "compute e all pe/atom\ncompute s all stress/atom NULL virial\ntimestep 0.001\n"
DUMP = (
    "dump frames all custom 3 frames.dump id type x y z fx fy fz c_e c_s[1] c_s[2] c_s[3] c_s[4] c_s[5] c_s[6]\n"
    "dump_modify frames first yes sort id format float %.17g\n"
)


def write_deck(
    folder: Path, system: matrix.System, lines: str, commands: str, *, setup: tuple[str, str] = ("", "")
) -> Path:
    matrix.write_system(system, folder)
    header = HEADER.format(setup=setup[0], after=setup[1])
    words = {
        "model": folder / "model.safetensors",
        "elements": " ".join(system.elements),
        "lines": lines,
        "header": header,
        "output": OUTPUT,
        "frames": DUMP,
        "dump": DUMP.replace("frames.dump", "again.dump"),
    }
    start = "velocity all create 600.0 4711 mom yes rot no loop geom\n"
    deck = folder / "in.deck"
    deck.write_text(f"{header}{lines}\n{OUTPUT}{start}{DUMP}{commands.format(**words)}\n")
    return deck


@pytest.mark.parametrize("processes", [1, 2])
def test_atoms_lists_boxes_and_types_change(processes, plugins, tmp_path):
    system = SYSTEMS["bulk"]
    decks = []
    for name, commands in CHANGES.items():
        folder = tmp_path / name.replace(" ", "_").replace(",", "")
        folder.mkdir()
        lines = matrix.style_lines(matrix.write_model(folder))(system.elements)
        decks.append(write_deck(folder, system, lines, commands, setup=SETUP.get(name, ("", ""))))
    lmp_all(decks, plugins, tmp_path, processes=processes)
    (tmp_path / "none.log").write_text("")
    frames = {}
    for deck, name in zip(decks, CHANGES, strict=True):
        dump = deck.parent / "frames.dump"
        frames[name] = matrix.read_dump(dump, system)
        if name == "the potential named again":
            continue  # below
        errors = matrix.compare(POTENTIAL, system, dump, tmp_path / "none.log")
        assert errors.frames >= 1, name
        errors.check()
    # That the runs did what they are there for.
    assert len({len(frame.atoms) for frame in frames["atoms come and go"]}) == 3
    assert len({len(frame.atoms) for frame in frames["atoms deposited"]}) > 2
    sheared = frames["box sheared beyond a flip"][0].atoms.cell
    assert sheared[1, 0] < -0.1 * sheared[0, 0]  # 0.66 - 1
    symbols = [str(frame.atoms.symbols) for frame in frames["types swapped by Monte Carlo"]]
    assert len(set(symbols)) > 1
    again = frames["the potential named again"]
    assert np.abs(again[0].energies - POTENTIAL_OF["b"](again[0].atoms)).max() > 1e-3  # frame of head a
    assert len(matrix.read_dump(decks[-1].parent / "again.dump", system)) == 1


def _energies(head: str):
    def of(atoms: Atoms) -> np.ndarray:
        prediction = evaluate(POTENTIAL, build_graph(atoms, cutoff=POTENTIAL.cutoff), head=head)
        return prediction.energies.numpy() - POTENTIAL.references[head].values[atoms.numbers]

    return of


POTENTIAL_OF = {head: _energies(head) for head in "ab"}


@pytest.mark.parametrize("processes", [1, 2])
def test_rerun_evaluates_the_frames_of_another_run(processes, plugins, tmp_path):
    system = SYSTEMS["triclinic"]
    lines = matrix.style_lines(matrix.write_model(tmp_path))(system.elements)
    commands = (
        "fix move all nve\nrun 9\nundump frames\nunfix move\n"
        f"{DUMP.replace('frames.dump', 'again.dump')}rerun frames.dump dump x y z box yes"
    )
    lmp(write_deck(tmp_path, system, lines, commands), plugins, processes=processes)
    first, again = (matrix.read_dump(tmp_path / name, system) for name in ("frames.dump", "again.dump"))
    assert [frame.step for frame in first] == [frame.step for frame in again] == [0, 3, 6, 9]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_allclose(other.forces, one.forces, rtol=0, atol=matrix.FORCE)
        np.testing.assert_allclose(other.energies, one.energies, rtol=0, atol=1e-10)
    assert np.abs(first[0].forces).max() > 0.01


def test_a_killed_process_stops_the_others_and_a_restart_file_continues(plugins, tmp_path):
    system = SYSTEMS["bulk"]
    style = matrix.style_lines(matrix.write_model(tmp_path))
    start, again = matrix.write_decks(system, tmp_path, style, steps=2, runs=("zero",))
    endless = "fix move all nve\nrestart 5 a.restart b.restart\nrun 10000000"
    start.write_text(start.read_text().replace("run 0", endless))
    with subprocess.Popen(
        command(start, processes=2), cwd=tmp_path, env=environment(plugins), stdout=subprocess.DEVNULL
    ) as running:
        wait_for((tmp_path / "b.restart").exists)
        os.kill(max(children_of(running.pid, str(LMP))), signal.SIGKILL)
        assert running.wait(timeout=60) != 0
    # Of the two, the newer one may have been half written when the process died; that is why there are two.
    whole = min(tmp_path.glob("?.restart"), key=lambda file: file.stat().st_mtime)
    again.write_text(again.read_text().replace("state.restart", whole.name))
    lmp(again, plugins, processes=2)
    errors = matrix.compare(POTENTIAL, system, tmp_path / "again.dump", tmp_path / "again.log")
    assert errors.frames >= 2
    errors.check()
    first = matrix.read_dump(tmp_path / "again.dump", system)[0]
    assert first.step > 0
    assert first.step % 5 == 0


# ---- Hybrid styles -----------------------------------------------------------------------------------------------------


def with_spectators(system: matrix.System) -> matrix.System:
    """Helium between the ions, in the middle of the types: atoms that the potential shall not see."""
    guests = Atoms("He8", positions=np.random.default_rng(8).uniform(0, 11, (8, 3)))
    atoms = (system.atoms + guests)[np.random.default_rng(9).permutation(len(system.atoms) + 8)]
    return matrix.System(atoms, ("Na", "He", "Cl"))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_atoms_of_other_styles_are_not_seen(processes, plugins, tmp_path):
    system = with_spectators(SYSTEMS["bulk"])
    model = matrix.write_model(tmp_path)
    lines = (
        "pair_style hybrid/overlay hydrapot precision double radial exact energy interaction zero 6.0\n"
        f"pair_coeff * * zero\npair_coeff * * hydrapot {model} a Na NULL Cl"
    )
    lmp(write_deck(tmp_path, system, lines, "fix move all nve\nrun 30"), plugins, processes=processes)
    frames = matrix.read_dump(tmp_path / "frames.dump", system)
    assert len(frames) == 11
    for frame in frames:
        seen = frame.atoms.numbers != 2
        atoms = frame.atoms[seen]
        prediction = evaluate(POTENTIAL, build_graph(atoms, cutoff=POTENTIAL.cutoff), head="a")
        np.testing.assert_allclose(frame.forces[seen], prediction.forces.numpy(), rtol=0, atol=matrix.FORCE)
        np.testing.assert_allclose(frame.energies[seen], POTENTIAL_OF["a"](atoms), rtol=0, atol=1e-10)
        assert not np.abs(frame.forces[~seen]).any()
        virial = prediction.virial[0].numpy()
        got = -frame.stresses.sum(axis=0)[:3] / matrix.NKTV2P
        np.testing.assert_allclose(got, virial.diagonal(), rtol=0, atol=matrix.VIRIAL * np.abs(virial).max())
    assert np.abs(frames[-1].atoms.positions - frames[0].atoms.positions).max() > 0.01


BLENDS = {
    "in one style": (
        "pair_style hydrapot {options}\npair_coeff * * {model} a:0.25,b:0.75 Na Cl",
        {"a": 0.25, "b": 0.75},
    ),
    "of two styles": (
        (
            "pair_style hybrid/overlay hydrapot {options} hydrapot {options}\n"
            "pair_coeff * * hydrapot 1 {model} a Na Cl\npair_coeff * * hydrapot 2 {model} b Na Cl"
        ),
        {"a": 1.0, "b": 1.0},
    ),
    "scaled": (
        (
            "pair_style hybrid/scaled 0.25 hydrapot {options} 0.75 hydrapot {options}\n"
            "pair_coeff * * hydrapot 1 {model} a Na Cl\npair_coeff * * hydrapot 2 {model} b Na Cl"
        ),
        {"a": 0.25, "b": 0.75},
    ),
    "with weights that cancel": (
        "pair_style hydrapot {options}\npair_coeff * * {model} a:2,b:-0.5,a:-1 Na Cl",
        {"a": 1.0, "b": -0.5},
    ),
}


@pytest.mark.parametrize("blend", BLENDS)
def test_blended_heads(blend, plugins, tmp_path):
    text, weights = BLENDS[blend]
    system = SYSTEMS["bulk"]
    model = matrix.write_model(tmp_path)
    lines = text.format(options="precision double radial exact energy interaction", model=model)
    lmp(write_deck(tmp_path, system, lines, "run 0"), plugins, processes=2)
    (frame,) = matrix.read_dump(tmp_path / "frames.dump", system)
    graph = build_graph(frame.atoms, cutoff=POTENTIAL.cutoff)
    predictions = {head: evaluate(POTENTIAL, graph, head=head) for head in weights}
    forces = sum(weight * predictions[head].forces.numpy() for head, weight in weights.items())
    np.testing.assert_allclose(frame.forces, forces, rtol=0, atol=matrix.FORCE)
    energies = sum(weight * POTENTIAL_OF[head](frame.atoms) for head, weight in weights.items())
    np.testing.assert_allclose(frame.energies, energies, rtol=0, atol=1e-10)
    assert np.abs(forces - predictions["a"].forces.numpy()).max() > 0.01


def test_total_energies_and_single_precision(plugins, tmp_path):
    system = SYSTEMS["bulk"]
    model = matrix.write_model(tmp_path)
    lines = f"pair_style hydrapot\npair_coeff * * {model} a Na Cl"
    lmp(write_deck(tmp_path, system, lines, "run 0"), plugins)
    (frame,) = matrix.read_dump(tmp_path / "frames.dump", system)
    prediction = evaluate(POTENTIAL, build_graph(frame.atoms, cutoff=POTENTIAL.cutoff), head="a")
    np.testing.assert_allclose(frame.energies, prediction.energies.numpy(), rtol=0, atol=1e-4)
    assert np.abs(frame.energies).min() > 100  # references, of thousands of eV, are part of it
    np.testing.assert_allclose(frame.forces, prediction.forces.numpy(), rtol=0, atol=1e-4)
    assert np.abs(frame.forces - prediction.forces.numpy()).max() > 1e-9
