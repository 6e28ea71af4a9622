"""Scaling of a training as a picture: efficiency over processes with the cost model, and where the time of a step goes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hydrapot.training.cost_model import Fit, Prediction, predict
from hydrapot.training.published_scaling import NO_NUMBERS, STATEMENTS
from hydrapot.training.scaling import Mode, Point, efficiency

#: Shares of a step and their colors, from the bottom.
_SHARES = {"compute": "#33689a", "waiting": "#e0a030", "communication": "#b8433c", "data": "#7d7d7d"}
_TITLES = {
    "compute": "compute",
    "waiting": "waiting for the slowest",
    "communication": "all-reduce",
    "data": "waiting for data",
}


def draw_scaling(
    file: Path, points: Sequence[Point], *, mode: Mode, model: Fit, predictions: Sequence[Prediction]
) -> None:
    """Write a PNG, atomically.

    Left: measured efficiencies, the model through them, and its predictions with their intervals; how far published trainings
    have scaled is marked where a source says so, at no height, since none gives one. Right: time of a step by what it is
    spent on, measured and predicted.
    """
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    possible = [p for p in predictions if not p.impossible]
    if _efficiencies(left, points, mode=mode, model=model, predictions=possible):
        figure.supxlabel(f"Dotted: how far published trainings went; {NO_NUMBERS}.", fontsize=8)
    _times(right, points, model=model, predictions=possible)
    temporary = file.with_name(file.stem + ".tmp.png")
    figure.savefig(temporary, dpi=130)
    temporary.replace(file)


def _efficiencies(
    axes: Axes, points: Sequence[Point], *, mode: Mode, model: Fit, predictions: Sequence[Prediction]
) -> bool:
    """Draw the left side; whether marks of published trainings are on it."""
    first = points[0]
    numbers = [p.processes for p in points]
    largest = max(numbers + [p.processes for p in predictions])
    # Both are told relative to the smallest run: the measured one, and the model's.
    base = predict(model, first.processes).efficiency
    grid = np.unique(np.geomspace(numbers[0], largest, 80).round().astype(int))
    curve = [p for n in grid.tolist() if not (p := predict(model, n)).impossible]
    axes.plot(
        [p.processes for p in curve],
        [p.efficiency / base for p in curve],
        color="#33689a",
        label="cost model, network as fitted",
    )
    if predictions:
        heights = np.array([p.efficiency / base for p in predictions])
        bounds = np.array([p.interval or (p.seconds, p.seconds) for p in predictions])
        seconds = np.array([p.seconds for p in predictions])
        # A longer step is a lower efficiency.
        reach = np.stack(
            [heights - heights * seconds / bounds[:, 1], heights * seconds / np.maximum(bounds[:, 0], 1e-12) - heights]
        )
        where = [p.processes for p in predictions]
        style = {"fmt": "s", "color": "#33689a", "markerfacecolor": "white", "capsize": 3}
        given = any(p.seconds != predict(model, p.processes).seconds for p in predictions)
        label = f"predicted{', network as given' if given else ''}; 95 %"
        axes.errorbar(where, heights, yerr=np.minimum(reach, 2.0), label=label, **style)  # type: ignore[arg-type]
    for crowded, marker, label in ((False, "o", "measured"), (True, "x", "measured, more threads than cores")):
        chosen = [p for p in points if p.oversubscribed == crowded]
        if chosen:
            values = [efficiency(p, first, mode=mode) for p in chosen]
            axes.plot([p.processes for p in chosen], values, marker, color="black", markersize=7, label=label)
    axes.axhline(1.0, color="#aaaaaa", linewidth=1, linestyle="--", label="ideal")
    reached = [s for s in STATEMENTS if s.devices is not None and numbers[0] < s.devices <= largest]
    for k, statement in enumerate(reached):
        axes.axvline(float(statement.devices or 0), color="#999999", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{statement.machine}, {statement.kind or 'training'}",
            (float(statement.devices or 0), 0.02 + 0.045 * (k % 4)),
            xycoords=("data", "axes fraction"),
            ha="right",
            fontsize=7,
            color="#555555",
        )
    axes.set_xscale("log", base=2)
    axes.set(xlabel="processes", ylabel="efficiency", ylim=(0, None), title=f"{mode} scaling")
    if largest > model.measured:
        axes.axvspan(model.measured, largest * 1.15, color="#33689a", alpha=0.06, linewidth=0)
        axes.annotate(
            "extrapolated",
            (model.measured, 0.9),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=8,
            va="top",
            color="#33689a",
        )
    ticks = sorted({*numbers, *(p.processes for p in predictions)})
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks], fontsize=8, rotation=45 if len(ticks) > 8 else 0)
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return bool(reached)


def _times(axes: Axes, points: Sequence[Point], *, model: Fit, predictions: Sequence[Prediction]) -> None:
    bars: list[tuple[str, dict[str, float]]] = []
    for point in points:
        bars.append((f"{point.processes}", {name: point.mean(name) for name in _SHARES}))
        modelled = predict(model, point.processes)
        bars.append(("model", {name: getattr(modelled, name) for name in _SHARES}))
    bars += [(f"{p.processes:,}\npredicted", {name: getattr(p, name) for name in _SHARES}) for p in predictions]
    bottom = np.zeros(len(bars))
    for name, color in _SHARES.items():
        heights = np.array([1e3 * shares[name] for _, shares in bars])
        axes.bar(range(len(bars)), heights, bottom=bottom, color=color, label=_TITLES[name])
        bottom += heights
    axes.set_xticks(range(len(bars)), [title for title, _ in bars], fontsize=7)
    axes.set(xlabel="processes", ylabel="ms per step", title="where the time of a step goes")
    axes.margins(y=0.18)
    axes.legend(frameon=False, fontsize=8, ncols=2)
