"""Batch scripts for training on clusters, for Slurm and PBS, from one source.

A script stages the datasets to the nodes if wanted, trains, stops in time before the job ends, and submits itself again until
the run is finished.
"""

import re
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.config import TrainConfig
from hydrapot.training.progress import STATE_FILE
from hydrapot.training.sites import Site, find_site

SCRIPT_FILE = "job.sh"
#: Text that goes into a line for the scheduler, or names a queue or an account.
_PLAIN = re.compile(r"[\w.@:=,+/-]+")
#: Exit codes after which another job would not help: wrong input, wrong command line, Ctrl-C. 143 is not among them: a job
#: that is preempted gets SIGTERM on its processes, while one that the user cancels gets it on the script too.
_FINAL = (1, 2, 130)


@dataclass(frozen=True)
class JobOptions:
    """What is asked of a scheduler.

    Attributes
    ----------
    nodes
        Number of them.
    walltime
        ``H:MM`` or ``H:MM:SS``.
    account, queue
        To charge, and to wait in; as usual at the site if empty.
    tasks_per_node, threads, gpus_per_node
        For sites whose nodes are not known; None takes what the site has.
    stage
        Copy the datasets to each node first.
    storage
        Folder of each node to copy to, instead of the site's; shell variables are replaced there.
    environment
        Shell file that the script reads first: modules, variables.
    directives
        Further lines for the scheduler, such as ``--reservation=NAME``.
    settings
        Fields of the configuration to replace: ``run.steps=1000``.
    jobs
        The script submits itself again up to so many jobs in all.
    """

    nodes: int
    walltime: str
    account: str = ""
    queue: str = ""
    tasks_per_node: int | None = None
    threads: int | None = None
    gpus_per_node: int | None = None
    stage: bool = False
    storage: str = ""
    environment: Path | None = None
    directives: tuple[str, ...] = ()
    settings: tuple[str, ...] = field(default=())
    jobs: int = 20


def walltime_seconds(text: str) -> int:
    """Seconds of ``H:MM`` or ``H:MM:SS``.

    Raises
    ------
    ConfigurationError
        Neither.
    """
    match = re.fullmatch(r"(\d{1,4}):([0-5]\d)(?::([0-5]\d))?", text)
    if match is None:
        raise ConfigurationError(f"--walltime {text!r} is not of the form H:MM, such as 2:00")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def write_job(
    site: str,
    config_file: Path,
    config: TrainConfig,
    *,
    data: Path,
    out: Path,
    options: JobOptions,
    overwrite: bool = False,
) -> Path:
    """Write the script into the output directory of the run, and return its path.

    Raises
    ------
    ConfigurationError
        It is there already, or as :func:`job_script`.
    """
    script = out.resolve() / SCRIPT_FILE
    if script.exists() and not overwrite:
        raise ConfigurationError(f"{script} exists: use --overwrite, or choose another -o")
    text = job_script(site, config_file, config, data=data, out=out, options=options)
    script.parent.mkdir(parents=True, exist_ok=True)
    temporary = script.with_name(script.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.chmod(0o755)
    temporary.replace(script)
    return script


def submit_command(site: str) -> str:
    """The scheduler's command that takes a script."""
    return "sbatch" if find_site(site).scheduler == "slurm" else "qsub"


def job_script(site: str, config_file: Path, config: TrainConfig, *, data: Path, out: Path, options: JobOptions) -> str:
    """Text of a batch script.

    Parameters
    ----------
    site
        A name of :data:`~hydrapot.training.sites.SITES`.
    config_file, config
        The training: its file, and what it holds with the settings of `options`.
    data, out
        Directory of the datasets, and of the run; on a file system that all nodes share.
    options
        Of the job.

    Raises
    ------
    ConfigurationError
        An unknown site, no account where one is needed, a walltime that leaves no time to train, a dataset that is not there,
        or an option that no scheduler would understand.
    """
    machine = find_site(site)
    seconds = walltime_seconds(options.walltime)
    margin = round(60 * config.run.walltime_margin_minutes)
    if seconds <= margin:
        raise ConfigurationError(
            f"--walltime {options.walltime} leaves nothing beside the {config.run.walltime_margin_minutes:g} minutes that"
            " run.walltime_margin_minutes keeps for the end"
        )
    if machine.account and not options.account:
        raise ConfigurationError(f"jobs on {site} are charged to a project: give --account PROJECT")
    for name, value in (("account", options.account), ("queue", options.queue)):
        if value and not _PLAIN.fullmatch(value):
            raise ConfigurationError(f"--{name} {value!r} is no name that a scheduler knows")
    if any("\n" in line for line in options.directives):
        raise ConfigurationError("--directive takes one line")
    if re.search(r'["`\\\n]|\$\(', options.storage):
        raise ConfigurationError(f"--storage {options.storage!r}: a folder, with variables such as ${{USER}} at most")
    names = [dataset.file for dataset in config.datasets]
    missing = [name for name in names if not (data / name).exists()]
    if missing:
        raise ConfigurationError(f"{data / missing[0]} does not exist: --data is the directory of the dataset files")
    tasks = options.tasks_per_node or options.gpus_per_node or machine.tasks_per_node
    head = _directives(machine, options, name=config.name, tasks=tasks, margin=margin)
    body = _body(machine, options, tasks=tasks, seconds=seconds, names=names)
    values = {
        "script": out.resolve() / SCRIPT_FILE,
        "config": config_file.resolve(),
        "data": data.resolve(),
        "out": out.resolve(),
    }
    given = [f"{name}={shlex.quote(str(value))}" for name, value in values.items()]
    return "\n".join(["#!/bin/bash -l", *head, *_opening(site), *given, *body]) + "\n"


def _directives(machine: Site, options: JobOptions, *, name: str, tasks: int, margin: int) -> list[str]:
    """Lines for the scheduler."""
    threads = options.threads or machine.threads
    title = re.sub(r"[^\w.-]", "-", name)[:60]
    queue = options.queue or machine.queue
    extra = [*machine.directives, *(machine.storage_directives if options.stage else ())]
    hours, rest = divmod(walltime_seconds(options.walltime), 3600)
    time = f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    if machine.scheduler == "slurm":
        lines = [f"--job-name={title}", f"--nodes={options.nodes}", f"--ntasks-per-node={tasks}", f"--time={time}"]
        lines += [f"--account={options.account}"] if options.account else []
        if not machine.account:  # a cluster that is not known
            lines += [f"--cpus-per-task={threads}"]
            lines += [f"--gpus-per-node={options.gpus_per_node}"] if options.gpus_per_node else []
        # To the processes of the training, which stop and save; the script itself goes on.
        lines += [f"--signal=USR1@{max(margin, 1)}"]
        lines += [f"{machine.queue_option}={queue}"] if queue else []
        return [f"#SBATCH {line}" for line in (*lines, *extra, *options.directives)]
    select = f"-l select={options.nodes}"
    if not machine.account:
        select += f":ncpus={tasks * threads}:mpiprocs={tasks}"
        select += f":ngpus={options.gpus_per_node}" if options.gpus_per_node else ""
    lines = [f"-N {title[:15]}", select, f"-l walltime={time}", "-j oe"]
    lines += [f"-A {options.account}"] if options.account else []
    lines += [f"{machine.queue_option} {queue}"] if queue else []
    return [f"#PBS {line}" for line in (*lines, *extra, *options.directives)]


def _opening(site: str) -> list[str]:
    return [
        "",
        f"# Trains with hydrapot on {site}; written by `hydrapot job`. Submits itself again until the run is finished.",
        "set -uo pipefail",
        "",
    ]


def _body(machine: Site, options: JobOptions, *, tasks: int, seconds: int, names: list[str]) -> list[str]:
    """Everything after the paths: environment, launchers, staging, training, next job."""
    threads = options.threads or machine.threads
    total = options.nodes * tasks
    if machine.scheduler == "slurm":
        # A process that dies ends the others, which might wait for it long; wrong input is said by one.
        own = ("--kill-on-bad-exit=1", *(machine.launcher or (f"--cpus-per-task={threads}",)))
        numbers = f"srun --nodes={options.nodes} --ntasks={total} --ntasks-per-node={tasks}"
        each = f"srun --nodes={options.nodes} --ntasks={options.nodes} --ntasks-per-node=1"
        submit, job = "sbatch", "SLURM_JOB_ID"
    else:
        own = machine.launcher
        numbers = f"mpiexec -n {total} -ppn {tasks}"
        each = f"mpiexec -n {options.nodes} -ppn 1"
        submit, job = "qsub", "PBS_JOBID"
    settings = " ".join(f"--set {shlex.quote(setting)}" for setting in options.settings)
    environment = [*(f"# {line}" for line in machine.hints), *machine.environment]
    if options.environment is not None:
        environment.append(f". {shlex.quote(str(options.environment.resolve()))}")
    hydrapot = shutil.which("hydrapot", path=str(Path(sys.executable).parent))
    if hydrapot is not None:
        environment.append(f'export PATH={shlex.quote(str(Path(hydrapot).parent))}:"$PATH"')
    return [
        f"job=${{{job}:-$$}}",
        "",
        "# --- environment: modules and variables of your own go here ---",
        *environment,
        f"export OMP_NUM_THREADS={threads}",
        "",
        "# --- launchers: the training, and a command once on each node ---",
        f'train() {{ {" ".join([numbers, *own])} hydrapot train --threads {threads} "$@"; }}',
        f'on_each_node() {{ {each} "$@"; }}',
        "",
        'mkdir -p -- "$out" || exit 1',
        'exec >>"$out/job.txt" 2>&1',
        'echo "job $job begins: $(date)"',
        'echo "$job" >>"$out/jobs.txt"',
        'began="$out/.job-began"; touch -- "$began"',
        "",
        *(_staging(machine, options, names) if options.stage else []),
        "# --- train, until the run is finished or the time is up ---",
        "resume=()",
        f'if [[ -e "$out/{STATE_FILE}" ]]; then resume=(--resume); fi',
        f'left=$(awk -v s="$(({seconds} - SECONDS))" \'BEGIN {{ printf "%.2f", s / 60 }}\')',
        " ".join(
            [
                'train "$config" --data "$data" -o "$out" ${resume[@]+"${resume[@]}"}',
                '--set "run.walltime_minutes=$left"',
                *([settings] if settings else []),
            ]
        ),
        "code=$?",
        *(['on_each_node rm -rf -- "$staged"'] if options.stage else []),
        'echo "job $job ends with exit code $code: $(date)"',
        "",
        "# --- another job, if this one has come further and the next may get to the end ---",
        f'case "$code" in 0 | {" | ".join(map(str, _FINAL))}) exit "$code" ;; esac',
        f'if [[ ! "$out/{STATE_FILE}" -nt "$began" ]]; then',
        '    echo "no state was saved in this job: no other follows"',
        f'elif (($(wc -l <"$out/jobs.txt") >= {options.jobs})); then',
        f'    echo "{options.jobs} jobs have run: no other follows"',
        "else",
        f'    {submit} "$script"',
        "fi",
        'exit "$code"',
    ]


def _staging(machine: Site, options: JobOptions, names: list[str]) -> list[str]:
    """Copy the datasets to storage of each node."""
    note = "" if options.storage else f" ({machine.storage_note})"
    files = " ".join(shlex.quote(name) for name in names)
    folders = sorted({str(Path(name).parent) for name in names if "/" in name})
    made = " ".join(['"$staged"', *(f'"$staged"/{shlex.quote(folder)}' for folder in folders)])
    return [
        f"# --- datasets to each node{note} ---",
        f'staged="{options.storage or machine.storage}/hydrapot-$job"',
        f"on_each_node mkdir -p -- {made} || exit 1",
        f"for file in {files}; do",
        '    if ! on_each_node cp -r -- "$data/$file" "$staged/$file"; then',
        '        on_each_node rm -rf -- "$staged"',
        '        echo "staging failed: no room in $staged? train without --stage, or from data.structures: distributed"',
        "        exit 1",
        "    fi",
        "done",
        'data="$staged"',
        'echo "staged to $staged: $(date)"',
        "",
    ]
