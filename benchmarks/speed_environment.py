"""Environments of the packages that we compare with: made once, by pip, with the same torch as ours.

A package is installed without its dependencies, and then those that running it takes, with torch held at our version.
SchNetPack 2.1.1 asks for an older sympy than torch 2.13 does, and for development tools.
"""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Peer(NamedTuple):
    """A package of a fixed version, and what it needs."""

    packages: tuple[str, ...]
    dependencies: tuple[str, ...]


SCHNETPACK = Peer(
    ("schnetpack==2.1.1",),
    (
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
    ),
)
MACE = Peer(
    ("mace-torch==0.3.16", "e3nn==0.4.4"),
    (
        "numpy>=2",
        "opt_einsum",
        "opt_einsum_fx",
        "ase",
        "torch-ema",
        "prettytable",
        "matscipy>=1.1",
        "h5py",
        "torchmetrics",
        "python-hostlist",
        "configargparse",
        "GitPython",
        "pyyaml",
        "tqdm",
        "lmdb",
        "orjson",
        "matplotlib",
        "pandas",
        "scipy",
    ),
)


class EnvironmentFailedError(Exception):
    """pip did not succeed; the message names the log."""


def peer_python(folder: Path, *, peer: Peer, torch_version: str, announce: Callable[[str], None]) -> Path:
    """Interpreter of a peer's environment in `folder`, which is made if it is not there yet.

    Parameters
    ----------
    folder
        Created with a ``.gitignore`` of its own.
    peer
        What is installed.
    torch_version
        Release of torch, e.g. ``2.13.0``.
    announce
        Told when something will take minutes.

    Raises
    ------
    EnvironmentFailedError
    """
    python = folder / "bin" / "python"
    wanted = hashlib.sha256(repr((*peer, torch_version)).encode()).hexdigest()
    stamp = folder / ".complete"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    announce(f"Installing {', '.join(peer.packages)} with torch {torch_version} into {folder.name}: minutes, once")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    constraints = folder / "constraints.txt"
    constraints.write_text(f"torch=={torch_version}\n")
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, f"torch=={torch_version}"],
        [*pip, "--no-deps", *peer.packages],
        [*pip, "--constraint", str(constraints), *peer.dependencies],
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
