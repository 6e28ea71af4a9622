"""What a run leaves on the disk: state, logs, curves, summary, the model, and batches that could not be learned from.

Every process calls the same methods, because copies of the state and errors need all of them; the main process writes.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hydrapot.potential.errors import CheckpointError
from hydrapot.training.config import TrainConfig
from hydrapot.training.evaluation import Evaluation
from hydrapot.training.hardware import describe_hardware
from hydrapot.training.layout import Entry, Layout
from hydrapot.training.metrics import Metrics, relative_force_errors
from hydrapot.training.observer import Observer, StepEvent
from hydrapot.training.output import ModelFile
from hydrapot.training.progress import STATE_FILE, Progress
from hydrapot.training.telemetry import RunLog, write_json
from hydrapot.training.writer import StateWriter

logger = logging.getLogger(__name__)

#: Steps that one row of the log averages over.
LOG_EVERY = 50


class Report:
    """Writes for one run.

    Parameters
    ----------
    config, progress, layout
        The run, its state, and what this process holds.
    evaluation
        Errors on the validation structures.
    model_file
        Writes the model.
    observer
        Measures.
    out
        Output directory.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        progress: Progress,
        layout: Layout,
        evaluation: Evaluation,
        model_file: ModelFile,
        observer: Observer,
        out: Path,
    ) -> None:
        self.config, self.progress, self.layout, self.out = config, progress, layout, out
        self.evaluation, self.model_file, self.observer = evaluation, model_file, observer
        self.state_file = out / STATE_FILE
        self.quarantine = out / "skipped"
        self.writer = StateWriter(self.state_file)
        self.last_metrics: dict[str, Metrics] = {}
        if layout.main:
            _sweep(out, [self.state_file.name, model_file.path.name])
        self.log = RunLog(out, resume_step=progress.step) if layout.main else None
        self._saved = time.monotonic()
        self._rows: list[tuple[float, ...]] = []
        self._atoms, self._since = 0, time.monotonic()

    # --- state ---

    def save_due(self) -> bool:
        """It is time for the next save."""
        return (time.monotonic() - self._saved) / 60.0 >= self.config.run.checkpoint_minutes

    def close(self) -> None:
        """Wait for what is being written; an error of it no longer matters."""
        try:
            self.writer.wait()
        except CheckpointError as error:
            logger.warning("%s", error)

    def save(self, *, wait: bool = False) -> None:
        """Copy the state and write it, in the background unless `wait`."""
        with self.observer.section("checkpoint"):
            snapshot = self.progress.snapshot()
            if self.layout.main:
                self.writer.write(snapshot)
                if wait:
                    self.writer.wait()
        self._saved = time.monotonic()

    # --- steps ---

    def step(self, event: StepEvent, show: Callable[[str], None]) -> None:
        """Add a step to the log; a row is the mean over :data:`LOG_EVERY` steps, without those that were skipped."""
        if not event.skipped:
            self._rows.append((event.learning_rate, *event.losses, event.gradient_norm))
        self._atoms += event.atoms
        if event.step % LOG_EVERY:
            return
        rate = self._atoms / (time.monotonic() - self._since)
        if self._rows and self.log is not None:
            row = torch.tensor(self._rows, dtype=torch.float64).mean(dim=0).tolist()
            self.log.step(_row(event.step, self.progress.seconds, row, rate))
            show(f"training  loss {row[1]:.4f}  {rate:,.0f} atoms/s")
        self._rows, self._atoms, self._since = [], 0, time.monotonic()

    # --- validation ---

    def validate(self, *, record: bool = True) -> dict[str, Metrics]:
        """Errors of the averaged weights on all validation structures; write them, and the model."""
        tensors, average = self.layout.tensors, self.progress.average
        present = [p.detach().clone() for p in tensors]
        average.copy_to(tensors)
        try:
            metrics = self.evaluation()
        finally:
            with torch.no_grad():
                for parameter, value in zip(tensors, present, strict=True):
                    parameter.copy_(value)
        self.last_metrics = metrics
        self.layout.check()
        weights = self.layout.gather(
            Entry(name, name, value) for name, value in zip(self.layout.names, average.values, strict=True)
        )
        if self.log is not None:
            if record:
                self.log.validation(self.progress.step, metrics)
            self.model_file.write(weights, progress=self.progress, metrics=metrics, world=self.layout.world)
            self._summarize(metrics)
        return metrics

    def _summarize(self, metrics: Mapping[str, Metrics]) -> None:
        relative = np.array(list(relative_force_errors(metrics).values()))
        median = float(np.median(relative)) if len(relative) else float("nan")
        logger.info("step %d: median over heads of force MAE / mean |F| = %.4f", self.progress.step, median)
        write_json(
            self.out / "summary.json",
            {
                "step": self.progress.step,
                "steps": self.config.run.steps,
                "seconds": round(self.progress.seconds, 1),
                "skipped_steps": self.progress.skipped,
                "processes": self.layout.world,
                "hardware": describe_hardware(self.layout.device),
                "median_relative_force_mae": median,
                "metrics": metrics,
            },
        )


def _sweep(out: Path, names: Sequence[str]) -> None:
    """Remove what a killed process left of files that it had not yet renamed into place."""
    for name in names:
        for unfinished in out.glob(f".{name}.*.tmp"):
            unfinished.unlink(missing_ok=True)


def _row(step: int, seconds: float, values: Sequence[float], rate: float) -> dict[str, Any]:
    names = ("learning_rate", "loss", "energy", "forces", "stress", "gradient_norm")
    return {
        "step": step,
        "seconds": round(seconds, 2),
        **dict(zip(names, values, strict=True)),
        "atoms_per_second": round(rate, 1),
    }
