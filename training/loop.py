"""The training loop: batch, gradient, clip, update, average; validation and saves in between.

All processes of a run walk through it in step. What they must agree on (to stop, to save, to skip) travels with the sum of
the losses, once a step, so that no process acts on its own clock or signal.
"""

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from rich.progress import Progress as Bar
from rich.progress import TaskID
from torch import Tensor

from hydrapot.potential.errors import SimulationError
from hydrapot.training.config import TrainConfig
from hydrapot.training.emphasis import Emphasis
from hydrapot.training.feed import Feed, Work
from hydrapot.training.gradients import GradientRule
from hydrapot.training.layout import Layout
from hydrapot.training.metrics import Metrics
from hydrapot.training.objective import Losses
from hydrapot.training.observer import Observer, StepEvent
from hydrapot.training.optimizer import update
from hydrapot.training.progress import Progress
from hydrapot.training.quarantine import keep_culprits
from hydrapot.training.report import Report
from hydrapot.training.schedule import fade, learning_rate
from hydrapot.training.step import Batch, Step
from hydrapot.training.stopping import STOP_REASONS, Stops

logger = logging.getLogger(__name__)


class _Outcome(NamedTuple):
    """What all processes know after a step."""

    event: StepEvent
    #: Index into :data:`STOP_REASONS`, or None to go on.
    stop: int | None
    save: bool


class Loop:
    """One run, from where `progress` stands.

    Parameters
    ----------
    config, progress, layout, rule, feed
        The run, its state, what this process holds, how gradients are made, and of what.
    emphasis
        How much each label counts, and when.
    step
        Loss and gradients of one batch, for a closer look at those that are not finite.
    report
        Writes states, logs and models; validates.
    stops
        Why a run ends early.
    observer
        Measures.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        progress: Progress,
        layout: Layout,
        rule: GradientRule,
        feed: Feed,
        emphasis: Emphasis,
        step: Step,
        report: Report,
        stops: Stops,
        observer: Observer,
    ) -> None:
        self.config, self.progress, self.layout, self.rule = config, progress, layout, rule
        self.emphasis, self.step = emphasis, step
        self.feed, self.report, self.stops, self.observer = feed, report, stops, observer
        #: Errors per head before the first step, of a run that starts from a trained model.
        self.before: dict[str, Metrics] = {}

    def run(self, bar: Bar) -> tuple[str | None, dict[str, Metrics]]:
        """Train to the last step, or until asked to stop.

        Returns
        -------
        Why it stopped early, or None; errors per head of the last validation.

        Raises
        ------
        SimulationError
            More gradients than allowed were not finite.
        """
        steps, run, progress, report = self.config.run.steps, self.config.run, self.progress, self.report
        if self.config.start is not None and progress.step == 0:
            self._validate(bar)  # what the model is worth that the run starts from
            self.before = report.last_metrics
        task = bar.add_task("training", total=steps, completed=progress.step)
        began, before = time.monotonic(), progress.seconds
        stopped: str | None = None
        self.feed.start(progress.position)
        try:
            while progress.step < steps and stopped is None:
                with self.observer.section("data"):
                    work = next(self.feed)
                outcome = self._advance(work)
                progress.position = work.following
                progress.step += 1
                progress.seconds = before + time.monotonic() - began
                self.observer.step(outcome.event)
                report.step(outcome.event, lambda text: bar.update(task, completed=progress.step, description=text))
                if outcome.stop is not None:
                    stopped = STOP_REASONS[outcome.stop]
                if progress.step % run.validate_every == 0 or progress.step == steps:
                    report.save()  # a validation takes a while, in which a job may be killed
                    self._validate(bar)
                elif outcome.save:
                    report.save()
            report.save(wait=True)
            if stopped is not None or not report.last_metrics:
                self._validate(bar, record=False)
        finally:
            self.feed.close()
            report.close()
            self.observer.close()
        return stopped, report.last_metrics

    def _advance(self, work: Work) -> _Outcome:
        """One optimizer step."""
        schedule, steps, step = self.config.optimizer, self.config.run.steps, self.progress.step
        rate = learning_rate(step, steps=steps, config=schedule)
        faded = fade(step, steps=steps, config=schedule)
        weighed = [self.emphasis(batch, share=step / steps, fade=faded) for batch in work.batches]
        batches = [self.layout.adopt(batch) for batch in weighed]
        losses, gradients = self.rule(batches, layout=self.layout, observer=self.observer)
        with self.observer.section("communication"):
            norm = self.layout.norm(gradients)
            sums = self._agree(losses, work)
        finite = bool(torch.isfinite(sums[0]) & torch.isfinite(norm))
        if finite:
            with self.observer.section("optimizer"):
                self._update(gradients, norm, rate=rate)
        else:
            self._skip(work, batches)
        values = sums.tolist()
        event = StepEvent(
            step=step + 1,
            learning_rate=rate,
            losses=(values[0], values[1], values[2], values[3]),
            gradient_norm=float(norm),
            structures=int(values[4]),
            atoms=int(values[5]),
            edges=int(values[6]),
            skipped=not finite,
        )
        flags = values[8:]
        return _Outcome(event, next((k for k, flag in enumerate(flags) if flag), None), save=values[7] > 0)

    def _skip(self, work: Work, batches: Sequence[Batch]) -> None:
        """Leave the weights as they are, and keep what the trouble came from; so many times and no more."""
        step = self.progress.step
        self.progress.skipped += 1
        kept = keep_culprits(
            self.step,
            batches,
            layout=self.layout,
            structures=[self.feed.structures(rows) for rows in work.rows],
            rows=work.rows,
            datasets=[d.name for d in self.config.datasets],
            number=step,
            folder=self.report.quarantine,
        )
        found = int(self.layout.total(torch.tensor([len(kept)], dtype=torch.float64, device=self.layout.device)))
        logger.warning(
            "step %d skipped: the loss or its gradient is not finite; %d parts kept in %s",
            *(step, found, self.report.quarantine),
        )
        if self.progress.skipped > self.config.run.nonfinite_limit:
            raise SimulationError(
                f"the loss or its gradient is not finite at step {step}, after {self.progress.skipped - 1} skipped steps"
                f" (run.nonfinite_limit): look at {self.report.quarantine}, or lower optimizer.learning_rate and go on"
                f" with --resume if {self.report.state_file} exists"
            )

    def _agree(self, losses: Losses, work: Work) -> Tensor:
        """Sums over all processes: losses, sizes, wishes to save and to stop."""
        sizes: Sequence[float] = (
            sum(b.graph.n_graphs for b in work.batches),
            sum(b.graph.n_atoms for b in work.batches),
            sum(b.graph.n_atoms * b.graph.degree for b in work.batches),
        )
        due = self.layout.main and self.report.save_due()
        wishes = torch.tensor(
            [*sizes, float(due), *self.stops.flags()], dtype=torch.float64, device=losses.total.device
        )
        return self.layout.total(torch.cat([torch.stack(list(losses)), wishes]))

    def _update(self, gradients: Sequence[Tensor], norm: Tensor, *, rate: float) -> None:
        tensors = self.layout.tensors
        update(
            self.progress.optimizer,
            tensors,
            gradients,
            rate=rate,
            clip=self.config.optimizer.gradient_clip,
            norm=norm,
        )
        self.progress.average.update(tensors)

    def _validate(self, bar: Bar, *, record: bool = True) -> None:
        task: TaskID = bar.add_task("validating")
        try:
            with self.observer.section("validation"):
                metrics = self.report.validate(record=record)
        finally:
            bar.remove_task(task)
        self.observer.validation(self.progress.step, metrics)
