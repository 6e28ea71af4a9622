"""Job scripts: sound shell for every site, quoted values, refusals, and a chain of jobs that stages, stops, resumes, ends."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hydrapot.cli.main import app_main
from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.config import load_config
from hydrapot.training.jobs import JobOptions, job_script, submit_command, walltime_seconds, write_job
from hydrapot.training.sites import SITES
from tests.mpi_helpers import MPIEXEC, environment, wait_for
from tests.training_helpers import write_datasets

OPTIONS = JobOptions(nodes=2, walltime="2:00", account="ABC123", stage=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs of a user's")  # with a quote and spaces
    write_datasets(folder)
    return folder


def script_of(project: Path, site: str, options: JobOptions = OPTIONS, **settings) -> str:
    config = load_config(project / "train.yaml", overrides=settings)
    return job_script(
        site, project / "train.yaml", config, data=project / "data", out=project / "the run", options=options
    )


def directives(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("#SBATCH", "#PBS"))]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("stage", [False, True])
def test_every_site_gets_sound_shell(project: Path, tmp_path: Path, site: str, stage: bool):
    text = script_of(project, site, replace(OPTIONS, stage=stage, settings=("run.steps=7", "name=it's")))
    file = tmp_path / "job.sh"
    file.write_text(text)
    done = subprocess.run(["bash", "-n", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "-s", "bash", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    # Schedulers read directives up to the first command.
    lines = text.splitlines()
    last = max(k for k, line in enumerate(lines) if line.startswith(("#SBATCH", "#PBS")))
    assert all(line.startswith("#") for line in lines[: last + 1])
    assert ("staged=" in text) == stage


def test_what_the_sites_ask_for(project: Path):
    frontier = script_of(project, "frontier")
    assert {"#SBATCH --constraint=nvme", "#SBATCH --signal=USR1@300", "#SBATCH --time=2:00:00"} <= set(
        directives(frontier)
    )
    assert (
        "--ntasks=16 --ntasks-per-node=8 --kill-on-bad-exit=1 --cpus-per-task=7 --gpus-per-task=1 --gpu-bind=closest"
        in frontier
    )
    assert "#SBATCH --constraint=nvme" not in script_of(project, "frontier", replace(OPTIONS, stage=False))
    perlmutter = directives(script_of(project, "perlmutter"))
    assert {"#SBATCH --constraint=gpu", "#SBATCH --qos=regular", "#SBATCH --account=ABC123"} <= set(perlmutter)
    aurora = script_of(project, "aurora")
    assert "mpiexec -n 24 -ppn 12 --cpu-bind=list:1-8:9-16:" in aurora
    assert ":53-60:" in aurora  # the other socket
    assert "#PBS -l select=2" in directives(aurora)
    pbs = replace(OPTIONS, account="", tasks_per_node=4, threads=8, gpus_per_node=4, directives=("-l place=excl",))
    assert "#PBS -l select=2:ncpus=32:mpiprocs=4:ngpus=4" in directives(script_of(project, "pbs", pbs))
    assert "#PBS -l place=excl" in directives(script_of(project, "pbs", pbs))
    assert submit_command("aurora") == "qsub"
    assert submit_command("slurm") == "sbatch"


def test_the_margin_of_the_run_is_that_of_the_signal(project: Path):
    text = script_of(project, "slurm", **{"run.walltime_margin_minutes": 12})
    assert "#SBATCH --signal=USR1@720" in directives(text)


@pytest.mark.parametrize(
    ("site", "changes", "words"),
    [
        ("summit", {}, "no site 'summit': there are frontier"),
        ("frontier", {"account": ""}, "--account PROJECT"),
        ("slurm", {"account": "a b"}, "no name that a scheduler knows"),
        ("slurm", {"queue": "x\n#SBATCH --uid=0"}, "no name that a scheduler knows"),
        ("slurm", {"walltime": "2h"}, "H:MM"),
        ("slurm", {"walltime": "0:05"}, "leaves nothing beside the 5 minutes"),
        ("slurm", {"storage": '/local/"$(id)"'}, "--storage"),
        ("slurm", {"directives": ("a\nb",)}, "one line"),
    ],
)
def test_what_makes_no_sense_is_refused(project: Path, site, changes, words):
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        script_of(project, site, replace(OPTIONS, **changes))


def test_a_missing_dataset_is_named(project: Path):
    config = load_config(project / "train.yaml")
    with pytest.raises(ConfigurationError, match=r"copper.extxyz does not exist: --data"):
        job_script("slurm", project / "train.yaml", config, data=project, out=project / "x", options=OPTIONS)


def test_walltimes():
    assert [walltime_seconds(t) for t in ("0:30", "12:00", "1:02:03")] == [1800, 43200, 3723]


def test_the_command_writes_once(project: Path, tmp_path: Path, capsys):
    words = ["job", "slurm", str(project / "train.yaml"), "--data", str(project / "data"), "-o", str(tmp_path / "run")]
    words += ["--nodes", "1", "--walltime", "1:00"]
    with pytest.raises(SystemExit) as ended:
        app_main(words)
    assert ended.value.code in {0, None}
    script = tmp_path / "run" / "job.sh"
    assert f"sbatch {script}" in capsys.readouterr().err
    assert os.access(script, os.X_OK)
    with pytest.raises(SystemExit) as ended:
        app_main(words)
    assert ended.value.code == 1
    assert "--overwrite" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        app_main([*words, "--print"])
    assert capsys.readouterr().out == script.read_text()


@pytest.fixture
def slurm_job(project: Path, tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a job whose srun is a line of shell; of sbatch, what it is given is noted."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "sbatch").write_text(f'#!/bin/sh\necho "$@" >>"{tmp_path}/submitted"\n')
    config, out = project / "train.yaml", tmp_path / "run"
    options = replace(OPTIONS, stage=False)
    text = job_script("slurm", config, load_config(config), data=project / "data", out=out, options=options)
    started: list[subprocess.Popen[str]] = []

    def start(srun: str) -> subprocess.Popen[str]:
        (bin_ / "srun").write_text(f'#!/bin/bash\necho srun "$@" >>"{tmp_path}/launched"\n{srun}\n')
        for file in bin_.iterdir():
            file.chmod(0o755)
        (place,) = [line for line in text.splitlines() if line.startswith("export PATH=")]
        script = tmp_path / "job.sh"
        script.write_text(text.replace(place, f'export PATH="{bin_}":"$PATH"'))
        variables = os.environ | {"SLURM_JOB_ID": "7"}
        started.append(subprocess.Popen(["bash", str(script)], env=variables, text=True, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.wait(timeout=30)


@pytest.mark.parametrize(
    ("code", "saved", "follows"),
    [
        (0, True, False),
        (1, True, False),  # wrong input
        (3, True, True),  # walltime, or a process that died
        (3, False, False),
        (137, True, True),  # killed
        (138, True, True),  # Slurm's warning
        (143, True, True),  # preempted: only the processes of the training get the signal
        (143, False, False),
    ],
)
def test_another_job_follows_where_it_helps(slurm_job, tmp_path: Path, code: int, saved: bool, follows: bool):
    state = tmp_path / "run" / "state.safetensors"
    job = slurm_job(f"sleep 0.1; {f'touch {state}; ' if saved else ''}exit {code}")
    assert job.wait(timeout=30) == code
    assert (tmp_path / "submitted").exists() == follows, (tmp_path / "run" / "job.txt").read_text()


def test_no_job_follows_one_that_is_cancelled(slurm_job, tmp_path: Path):
    """The scheduler ends the script too."""
    state = tmp_path / "run" / "state.safetensors"
    job = slurm_job(f"trap 'touch {state}; exit 143' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done")
    wait_for((tmp_path / "ready").exists)
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(timeout=30) == -signal.SIGTERM
    wait_for(state.exists)
    assert not (tmp_path / "submitted").exists()


def test_srun_gets_the_threads_and_ends_all_with_one(slurm_job, tmp_path: Path):
    """Slurm may bind no process to its cores: then the cores of a process say nothing of its share."""
    slurm_job("exit 1").wait(timeout=30)
    launched = (tmp_path / "launched").read_text()
    assert launched.startswith("srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=1 --cpus-per-task=1 ")
    assert "hydrapot train --threads 1 " in launched


@pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec")
def test_jobs_stage_stop_resume_and_end(project: Path, tmp_path: Path):
    """Three jobs: one that has no time, one of bad luck that makes no step, one that finishes."""
    bin_, storage, out = tmp_path / "bin", tmp_path / "node storage", tmp_path / "the run"
    bin_.mkdir()
    # What a scheduler would do, and a launcher that also tells what it was asked for.
    (bin_ / "qsub").write_text(f'#!/bin/sh\necho "$1" >>"{tmp_path}/submitted"\n')
    (bin_ / "mpiexec").write_text(f'#!/bin/sh\necho mpiexec "$@" >>"{tmp_path}/launched"\nexec "{MPIEXEC}" "$@"\n')
    for file in bin_.iterdir():
        file.chmod(0o755)
    settings = tmp_path / "environment of mine.sh"
    settings.write_text("export MINE=yes\n")
    # The script puts the environment of this hydrapot first; that of the test has to be before it.
    common = JobOptions(
        nodes=1, walltime="0:02", tasks_per_node=2, stage=True, storage=str(storage), environment=settings
    )

    def job(options: JobOptions, *, number: int, **fields: object) -> subprocess.CompletedProcess[str]:
        fields = {"run.steps": 6, "run.validate_every": 6, **fields}
        words = tuple(f"{name}={value}" for name, value in fields.items())
        config = load_config(project / "train.yaml", overrides=fields)
        script = write_job(
            "pbs",
            project / "train.yaml",
            config,
            data=project / "data",
            out=out,
            options=replace(options, settings=words),
            overwrite=True,
        )
        text = script.read_text()
        (place,) = [line for line in text.splitlines() if line.startswith("export PATH=")]
        script.write_text(text.replace(place, f'{place}\nexport PATH="{bin_}":"$PATH"'))
        return subprocess.run(
            ["bash", str(script)],
            env=environment() | {"PBS_JOBID": f"{number}.here"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    # The margin is nearly all of the job's time, and there are more steps than any machine can do in what remains.
    first = job(
        common, number=1, **{"run.walltime_margin_minutes": 1.98, "run.steps": 10**6, "run.validate_every": 10**6}
    )
    told = (out / "job.txt").read_text()
    assert first.returncode == 3, told
    (stopped,) = re.findall(r"stopped by walltime at step (\d+)", told)
    assert f"staged to {storage}/hydrapot-1.here" in told
    assert f"--data {storage}/hydrapot-1.here" in (tmp_path / "launched").read_text()
    assert not any(storage.iterdir())  # removed again
    assert (tmp_path / "submitted").read_text().split("\n")[0] == str(out / "job.sh")

    # Another that fails before a step: input that cannot be read is no reason to try again.
    broken = job(common, number=2, **{"run.walltime_margin_minutes": 1.0, "sampler.parts": 3})
    assert broken.returncode == 1, (out / "job.txt").read_text()
    assert len((tmp_path / "submitted").read_text().splitlines()) == 1

    last = job(replace(common, walltime="1:00"), number=3, **{"run.steps": int(stopped) + 5})
    told = (out / "job.txt").read_text()
    assert last.returncode == 0, told
    assert "--resume" in (tmp_path / "launched").read_text().splitlines()[-2]
    assert (out / "tiny.safetensors").exists()
    assert len((tmp_path / "submitted").read_text().splitlines()) == 1  # a finished run is followed by none
    assert (out / "jobs.txt").read_text().split() == ["1.here", "2.here", "3.here"]
