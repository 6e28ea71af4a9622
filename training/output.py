"""The model that a run leaves: averaged weights with metrics and provenance, in the ordinary checkpoint format.

Whatever the layout, one file that every tool loads.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hydrapot.potential.checkpoint import save
from hydrapot.potential.metadata import CheckpointInfo
from hydrapot.potential.model import Potential
from hydrapot.potential.references import ReferenceEnergies
from hydrapot.training.config import TrainConfig
from hydrapot.training.metrics import Metrics
from hydrapot.training.progress import Progress


class ModelFile:
    """Writes the checkpoint of a run.

    Parameters
    ----------
    potential
        The whole model, for what does not change: heads, references, scales, precision.
    config
        The run.
    out
        Output directory.
    start
        Content hash of the model that the run starts from, or None.
    """

    def __init__(self, potential: Potential, config: TrainConfig, *, out: Path, start: str | None = None) -> None:
        self.config, self.start = config, start
        self.path = out / f"{config.name}.safetensors"
        self.info: CheckpointInfo = potential.info
        self.references: dict[str, ReferenceEnergies] = dict(potential.references)
        self.scales = {name: potential.head(name).scale for name in potential.heads}
        self.dtype = potential.dtype
        self.frozen = {n: p.detach().cpu().clone() for n, p in potential.named_parameters() if not p.requires_grad}

    def _config(self) -> dict[str, Any]:
        """The configuration, without what the checkpoint has elsewhere and without paths of this machine."""
        document = self.config.model_dump(mode="json", exclude={"datasets", "model"})
        if document.get("start"):
            document["start"]["model"] = Path(document["start"]["model"]).name
        return document

    def write(
        self, weights: Mapping[str, Tensor], *, progress: Progress, metrics: Mapping[str, Metrics], world: int = 1
    ) -> None:
        """Write the model with `weights`, whole tensors by the names of the parameters, atomically."""
        heads = {n: h.model_copy(update={"metrics": metrics.get(n, {})}) for n, h in self.info.heads.items()}
        provenance = {
            "name": self.config.name,
            "step": progress.step,
            "steps": self.config.run.steps,
            "seconds": round(progress.seconds, 1),
            "hydrapot": version("hydrapot"),
            "torch": torch.__version__,
            "split": progress.split,
            "threads": torch.get_num_threads(),
            "processes": world,
            **({"start": self.start} if self.start else {}),
            "config": self._config(),
        }
        state = torch.random.get_rng_state()
        potential = Potential(self.info, references=self.references, scales=self.scales).to(self.dtype)
        torch.random.set_rng_state(state)  # building draws initial weights
        potential.load_state_dict(potential.state_dict() | self.frozen | dict(weights), strict=True)
        potential.info = self.info.model_copy(update={"heads": heads, "provenance": provenance})
        save(potential, self.path)
