"""The command line: bad input ends in one line on standard error, an exit code and no file; good input works."""

import json
import logging
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write

from hydrapot.cli.main import VERBS, app_main
from hydrapot.potential import container, save
from tests.engine_helpers import CRYSTALS, MOLECULES, small_potential

MODEL = "small.safetensors"


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / MODEL
    save(small_potential(), path)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path, monkeypatch, model_bytes):
    """The current folder, with a model and sound structures; what the command changes globally is set back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "argv", ["hydrapot"])
    logger = logging.getLogger("hydrapot")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    (tmp_path / MODEL).write_bytes(model_bytes)
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.03, seed=1)
    write("copper.cif", copper)
    write("ethanol.xyz", molecule("CH3CH2OH"))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield tmp_path
    logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate


@pytest.fixture
def cli(folder, capsys):
    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app_main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


def nan_position():
    atoms = bulk("Cu", cubic=True)
    atoms.positions[2, 1] = np.nan
    return atoms


def coincident():
    return Atoms("Cu2", positions=[[0, 0, 0], [4, 0, 0]], cell=[4, 4, 4], pbc=True)


def flat_cell():
    return Atoms("Cu", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]], pbc=True)


def charged():
    atoms = molecule("CH3")
    atoms.info["charge"] = 3
    return atoms


def charged_crystal():
    atoms = bulk("Cu")
    atoms.info["charge"] = 1
    return atoms


def other_schema(path):
    raw = container.read(path, kind="hydrapot", what="hydrapot checkpoint")
    document = {**raw.document, "schema_version": 999}
    container.write(path, kind="hydrapot", document=document, tensors=raw.tensors)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


BAD_STRUCTURES = {
    "NaN position": (nan_position, r"atom 2 .*not finite"),
    "two atoms at one place": (coincident, r"atoms \d and \d are at one place"),
    "zero-volume cell": (flat_cell, r"no volume"),
    "unknown element": (lambda: bulk("Au"), r"not trained on element Au"),
    "unsupported charge": (charged, r"charge \+3"),
    "charge in a periodic cell": (charged_crystal, r"charge \+1 in a periodic cell"),
}
BAD_MODELS = {
    "truncated checkpoint": (truncated, MODEL),
    "checkpoint of another schema": (other_schema, r"schema"),
    "no checkpoint at all": (lambda path: path.write_text("hello"), MODEL),
    "missing checkpoint": (Path.unlink, r"small\.safetensors"),
}


def assert_refused(code, err, expected, folder, before):
    lines = [line for line in err.splitlines() if not line.startswith(("note:", "warning:"))]
    assert code == 1, err
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    import re

    assert re.search(expected, lines[0]), lines[0]
    assert "Traceback" not in err
    assert {p.name for p in folder.iterdir()} == before, "a file was left behind"


@pytest.mark.parametrize("verb", ["relax", "md", "eval"])
@pytest.mark.parametrize("name", BAD_STRUCTURES)
def test_bad_structure(cli, folder, verb, name):
    make, expected = BAD_STRUCTURES[name]
    write("bad.extxyz", make())
    before = {p.name for p in folder.iterdir()}
    head = MOLECULES if name == "unsupported charge" else CRYSTALS
    code, _, err = cli(verb, MODEL, "bad.extxyz", "-H", head)
    assert_refused(code, err, expected, folder, before)


@pytest.mark.parametrize("verb", ["relax", "md", "eval", "info"])
@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_model(cli, folder, verb, name):
    spoil, expected = BAD_MODELS[name]
    spoil(folder / MODEL)
    before = {p.name for p in folder.iterdir()}
    head = [] if verb == "info" else ["-H", CRYSTALS]
    code, _, err = cli(verb, MODEL, "copper.cif", *head)
    assert_refused(code, err, expected, folder, before)


@pytest.mark.parametrize("verb", ["relax", "md", "eval"])
def test_unknown_head_missing_file_missing_head_and_folder(cli, folder, verb):
    before = {p.name for p in folder.iterdir()}
    for arguments, expected in (
        (["copper.cif", "-H", "metals"], r"unknown head 'metals'.*crystals, molecules"),
        (["copper.cif"], r"name one of crystals, molecules"),
        (["nothing.cif", "-H", CRYSTALS], r"nothing\.cif: no such file"),
        ([MODEL, "-H", CRYSTALS], r"small\.safetensors: cannot be read as a structure"),
        (["copper.cif", "-H", CRYSTALS, "-o", "no/where"], r"folder no does not exist"),
        (["copper.cif", "-H", CRYSTALS, "--device", "abacus"], r"abacus"),
    ):
        code, _, err = cli(verb, MODEL, *arguments)
        assert_refused(code, err, expected, folder, before)
    code, _, err = cli("info", MODEL, "nothing.cif")
    assert_refused(code, err, r"nothing\.cif", folder, before)
    code, _, err = cli("info", "hydrapot-nothing")
    assert_refused(code, err, r"hydrapot-nothing", folder, before)


def test_command_lines_that_make_no_sense(cli):
    for arguments in (["md", MODEL], ["fly"], ["md", MODEL, "copper.cif", "--steps", "many"], ["relax", "--nothing"]):
        code, _, err = cli(*arguments)
        assert code == 2
        assert "Traceback" not in err
    code, _, err = cli("md", MODEL, "copper.cif", "-H", CRYSTALS, "-T", "-5")
    assert (code, err.splitlines()[-1][:18]) == (1, "error: temperature")


def test_help_of_every_verb_is_quick_and_states_units():
    script = (
        "import sys\nfrom hydrapot.cli.main import build_app\n"
        "from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(build_app(), sys.argv[1:])\nprint(result.output)\n"
        "assert result.exit_code == 0\nassert 'torch' not in sys.modules, 'help must not load torch'\n"
    )
    words = {"md": ["fs", "GPa", "K"], "relax": ["eV/Å", "GPa"], "eval": ["label"], "info": ["head"]}
    assert set(words) <= set(VERBS)
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=True)
    assert all(verb in done.stdout for verb in VERBS)
    for verb, expected in words.items():
        done = subprocess.run([sys.executable, "-c", script, verb, "-h"], capture_output=True, text=True, check=True)
        assert all(word in done.stdout for word in expected), verb


def test_info(cli):
    code, out, _ = cli("info", MODEL)
    assert code == 0
    assert all(word in out for word in (CRYSTALS, MOLECULES, "PBE", "2 heads", "31.0"))
    code, out, _ = cli("info", MODEL, "-H", MOLECULES)
    assert code == 0
    assert "6-31G(d)" in out
    code, out, _ = cli("info", MODEL, "copper.cif")
    assert "1 of 2 heads cover it" in out
    assert MOLECULES not in out
    code, out, _ = cli("info", MODEL, "ethanol.xyz")
    assert "2 of 2 heads cover it" in out
    assert "molecules: only 5 training structures with O" in out
    assert "crystals: periodicity not seen in training" in out
    write("gold.xyz", bulk("Au"))
    code, out, _ = cli("info", MODEL, "gold.xyz")
    assert code == 0
    assert "0 of 2 heads cover it" in out
    assert "does not know Au" in out


def test_relax_md_and_eval_one_after_the_other(cli, folder):
    code, out, err = cli("relax", MODEL, "copper.cif", "-H", CRYSTALS, "--cell", "full", "--max-steps", "200")
    assert code == 0, err
    assert "converged after" in out
    assert "without stress" in err
    assert "PBE (VASP)" in err
    code, out, err = cli(
        "md", MODEL, "copper-relax.extxyz", "-H", CRYSTALS, "-n", "30", "-e", "npt", "-o", "hot", "--pressure", "1"
    )
    assert code == 0, err
    assert "steps/s" in out
    assert json.loads(Path("hot.json").read_text())["settings"]["pressure"] == 1
    code, _, err = cli("md", MODEL, "copper-relax.extxyz", "-H", CRYSTALS, "-n", "30", "-o", "hot")
    assert code == 1
    assert "hot.traj exists already" in err
    code, out, err = cli("eval", MODEL, "hot.traj", "-H", CRYSTALS)
    assert code == 0, err
    assert "MAE" in out
    assert len(read("hot-eval.extxyz", index=":")) == 4
    code, _, err = cli("relax", MODEL, "ethanol.xyz", "-H", CRYSTALS, "--max-steps", "1", "--fmax", "1e-9")
    assert code == 3
    assert "not converged" in err
    code, _, err = cli("md", MODEL, "copper.cif", "-H", CRYSTALS, "-o", "x", "-T", "3000", "-e", "nve", "-n", "400",
                       "--timestep", "20")  # fmt: skip
    assert code in {0, 3}


def test_sigterm_ends_a_run_cleanly_and_resume_goes_on(folder):
    command = [sys.executable, "-c", "from hydrapot.cli.main import app_main; app_main()", "md", MODEL, "copper.cif"]
    command += ["-H", CRYSTALS, "--threads", "1", "-o", "run"]
    process = subprocess.Popen([*command, "-n", "100000"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (Path("run.csv").exists() and Path("run.csv").stat().st_size > 500):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 143
    assert "--resume" in err
    summary = json.loads(Path("run.json").read_text())
    assert summary["status"] == "interrupted"
    steps = summary["results"]["steps"] + 5
    done = subprocess.run([*command, "-n", str(steps), "--resume"], capture_output=True, text=True, check=True)
    assert f"{steps} of {steps} steps done" in done.stdout
    assert json.loads(Path("run.json").read_text())["status"] == "completed"


def test_version(cli):
    code, out, _ = cli("--version")
    assert code == 0
    assert out.startswith("hydrapot ")
