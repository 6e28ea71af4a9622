"""Loading a potential for use: by the name of a shipped model or by the path of a checkpoint."""

from importlib.resources import as_file, files
from pathlib import Path

import torch

from hydrapot.potential.checkpoint import read
from hydrapot.potential.errors import CheckpointError, ConfigurationError
from hydrapot.potential.model import Potential

_SUFFIX = ".safetensors"
_WEIGHTS = "hydrapot.potential.weights"


def shipped_models() -> list[str]:
    """Names of the pretrained models that come with this installation."""
    entries = (entry.name for entry in files(_WEIGHTS).iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in entries if name.endswith(_SUFFIX))


def load(
    name_or_path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Potential:
    """Load a potential for evaluation: weights frozen, evaluation mode.

    Parameters
    ----------
    name_or_path
        Name of a shipped model, e.g. ``"hydrapot-s"``, or path of a ``.safetensors`` file.
    device
        Where the network runs.
    dtype
        Precision of the network, ``torch.float32`` or ``torch.float64``. Geometry, reference energies and
        sums are float64 in either case.

    Raises
    ------
    CheckpointError
        An unknown name, or a file that cannot be read; see :func:`hydrapot.potential.checkpoint.read`.
    ConfigurationError
        An unsupported precision, or a device that this machine does not have.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ConfigurationError(f"dtype {dtype} is not supported: choose float32 or float64")
    if isinstance(name_or_path, Path) or name_or_path.endswith(_SUFFIX):
        potential = read(Path(name_or_path).expanduser())
    else:
        names = shipped_models()
        if name_or_path not in names:
            shipped = f"shipped models: {', '.join(names)}" if names else "this installation ships no model"
            raise CheckpointError(
                f"unknown model {name_or_path!r}; {shipped}; the path of a checkpoint ends in {_SUFFIX}"
            )
        with as_file(files(_WEIGHTS) / f"{name_or_path}{_SUFFIX}") as path:
            potential = read(path)
    try:
        potential = potential.to(device=device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:  # which of the two depends on how torch was built
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"device {str(device)!r} cannot be used here: {reason}") from error
    return potential.eval().requires_grad_(requires_grad=False)
