"""`hydrapot validate`: suites in processes of their own, verdicts as exit codes, reruns that keep what is the same.

The suites here are tiny stand-ins, in a package that a fixture writes; the subject is ASE's EMT for copper.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrapot.cli.main import app_main
from hydrapot.potential.errors import ConfigurationError
from hydrapot.validation import suites, validate
from hydrapot.validation.document import read_document
from hydrapot.validation.domain import Domain
from hydrapot.validation.fingerprint import fingerprint
from hydrapot.validation.plan import makespan
from hydrapot.validation.runner import run_job
from hydrapot.validation.subject import SubjectSpec
from hydrapot.validation.suite import Context, Tier
from hydrapot.validation.validate import Request, Validation

HEAD = '''"""A stand-in for a suite."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

from hydrapot.validation.metrics import Metric, Outcome, skipped
from hydrapot.validation.suite import ALL_TIERS, Suite, Tier

FOLDER = Path({folder!r})


def suite(run, *, tiers=ALL_TIERS, requires=(), evaluations=lambda _: 1.0):
    def counted(context):
        with (FOLDER / f"{{run.__name__}}.calls").open("a") as file:
            file.write("x")
        return run(context)

    return Suite(run.__name__, run.__name__, "purpose", "A", counted, evaluations, tiers=tiers, requires=requires)


def one(value, **metric):
    return Outcome([Metric("number", "Cu", value, "eV", **metric)])


'''
BODIES = {
    "good": "def good(context):\n    return one(np.float32(0.5), upper=1.0)\n",
    "bad": "def bad(context):\n    return one(float('nan'), upper=1.0)\n",
    "unsure": "def unsure(context):\n    return one(0.5, upper=0.6, interval=(0.4, 0.7))\n",
    "nothing": "def nothing(context):\n    return Outcome([skipped('number', 'Cu', 'no such thing here')])\n",
    "broken": "def broken(context):\n    raise ZeroDivisionError('a defect of ours')\n",
    "empty": "def empty(context):\n    return Outcome([])\n",
    "killed": "def killed(context):\n    os.kill(os.getpid(), signal.SIGKILL)\n",
    "threads": "def threads(context):\n    return one(float(torch.get_num_threads()), lower=1.0, upper=1.0)\n",
    "loud": "def loud(context):\n    os.write(1, b'noise of an engine')\n    return one(0.5, upper=1.0)\n",
    "lacking": "def lacking(context):\n    raise AssertionError\n",
    "standard": "def standard(context):\n    return one(0.5, upper=1.0)\n",
    "pieces": (
        "def pieces(context):\n"
        "    first = context.piece('first', lambda: suite_piece())\n"
        "    if not (FOLDER / 'go').exists():\n"
        "        raise RuntimeError('interrupted')\n"
        "    return one(first['value'], upper=1.0)\n\n\n"
        "def suite_piece():\n"
        "    with (FOLDER / 'piece.calls').open('a') as file:\n"
        "        file.write('x')\n"
        "    return {'value': 0.5}\n"
    ),
    "endless": (
        "def endless(context):\n"
        "    (FOLDER / 'pid').write_text(str(os.getpid()))\n"
        "    while True:\n"
        "        time.sleep(0.1)\n"
    ),
}
EXTRA = {
    "lacking": ", requires=('no_such_module',)",
    "standard": ", tiers=frozenset({Tier.STANDARD})",
    "endless": ", evaluations=lambda _: 1e9",  # the longest begins first
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Stand-ins as the suites of the package; returns the folder where they leave their traces."""
    root = tmp_path / "modules"
    name = f"standin_{tmp_path.name.replace('-', '_')}"
    (root / name).mkdir(parents=True)
    (root / name / "__init__.py").write_text('"""Stand-ins."""\n')
    for suite, body in BODIES.items():
        source = f"{HEAD.format(folder=str(tmp_path))}{body}\n\nSUITE = suite({suite}{EXTRA.get(suite, '')})\n"
        (root / name / f"{suite}.py").write_text(source)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(suites, "PACKAGE", name)
    monkeypatch.setattr(suites, "NAMES", tuple(BODIES))
    return tmp_path


@pytest.fixture
def in_process(monkeypatch):
    """Jobs run in this process: quick, for tests of what happens around them."""

    def run(jobs, *, started, finished, stop=lambda: False, **_):
        for job in jobs:
            if stop():
                return False
            started(job)
            finished(run_job(job))
        return True

    monkeypatch.setattr(validate, "run_jobs", run)


@pytest.fixture
def cli(monkeypatch, capsys):
    """The command line in this process; what it changes globally is set back."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    logger = logging.getLogger("hydrapot")
    before = list(logger.handlers), logger.level, logger.propagate

    def run(*arguments):
        with pytest.raises(SystemExit) as ended, warnings.catch_warnings():
            app_main(["validate", *map(str, arguments)])
        return ended.value.code or 0, *capsys.readouterr()

    yield run
    logger.handlers[:], logger.level, logger.propagate = before


EMT = ("--calculator", "ase.calculators.emt:EMT", "--elements", "Cu", "--cutoff", 5.9, "--receptive-field", 5.9)
COPPER = Domain(structures=({"name": "Cu", "crystal": "fcc", "formula": "Cu", "a": 3.59},))


def request(*names, **changes):
    spec = SubjectSpec(factory="ase.calculators.emt:EMT", elements=("Cu",), cutoff=5.9, receptive_field=5.9)
    return Request(spec, **{"domain": COPPER, "suites": names or None, "tier": Tier.SMOKE, "workers": 2, **changes})


def calls(folder, name):
    path = folder / f"{name}.calls"
    return len(path.read_text()) if path.exists() else 0


def test_suites_that_raise_or_die_are_errors_by_name_and_take_nothing_along(package):
    names = ("good", "broken", "killed", "threads", "loud", "lacking")
    document = Validation(request(*names), package / "out").run()
    verdicts = {record.name: record.verdict for record in document.suites if record.name in names}
    assert verdicts == {
        "good": "PASS",
        "broken": "ERROR",
        "killed": "ERROR",
        "threads": "PASS",
        "loud": "PASS",
        "lacking": "N-A",
    }
    assert "ZeroDivisionError: a defect of ours (broken.py:" in document.suite("broken").reason
    assert "SIGKILL" in document.suite("killed").reason
    assert "no_such_module" in document.suite("lacking").reason
    assert "pip install 'hydrapot[validation]'" in document.suite("lacking").reason
    assert document.verdict == "ERROR"
    assert document.exit_code == 2
    logs = "".join(path.read_text() for path in (package / "out").rglob("worker-*.log"))
    assert "noise of an engine" in logs
    assert "Traceback" in logs
    assert read_document(package / "out") == read_document(package / "out" / "results.json")
    assert not list((package / "out").rglob("*.tmp"))


def test_a_rerun_keeps_what_is_the_same_and_tries_errors_again(package, in_process):
    def run(**changes):
        document = Validation(request("good", "bad", "broken", **changes), package / "out").run()
        return [record.name for record in document.suites if record.resumed], document

    kept, first = run()
    assert kept == []
    kept, second = run()
    assert kept == ["good", "bad"]
    assert [calls(package, name) for name in ("good", "bad", "broken")] == [1, 1, 2]
    for name in ("good", "bad"):
        assert second.suite(name).outcome == first.suite(name).outcome
    kept, _ = run(seeds=(3,))
    assert kept == []
    assert calls(package, "good") == 2
    kept, _ = run(tier=Tier.STANDARD)
    assert kept == []


def test_a_result_of_another_suite_source_or_a_damaged_one_is_not_kept(package, in_process):
    def kept():
        return Validation(request("good"), package / "out").run().suite("good").resumed

    assert not kept()
    assert kept()
    source = next((package / "modules").rglob("good.py"))
    source.write_text(source.read_text() + "# edited\n")
    assert not kept()
    (package / "out" / "suites" / "good.json").write_text("{")
    assert not kept()


def test_finished_pieces_of_an_interrupted_suite_are_kept(package, in_process):
    first = Validation(request("pieces"), package / "out").run()
    assert first.suite("pieces").verdict == "ERROR"
    (package / "go").touch()
    assert Validation(request("pieces"), package / "out").run().suite("pieces").verdict == "PASS"
    assert calls(package, "piece") == 1


@pytest.mark.parametrize(
    ("names", "code", "verdict"),
    [
        ("good", 0, "PASS"),
        ("good,nothing", 0, "PASS"),
        ("good,unsure", 3, "INCONCLUSIVE"),
        ("good,unsure,bad", 1, "FAIL"),
        ("nothing,lacking", 3, "N-A"),
        ("bad,broken", 2, "ERROR"),
        ("good,empty", 2, "ERROR"),
    ],
)
def test_exit_code_is_the_verdict(package, in_process, cli, names, code, verdict):
    found, out, err = cli(*EMT, "--suites", names, "--tier", "smoke", "-o", package / "out")
    assert found == code
    assert read_document(package / "out").verdict == verdict
    rows = {line.split()[0]: line.split()[1] for line in out.splitlines() if line and line.split()[0] in BODIES}
    assert rows == {record.name: record.verdict for record in read_document(package / "out").suites}
    assert "Plan" in err
    for name in ("report.html", "junit.xml", "certificate.json"):
        assert (package / "out" / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*EMT, "--suites", "godo"), "choose from good"),
        ((*EMT, "--engines", "gromacs"), "gromacs"),
        ((*EMT, "--precisions", "f64"), "native"),
        ((*EMT, "--seeds", "a"), "--seeds"),
        ((*EMT, "--seeds", "0,0"), "--seeds"),
        ((*EMT, "--domain", "absent.yaml"), "absent.yaml"),
        ((*EMT, "--head", "h"), "--head"),
        ((*EMT, "--key", "absent.pem"), "absent.pem"),
        (("--calculator", "ase.calculators.emt:EMT"), "--elements"),
        (("--calculator", "nowhere:make", "--elements", "Cu"), "nowhere"),
        (("hydrapot-s",), "name one of"),
        (("hydrapot-s", "--head", "no such head"), "no such head"),
        (("hydrapot-s", "--head", "mvl_snap_Cu", "--elements", "Cu"), "--elements"),
        ((), "model"),
    ],
)
def test_input_that_makes_no_sense_ends_with_2_in_one_line_and_leaves_nothing(package, cli, arguments, message):
    code, out, err = cli(*arguments, "-o", package / "out")
    assert code == 2
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not out
    assert not (package / "out").exists()


def test_a_defect_of_ours_is_not_taken_for_a_verdict(package, cli, monkeypatch):
    monkeypatch.setattr(validate.Validation, "run", lambda *_, **__: 1 / 0)
    code, _, err = cli(*EMT, "--suites", "good", "-o", package / "out")
    assert code == 2
    assert "ZeroDivisionError" in err


def test_domain_with_elements_that_the_subject_lacks_is_refused(package):
    with pytest.raises(ConfigurationError, match="Fe"):
        Validation(request("good", domain=Domain(elements=("Fe",))), package / "out")
    domain = Domain(structures=({"name": "iron", "crystal": "bcc", "formula": "Fe"},))
    with pytest.raises(ConfigurationError, match="iron"):
        Validation(request("good", domain=domain), package / "out")


def test_list_names_every_suite_and_what_it_lacks(package, cli):
    code, out, _ = cli("--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == list(BODIES)
    assert "no_such_module not installed" in out


def test_plan_gives_reasons_and_runs_what_is_named_in_any_tier(package):
    plan = Validation(request(), package / "out").plan
    reasons = {entry.suite.name: entry.reason for entry in plan.entries}
    assert reasons["standard"] == "not part of tier smoke"
    assert "no_such_module" in reasons["lacking"]
    assert reasons["good"] == ""
    named = Validation(request("standard"), package / "out").plan
    assert [entry.suite.name for entry in named.selected] == ["standard"]
    assert {e.reason for e in named.entries if not e.selected} == {"not asked for"}
    assert named.workers == 1
    assert named.cost > 0


@given(st.lists(st.floats(0.1, 1e4), max_size=30), st.integers(1, 8))
def test_predicted_wall_time_is_that_of_a_schedule(seconds, workers):
    found = makespan(seconds, workers=workers)
    longest, ideal = max(seconds, default=0.0), sum(seconds) / workers
    assert found >= max(longest, ideal) * (1 - 1e-9)
    assert found <= ideal + longest + 1e-9  # Graham's bound


def test_fingerprint_follows_everything_that_a_result_depends_on(tmp_path):
    subject = validate.open_subject(request("good").spec)
    (tmp_path / "a.xyz").write_text("1\n\nCu 0 0 0\n")
    structures = ({"name": "a", "file": "a.xyz"},)
    base = {"subject": subject, "domain": Domain(structures=structures, folder=tmp_path), "tier": Tier.SMOKE}
    found = {fingerprint(Context(**base))}
    assert fingerprint(Context(**base)) in found
    found.add(fingerprint(Context(**base | {"tier": Tier.FULL})))
    found.add(fingerprint(Context(**base, seeds=(7,))))
    found.add(fingerprint(Context(**base, engines=("ase", "lammps"))))
    found.add(fingerprint(Context(**base, precisions=("f64",))))
    found.add(fingerprint(Context(**base | {"domain": Domain(duration=3.0)})))
    (tmp_path / "a.xyz").write_text("1\n\nCu 0 0 1\n")
    found.add(fingerprint(Context(**base)))
    subject.identity = subject.identity.__class__("n", "", "", "n", "other")
    found.add(fingerprint(Context(**base)))
    assert len(found) == 8


OPTIONAL = ("phonopy", "spglib", "matscipy", "physical_validation", "cryptography", "lammps", "mpi4py", "openmm")


def test_without_optional_packages_everything_loads_and_suites_say_what_they_lack():
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({OPTIONAL}))\n"  # None: a module that cannot be imported
        "import hydrapot.cli.validate, hydrapot.validation.validate\n"
        "from hydrapot.validation.suites import load_suites\n"
        "from hydrapot.validation.plan import missing_reason\n"
        "print({suite.name: missing_reason(suite.requires) for suite in load_suites() if suite.requires})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'hydrapot[validation]'" in done.stdout


RUN = """
import sys
from hydrapot.cli.main import app_main
from hydrapot.validation import suites

if __name__ == "__main__":
    suites.PACKAGE, suites.NAMES = sys.argv[1], ("good", "endless")
    app_main(["validate", *sys.argv[2:]])
"""


def _alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def _wait_for(condition, seconds=90.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_ending_the_command_ends_its_workers_and_keeps_what_is_finished(package, sent, code):
    script = package / "run.py"
    script.write_text(RUN)
    command = [sys.executable, script, suites.PACKAGE, *EMT, "--tier", "smoke", "--workers", "2", "-o", "out"]
    environment = os.environ | {"PYTHONPATH": str(package / "modules"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [str(word) for word in command], cwd=package, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        _wait_for(lambda: (package / "pid").exists() and (package / "out" / "suites" / "good.json").exists())
        worker = int((package / "pid").read_text())
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    _wait_for(lambda: not _alive(worker), seconds=20.0)
    assert json.loads((package / "out" / "suites" / "good.json").read_text())["verdict"] == "PASS"
    assert not (package / "out" / "results.json").exists()
    if sent == signal.SIGTERM:
        assert "the same command goes on" in err
