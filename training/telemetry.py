"""What a run writes about itself: a CSV row per interval and per validation, a JSON summary, loss curves."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from hydrapot.training.metrics import Metrics, relative_force_errors

_STEP_COLUMNS = (
    "step",
    "seconds",
    "learning_rate",
    "loss",
    "energy",
    "forces",
    "stress",
    "gradient_norm",
    "atoms_per_second",
)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON to a temporary name, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


class RunLog:
    """CSV log of a run, ``log.csv``, and per-head validation log, ``validation.csv``, in a directory.

    Parameters
    ----------
    directory
        Output directory of the run.
    resume_step
        Rows beyond this step, written after the state that a run resumes from, are dropped; 0 starts afresh.
    """

    def __init__(self, directory: Path, *, resume_step: int) -> None:
        self.steps_file = directory / "log.csv"
        self.validation_file = directory / "validation.csv"
        self.curves_file = directory / "loss.png"
        self.steps = _keep(self.steps_file, resume_step)
        self.validations = _keep(self.validation_file, resume_step)

    def step(self, row: Mapping[str, float]) -> None:
        """Append one row of training averages."""
        self.steps.append({name: row[name] for name in _STEP_COLUMNS})
        _append(self.steps_file, self.steps[-1], new=len(self.steps) == 1)

    def validation(self, step: int, metrics: Mapping[str, Metrics]) -> None:
        """Append one row per head and redraw the curves."""
        relative = relative_force_errors(metrics)
        for head, values in metrics.items():
            row = {
                "step": step,
                "head": head,
                "energy_mae_mev_per_atom": values.get("energy_mae_mev_per_atom", float("nan")),
                "force_mae_mev_per_a": values.get("force_mae_mev_per_a", float("nan")),
                "stress_mae_gpa": values.get("stress_mae_gpa", float("nan")),
                "relative_force_mae": relative.get(head, float("nan")),
            }
            self.validations.append(row)
            _append(self.validation_file, row, new=len(self.validations) == 1)
        self.draw()

    def draw(self) -> None:
        """Loss terms over the steps, and the relative force error of each head over the validations, as PNG."""
        figure = Figure(figsize=(12, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        steps = [r["step"] for r in self.steps]
        for name in ("energy", "forces", "stress"):
            left.plot(steps, [r[name] for r in self.steps], label=name, linewidth=1)
        left.set(xlabel="step", ylabel="scaled error", yscale="log", title="training")
        left.legend(frameon=False)
        heads = list(dict.fromkeys(r["head"] for r in self.validations))
        colors = colormaps["tab20"]
        for k, head in enumerate(heads):
            rows = [r for r in self.validations if r["head"] == head]
            right.plot(
                [r["step"] for r in rows],
                [r["relative_force_mae"] for r in rows],
                label=head,
                linewidth=1,
                color=colors(k % 20),
            )
        right.set(xlabel="step", ylabel="force MAE / mean |F|", yscale="log", title="validation")
        if heads:
            right.legend(frameon=False, fontsize=6, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5))
        temporary = self.curves_file.with_name("loss.tmp.png")
        figure.savefig(temporary, dpi=130)
        temporary.replace(self.curves_file)


def _keep(path: Path, last_step: int) -> list[dict[str, Any]]:
    """Rows up to `last_step`, in memory and on disk."""
    if last_step == 0 or not path.exists():
        path.unlink(missing_ok=True)
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        # A last line that a full disk or a dead node has left unfinished is no row.
        lines = [line for line in stream if line.endswith("\n")]
    kept = [r for r in map(_numbers, csv.DictReader(lines)) if r["step"] <= last_step]
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    for k, row in enumerate(kept):
        _append(temporary, row, new=k == 0)
    temporary.touch()
    temporary.replace(path)
    return kept


def _numbers(row: Mapping[str, str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for name, value in row.items():
        parsed[name] = value if name == "head" else int(value) if name == "step" else float(value)
    return parsed


def _append(path: Path, row: Mapping[str, Any], *, new: bool) -> None:
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
