"""Train a multi-head potential in one process.

The loop is: draw a batch, compute loss and gradients, clip, update, average. What a multi-process layout changes sits
behind two seams: the sampler (which rank draws what) and the gradients between the step and the optimizer (what is
reduced).
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from hydrapot.potential.checkpoint import save
from hydrapot.potential.errors import ConfigurationError, SimulationError
from hydrapot.potential.model import Potential
from hydrapot.training.averaging import MovingAverage
from hydrapot.training.config import TrainConfig
from hydrapot.training.data.prepared import PreparedDataset, make_batch
from hydrapot.training.data.sampler import BalancedSampler, Position
from hydrapot.training.interrupt import StopRequest
from hydrapot.training.metrics import Metrics, baseline, relative_force_errors, validation_metrics
from hydrapot.training.objective import weigh_energies
from hydrapot.training.prefetch import Prefetched
from hydrapot.training.schedule import fade, learning_rate
from hydrapot.training.setup import Setup, set_up
from hydrapot.training.state import flatten_optimizer, load_state, restore_optimizer, save_state
from hydrapot.training.step import Batch, CompiledStep, EagerStep, Predictor
from hydrapot.training.telemetry import RunLog, write_json

logger = logging.getLogger(__name__)

STATE_FILE = "state.safetensors"
#: Steps that one row of the log averages over.
LOG_EVERY = 50


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a run."""

    checkpoint: Path
    step: int
    finished: bool
    stop_reason: str
    metrics: dict[str, Metrics]
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
) -> TrainResult:
    """Train as configured, or go on with an interrupted run.

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
        Of torch; None leaves torch's own choice.
    cache_dir
        Where parsed datasets are kept.
    console
        For the progress display.

    Raises
    ------
    ConfigurationError
        `out` holds a run already and `resume` is false, or there is nothing to resume.
    SimulationError
        The loss is not finite.
    """
    state_file = out / STATE_FILE
    if resume and not state_file.exists():
        raise ConfigurationError(f"nothing to resume: {state_file} does not exist")
    if not resume and state_file.exists():
        raise ConfigurationError(f"{out} holds a run already: continue it with --resume, or choose another directory")
    if threads is not None:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("preparing datasets", total=len(config.datasets))
        setup = set_up(
            config,
            data=data,
            manifest_path=manifest_path,
            cache_dir=cache_dir,
            progress=lambda _: bar.advance(task),
        )
        bar.remove_task(task)
        run = _Run(setup, config, out=out)
        if resume:
            run.load(state_file)
        with StopRequest() as stop:
            return run.loop(bar, stop)


class _Run:
    """One run: model, optimizer, average and position in the stream of batches."""

    def __init__(self, setup: Setup, config: TrainConfig, *, out: Path) -> None:
        self.config, self.out, self.setup = config, out, setup
        self.potential = setup.potential
        self.names = [name for name, p in self.potential.named_parameters() if p.requires_grad]
        self.parameters = [p for p in self.potential.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.potential, config)
        self.average = MovingAverage(self.parameters, decay=config.optimizer.ema_decay)
        self.gradients = (CompiledStep if config.run.compile else EagerStep)(self.potential, config=config.objective)
        self.predictor = Predictor(self.potential, compiled=config.run.compile)
        self.weights = [d.weight for d in config.datasets]
        self.scales = list(setup.scales.values())
        self.sampler = _sampler(list(setup.training.values()), config)
        self.step, self.seconds = 0, 0.0
        self.position = Position()
        self.last_metrics: dict[str, Metrics] = {}

    # --- state ---

    def save(self) -> None:
        """Write the training state, atomically."""
        tensors: dict[str, Tensor] = {
            f"weights/{n}": p.detach() for n, p in zip(self.names, self.parameters, strict=True)
        }
        tensors |= {f"average/{n}": v for n, v in zip(self.names, self.average.values, strict=True)}
        tensors |= {f"optimizer/{k}": v for k, v in flatten_optimizer(self.optimizer, self.potential).items()}
        document = {
            "config": self.config.model_dump(mode="json"),
            "step": self.step,
            "seconds": self.seconds,
            "updates": self.average.updates,
            "position": asdict(self.position),
            "split": self.setup.split,
        }
        save_state(self.out / STATE_FILE, tensors=tensors, document=document)

    def load(self, path: Path) -> None:
        """Restore the training state; what may differ is the length and bookkeeping of the run.

        Raises
        ------
        ConfigurationError
            The state belongs to another model, other data or another seed.
        """
        tensors, document = load_state(path)
        theirs = TrainConfig.model_validate(document["config"])
        for section, mine in _identity(self.config).items():
            if mine != _identity(theirs)[section]:
                raise ConfigurationError(f"{path} was written by a run with another {section!r}: resume with that one")
        if document["split"] != self.setup.split:
            raise ConfigurationError(
                f"{path} was written by a run with another split: validation would see what was trained on"
            )
        with torch.no_grad():
            for k, name in enumerate(self.names):
                self.parameters[k].copy_(tensors[f"weights/{name}"])
                self.average.values[k].copy_(tensors[f"average/{name}"])
        prefix = "optimizer/"
        restore_optimizer(
            self.optimizer,
            self.potential,
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)},
        )
        self.step, self.seconds = int(document["step"]), float(document["seconds"])
        self.average.updates = int(document["updates"])
        self.position = Position(**document["position"])

    # --- the loop ---

    def loop(self, bar: Progress, stop: StopRequest) -> TrainResult:
        """Train to the last step, or until asked to stop."""
        steps, run = self.config.run.steps, self.config.run
        log = RunLog(self.out, resume_step=self.step)
        batches = Prefetched(self._batches, depth=4)
        task = bar.add_task("training", total=steps, completed=self.step)
        began = saved = time.monotonic()
        before = self.seconds
        sums: list[Tensor] = []
        atoms, since = 0, time.monotonic()
        reason = "finished"
        try:
            for following, batch in batches:
                if self.step >= steps or stop.requested:
                    break
                sums.append(self._advance(batch))
                self.position = following
                atoms += batch.graph.n_atoms
                self.step += 1
                self.seconds = before + time.monotonic() - began
                if self.step % LOG_EVERY == 0:
                    row = torch.stack(sums).mean(dim=0).tolist()
                    rate = atoms / (time.monotonic() - since)
                    log.step(_row(self.step, self.seconds, row, rate))
                    bar.update(
                        task, completed=self.step, description=f"training  loss {row[1]:.4f}  {rate:,.0f} atoms/s"
                    )
                    sums, atoms, since = [], 0, time.monotonic()
                if self.step % run.validate_every == 0 or self.step == steps:
                    self.save()  # a validation takes a while, in which a job may be killed
                    self._validate(log, bar)
                if (time.monotonic() - saved) / 60.0 >= run.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
        finally:
            batches.close()
        if stop.requested:
            reason = f"stopped by {stop.requested} at step {self.step}; continue with --resume"
        self.save()
        if stop.requested or not self.last_metrics:
            self._validate(log, bar, record=False)
        return TrainResult(
            checkpoint=self.checkpoint,
            step=self.step,
            finished=self.step >= steps,
            stop_reason=reason,
            metrics=self.last_metrics,
            splits={name: head.split for name, head in self.potential.info.heads.items()},
            signal=stop.requested,
        )

    def _batches(self) -> Iterator[tuple[Position, Batch]]:
        datasets = list(self.setup.training.values())
        for following, rows in self.sampler.stream(self.position):
            yield following, self._batch(rows, datasets)

    def _batch(self, rows: NDArray[np.int64], datasets: Sequence[PreparedDataset]) -> Batch:
        cutoff = self.config.model.cutoff
        return Batch(*make_batch(rows, datasets, scales=self.scales, weights=self.weights, cutoff=cutoff))

    def _advance(self, batch: Batch) -> Tensor:
        """One optimizer step; returns learning rate, losses and gradient norm, ``(6,)`` float64."""
        schedule = self.config.optimizer
        rate = learning_rate(self.step, steps=self.config.run.steps, config=schedule)
        faded = fade(self.step, steps=self.config.run.steps, config=schedule)
        batch = batch._replace(targets=weigh_energies(batch.targets, config=self.config.objective, fade=faded))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses, gradients = self.gradients(batch)
        norm = torch.nn.utils.get_total_norm(gradients)
        if not bool(torch.isfinite(losses.total) & torch.isfinite(norm)):
            raise SimulationError(
                f"the loss or its gradient is not finite at step {self.step}: lower optimizer.learning_rate and go on"
                f" with --resume if {self.out / STATE_FILE} exists"
            )
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.optimizer.gradient_clip, norm)
        self.optimizer.step()
        self.average.update(self.parameters)
        return torch.stack([torch.tensor(rate, dtype=torch.float64), *losses, norm.double()])

    # --- validation ---

    @property
    def checkpoint(self) -> Path:
        """The model with averaged weights."""
        return self.out / f"{self.config.name}.safetensors"

    def _validate(self, log: RunLog, bar: Progress, *, record: bool = True) -> None:
        """Errors of the averaged weights on all validation structures; write them, and the checkpoint."""
        task = bar.add_task("validating")
        present = [p.detach().clone() for p in self.parameters]
        self.average.copy_to(self.parameters)
        try:
            metrics = self.validate()
            self.last_metrics = metrics
            if record:
                log.validation(self.step, metrics)
            self._write_checkpoint(metrics)
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, present, strict=True):
                    parameter.copy_(value)
            bar.remove_task(task)
        relative = np.array(list(relative_force_errors(metrics).values()))
        median = float(np.median(relative)) if len(relative) else float("nan")
        logger.info("step %d: median over heads of force MAE / mean |F| = %.4f", self.step, median)
        write_json(
            self.out / "summary.json",
            {
                "step": self.step,
                "steps": self.config.run.steps,
                "seconds": round(self.seconds, 1),
                "median_relative_force_mae": median,
                "metrics": metrics,
            },
        )

    def validate(self) -> dict[str, Metrics]:
        """Errors of the present weights per head, with those of the mean predictor."""
        datasets = {name: d for name, d in self.setup.validation.items() if len(d)}
        position = {name: k for k, name in enumerate(self.setup.validation)}
        prepared = list(datasets.values())
        sampler = _sampler(prepared, self.config, temperature=1.0)
        heads = np.array([position[name] for name in datasets])
        scales = [self.scales[k] for k in heads]
        weights = [self.weights[k] for k in heads]

        def batches() -> Iterator[tuple[NDArray[np.int64], Batch]]:
            for rows in sampler.round(0):
                graph, index, targets = make_batch(
                    rows, prepared, scales=scales, weights=weights, cutoff=self.config.model.cutoff
                )
                yield rows, Batch(graph, torch.from_numpy(heads)[index], targets)

        metrics = validation_metrics(self.predictor, batches(), datasets)
        return {n: m | baseline(self.setup.training[n], datasets[n]) for n, m in metrics.items()}

    def _write_checkpoint(self, metrics: dict[str, Metrics]) -> None:
        info = self.potential.info
        heads = {n: h.model_copy(update={"metrics": metrics.get(n, {})}) for n, h in info.heads.items()}
        provenance = {
            "name": self.config.name,
            "step": self.step,
            "steps": self.config.run.steps,
            "seconds": round(self.seconds, 1),
            "hydrapot": version("hydrapot"),
            "torch": torch.__version__,
            "split": self.setup.split,
            "threads": torch.get_num_threads(),
            "config": self.config.model_dump(mode="json", exclude={"datasets", "model"}),
        }
        self.potential.info = info.model_copy(update={"heads": heads, "provenance": provenance})
        try:
            save(self.potential, self.checkpoint)
        finally:
            self.potential.info = info


def _row(step: int, seconds: float, values: Sequence[float], rate: float) -> dict[str, Any]:
    names = ("learning_rate", "loss", "energy", "forces", "stress", "gradient_norm")
    return {
        "step": step,
        "seconds": round(seconds, 2),
        **dict(zip(names, values, strict=True)),
        "atoms_per_second": round(rate, 1),
    }


def _identity(config: TrainConfig) -> dict[str, Any]:
    """What must be the same in a resumed run; its length, rates, bookkeeping and texts may differ."""
    return {
        "model": config.model,
        "objective": config.objective,
        "sampler": config.sampler,
        "run.seed": config.run.seed,
        "datasets": [(d.file, d.references, d.prior, d.weight) for d in config.datasets],
    }


def _optimizer(potential: Potential, config: TrainConfig) -> torch.optim.AdamW:
    trained = [p for p in potential.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.optimizer.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.optimizer.learning_rate)


def _sampler(
    datasets: Sequence[PreparedDataset], config: TrainConfig, *, temperature: float | None = None
) -> BalancedSampler:
    return BalancedSampler(
        [d.frames.counts for d in datasets],
        [d.degrees for d in datasets],
        temperature=config.sampler.temperature if temperature is None else temperature,
        edge_slots=config.sampler.edge_slots,
        max_structures=config.sampler.max_structures,
        seed=config.run.seed,
    )
