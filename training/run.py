"""Train a multi-head potential: from a configuration and a directory of data to a model on the disk.

The pieces: :mod:`~hydrapot.training.setup` reads the data and makes the model, :mod:`~hydrapot.training.layout` says what
this process holds of it, :mod:`~hydrapot.training.feed` brings its batches, :mod:`~hydrapot.training.gradients` makes
gradients of them, :mod:`~hydrapot.training.loop` runs, :mod:`~hydrapot.training.report` writes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.balancing import make_rule
from hydrapot.training.config import TrainConfig
from hydrapot.training.emphasis import DatasetEmphasis, Emphasis
from hydrapot.training.energy import EnergyMeter, counters_of_process
from hydrapot.training.evaluation import Evaluation
from hydrapot.training.feed import PreparedFeed, make_sampler
from hydrapot.training.interrupt import StopRequest
from hydrapot.training.launch import Launch, find_launch
from hydrapot.training.layout import Layout, branch_numbers
from hydrapot.training.layouts import check_layout, make_layout
from hydrapot.training.loop import Loop
from hydrapot.training.messages import training_message_sum
from hydrapot.training.meter import Meter
from hydrapot.training.metrics import Metrics
from hydrapot.training.output import ModelFile
from hydrapot.training.precision import AutocastStep, matrix_products, network_dtype
from hydrapot.training.processes import Processes, joined, thread_count
from hydrapot.training.progress import STATE_FILE, Progress, stored_parts
from hydrapot.training.report import Report
from hydrapot.training.setup import Setup, set_up
from hydrapot.training.step import CompiledStep, EagerStep, Step
from hydrapot.training.stopping import STOP_SIGNALS, Stops, find_deadline

__all__ = ["STATE_FILE", "TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a run."""

    checkpoint: Path
    step: int
    finished: bool
    stop_reason: str
    metrics: dict[str, Metrics]
    #: Those before the first step, of a run that started from a trained model; otherwise empty.
    before: dict[str, Metrics]
    #: "group" or "interpolation" for each head: how its validation structures were separated.
    splits: dict[str, str]
    #: Name of the signal that ended the run early, or None.
    signal: str | None


def train(
    config: TrainConfig,
    *,
    data: Path,
    manifest_path: Path,
    out: Path,
    resume: bool = False,
    threads: int | None = None,
    cache_dir: Path | None = None,
    console: Console | None = None,
    launch: Launch | None = None,
    last: bool = False,
) -> TrainResult:
    """Train as configured, or go on with an interrupted run.

    Every process of a run calls this with the same arguments; what they share is found from their launcher.

    Parameters
    ----------
    config
        The run.
    data
        Directory of the dataset files.
    manifest_path
        Split manifest.
    out
        Output directory: ``<name>.safetensors`` (averaged weights of the last validation), ``state.safetensors`` (what
        a resumed run needs), ``log.csv``, ``validation.csv``, ``loss.png``, ``summary.json``.
    resume
        Continue from ``state.safetensors``; on a CPU with the same number of threads the result is the same to the
        last bit as that of an uninterrupted run.
    threads
        Of torch; None leaves torch's own choice to one process, and gives each of several its share of the cores.
    cache_dir
        Where parsed datasets are kept.
    console
        For the progress display.
    launch
        How this process was started; asked of the environment if not given.
    last
        Whether the process ends after this: signals that ask to stop are ignored from the end of the run on.

    Raises
    ------
    ConfigurationError
        `out` holds a run already and `resume` is false, or there is nothing to resume.
    SimulationError
        More steps than allowed had no finite gradient, or another process died.
    SilentError
        Another process failed, and has said why.
    """
    launch = find_launch() if launch is None else launch
    deadline = find_deadline(config.run.walltime_minutes, margin_minutes=config.run.walltime_margin_minutes)
    names = [d.name for d in config.datasets]
    check_layout(config.layout, datasets=names, world=launch.world)
    resume = _resumes(out, resume, launch)
    if not launch.main or console is None:
        console = Console(stderr=True, quiet=not launch.main)
    with joined(launch, device=config.run.device, timeout_minutes=config.layout.timeout_minutes) as processes:
        threads = threads or thread_count(processes)
        if threads is not None:
            torch.set_num_threads(threads)
        out.mkdir(parents=True, exist_ok=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns, console=console, disable=not launch.main) as bar:
            task = bar.add_task("preparing datasets", total=len(config.datasets))
            setup = set_up(
                config,
                data=data,
                manifest_path=manifest_path,
                cache_dir=cache_dir,
                progress=lambda _: bar.advance(task),
                share=(processes.rank, processes.world),
            )
            bar.remove_task(task)
            # A launcher passes on what a terminal has sent to all already.
            patience = 0.0 if launch.world == 1 else 10.0
            with StopRequest(signals=STOP_SIGNALS, patience=patience, last=last) as request:
                stops = Stops(request, deadline=deadline)
                with _closed(setup, processes), matrix_products(config.run.precision, processes.device):
                    return _run(config, setup, bar, stops, processes, out=out, resume=resume)


@contextmanager
def _closed(setup: Setup, processes: Processes) -> Iterator[None]:
    """Close the datasets when all is done.

    Closing distributed ones takes all processes: one of several that fails alone would wait for the others, which wait for it.
    It ends instead, which the others notice.
    """
    try:
        yield
    except BaseException:
        if processes.world == 1:
            setup.close()
        raise
    setup.close()


def _resumes(out: Path, resume: bool, launch: Launch) -> bool:
    """Whether to go on from a state.

    Processes that torchrun has restarted resume by themselves, from the last state or, before the first, from the start.

    Raises
    ------
    ConfigurationError
        There is no state to resume from, or one that would be overwritten.
    """
    state_file = out / STATE_FILE
    if launch.restarts:
        return state_file.exists()
    if resume and not state_file.exists():
        raise ConfigurationError(f"nothing to resume: {state_file} does not exist")
    if not resume and state_file.exists():
        raise ConfigurationError(f"{out} holds a run already: continue it with --resume, or choose another directory")
    return resume


def _run(
    config: TrainConfig, setup: Setup, bar: Bar, stops: Stops, processes: Processes, *, out: Path, resume: bool
) -> TrainResult:
    """Put the pieces together and run them."""
    setup.potential.to(dtype=network_dtype(config.run.precision))
    parts = config.sampler.parts or (stored_parts(out / STATE_FILE) if resume else None) or processes.world
    branches = branch_numbers(config.layout, setup.potential.heads)
    sampler = make_sampler(setup, config, parts=parts, branches=branches)
    own = sampler.part(processes.rank, processes.world)
    model_file = ModelFile(setup.potential, config, out=out, start=setup.start)
    layout = make_layout(config.layout, setup.potential, processes=processes, sampler=sampler)
    sums = training_message_sum(layout.potential, backend=config.run.backend)
    step_kind = CompiledStep if config.run.compile else EagerStep
    step: Step = step_kind(layout.potential, config=config.objective, message_sum=sums)
    if config.run.precision == "bfloat16":
        step = AutocastStep(step, device_type=processes.device.type)
    rule = make_rule(config.balancing, step, heads=setup.potential.heads, layout=layout, seed=config.run.seed)
    progress = Progress(config, layout, rule, split=setup.split, parts=parts, start=setup.start)
    if resume:
        progress.load(out / STATE_FILE)
    observer = _meter(config, setup, layout, processes, out=out, resume_step=progress.step)
    report = Report(
        config,
        progress=progress,
        layout=layout,
        evaluation=Evaluation(setup, config, layout, message_sum=sums),
        model_file=model_file,
        observer=observer,
        out=out,
    )
    loop = Loop(
        config,
        progress=progress,
        layout=layout,
        rule=rule,
        feed=PreparedFeed(setup, config, sampler=sampler, parts=own),
        emphasis=Emphasis(
            [DatasetEmphasis(d.targets, d.noise, d.ramp) for d in config.datasets],
            scales=list(setup.scales.values()),
            config=config.objective,
        ),
        step=step,
        report=report,
        stops=stops,
        observer=observer,
    )
    stopped, metrics = loop.run(bar)
    if progress.step >= config.run.steps:
        stopped = None  # asked to stop in the last step: there is nothing left to go on with
    reason = "finished" if stopped is None else f"stopped by {stopped} at step {progress.step}; continue with --resume"
    return TrainResult(
        checkpoint=model_file.path,
        step=progress.step,
        finished=progress.step >= config.run.steps,
        stop_reason=reason,
        metrics=metrics,
        before=loop.before,
        splits={name: head.split for name, head in model_file.info.heads.items()},
        signal=stopped if stopped is not None and stopped.startswith("SIG") else None,
    )


def _meter(
    config: TrainConfig, setup: Setup, layout: Layout, processes: Processes, *, out: Path, resume_step: int
) -> Meter:
    device = processes.device
    counters = counters_of_process(
        local_rank=processes.launch.local_rank, device_type=device.type, device_index=device.index
    )
    return Meter(
        config.telemetry,
        out=out,
        layout=layout,
        epoch=sum(len(d) for d in setup.training.values()),
        energy=EnergyMeter(counters if config.telemetry.energy else []),
        resume_step=resume_step,
    )
