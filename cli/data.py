"""``hydrapot data``: from published datasets to stores that are ready for training."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hydrapot.cli.options import Precision

if TYPE_CHECKING:
    from hydrapot.training.data.readers import ReaderOptions

data = typer.Typer(
    no_args_is_help=True,
    help="Published datasets: import, inspect, statistics, split, reference energies.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)

Sources = Annotated[list[Path], typer.Argument(metavar="SOURCE…", help="Stores, or files of published datasets.")]
Layout = Annotated[
    str | None, typer.Option("--format", help="Layout of the files; see docs/data.md.", show_default="by their content")
]
Energy = Annotated[
    str | None,
    typer.Option("--energy", help="Key of the energy, where files have several.", show_default="the usual one"),
]
Group = Annotated[
    str | None,
    typer.Option("--group", help="Key that names the trajectory, in layouts with free keys.", show_default=False),
]
Cell = Annotated[
    str | None,
    typer.Option(
        "--cell", help="'ax ay az bx by bz cx cy cz' in Å, or none, for layouts that do not tell.", show_default=False
    ),
]


class Unit(StrEnum):
    """What is held out."""

    groups = "groups"
    blocks = "blocks"


class Mode(StrEnum):
    """Where reference energies come from."""

    fit = "fit"
    isolated = "isolated"
    zero = "zero"


@data.command("import", no_args_is_help=True)
def import_(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE…", help="Files, or folders of files.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="STORE", help="NAME.store, a new folder.")],
    about: Annotated[
        Path | None, typer.Option(help="YAML with level_of_theory, licence, attribution.", show_default=False)
    ] = None,
    functional: Annotated[str | None, typer.Option(help="Such as PBE or wB97X.", show_default=False)] = None,
    code: Annotated[str | None, typer.Option(help="First-principles program.", show_default="not stated")] = None,
    basis: Annotated[str | None, typer.Option(help="Basis or cutoff.", show_default="not stated")] = None,
    dispersion: Annotated[str | None, typer.Option(help="Dispersion correction.", show_default="none")] = None,
    hubbard_u: Annotated[str | None, typer.Option(help="Hubbard +U corrections.", show_default="none")] = None,
    energy_kind: Annotated[
        str | None, typer.Option(help="total, free, relative to free atoms …", show_default="total")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of the data, such as CC-BY-4.0.", show_default=False)] = None,
    attribution: Annotated[str | None, typer.Option(help="Repository and paper.", show_default=False)] = None,
    references: Annotated[Mode | None, typer.Option(help="Reference energies.", show_default="fit")] = None,
    name: Annotated[str | None, typer.Option(help="Of the dataset.", show_default="that of STORE")] = None,
    layout: Layout = None,
    energy: Energy = None,
    group: Group = None,
    cell: Cell = None,
    labels: Annotated[
        str, typer.Option(help="Labels to import; the others are left out, however many there are.")
    ] = "energy,forces,stress",
    require: Annotated[
        str, typer.Option(help="Labels without which a structure is left out.", show_default="any one label")
    ] = "",
    max_force: Annotated[float, typer.Option(min=0.0, help="eV/Å; 0 is no limit.")] = 100.0,
    min_distance: Annotated[float, typer.Option(min=0.0, help="Å between atoms; 0 is no limit.")] = 0.5,
    max_stress: Annotated[float, typer.Option(min=0.0, help="GPa; 0 is no limit.")] = 1000.0,
    max_atoms: Annotated[int, typer.Option(min=0, help="Of a structure; 0 is no limit.")] = 0,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of positions and forces; energies are double always.")
    ] = Precision.float32,
    split: Annotated[str, typer.Option(help="Name of the split that the structures go to.")] = "all",
    workers: Annotated[int, typer.Option("--workers", "-j", min=1, help="Processes, each with a file at a time.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted import.")] = False,
    duplicates: Annotated[bool, typer.Option(help="Count geometries that occur twice.")] = True,
    commit_every: Annotated[
        int, typer.Option(min=1, help="Structures that an interrupted import reads again at most.")
    ] = 100_000,
) -> None:
    """Import published files into a store, in eV, Å and eV/Å³.

    What cannot be right is left out and reported: labels that are not finite, forces beyond --max-force, atoms closer than
    --min-distance, unknown units. An interrupted import, also a killed one, goes on with --resume.
    """
    from hydrapot.cli.reports import show_import
    from hydrapot.training.data.about import attributes_of
    from hydrapot.training.data.importing import import_dataset
    from hydrapot.training.data.limits import Limits

    given = {
        "functional": functional,
        "code": code,
        "basis": basis,
        "dispersion": dispersion,
        "hubbard_u": hubbard_u,
        "energy_kind": energy_kind,
        "licence": licence,
        "attribution": attribution,
        "references": references.value if references else None,
    }
    report = import_dataset(
        sources,
        output,
        attributes=attributes_of(about, given),
        name=name,
        layout=layout,
        options=_options(energy, group, cell, labels),
        limits=Limits(
            max_force=max_force or None,
            min_distance=min_distance or None,
            max_stress=max_stress or None,
            max_atoms=max_atoms or None,
            require=_names(require),
        ),
        precision=precision.value,
        split=split,
        workers=workers,
        resume=resume,
        duplicates=duplicates,
        commit_every=commit_every,
    )
    show_import(report, output)


@data.command("inspect", no_args_is_help=True)
def inspect(
    sources: Sources,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Look at all structures, not at the first.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Structures to look at, about.")] = 1000,
    layout: Layout = None,
    energy: Energy = None,
    group: Group = None,
    cell: Cell = None,
) -> None:
    """Say what a store or file is: layout, level of theory, counts, elements, labels, ranges, and the first problems."""
    from hydrapot.cli.reports import show_inspection
    from hydrapot.training.data.datasets import Dataset
    from hydrapot.training.data.inspection import inspect as look

    for n, source in enumerate(sources):
        if n:
            typer.echo("")
        dataset = Dataset(source, layout=layout, options=_options(energy, group, cell))
        show_inspection(look(dataset, limit=None if everything else limit), dataset)


@data.command("stats", no_args_is_help=True)
def stats(
    sources: Sources,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for NAME.png and stats.json.", show_default=False)
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="Structures of each dataset to use.")] = 20_000,
    cutoff: Annotated[float, typer.Option(min=0.1, help="Å, of the neighbors that are counted.")] = 5.0,
    layout: Layout = None,
    energy: Energy = None,
) -> None:
    """Tabulate sizes, energies, forces, pressures, distances and neighbors of datasets, and draw their histograms.

    Energies are less reference energies that are fitted to the sample, for the figures only.
    """
    from hydrapot.cli.reports import show_statistics
    from hydrapot.potential.container import write_atomically
    from hydrapot.training.data.datasets import Dataset
    from hydrapot.training.data.statistics import as_json, draw, statistics

    found = []
    for source in sources:
        found.append(
            statistics(
                Dataset(source, layout=layout, options=_options(energy, None, None)), sample=sample, cutoff=cutoff
            )
        )
        if output is not None:
            draw(found[-1], output / f"{found[-1].name}.png")
    show_statistics(found)
    if output is not None:
        write_atomically(output / "stats.json", as_json(found))
        typer.echo(f"wrote {output}/stats.json and {', '.join(f'{s.name}.png' for s in found)}")


@data.command("split", no_args_is_help=True)
def split_(
    sources: Sources,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Split manifest (JSON) to write.")],
    fraction: Annotated[float, typer.Option(min=0.01, max=0.5, help="Share of each dataset to hold out.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice.")] = 0,
    by: Annotated[
        Unit, typer.Option(help="groups: whole trajectories; blocks: contiguous blocks within them.")
    ] = Unit.groups,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing manifest.")] = False,
    layout: Layout = None,
) -> None:
    """Divide datasets into training and validation; the frames of one trajectory never straddle.

    Trajectories are groups of one composition; a dataset of fewer than five has blocks of them held out instead. Equal
    structures stay on one side, in all datasets. `hydrapot split CONFIG` divides the datasets of a training configuration
    by blocks.
    """
    from hydrapot.cli.split import report
    from hydrapot.potential.errors import ConfigurationError
    from hydrapot.training.data.datasets import Dataset
    from hydrapot.training.data.splits import make_manifest, save_manifest

    if output.exists() and not overwrite:
        raise ConfigurationError(f"{output} exists: a split is decided once; replace it with --overwrite")
    datasets = [Dataset(source, layout=layout) for source in sources]
    names = [dataset.name for dataset in datasets]
    if len(set(names)) < len(names):
        raise ConfigurationError("two datasets of one name: names become heads")
    manifest = make_manifest((dataset.frames() for dataset in datasets), fraction=fraction, seed=seed, by=by.value)
    save_manifest(manifest, output)
    report(manifest, output)


@data.command("references", no_args_is_help=True)
def references_(
    sources: Sources,
    *,
    split: Annotated[Path, typer.Option(help="Split manifest; only training structures are used.")],
    mode: Annotated[
        Mode, typer.Option(help="fit: robust (Huber); isolated: frames marked as such; zero: energies are relative.")
    ] = Mode.fit,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON to write.", show_default=False)] = None,
    layout: Layout = None,
) -> None:
    """Determine the reference energies of datasets from their training structures."""
    from hydrapot.cli.reports import show_references
    from hydrapot.potential.container import write_atomically
    from hydrapot.training.data.datasets import Dataset
    from hydrapot.training.data.references import as_json, make_references
    from hydrapot.training.data.splits import apply, load_manifest

    manifest = load_manifest(split)
    found = {}
    for source in sources:
        frames = Dataset(source, layout=layout).frames()
        training, _ = apply(manifest, frames)
        found[frames.name] = make_references(frames, training, mode=mode.value)
        show_references(found[frames.name], frames.subset(training))
    if output is not None:
        write_atomically(output, as_json(found))
        typer.echo(f"wrote {output}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _options(energy: str | None, group: str | None, cell: str | None, labels: str | None = None) -> "ReaderOptions":
    from hydrapot.potential.errors import ConfigurationError
    from hydrapot.training.data.readers import LABELS, ReaderOptions

    numbers: tuple[float, ...] | None = None
    if cell is not None:
        try:
            numbers = () if cell.strip().lower() == "none" else tuple(float(x) for x in cell.split())
        except ValueError:
            numbers = (0.0,)
        if len(numbers) not in {0, 9}:
            raise ConfigurationError(f"--cell {cell!r}: nine numbers in Å, or none")
    return ReaderOptions(energy, group, numbers, LABELS if labels is None else _names(labels))
