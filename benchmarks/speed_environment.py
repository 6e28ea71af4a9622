"""The peer's environment: made once, by pip, with the same torch as ours.

SchNetPack 2.1.1 asks for an older sympy than torch 2.13 does, and for development tools. It is installed without its
dependencies, and then those that running it takes, with torch held at our version.
"""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PEER = "schnetpack==2.1.1"
DEPENDENCIES = (
    "numpy>=2",
    "ase",
    "dirsync",
    "fasteners",
    "h5py",
    "hydra-colorlog",
    "hydra-core",
    "matscipy>=1.1",
    "pytorch-lightning",
    "pyyaml",
    "rich",
    "tensorboard",
    "tensorboardX",
    "torch-ema",
    "torchmetrics",
    "tqdm",
)


class EnvironmentFailedError(Exception):
    """pip did not succeed; the message names the log."""


def peer_python(folder: Path, *, torch_version: str, announce: Callable[[str], None]) -> Path:
    """Interpreter of the peer's environment in `folder`, which is made if it is not there yet.

    Parameters
    ----------
    folder
        Created with a ``.gitignore`` of its own.
    torch_version
        Release of torch, e.g. ``2.13.0``.
    announce
        Told when something will take minutes.

    Raises
    ------
    EnvironmentFailedError
    """
    python = folder / "bin" / "python"
    wanted = hashlib.sha256(repr((PEER, DEPENDENCIES, torch_version)).encode()).hexdigest()
    stamp = folder / ".complete"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    announce(f"Installing {PEER} with torch {torch_version} into {folder.name}: minutes, once")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    constraints = folder / "constraints.txt"
    constraints.write_text(f"torch=={torch_version}\n")
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, f"torch=={torch_version}"],
        [*pip, "--no-deps", PEER],
        [*pip, "--constraint", str(constraints), *DEPENDENCIES],
    ]
    log = folder / "install.log"
    with log.open("w") as stream:
        for command in commands:
            stream.write(f"\n$ {' '.join(command)}\n")
            stream.flush()
            if subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode:
                raise EnvironmentFailedError(f"installing the peer failed: see {log}")
    stamp.write_text(wanted)
    return python
