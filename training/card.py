"""Model card: what a checkpoint is worth, measured through the path that users take.

Nothing of the trainer's own evaluation is used: every validation structure goes through
:func:`hydrapot.potential.evaluate`, and the errors are those of total energies, forces and stresses as reported.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from rich.console import Console
from rich.progress import track

from hydrapot.potential.container import write_atomically
from hydrapot.potential.evaluate import evaluate
from hydrapot.potential.load import load
from hydrapot.potential.model import Potential
from hydrapot.training.config import TrainConfig
from hydrapot.training.data.compact import assemble, compact_edges
from hydrapot.training.data.frames import Frames
from hydrapot.training.datasets import open_datasets
from hydrapot.training.metrics import Metrics, error_metrics, relative_force_errors

#: Atoms per evaluation.
_CHUNK = 500


def write_card(
    model: str,
    config: TrainConfig,
    *,
    data: Path,
    manifest_path: Path,
    out: Path,
    opening: Path | None = None,
    cache_dir: Path | None = None,
) -> dict[str, Metrics]:
    """Measure `model` on the validation structures of `config` and write the card.

    Parameters
    ----------
    model
        Checkpoint path or shipped name, evaluated in float32.
    config, data, manifest_path, cache_dir
        As for :func:`hydrapot.training.run.train`.
    out
        Markdown file.
    opening
        Markdown file that opens the card: what the model is for, and not for.

    Returns
    -------
    dict
        Errors per head, those of the mean predictor included.
    """
    potential = load(model, dtype=torch.float32)
    # Read where they are: a card needs no more than samples of datasets that do not fit into memory.
    config = config.model_copy(update={"data": config.data.model_copy(update={"structures": "file"})})
    opened = open_datasets(config, data=data, manifest_path=manifest_path, cache_dir=cache_dir)
    metrics: dict[str, Metrics] = {}
    per_element: dict[str, dict[str, Metrics]] = {}
    heads = [d.name for d in config.datasets]
    for head in track(heads, description="evaluating", console=Console(stderr=True), transient=True):
        potential.check_head(head)
        train = opened[head].sample(size=config.data.sample)
        held_out = opened[head].held_out(size=config.data.validation)
        opened[head].close()
        errors = structure_errors(potential, held_out, head=head)
        metrics[head] = _metrics(errors) | _mean_predictor(potential, train, held_out, head=head)
        per_element[head] = _by_element(held_out, errors)
    text = render(potential, metrics, per_element, config=config)
    if opening is not None:
        text = f"{opening.read_text(encoding='utf-8').rstrip()}\n\n{text}"
    write_atomically(out, text.encode())
    return metrics


class StructureErrors(list[tuple[float, np.ndarray, np.ndarray]]):
    """Per structure: energy error in eV per atom, force errors ``(N, 3)`` eV/Å, stress error ``(3, 3)`` eV/Å³."""


def structure_errors(potential: Potential, frames: Frames, *, head: str) -> StructureErrors:
    """Prediction minus label for every structure; NaN where there is no label."""
    errors = StructureErrors()
    for start, stop in _chunks(frames):
        structures = [frames.structure(i) for i in range(start, stop)]
        edges = [compact_edges(s, cutoff=potential.cutoff) for s in structures]
        predicted = evaluate(potential, assemble(structures, edges, cutoff=potential.cutoff), head=head)
        energy, stress = predicted.energy.numpy(), predicted.stress.numpy()
        counts = [len(s.numbers) for s in structures]
        forces = np.split(predicted.forces.numpy(), np.cumsum(counts)[:-1])
        for k, s in enumerate(structures):
            errors.append(((energy[k] - s.energy) / counts[k], forces[k] - s.forces, stress[k] - s.stress))
    return errors


def _chunks(frames: Frames) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(frames):
        stop = start + 1
        while stop < len(frames) and frames.offsets[stop + 1] - frames.offsets[start] <= _CHUNK:
            stop += 1
        yield start, stop
        start = stop


def _metrics(errors: StructureErrors, *, prefix: str = "") -> Metrics:
    if not errors:
        return {}
    energy, forces, stress = zip(*errors, strict=True)
    return error_metrics(np.array(energy), np.concatenate(forces), np.stack(stress), prefix=prefix)


def _mean_predictor(potential: Potential, train: Frames, held_out: Frames, *, head: str) -> Metrics:
    """References plus the mean training energy per atom, no forces, mean training stress."""
    reference = np.nan_to_num(potential.references[head].values)

    def interaction(frames: Frames) -> np.ndarray:
        return np.asarray((frames.energy - frames.compositions() @ reference) / frames.counts)

    stress = train.stress[train.has_stress]
    mean_stress = stress.mean(axis=0) if len(stress) else np.zeros((3, 3))
    return error_metrics(
        interaction(held_out) - np.nanmean(interaction(train)),
        held_out.forces,
        held_out.stress - mean_stress,
        prefix="baseline_",
    )


def _by_element(frames: Frames, errors: StructureErrors) -> dict[str, Metrics]:
    """Errors on the structures of a single element, per element."""
    present = frames.compositions() > 0
    found: dict[str, Metrics] = {}
    for z in np.flatnonzero(present.any(axis=0)).tolist():
        alone = np.flatnonzero(present[:, z] & (present.sum(axis=1) == 1))
        if len(alone):
            chosen = StructureErrors(errors[i] for i in alone.tolist())
            found[chemical_symbols[z]] = {"structures": float(len(chosen))} | _metrics(chosen)
    return found


# --- text ---


def render(
    potential: Potential,
    metrics: Mapping[str, Metrics],
    per_element: Mapping[str, Mapping[str, Metrics]],
    *,
    config: TrainConfig,
) -> str:
    """The tables of a card, as Markdown."""
    info = potential.info
    encoder = info.architecture.encoder
    weights = sum(p.numel() for p in potential.parameters())
    relative = relative_force_errors(metrics)
    elements = sorted({z for h in info.heads.values() for z in h.structures_per_element}, key=chemical_symbols.index)
    structures = sum(h.structures for h in info.heads.values())
    parts = [
        f"## {config.name}: measurements",
        (
            f"PaiNN, {encoder.channels} channels × {encoder.layers} layers, {encoder.n_radial} radial functions,"
            f" cutoff {potential.cutoff:g} Å, {weights:,} weights; {len(info.heads)} heads; {structures:,} training structures;"
            f" {len(elements)} elements. Content hash `{info.content_hash[:16]}…`."
        ),
        (
            "Errors on held-out structures, of total energies, forces and stresses as reported in float32. *group*: blocks"
            " and whole systems of many trajectories are held out; *interpolation*: one to four trajectories, each on both"
            " sides, so that the figures say how well known systems are interpolated and nothing about others. In brackets"
            " the mean predictor: reference energies plus the mean training energy per atom, zero forces, mean training"
            " stress. Force errors count every Cartesian component; *relative* is the force MAE over the mean magnitude of"
            " a component."
        ),
        _error_table(metrics, relative, potential, "mae", "MAE"),
        f"Median over heads of the relative force error: **{np.median(list(relative.values())):.3f}**.",
        _error_table(metrics, relative, potential, "rmse", "RMSE"),
        "### Heads",
        _head_table(potential),
        "### Structures of one element, by element",
        ("Beside the errors of published potentials (same two quantities) where there are any."),
        _element_table(per_element, config, potential),
        "### Elements per head",
        (
            "Number of training structures that contain the element. An element that is not listed raises an error; fewer"
            " than 10 structures give a warning."
        ),
        "\n".join(
            f"- **{n}**: " + ", ".join(f"{e} {c}" for e, c in h.structures_per_element.items())
            for n, h in info.heads.items()
        ),
        "### Data, licences and attribution",
        "\n".join(f"- **{n}** ({h.licence}): {h.attribution}" for n, h in info.heads.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join([_row(header), _row(["---"] * len(header)), *(_row(r) for r in rows)])


def _pair(values: Metrics, key: str, digits: int) -> str:
    if key not in values:
        return "–"
    return f"{values[key]:.{digits}f} ({values['baseline_' + key]:.{digits}f})"


def _error_table(
    metrics: Mapping[str, Metrics], relative: Mapping[str, float], potential: Potential, kind: str, title: str
) -> str:
    header = ["head", "split", f"energy {title}, meV/atom", f"forces {title}, meV/Å", f"stress {title}, GPa"]
    if kind == "mae":
        header.append("relative")
    rows = []
    for head, values in metrics.items():
        row = [
            head,
            potential.info.heads[head].split,
            _pair(values, f"energy_{kind}_mev_per_atom", 1),
            _pair(values, f"force_{kind}_mev_per_a", 0),
            _pair(values, f"stress_{kind}_gpa", 2),
        ]
        if kind == "mae":
            row.append(f"{relative[head]:.3f}" if head in relative else "–")
        rows.append(row)
    return f"### {title}\n\n" + _table(header, rows)


def _head_table(potential: Potential) -> str:
    rows = []
    for name, h in potential.info.heads.items():
        level = h.level_of_theory
        pressure = "–" if h.pressure_range is None else f"{h.pressure_range[0]:.0f} … {h.pressure_range[1]:.0f}"
        known = ", ".join("0" if v == (0, None) else f"{v[0]:+d}/{v[1]}" for v in h.charge_spin)
        rows.append(
            [
                name,
                str(level),
                level.energy_kind,
                h.references,
                str(h.structures),
                ", ".join(h.periodicity),
                "yes" if h.stress_trained else "no",
                pressure,
                known,
            ]
        )
    header = [
        "head",
        "level of theory",
        "energies",
        "references",
        "training structures",
        "periodicity",
        "stress trained",
    ]
    return _table([*header, "pressure seen, GPa", "charge/spin"], rows)


def _element_table(per_element: Mapping[str, Mapping[str, Metrics]], config: TrainConfig, potential: Potential) -> str:
    published = {d.name: d.published for d in config.datasets}
    rows = []
    for head, elements in per_element.items():
        for element, m in elements.items():
            if "energy_rmse_mev_per_atom" not in m or "force_rmse_mev_per_a" not in m:
                continue
            others = [
                f"{p.model} {p.energy_rmse_mev_per_atom:g} / {p.force_rmse_ev_per_a:g}"
                for p in published[head]
                if p.element == element
            ]
            row = [head, potential.info.heads[head].split, element, f"{m['structures']:.0f}"]
            row += [f"{m['energy_rmse_mev_per_atom']:.1f}", f"{m['force_rmse_mev_per_a'] / 1e3:.3f}"]
            rows.append([*row, "; ".join(others) or "–"])
    header = [
        "head",
        "split",
        "element",
        "structures",
        "energy RMSE, meV/atom",
        "force RMSE, eV/Å",
        "published potentials",
    ]
    sources = sorted({p.source for d in config.datasets for p in d.published})
    return "\n\n".join([_table(header, rows), *sources])
