"""One head per dataset, one head for all, or a model for each dataset: what joint training is worth, at equal steps.

    python benchmarks/multitask.py --data DIR -o runs/multitask            # DIR: the files of examples/pretrain_s.yaml

End to end through the product: every file is imported into a store (``hydrapot data import``), the stores are split by
trajectory (``hydrapot data split``), and every model is trained by ``mpiexec -n 2 hydrapot train`` with the structures spread
over the memory of both processes. What is finished is not done again: an interrupted benchmark goes on.

heads      one encoder, one head per dataset
shared     the same encoder and one head, with one set of reference energies, for the structures of all datasets
separate   a model for each dataset, which takes the share of the steps that its dataset had in the joint run

All three take the same number of optimizer steps in total, with batches of the same limits. Errors are on the same held-out
structures; forces as MAE over the mean magnitude of a force component (1: as good as predicting none).
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from rich.console import Console
from rich.table import Table

from hydrapot.potential import load
from hydrapot.training.config import TrainConfig, load_config
from hydrapot.training.data.frames import Frames
from hydrapot.training.data.prepared import make_batch, prepare
from hydrapot.training.data.sampler import BalancedSampler
from hydrapot.training.data.source import concatenate, read_all
from hydrapot.training.data.splits import DatasetSplit, SplitManifest, apply, content_hash, load_manifest, save_manifest
from hydrapot.training.data.store import Store
from hydrapot.training.data.store_layout import StoreAttributes
from hydrapot.training.data.store_writer import StoreWriter
from hydrapot.training.metrics import Metrics, error_sums, metrics_of_sums, relative_force_errors
from hydrapot.training.step import Batch, Predictor

HERE = Path(__file__).resolve().parent
DEFAULT_CONFIG = HERE.parent / "examples" / "pretrain_s.yaml"
JOINT = "all"

console = Console(width=None if sys.stdout.isatty() else 120)


def run(*command: str, log: Path) -> None:
    """Run a command to its end; a failure ends the benchmark with the end of its log."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"\n$ {shlex.join(command)}\n")
        stream.flush()
        if subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False).returncode:
            tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:])
            console.print(f"[red]failed: {shlex.join(command)}[/red]\n{tail}")
            raise typer.Exit(1)


def hydrapot() -> str:
    """The command of this environment."""
    return str(Path(sys.executable).with_name("hydrapot"))


def import_all(config: TrainConfig, data: Path, stores: Path) -> None:
    """A store for every dataset."""
    stores.mkdir(parents=True, exist_ok=True)
    for d in config.datasets:
        store = stores / f"{d.name}.store"
        if (store / "report.json").exists():
            continue
        about = stores / f"{d.name}.yaml"
        document = {
            "level_of_theory": d.level_of_theory.model_dump(mode="json", exclude_none=True),
            "licence": d.licence,
            "attribution": " ".join(d.attribution.split()),
            "references": d.references,
        }
        about.write_text(yaml.safe_dump(document), encoding="utf-8")
        resume = ["--resume"] if store.exists() else []
        command = [hydrapot(), "data", "import", str(data / d.file), "-o", str(store), "--about", str(about), *resume]
        run(*command, log=stores / "import.log")


def read_store(path: Path) -> Frames:
    """All structures of a store."""
    with Store(path) as store:
        return concatenate([read_all(store.view(split)) for split in store.splits])


def write_joint(config: TrainConfig, stores: Path, manifest: SplitManifest, folder: Path) -> Path:
    """All datasets as one, with the same structures held out; returns the manifest."""
    split = folder / "split.json"
    if split.exists():
        return split
    frames = {d.name: read_store(stores / f"{d.name}.store") for d in config.datasets}
    # Free atoms of one level of theory say nothing about another: the joint reference energies are fitted.
    kept = [f.subset(~f.isolated) for f in frames.values()]
    joint = concatenate(kept)
    target = folder / f"{JOINT}.store"
    shutil.rmtree(target, ignore_errors=True)
    attributes = StoreAttributes(
        level_of_theory=config.datasets[0].level_of_theory.model_copy(update={"functional": "mixed", "code": "mixed"}),
        licence="mixed",
        attribution="all datasets of the configuration",
        references="fit",
    )
    with StoreWriter(target, name=JOINT, attributes=attributes, precision="float64") as writer:
        writer.append(joint)
    stored = read_store(target)
    validation = sorted({h for name in frames for h in manifest.datasets[name].validation})
    held = np.isin(stored.hashes, validation)
    document = DatasetSplit(
        label="group",
        n_train=int((~held).sum()),
        n_validation=int(held.sum()),
        n_isolated=0,
        content=content_hash(stored),
        validation=validation,
    )
    save_manifest(SplitManifest(seed=manifest.seed, fraction=manifest.fraction, datasets={JOINT: document}), split)
    return split


def write_config(
    base: TrainConfig, path: Path, *, name: str, datasets: list[dict[str, Any]], split: Path, steps: int, size: str
) -> Path:
    """A configuration for a run of `steps` steps."""
    channels, layers = (int(x) for x in size.split("x"))
    document = base.model_dump(mode="json", exclude={"card", "datasets"}, exclude_none=True)
    document |= {"name": name, "split": os.path.relpath(split, path.parent), "datasets": datasets}
    document["model"]["encoder"] |= {"channels": channels, "layers": layers}
    document["optimizer"]["warmup_steps"] = max(1, min(500, steps // 10))
    document["sampler"]["parts"] = 2
    document["data"]["structures"] = "distributed"
    document["run"] |= {"steps": steps, "validate_every": steps, "compile": False, "checkpoint_minutes": 2.0}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def train(config: Path, data: Path, out: Path) -> None:
    """Two processes; resumed if interrupted, left alone if finished."""
    summary = out / "summary.json"
    steps = load_config(config).run.steps
    if summary.exists() and json.loads(summary.read_text(encoding="utf-8"))["step"] >= steps:
        return
    resume = ["--resume"] if (out / "state.safetensors").exists() else []
    mpiexec = str(Path(sys.executable).with_name("mpiexec"))
    command = [mpiexec, "-n", "2", hydrapot(), "train", str(config), "--data", str(data), "-o", str(out), *resume]
    out.mkdir(parents=True, exist_ok=True)
    run(*command, "--threads", "1", log=out.with_suffix(".log"))


def summary_metrics(out: Path) -> dict[str, Metrics]:
    """Errors per head of a finished run."""
    metrics: dict[str, Metrics] = json.loads((out / "summary.json").read_text(encoding="utf-8"))["metrics"]
    return metrics


def errors_of_joint_head(
    checkpoint: Path, stores: Path, manifest: SplitManifest, config: TrainConfig
) -> dict[str, Metrics]:
    """Errors of the one head on the held-out structures of each dataset."""
    potential = load(str(checkpoint))
    predictor = Predictor(potential, compiled=False)
    found: dict[str, Metrics] = {}
    for d in config.datasets:
        frames = read_store(stores / f"{d.name}.store")
        held = frames.subset(apply(manifest, frames)[1])
        prepared = prepare(
            held, references=potential.references[JOINT], repulsion=potential.repulsion, cutoff=potential.cutoff
        )
        sampler = BalancedSampler(
            [held.counts], [prepared.degrees], temperature=1.0, edge_slots=24_000, max_structures=24, seed=0
        )
        sums = torch.zeros(10, dtype=torch.float64)
        for rows in sampler.round(0):
            graph, head, targets = make_batch(
                rows, [prepared], scales=[prepared.scales()], weights=[1.0], cutoff=potential.cutoff
            )
            batch = Batch(graph, head, targets)
            sums += error_sums(predictor(batch), batch)
        baseline = {"baseline_force_mae_mev_per_a": float(np.nanmean(np.abs(held.forces))) * 1e3}
        found[d.name] = metrics_of_sums(sums) | baseline
    return found


def table_of(results: dict[str, dict[str, Metrics]], structures: dict[str, int]) -> Table:
    """Errors per dataset and variant."""
    table = Table("dataset", "training structures", *(f"{v} {q}" for q in ("forces", "meV/atom") for v in results))
    relative = {variant: relative_force_errors(metrics) for variant, metrics in results.items()}
    for name, count in structures.items():
        forces = [f"{r[name]:.3f}" if name in r else "–" for r in relative.values()]
        energies = [m.get(name, {}).get("energy_mae_mev_per_atom") for m in results.values()]
        table.add_row(name, f"{count:,}", *forces, *("–" if e is None else f"{e:.1f}" for e in energies))
    medians = [f"{np.median(list(r.values())):.3f}" if r else "–" for r in relative.values()]
    table.add_row("median", "", *medians, *("" for _ in results))
    return table


def main(
    data: Annotated[Path, typer.Option(help="Directory of the dataset files.")],
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("runs/multitask"),
    config: Annotated[Path, typer.Option(help="Datasets, and everything that is not changed here.")] = DEFAULT_CONFIG,
    steps: Annotated[int, typer.Option(min=10, help="In total, of each variant.")] = 2000,
    size: Annotated[str, typer.Option(help="Channels x layers.")] = "32x2",
) -> None:
    """Train the three variants and tabulate their errors."""
    base, began = load_config(config), time.monotonic()
    output = output.absolute()
    stores, split = output / "stores", output / "stores" / "split.json"
    import_all(base, data.absolute(), stores)
    if not split.exists():
        files = [str(stores / f"{d.name}.store") for d in base.datasets]
        run(hydrapot(), "data", "split", *files, "-o", str(split), "--seed", "0", log=stores / "import.log")
    manifest = load_manifest(split)
    structures = {d.name: manifest.datasets[d.name].n_train for d in base.datasets}
    console.print(f"imported and split: {time.monotonic() - began:.0f} s")

    entries = {
        d.name: d.model_dump(mode="json", exclude_none=True) | {"file": f"{d.name}.store"} for d in base.datasets
    }
    joint_split = write_joint(base, stores, manifest, output / "joint")
    joint = {
        "file": f"{JOINT}.store",
        "references": "fit",
        "level_of_theory": {"functional": "mixed"},
        "licence": "mixed",
        "attribution": "all datasets of the configuration",
    }

    def make(name: str, datasets: list[dict[str, Any]], where: Path, count: int) -> Path:
        path = output / f"{name}.yaml"
        return write_config(base, path, name=name, datasets=datasets, split=where, steps=count, size=size)

    train(make("heads", list(entries.values()), split, steps), stores, output / "heads")
    console.print(f"heads: {time.monotonic() - began:.0f} s")
    train(make("shared", [joint], joint_split, steps), output / "joint", output / "shared")
    console.print(f"shared: {time.monotonic() - began:.0f} s")
    weight = {name: n**base.sampler.temperature for name, n in structures.items()}
    separate: dict[str, Metrics] = {}
    for name, entry in entries.items():
        count = max(1, round(steps * weight[name] / sum(weight.values())))
        train(make(f"separate-{name}", [entry], split, count), stores, output / "separate" / name)
        separate |= summary_metrics(output / "separate" / name)
    results = {
        "heads": summary_metrics(output / "heads"),
        "shared": errors_of_joint_head(output / "shared" / "shared.safetensors", stores, manifest, base),
        "separate": separate,
    }
    document = {
        "command": f"python {shlex.join(sys.argv)}",
        "steps": steps,
        "size": size,
        "seed": base.run.seed,
        "structures": structures,
        "results": results,
    }
    (output / "multitask.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    console.print(table_of(results, structures))
    console.print(f"{time.monotonic() - began:.0f} s; written to {output}")


if __name__ == "__main__":
    typer.run(main)
