"""A whole training run on two tiny datasets: it learns, resumes to the bit, stops cleanly, refuses wrong input."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from hydrapot.cli.main import build_app
from hydrapot.potential import load
from hydrapot.potential.errors import ConfigurationError, SimulationError
from hydrapot.training.config import load_config
from hydrapot.training.data.extxyz import read_many
from hydrapot.training.data.splits import load_manifest, make_manifest, save_manifest
from hydrapot.training.launch import Launch
from hydrapot.training.objective import Losses
from hydrapot.training.processes import Processes
from hydrapot.training.run import STATE_FILE, TrainResult, _closed, train
from hydrapot.training.step import Batch, EagerStep
from hydrapot.training.telemetry import RunLog
from tests.training_helpers import write_datasets


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_datasets(folder)
    return folder


def _train(project: Path, out: Path, *, resume: bool = False, **overrides: object) -> TrainResult:
    config = load_config(project / "train.yaml", overrides={k.replace("__", "."): v for k, v in overrides.items()})
    return train(
        config,
        data=project / "data",
        manifest_path=project / config.split,
        out=out,
        resume=resume,
        threads=1,
        cache_dir=project / "cache",
        console=Console(quiet=True),
    )


def test_training_lowers_the_error_and_leaves_a_loadable_model(project: Path, tmp_path: Path) -> None:
    """The checkpoint of a run must load through the public door and say what it was trained on."""
    result = _train(project, tmp_path / "run", run__steps=150, run__validate_every=150)
    assert result.finished
    with (tmp_path / "run" / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    model = load(str(result.checkpoint))
    assert model.heads == ["copper", "molecules"]
    info = model.info.heads["copper"]
    assert info.structures_per_element == {"Cu": info.structures}
    assert info.stress_trained
    assert info.periodicity == ["TTT"]
    assert not model.info.heads["molecules"].stress_trained
    assert info.metrics["force_mae_mev_per_a"] < info.metrics["baseline_force_mae_mev_per_a"]
    for name in ("loss.png", "summary.json", "validation.csv"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert not list((tmp_path / "run").glob("*tmp*"))


def test_resumed_run_is_the_uninterrupted_run(project: Path, tmp_path: Path) -> None:
    """On a CPU with fixed threads, stopping and resuming must not change a single bit of weights or averages."""
    _train(project, tmp_path / "whole", run__steps=24)
    # Length and decay belong to the schedule, so the first part runs under the same `steps` and is stopped by a signal.
    script = f"""
import os, signal, sys
from pathlib import Path
import hydrapot.training.loop as loop
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from tests.test_training_run import _train
advance = loop.Loop._advance
def stop_at_eleven(self, work):
    if self.progress.step == 11:
        os.kill(os.getpid(), signal.SIGTERM)
    return advance(self, work)
loop.Loop._advance = stop_at_eleven
result = _train(Path({str(project)!r}), Path({str(tmp_path / "parts")!r}), run__steps=24)
assert not result.finished and result.step == 12, result
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    result = _train(project, tmp_path / "parts", resume=True, run__steps=24)
    assert result.finished
    whole, parts = ((tmp_path / name / STATE_FILE).read_bytes() for name in ("whole", "parts"))
    from safetensors.torch import load as parse

    a, b = parse(whole), parse(parts)
    assert a.keys() == b.keys()
    assert all(bool((a[name] == b[name]).all()) for name in a)


def test_sigterm_leaves_state_and_model(project: Path, tmp_path: Path) -> None:
    """A batch system's SIGTERM must end the run within moments, with everything needed to go on."""
    out = tmp_path / "run"
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from tests.test_training_run import _train
result = _train(Path({str(project)!r}), Path({str(out)!r}), run__steps=100000, run__validate_every=100000)
print(result.stop_reason)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (out / "log.csv").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    assert (out / "log.csv").exists()
    os.kill(process.pid, signal.SIGTERM)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "SIGTERM" in printed
    assert "--resume" in printed
    assert (out / STATE_FILE).exists()
    assert (out / "tiny.safetensors").exists()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no data", "does not exist"),
        ("nothing to resume", "nothing to resume"),
        ("missing dataset", "files missing"),
        ("other data", "not the one that the split manifest was made for"),
    ],
)
def test_wrong_input_is_named(project: Path, tmp_path: Path, case: str, message: str) -> None:
    """Each mistake gives one line that names it, before anything is written."""
    config = load_config(project / "train.yaml")
    data, resume = project / "data", case == "nothing to resume"
    if case == "no data":
        data = tmp_path / "nowhere"
    elif case != "nothing to resume":
        data = tmp_path / "data"
        data.mkdir()
        copper = (project / "data" / "copper.extxyz").read_text()
        (data / "copper.extxyz").write_text(copper)
        if case == "other data":
            lines = (project / "data" / "molecules.extxyz").read_text().splitlines(keepends=True)
            (data / "molecules.extxyz").write_text("".join(lines[5:]))
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        train(
            config,
            data=data,
            manifest_path=project / config.split,
            out=tmp_path / "out",
            resume=resume,
            cache_dir=tmp_path / "cache",
            console=Console(quiet=True),
        )
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_run_is_not_overwritten(project: Path, tmp_path: Path) -> None:
    """Days of training must not vanish because a command was repeated; nor may another model be resumed into."""
    _train(project, tmp_path / "run", run__steps=2)
    with pytest.raises(ConfigurationError, match="--resume"):
        _train(project, tmp_path / "run", run__steps=2)
    with pytest.raises(ConfigurationError, match="another 'objective'"):
        _train(project, tmp_path / "run", resume=True, objective__forces=3.0)


def test_a_run_asked_to_stop_in_its_last_step_has_finished(project: Path, tmp_path: Path) -> None:
    """Nobody is told to go on with a run that is complete."""
    result = _train(project, tmp_path / "run", run__steps=1, run__walltime_minutes=0.0)
    assert result.finished
    assert result.stop_reason == "finished"
    assert result.signal is None


def test_a_log_whose_last_line_is_torn_is_resumed(tmp_path: Path) -> None:
    """A disk that was full, or a node that died, must not make the run impossible to resume."""
    log = RunLog(tmp_path, resume_step=0)
    row = dict.fromkeys(("seconds", "learning_rate", "loss", "energy", "forces", "stress"), 1.5)
    row |= {"gradient_norm": 2.5, "atoms_per_second": 3.5}
    for step in (50, 100, 150):
        log.step({"step": step, **row})
    whole = log.steps_file.read_bytes()
    for torn in (1, 10, 30):
        log.steps_file.write_bytes(whole[:-torn])
        assert [r["step"] for r in RunLog(tmp_path, resume_step=150).steps] == [50, 100]


@pytest.mark.parametrize(("world", "closed"), [(1, True), (2, False)])
def test_a_process_that_fails_among_others_does_not_wait_for_them_to_close(world: int, closed: bool) -> None:
    """Closing distributed datasets takes all processes, and the others are in a sum over processes."""
    done: list[str] = []
    setup = SimpleNamespace(close=lambda: done.append("closed"))
    processes = Processes(Launch(world=world), torch.device("cpu"))
    with pytest.raises(SimulationError), _closed(setup, processes):
        raise SimulationError("diverged")
    assert bool(done) == closed
    with _closed(setup, processes):
        pass
    assert done[-1:] == ["closed"]


def test_configuration_errors_name_the_field(tmp_path: Path) -> None:
    """A misspelled field must not be ignored."""
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nsplit: s\ndatasets: []\nmodel: {cutof: 3}\n")
    with pytest.raises(ConfigurationError, match=r"model\.cutof"):
        load_config(path)


def test_another_split_is_not_resumed_into(project: Path, tmp_path: Path) -> None:
    """Resuming under another split would validate on structures that were trained on."""
    _train(project, tmp_path / "run", run__steps=2)
    config = load_config(project / "train.yaml", overrides={"run.steps": 4})
    names = [d.file for d in config.datasets]
    read = read_many([project / "data" / n for n in names], cache_dir=project / "cache", progress=False)
    other = tmp_path / "other.json"
    save_manifest(make_manifest(read.values(), fraction=0.2, seed=99), other)
    with pytest.raises(ConfigurationError, match="another split"):
        train(
            config,
            data=project / "data",
            manifest_path=other,
            out=tmp_path / "run",
            resume=True,
            cache_dir=project / "cache",
            console=Console(quiet=True),
        )


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(project: Path, tmp_path: Path) -> None:
    """A finite loss can have a NaN gradient; one such step would ruin every weight and the average."""
    seen = []

    class Poisoned(EagerStep):
        def __call__(self, batch: Batch) -> tuple[Losses, list[torch.Tensor]]:
            losses, gradients = super().__call__(batch)
            seen.append(self.potential)
            return losses, [g * float("nan") for g in gradients]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hydrapot.training.run.EagerStep", Poisoned)
        with pytest.raises(SimulationError, match="gradient is not finite"):
            _train(project, tmp_path / "run", run__steps=2, run__nonfinite_limit=1)
    assert all(bool(torch.isfinite(p).all()) for p in seen[0].parameters())


def test_without_a_compiler_the_step_runs_eagerly_and_says_so(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Training must work on a machine without a C++ compiler."""

    def no_compiler(*_: object) -> None:
        raise RuntimeError("no working C++ compiler found")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hydrapot.training.step._compile", no_compiler)
        result = _train(project, tmp_path / "run", run__steps=2, run__compile=True)
    assert result.finished
    assert "no working C++ compiler found" in caplog.text


def test_split_verb_writes_a_manifest_once(project: Path, tmp_path: Path) -> None:
    """A user needs a split of their own data, and must not lose it by repeating the command."""
    (tmp_path / "train.yaml").write_text((project / "train.yaml").read_text().replace("split.json", "mine.json"))
    arguments = ["split", str(tmp_path / "train.yaml"), "--data", str(project / "data")]
    done = CliRunner().invoke(build_app(), arguments)
    assert done.exit_code == 0, done.output
    assert load_manifest(tmp_path / "mine.json").datasets.keys() == {"copper", "molecules"}
    again = CliRunner().invoke(build_app(), arguments)
    assert isinstance(again.exception, ConfigurationError)
