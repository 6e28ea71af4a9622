"""One process of a training run that writes down what it learns from: the first gradient, and the loss of every step.

``python training_worker.py PROJECT OUT RECORD '{"run.steps": 50}' [--resume]``, by itself or under a launcher. The model is
in double precision, so that what differs between layouts is the order of sums and nothing else.
"""

import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file

import hydrapot.training.run as run_module
from hydrapot.training.config import load_config
from hydrapot.training.gradients import SummedGradients
from hydrapot.training.layout import Entry
from hydrapot.training.loop import Loop


def main() -> None:
    project, out, record = map(Path, sys.argv[1:4])
    config = load_config(project / "train.yaml", overrides=json.loads(sys.argv[4]))
    losses: list[float] = []
    first: dict[str, torch.Tensor] = {}

    class Recording(SummedGradients):
        def __call__(self, batches, *, layout, observer):
            local, gradients = super().__call__(batches, layout=layout, observer=observer)
            if not losses and not first:
                first["norm"] = layout.norm(gradients).detach().clone().view(1)
                entries = [Entry(f"gradient/{n}", n, g) for n, g in zip(layout.names, gradients, strict=True)]
                first.update(layout.gather(entries))
            return local, gradients

    advance, set_up = Loop._advance, run_module.set_up

    def recorded(self, work):
        outcome = advance(self, work)
        losses.append(outcome.event.losses[0])
        return outcome

    def in_double_precision(*args, **kwargs):
        setup = set_up(*args, **kwargs)
        setup.potential.double()
        return setup

    run_module.SummedGradients, Loop._advance, run_module.set_up = Recording, recorded, in_double_precision
    result = run_module.train(
        config,
        data=project / "data",
        manifest_path=project / config.split,
        out=out,
        resume="--resume" in sys.argv,
        threads=1,
        cache_dir=project / "cache",
        console=Console(quiet=True),
    )
    if run_module.find_launch().main:
        record.parent.mkdir(exist_ok=True)
        save_file(first, record.with_suffix(".safetensors"))
        record.with_suffix(".json").write_text(
            json.dumps({"losses": losses, "metrics": result.metrics, "step": result.step, "reason": result.stop_reason})
        )


if __name__ == "__main__":
    main()
