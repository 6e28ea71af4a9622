"""One process of a training run that writes down what it learns from: the first gradient, and the loss of every step.

``python training_worker.py PROJECT OUT RECORD '{"run.steps": 50}' [--resume] [--die-at=STEP]``, by itself or under a
launcher. With ``--die-at`` process 1 kills itself at that step, the first time that it is started.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

import hydrapot.training.run as run_module
from hydrapot.training.config import load_config
from hydrapot.training.launch import find_launch
from hydrapot.training.layout import Entry
from hydrapot.training.loop import Loop


def run(project: Path, out: Path, record: Path, settings: dict[str, object], *options: str) -> None:
    """Train, and write `record` (.safetensors, .json) on the main process."""
    config = load_config(project / "train.yaml", overrides=settings)
    losses: list[float] = []
    first: dict[str, torch.Tensor] = {}
    launch = find_launch()
    doomed = next((int(o.partition("=")[2]) for o in options if o.startswith("--die-at=")), None)
    advance, make_rule = Loop._advance, run_module.make_rule

    class Recording:
        """A gradient rule that notes the first gradient that another one makes."""

        def __init__(self, rule):
            self.rule = rule

        def __getattr__(self, name):
            return getattr(self.rule, name)

        def __call__(self, batches, *, layout, **more):
            local, gradients = self.rule(batches, layout=layout, **more)
            if not losses and not first:
                first["norm"] = layout.norm(gradients).detach().clone().view(1)
                entries = [Entry(f"gradient/{n}", n, g) for n, g in zip(layout.names, gradients, strict=True)]
                first.update(layout.gather(entries))
            return local, gradients

    def recorded(self, work):
        if self.progress.step == doomed and launch.rank == 1 and launch.restarts == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        outcome = advance(self, work)
        losses.append(outcome.event.losses[0])
        return outcome

    run_module.make_rule, Loop._advance = lambda *args, **kwargs: Recording(make_rule(*args, **kwargs)), recorded
    try:
        result = run_module.train(
            config,
            data=project / "data",
            manifest_path=project / config.split,
            out=out,
            resume="--resume" in options,
            threads=1,
            cache_dir=project / "cache",
            console=Console(quiet=True),
        )
    finally:
        run_module.make_rule, Loop._advance = make_rule, advance
    if launch.main:
        record.parent.mkdir(exist_ok=True)
        save_file({k: v.contiguous() for k, v in first.items()}, record.with_suffix(".safetensors"))
        record.with_suffix(".json").write_text(
            json.dumps({"losses": losses, "metrics": result.metrics, "step": result.step, "reason": result.stop_reason})
        )


if __name__ == "__main__":
    run(*map(Path, sys.argv[1:4]), json.loads(sys.argv[4]), *sys.argv[5:])
