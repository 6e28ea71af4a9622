"""``hydrapot split``: decide once which structures are held out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hydrapot.training.data.splits import SplitManifest


def split(
    config: Annotated[Path, typer.Argument(help="Training configuration (YAML).", metavar="CONFIG")],
    data: Annotated[Path, typer.Option(help="Directory of the dataset files.")],
    fraction: Annotated[float, typer.Option(min=0.01, max=0.5, help="Share of each dataset to hold out.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of blocks.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing manifest.")] = False,
) -> None:
    """Divide the datasets of a configuration into training and validation, and write the split that CONFIG names.

    Contiguous blocks within each trajectory, and whole small systems, are held out; equal structures stay on one side.
    """
    from hydrapot.potential.errors import ConfigurationError
    from hydrapot.training.config import load_config
    from hydrapot.training.data.splits import make_manifest, save_manifest
    from hydrapot.training.setup import read_datasets

    loaded = load_config(config)
    path = config.parent / loaded.split
    if path.exists() and not overwrite:
        raise ConfigurationError(f"{path} exists: a split is decided once; replace it with --overwrite")
    manifest = make_manifest(read_datasets(loaded, data=data, cache_dir=None).values(), fraction=fraction, seed=seed)
    save_manifest(manifest, path)
    report(manifest, path)


def report(manifest: "SplitManifest", path: Path) -> None:
    """Say what was decided, and where it is written."""
    for name, part in manifest.datasets.items():
        typer.echo(f"{name}: {part.n_train} training, {part.n_validation} validation, {part.label}")
    typer.echo(f"wrote {path}")
