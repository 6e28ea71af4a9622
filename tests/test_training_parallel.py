"""Several processes train what one process trains: every launcher, every layout, restarts and failures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, cast

import pytest
import torch
import torch.distributed as dist
from ase.io import read
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from hydrapot.cli.main import build_app
from hydrapot.cli.reporting import STOPPED
from hydrapot.potential import load
from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.config import load_config
from hydrapot.training.interrupt import StopRequest
from hydrapot.training.launch import Launch, find_launch, first_host
from hydrapot.training.layout import LayoutConfig, branch_numbers
from hydrapot.training.layouts import check_layout
from hydrapot.training.processes import Processes, thread_count
from hydrapot.training.replicated import _check_same
from hydrapot.training.run import train
from hydrapot.training.step import EagerStep
from hydrapot.training.stopping import STOP_REASONS, Stops, find_deadline
from tests import training_worker
from tests.mpi_helpers import MPIEXEC, ROOT, environment
from tests.training_helpers import write_datasets

WORKER = ROOT / "tests" / "training_worker.py"
CLI = "from hydrapot.cli.main import app_main; app_main()"
#: Four parts a batch, so that 1, 2 and 4 processes share the same batches; in float64, so that what differs between
#: layouts is the order of sums and nothing else.
SETTINGS = {
    "run.precision": "float64",
    "run.steps": 12,
    "run.validate_every": 12,
    "sampler.parts": 4,
    "sampler.max_structures": 4,
    "sampler.edge_slots": 600,
}
#: Weights and projections that depend on the gradient of each head over all processes.
BALANCED = {
    "balancing.weights": "gradnorm",
    "balancing.project": True,
    "balancing.measure_every": 2,
    "datasets.0.noise": {"forces": 0.05},
    "datasets.1.targets": {"energy": 2.0, "stress": 0.0},
}
#: Relative: of the first gradient, and of the loss of every step.
GRADIENT, LOSS = 1e-11, 1e-8


class Record(NamedTuple):
    """What a run wrote down, and where it is."""

    gradient: dict[str, torch.Tensor]
    losses: list[float]
    metrics: dict[str, dict[str, float]]
    out: Path

    def differ(self, other: "Record") -> tuple[float, float]:
        """Relative distances of the first gradients and of the losses of the steps that both saw."""
        assert self.gradient.keys() == other.gradient.keys()
        mine, theirs = (torch.cat([g[n].flatten() for n in sorted(g) if n != "norm"]) for g in (self[0], other[0]))
        gradient = float((mine - theirs).norm() / mine.norm())
        last = min(len(self.losses), len(other.losses))
        pairs = zip(self.losses[-last:], other.losses[-last:], strict=True)
        return gradient, max(abs(a - b) / abs(a) for a, b in pairs)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    write_datasets(folder)
    return folder


def _command(project: Path, out: Path, settings: dict[str, object], *options: str) -> list[str]:
    return [str(WORKER), str(project), str(out), str(out / "record"), json.dumps(SETTINGS | settings), *options]


def _record(out: Path) -> Record:
    written = json.loads((out / "record.json").read_text())
    return Record(load_file(out / "record.safetensors"), written["losses"], written["metrics"], out)


def _run(command: list[str], **variables: str) -> None:
    done = subprocess.run(
        command, env=environment() | variables, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def _alone(project: Path, out: Path, settings: dict[str, object], *options: str) -> Record:
    training_worker.run(project, out, out / "record", SETTINGS | settings, *options)
    return _record(out)


def _torchrun(project: Path, out: Path, processes: int, settings: dict[str, object], *options: str, restarts: int = 0):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    _run([*launcher, "--max-restarts", str(restarts), *_command(project, out, settings, *options)])
    return _record(out)


def _srun(project: Path, out: Path, processes: int, settings: dict[str, object], *options: str) -> Record:
    """What srun does, by its variables."""
    job = str(os.getpid() + int(time.time()) % 10_000)
    started = []
    for rank in range(processes):
        variables = {
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_STEP_NUM_TASKS": str(processes),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_JOB_ID": job,
            "SLURM_STEP_ID": "0",
        }
        command = [sys.executable, *_command(project, out, settings, *options)]
        started.append(subprocess.Popen(command, env=environment() | variables, stderr=subprocess.PIPE, text=True))
    for process in started:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-3000:]
    return _record(out)


def _mpiexec(project: Path, out: Path, processes: int, settings: dict[str, object], *options: str) -> Record:
    _run([str(MPIEXEC), "-n", str(processes), sys.executable, *_command(project, out, settings, *options)])
    return _record(out)


@pytest.fixture(scope="session")
def single(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return _alone(project, tmp_path_factory.mktemp("single"), {})


def test_torchrun_data_parallel_is_one_process_also_after_a_kill(project: Path, single: Record, tmp_path: Path) -> None:
    """A process killed in the middle: torchrun starts all again, they resume by themselves, nothing is different."""
    settings: dict[str, object] = {"run.checkpoint_minutes": 1e-6}  # a state after every step
    record = _torchrun(project, tmp_path, 2, settings, "--die-at=5", restarts=1)
    assert 6 <= len(record.losses) <= 11  # the record is that of the processes that were started again
    assert record.differ(single)[1] < LOSS
    expected, found = (load(str(r.out / "tiny.safetensors")) for r in (single, record))
    for (name, a), b in zip(expected.named_parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_srun_sharded_is_one_process_and_resumes_on_one(project: Path, single: Record, tmp_path: Path) -> None:
    """Shards of two processes, put together in the ordinary files, from which one process goes on exactly."""
    record = _srun(project, tmp_path, 2, {"layout.kind": "sharded", "run.walltime_minutes": 0.0})
    gradient, loss = record.differ(single._replace(losses=single.losses[:1]))
    assert len(record.losses) == 1  # the time was over after the first step
    assert gradient < GRADIENT
    assert loss < LOSS
    resumed = _alone(project, tmp_path, {}, "--resume")
    assert len(resumed.losses) == SETTINGS["run.steps"] - 1
    assert resumed.differ(resumed._replace(losses=single.losses))[1] < LOSS
    assert load(str(tmp_path / "tiny.safetensors")).heads == ["copper", "molecules"]


@pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec")
def test_mpiexec_task_parallel_is_one_process(project: Path, tmp_path: Path) -> None:
    """Each process has one of the two heads; the model that they leave has both."""
    pytest.importorskip("mpi4py")
    expected = _alone(project, tmp_path / "one", {"layout.kind": "task"})
    record = _mpiexec(project, tmp_path / "two", 2, {"layout.kind": "task"})
    gradient, loss = record.differ(expected)
    assert gradient < GRADIENT
    assert loss < LOSS
    for head, metrics in expected.metrics.items():
        assert record.metrics[head] == pytest.approx(metrics, rel=1e-6)
    states = [load_file(r.out / "state.safetensors") for r in (expected, record)]
    assert states[0].keys() == states[1].keys()  # the moments of the other process's head, too


def test_processes_that_share_no_parameter_do_not_compare_any() -> None:
    """A frozen encoder in the task-parallel layout: nothing is the same on all processes, and nothing is asked of them."""
    _check_same([], world=2, group=cast(dist.ProcessGroup, None))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "processes", "more"),
    [
        ("data", 2, {}),
        ("data", 4, {}),
        ("sharded", 2, {}),
        ("sharded", 4, {}),
        ("task", 2, {}),
        ("task+data", 4, {}),
        # Three parts of one branch and one of the other: groups of unequal size, a process with both heads.
        ("task+data", 2, {"sampler.temperature": 1.0, "datasets.0.sampling": 9.0}),
        ("task+data", 4, {"sampler.temperature": 1.0, "datasets.0.sampling": 9.0}),
        ("data", 4, {"layout.bucket_megabytes": 1e-4}),
        ("data", 2, BALANCED),
        ("task+data", 2, BALANCED),
    ],
)
def test_every_layout_is_one_process_for_fifty_steps(
    project: Path, tmp_path: Path, kind: str, processes: int, more: dict[str, object]
) -> None:
    """The same global batches give the same gradients and the same losses, whatever the layout."""
    settings = {"run.steps": 50, "run.validate_every": 50, "layout.kind": kind} | more
    expected = _alone(project, tmp_path / "one", settings)
    record = _torchrun(project, tmp_path / "many", processes, settings)
    gradient, loss = record.differ(expected)
    assert len(record.losses) == 50
    assert gradient < GRADIENT
    assert loss < LOSS


def _hydrapot(project: Path, out: Path, processes: int, *options: str) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    script = project / "train_cli.py"
    script.write_text(CLI)
    command = [*launcher, str(script), "train", str(project / "train.yaml"), "-o", str(out), *options]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_all_processes_fail_with_one_message(project: Path, tmp_path: Path) -> None:
    """A dataset that is missing is missing for all of them; the user reads it once."""
    (tmp_path / "data").mkdir()
    process = _hydrapot(project, tmp_path / "run", 2, "--data", str(tmp_path / "data"))
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    said = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(said) == 1, errors
    assert "files missing" in said[0]


def test_a_process_that_fails_when_others_are_done_speaks_alone(tmp_path: Path) -> None:
    """The last model or state may not fit on the disk: only process 0 knows, the others are leaving."""
    script = tmp_path / "last.py"
    script.write_text(
        "import time\n"
        "from hydrapot.potential.errors import CheckpointError\n"
        "from hydrapot.training import processes\n"
        "from hydrapot.training.launch import find_launch\n"
        "from hydrapot.training.processes import SilentError, is_spokesman, joined\n"
        "launch, leave_word = find_launch(), processes._leave_word\n"
        "def late(*args, **more):\n"  # the other asks who speaks when process 0 is through
        "    time.sleep(0.0 if launch.main else 1.0)\n"
        "    leave_word(*args, **more)\n"
        "processes._leave_word = late\n"
        "try:\n"
        "    with joined(launch, device='cpu', timeout_minutes=1.0):\n"
        "        if launch.main:\n"
        "            raise CheckpointError('no space left')\n"
        "except CheckpointError as error:\n"
        "    assert launch.main and is_spokesman(error)\n"
        "except SilentError:\n"
        "    assert not launch.main\n"
        "else:\n"
        "    raise AssertionError('went on without process 0')\n"
    )
    variables = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid())}
    started = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env=environment() | variables | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-3000:]


@pytest.mark.parametrize("delays", [(0.0, 1.0, 1.0), (0.3, 0.0, 1.5)], ids=["process 0 speaks", "another speaks"])
def test_of_many_that_lose_a_process_one_speaks(tmp_path: Path, delays: tuple[float, ...]) -> None:
    """The word is with process 0, which must not be gone before the slowest has asked."""
    script = tmp_path / "lost.py"
    script.write_text(
        "import os, signal, time\n"
        "import torch.distributed as dist\n"
        "from hydrapot.training import processes\n"
        "from hydrapot.training.launch import find_launch\n"
        "from hydrapot.training.processes import SilentError, is_spokesman, joined\n"
        "launch, leave_word = find_launch(), processes._leave_word\n"
        "def late(*args, **more):\n"
        f"    time.sleep({delays}[launch.rank])\n"
        "    leave_word(*args, **more)\n"
        "processes._leave_word = late\n"
        "try:\n"
        "    with joined(launch, device='cpu', timeout_minutes=1.0):\n"
        "        if launch.rank == 3:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        dist.barrier()\n"
        "except SilentError:\n"
        "    print('silent')\n"
        "except Exception as error:\n"
        "    print('speaks' if is_spokesman(error) else error)\n"
    )
    variables = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid() + 1)}
    started = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env=environment() | variables | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in started]
    assert started[3].returncode == -signal.SIGKILL
    assert said[:3] == ["speaks" if delay == 0.0 else "silent" for delay in delays]


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert path.exists(), process.communicate()[1][-3000:] if process.poll() is not None else "nothing was written"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_job_with_a_message(project: Path, tmp_path: Path, victim: int) -> None:
    """Nobody waits for the dead; the last state is whole."""
    options = ["--data", str(project / "data"), "--set", "run.steps=100000", "--set", "run.checkpoint_minutes=0.001"]
    process = _hydrapot(project, tmp_path / "run", 2, *options, "--set", "run.validate_every=100000")
    _wait_for(tmp_path / "run" / "state.safetensors", process)
    os.kill(_children(process.pid)[victim], signal.SIGKILL)
    began = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert time.monotonic() - began < 60
    assert process.returncode != 0
    said = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(said) == 1, errors
    assert "another process of the run has died" in said[0]
    assert "--resume" in said[0]
    config = load_config(project / "train.yaml", overrides={"run.steps": 100_000})
    assert config.name == "tiny"
    assert load_file(tmp_path / "run" / "state.safetensors")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_a_signal_to_one_process_stops_all_at_the_same_step(project: Path, tmp_path: Path, name: str) -> None:
    options = ["--data", str(project / "data"), "--set", "run.steps=100000", "--set", "run.checkpoint_minutes=0.001"]
    process = _hydrapot(project, tmp_path / "run", 2, *options, "--set", "run.validate_every=100000")
    _wait_for(tmp_path / "run" / "state.safetensors", process)
    os.kill(_children(process.pid)[1], getattr(signal, name))
    _, errors = process.communicate(timeout=300)
    assert f"stopped by {name} at step" in errors
    assert "error:" not in errors
    assert load(str(tmp_path / "run" / "tiny.safetensors")).heads == ["copper", "molecules"]


@pytest.mark.parametrize(("minutes", "code"), [("null", 0), ("0.0", STOPPED)])
def test_a_signal_after_the_end_changes_no_exit_code(project: Path, tmp_path: Path, minutes: str, code: int) -> None:
    """Slurm warns a run that is just done, and ends the processes that are slower to exit than the first of them."""
    script = tmp_path / "late.py"
    script.write_text(
        "import atexit, os, signal\n"
        "for late in (signal.SIGUSR1, signal.SIGTERM):\n"
        "    atexit.register(os.kill, os.getpid(), late)\n" + CLI
    )
    step = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "localhost"}
    command = [sys.executable, str(script), "train", str(project / "train.yaml"), "--data", str(project / "data")]
    command += ["-o", str(tmp_path / "run"), "--set", "run.steps=2", "--set", f"run.walltime_minutes={minutes}"]
    done = subprocess.run(command, env=environment() | step, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stderr[-3000:]


def test_a_batch_without_a_finite_gradient_is_skipped_kept_and_counted(project: Path, tmp_path: Path) -> None:
    """One bad structure costs one step; it can be looked at; the weights never see it."""
    config = load_config(project / "train.yaml", overrides={"run.steps": 4, "run.validate_every": 4})
    calls = []

    class Poisoned(EagerStep):
        def __call__(self, batch):
            losses, gradients = super().__call__(batch)
            calls.append(int(batch.graph.n_atoms))
            # The second step, and the closer look at it.
            return losses, [g * float("nan") for g in gradients] if len(calls) in {2, 3} else gradients

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hydrapot.training.run.EagerStep", Poisoned)
        result = train(
            config,
            data=project / "data",
            manifest_path=project / config.split,
            out=tmp_path,
            cache_dir=project / "cache",
            console=Console(quiet=True),
        )
    assert result.finished
    assert json.loads((tmp_path / "summary.json").read_text())["skipped_steps"] == 1
    assert all(bool(torch.isfinite(t).all()) for t in load_file(tmp_path / "state.safetensors").values())
    (report,) = (tmp_path / "skipped").glob("*.json")
    document = json.loads(report.read_text())
    assert document["step"] == 1
    assert "encoder.embedding.weight" in document["parameters_without_finite_gradient"]
    kept = read(report.with_suffix(".extxyz"), ":")
    assert [(a.info["dataset"], a.info["number"]) for a in kept] == [
        (s["dataset"], s["number"]) for s in document["structures"]
    ]
    assert sum(len(a) for a in kept) == calls[1]
    assert all(a.get_forces().shape == (len(a), 3) for a in kept)


def test_a_run_that_ran_out_of_time_ends_with_an_exit_code_of_its_own_and_goes_on(
    project: Path, tmp_path: Path
) -> None:
    """A job script resubmits what was stopped, and must be able to tell it from what is finished."""
    out = tmp_path / "run"
    arguments = [
        "train",
        str(project / "train.yaml"),
        "--data",
        str(project / "data"),
        "-o",
        str(out),
        "--threads",
        "1",
    ]
    arguments += ["--set", "run.steps=3"]
    stopped = CliRunner().invoke(build_app(), [*arguments, "--set", "run.walltime_minutes=1"])
    assert stopped.exit_code == STOPPED, stopped.output
    assert json.loads((out / "summary.json").read_text())["step"] == 1
    finished = CliRunner().invoke(build_app(), [*arguments, "--resume"])
    assert finished.exit_code == 0, finished.output
    assert json.loads((out / "summary.json").read_text())["step"] == 3


def test_launchers_are_told_apart_by_their_variables() -> None:
    """A wrong guess would wait for processes that do not exist."""
    assert find_launch({}) == Launch()
    # In a batch script, outside any step, Slurm sets a rank but there is one process.
    assert find_launch({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}).world == 1
    step = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "n[4-7],x"}
    launch = find_launch(step | {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"})
    assert (launch.launcher, launch.rank, launch.world, launch.local_rank, launch.address) == ("srun", 3, 8, 1, "n4")
    assert launch.port == find_launch(step | {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}).port
    assert launch.cores is None
    assert find_launch(step | {"SLURM_CPUS_PER_TASK": "4"}).cores == 4
    # With --distribution=arbitrary the first node need not have process 0.
    assert find_launch(step | {"SLURM_NODEID": "1"}).address == "n4"
    assert find_launch(step | {"SLURM_PROCID": "0", "SLURM_NODEID": "0"}).address == "n4"
    with pytest.raises(ConfigurationError, match="process 0 on another node than the first"):
        find_launch(step | {"SLURM_PROCID": "0", "SLURM_NODEID": "1"})
    # Hydra starts its proxies with srun, one a node, and their children inherit its variables.
    hydra = {"PMI_RANK": "5", "PMI_SIZE": "16", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
    launch = find_launch(step | hydra)
    assert (launch.launcher, launch.rank, launch.world, launch.local_rank) == ("mpiexec", 5, 16, 1)
    openmpi = {
        "OMPI_COMM_WORLD_RANK": "2",
        "OMPI_COMM_WORLD_SIZE": "4",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }
    assert find_launch(openmpi) == Launch("mpiexec", 2, 4, 0, "a", 1)
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "5"}
    launch = find_launch(torchrun | {"TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_MAX_RESTARTS": "3"} | step)
    assert launch == Launch("torchrun", 1, 2, 1, "h", 5, 2, 3)
    with pytest.raises(ConfigurationError, match="RANK=4 of WORLD_SIZE=2"):
        find_launch(torchrun | {"RANK": "4"})
    with pytest.raises(ConfigurationError, match="no number"):
        find_launch(torchrun | {"RANK": "x"})


@pytest.mark.parametrize(("cores", "threads"), [(None, 4), (2, 2), (8, 4)])
def test_a_process_takes_its_share_of_the_cores_and_what_srun_was_asked_for(
    cores: int | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes on a node of eight cores, bound to none."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(
        "torch.distributed.all_gather_object", lambda found, own: found.__setitem__(slice(None), 2 * [own])
    )
    launch = Launch("srun", rank=0, world=2, cores=cores)
    assert thread_count(Processes(launch, torch.device("cpu"))) == threads


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("nid001", "nid001"),
        ("nid[0012-0040,0077],login1", "nid0012"),
        ("frontier[00123]", "frontier00123"),
        ("a,b", "a"),
        ("x[1,3]-ib", "x1-ib"),
    ],
)
def test_first_host_of_a_list_as_slurm_writes_it(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_the_end_of_the_job_comes_from_the_scheduler_or_from_the_user() -> None:
    assert find_deadline(None, margin_minutes=5) is None
    now = time.time()
    assert find_deadline(60.0, margin_minutes=5) == pytest.approx(now + 55 * 60, abs=5)
    slurm = {"SLURM_JOB_END_TIME": "1000000"}
    assert find_deadline("scheduler", margin_minutes=1, environment=slurm) == 1_000_000 - 60
    pbs = find_deadline("scheduler", margin_minutes=0, environment={"PBS_WALLTIME": "3600"})
    assert pbs == pytest.approx(now + 3600, abs=5)
    with pytest.raises(ConfigurationError, match="SLURM_JOB_END_TIME"):
        find_deadline("scheduler", margin_minutes=1, environment={})
    with pytest.raises(ConfigurationError, match="no number"):
        find_deadline("scheduler", margin_minutes=1, environment={"PBS_WALLTIME": "1:00:00"})


def test_a_signal_passed_on_by_a_launcher_is_not_a_second_one() -> None:
    """torchrun sends on what a terminal has sent to everybody already."""
    with StopRequest(signals=(signal.SIGUSR1, signal.SIGTERM), patience=60.0) as request:
        stops = Stops(request)
        assert not any(stops.flags())
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert [name for name, flag in zip(STOP_REASONS, stops.flags(), strict=True) if flag] == ["SIGUSR1"]
    with StopRequest(signals=(signal.SIGUSR1,)):
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGUSR1)


def test_branches_name_every_dataset_once() -> None:
    names = ["a", "b", "c"]
    assert branch_numbers(LayoutConfig(), names) is None
    assert branch_numbers(LayoutConfig(kind="task"), names) == [[0], [1], [2]]
    assert branch_numbers(LayoutConfig(kind="task+data", branches=[["c", "a"], ["b"]]), names) == [[2, 0], [1]]
    with pytest.raises(ConfigurationError, match="'b' 0 times"):
        branch_numbers(LayoutConfig(kind="task", branches=[["a"], ["c"]]), names)
    with pytest.raises(ConfigurationError, match="'d', which is no dataset"):
        branch_numbers(LayoutConfig(kind="task", branches=[["a", "b"], ["c", "d"]]), names)
    with pytest.raises(ConfigurationError, match="belong to the task layouts"):
        branch_numbers(LayoutConfig(branches=[["a"]]), names)


@pytest.mark.parametrize(
    ("config", "world", "message"),
    [
        (LayoutConfig(kind="single"), 2, "2 processes were started"),
        (LayoutConfig(kind="task"), 3, "2 branches need as many processes"),
    ],
)
def test_layouts_that_cannot_work_are_refused(config: LayoutConfig, world: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_layout(config, datasets=["a", "b"], world=world)


def test_settings_reach_into_the_list_of_datasets(project: Path) -> None:
    config = load_config(project / "train.yaml", overrides={"datasets.1.weight": 3.0, "run.steps": 7})
    assert [d.weight for d in config.datasets] == [1.0, 3.0]
    assert config.run.steps == 7
    for wrong in ("datasets.2.weight", "datasets.x.weight", "name.weight"):
        with pytest.raises(ConfigurationError, match=wrong):
            load_config(project / "train.yaml", overrides={wrong: 1.0})
