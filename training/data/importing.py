"""Published datasets into a store: streaming, several files at a time, resumable after any interruption."""

import importlib.metadata
import json
import logging
import multiprocessing
import queue as queues
import shutil
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hydrapot.potential.container import write_atomically
from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.data.frames import DatasetError
from hydrapot.training.data.import_report import Duplicates, FileTally, ImportReport, sum_of
from hydrapot.training.data.importing_shard import (
    CHUNK_BYTES,
    TALLIES,
    PlannedFile,
    ShardTask,
    import_shard,
    run_task,
    start_worker,
    tally_path,
)
from hydrapot.training.data.limits import Limits
from hydrapot.training.data.readers import FORMATS, LABELS, ReaderOptions, check_options, format_of
from hydrapot.training.data.readers.detection import candidates
from hydrapot.training.data.store import Store
from hydrapot.training.data.store_layout import INDEX, SUFFIX, Precision, StoreAttributes

log = logging.getLogger(__name__)

PLAN, REPORT = "import.json", "report.json"
SHARDS = 32
"""Shards of a store at most; depends on nothing that may change between interruption and resumption."""
COMMIT_EVERY = 100_000
"""Structures between two commits at most: what an interrupted import reads again."""


def import_dataset(
    sources: Sequence[Path],
    store: Path,
    *,
    attributes: StoreAttributes,
    name: str | None = None,
    layout: str | None = None,
    options: ReaderOptions | None = None,
    limits: Limits | None = None,
    precision: Precision = "float32",
    split: str = "all",
    workers: int = 1,
    resume: bool = False,
    progress: bool = True,
    duplicates: bool = True,
    commit_every: int = COMMIT_EVERY,
    chunk_bytes: int = CHUNK_BYTES,
) -> ImportReport:
    """Import files into a new store.

    Parameters
    ----------
    sources
        Files, or folders whose files (also in folders within) are imported where their layout is known.
    store
        ``NAME.store``, a folder that does not exist yet.
    attributes
        Level of theory, licence and attribution.
    name
        Of the dataset; by default that of the store without its suffix.
    layout
        One of `readers.FORMATS`; by default each file's own, found by its content.
    options, limits
        What to read, and what to leave out.
    precision
        Of positions and forces in the store.
    split
        Name of the split that the structures go to.
    workers
        Processes.
    resume
        Go on with an import that was interrupted; begins anew if there is none, and does nothing if it was finished.
    progress
        Show a bar on standard error.
    duplicates
        Count the geometries that occur more than once; reads the finished store.
    commit_every, chunk_bytes
        Structures between commits, and bytes of a file of the store.

    Returns
    -------
    What was imported and what was left out; also written to ``report.json`` in the store.

    Raises
    ------
    ConfigurationError
        An option that makes no sense.
    DatasetError
        A file that is missing, truncated or corrupt, or whose layout is unknown or ambiguous; a store that is there
        already, or that was begun with other files or other options.
    """
    options, limits = options or ReaderOptions(), limits or Limits()
    for label in limits.require:
        if label not in LABELS:
            raise ConfigurationError(f"label {label!r}: there are {', '.join(LABELS)}")
    if set(limits.require) - set(options.labels):
        raise ConfigurationError("a label that is required has to be read, too")
    if store.suffix != SUFFIX:
        raise ConfigurationError(f"{store}: a store is called NAME{SUFFIX}")
    name = name or store.name.removesuffix(SUFFIX)
    if (store / INDEX).exists() and not resume:
        raise DatasetError(f"{store} exists: choose another name, or remove it first")
    if (store / REPORT).exists():  # written last: nothing is left to do
        log.info("%s: the import was finished before", store)
        return ImportReport.model_validate_json((store / REPORT).read_bytes())
    if store.exists() and any(store.iterdir()) and not resume:
        raise DatasetError(f"{store}: an unfinished import is there: go on with --resume, or remove the folder first")

    files = gather(sources, layout=layout)
    for found in sorted({file.layout for file in files}):
        check_options(found, options)
    settings = {
        "format": layout,
        "energy": options.energy,
        "group": options.group,
        "cell": options.cell,
        "labels": list(options.labels),
        "split": split,
    }
    parts = _plan(store, files=files, settings=settings, limits=limits, commit=[commit_every, chunk_bytes])
    tasks = [
        ShardTask(
            store,
            name,
            attributes,
            precision,
            shard,
            len(parts),
            tuple(files[i] for i in part),
            options,
            limits,
            split,
            commit_every,
            chunk_bytes,
        )
        for shard, part in enumerate(parts)
    ]
    try:
        _run(tasks, files=len(files), workers=workers, progress=progress)
    except DatasetError:
        _explain_nothing(store, len(parts))
        raise

    with Store(store) as written:
        report = ImportReport(
            name=name,
            hydrapot=importlib.metadata.version("hydrapot"),
            content=written.content,
            limits=limits,
            settings=settings,
            files=_tallies(store, len(parts)),
            duplicates=count_duplicates(written) if duplicates else None,
        )
    write_atomically(store / REPORT, (report.model_dump_json(indent=1) + "\n").encode())
    killed = store.glob(".*.tmp")  # half-written documents of writers that were killed; nobody writes any more
    for leftover in (store / PLAN, *(tally_path(store, shard) for shard in range(len(parts))), *killed):
        leftover.unlink(missing_ok=True)
    return report


def gather(sources: Sequence[Path], *, layout: str | None) -> list[PlannedFile]:
    """Return the files of an import in a fixed order, each with its layout.

    Raises
    ------
    DatasetError
        Nothing to import, a file named twice, or a layout that is unknown or ambiguous.
    """
    if layout is not None and layout not in FORMATS:
        raise ConfigurationError(f"format {layout!r}: there are {', '.join(FORMATS)}")
    files: list[PlannedFile] = []
    for source in sources:
        if source.is_dir():
            files += _in_folder(source, layout=layout)
        else:
            files.append(PlannedFile(source, source.name, layout or format_of(source)))
    if not files:
        raise DatasetError("no file to import")
    seen: dict[Path, str] = {}
    for file in files:
        place = file.path.resolve()
        if place in seen:
            raise DatasetError(f"{file.path} is given twice")
        seen[place] = file.name
    return files


def count_duplicates(store: Store) -> Duplicates:
    """Count the structures whose geometry (numbers, cell and positions to 1e-4 Å) was there before."""
    hashes = [
        np.array([int(value, 16) for value in frames.hashes], np.uint64)
        for split in store.splits
        for frames in store.iterate(split=split, structures=20_000)
    ]
    _, counts = np.unique(np.concatenate(hashes), return_counts=True)
    return Duplicates(geometries=int((counts > 1).sum()), structures=int((counts - 1).sum()))


def _in_folder(folder: Path, *, layout: str | None) -> list[PlannedFile]:
    found, skipped = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        possible = candidates(path)
        name = str(path.relative_to(folder.parent if folder.name else folder))
        if layout is not None and layout in possible:
            found.append(PlannedFile(path, name, layout))
        elif layout is None and possible:
            found.append(PlannedFile(path, name, format_of(path)))
        else:
            skipped.append(path.name)
    if skipped:
        some = ", ".join(skipped[:3]) + (", …" if len(skipped) > 3 else "")
        log.info("%s: %d files of no layout that is asked for are left out (%s)", folder, len(skipped), some)
    if not found:
        raise DatasetError(f"{folder}: no file in it has a layout that is known{' as ' + layout if layout else ''}")
    return found


def _parts(files: list[PlannedFile]) -> list[list[int]]:
    """Divide the files, in their order, among at most `SHARDS` shards of about equal size."""
    sizes = np.array([file.path.stat().st_size + 1 for file in files], np.float64)
    shards = min(len(files), SHARDS)
    middle = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    of_file = np.minimum((middle * shards).astype(int), shards - 1)
    parts = [np.flatnonzero(of_file == shard).tolist() for shard in range(shards)]
    return [part for part in parts if part]


def _plan(
    store: Path,
    *,
    files: list[PlannedFile],
    settings: dict[str, Any],
    limits: Limits,
    commit: list[int],
) -> list[list[int]]:
    """Write down what is imported how, and return the files of each shard.

    An import that is resumed has to be the same one, and its files stay in their shards also where a truncated one has been
    replaced since.
    """
    plan = {
        "files": [[file.name, file.layout] for file in files],
        "settings": settings,
        "limits": limits.model_dump(mode="json"),
        "commit": commit,
    }
    plan = json.loads(json.dumps(plan))
    place = store / PLAN
    try:
        before = json.loads(place.read_bytes())
    except FileNotFoundError:
        if (store / INDEX).exists():
            raise DatasetError(f"{store}: a finished store without {REPORT}: it was not imported from files") from None
        parts = _parts(files)
        store.mkdir(parents=True, exist_ok=True)
        write_atomically(place, json.dumps({**plan, "parts": parts}, indent=1).encode())
        return parts
    for key, value in plan.items():
        if before.get(key) != value:
            raise DatasetError(f"{store} was begun with other {key}: give the same as then, or remove the folder first")
    found: list[list[int]] = before["parts"]
    return found


def _explain_nothing(store: Path, shards: int) -> None:
    """Say why not one structure was imported, if that is so; then nothing of the store is kept."""
    if not all(tally_path(store, shard).exists() for shard in range(shards)):
        return
    tallies = _tallies(store, shards)
    if any(tally.structures for tally in tallies):
        return
    reasons = [f"{reason} ({count:,})" for reason, count in sum_of(tallies).items()]
    example = next((f"; {t.name}, {e.where}: {e.detail}" for t in tallies for e in t.examples), "")
    shutil.rmtree(store)
    raise DatasetError(
        f"not one structure to import: {'all are left out as ' + ', '.join(reasons) if reasons else 'the files are empty'}"
        f"{example}"
    ) from None


def _tallies(store: Path, shards: int) -> list[FileTally]:
    return [tally for s in range(shards) for tally in TALLIES.validate_json(tally_path(store, s).read_bytes())]


def _run(tasks: list[ShardTask], *, files: int, workers: int, progress: bool) -> None:
    columns = (
        TextColumn("importing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files · {task.fields[structures]:,} structures · {task.fields[rejects]:,} left out"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
        task_id = bar.add_task("", total=files, structures=0, rejects=0)
        totals = [0, 0, 0]

        def show(*added: int) -> None:
            totals[:] = [a + b for a, b in zip(totals, added, strict=True)]
            bar.update(task_id, completed=totals[0], structures=totals[1], rejects=totals[2])

        if workers <= 1 or len(tasks) == 1:
            for task in tasks:
                import_shard(task, show)
            return
        # spawn: forking a process that already runs torch's threads can deadlock.
        context = multiprocessing.get_context("spawn")
        channel, stop = context.Queue(), context.Event()
        pool = ProcessPoolExecutor(
            min(workers, len(tasks)), mp_context=context, initializer=start_worker, initargs=(channel, stop)
        )
        jobs = [pool.submit(run_task, task) for task in tasks]
        try:
            _follow(jobs, channel, show)
        except BrokenProcessPool as error:
            raise DatasetError(
                "a process ended without a word (killed, or out of memory?): go on with --resume, perhaps with fewer -j"
            ) from error
        finally:
            stop.set()  # after an error the others would go on for hours; what they have committed stays
            pool.shutdown(wait=True, cancel_futures=True)


def _follow(jobs: list[Future[None]], channel: Any, show: Any) -> None:
    """Show what the processes report until all are done, or one fails."""
    while True:
        done, running = wait(jobs, timeout=0.2, return_when=FIRST_EXCEPTION)
        while True:
            try:
                show(*channel.get_nowait())
            except queues.Empty:
                break
        for job in done:
            job.result()
        if not running:
            return
