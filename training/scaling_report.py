"""Scaling in words and numbers: the document that is written, and the lines that are told."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from hydrapot.training.cost_model import CONFIDENCE, Fit, Parameter, Prediction, fit, predict, with_network
from hydrapot.training.published_scaling import NO_NUMBERS, STATEMENTS
from hydrapot.training.scaling import Mode, Point, check_matched, efficiency, find_mode
from hydrapot.training.scaling_plot import draw_scaling
from hydrapot.training.telemetry import write_json

#: Unit of each parameter as it is shown, and factor from SI.
_UNITS = {
    "overhead": ("ms", 1e3),
    "per_edge_slot": ("ns", 1e9),
    "imbalance": ("%", 1e2),
    "latency": ("µs", 1e6),
    "inverse_bandwidth": ("ns/byte", 1e9),
    "data_wait": ("ms", 1e3),
}


class Analysis(NamedTuple):
    """Matched runs, the model fitted to them, and what it predicts (with the network that was given, if one was)."""

    points: list[Point]
    mode: Mode
    model: Fit
    predictions: list[Prediction]


def analyze(
    points: Sequence[Point],
    *,
    mode: Mode | None = None,
    processes: Sequence[int] = (),
    latency: float | None = None,
    bandwidth: float | None = None,
) -> Analysis:
    """Check that runs are matched, fit the model, predict.

    Parameters
    ----------
    points
        Measured runs.
    mode
        Strong or weak; found from the parts of their batches if not given.
    processes
        What to predict.
    latency, bandwidth
        Of the network of the machine that is predicted, s and bytes/s for each process; as fitted if not given.

    Raises
    ------
    ConfigurationError
        The runs do not compare.
    """
    mode = mode or find_mode(points)
    matched = check_matched(points, mode=mode)
    model = fit(matched, mode=mode)
    elsewhere = with_network(model, latency=latency, bandwidth=bandwidth)
    return Analysis(matched, mode, model, [predict(elsewhere, n) for n in processes])


def write_analysis(analysis: Analysis, *, out: Path, command: str) -> None:
    """Write ``scaling.json`` and ``scaling.png`` into a directory."""
    out.mkdir(parents=True, exist_ok=True)
    points, mode, model, predictions = analysis
    draw_scaling(out / "scaling.png", points, mode=mode, model=model, predictions=predictions)
    document = {
        "mode": mode,
        "command": command,
        "seed": points[0].seed,
        "points": [p.as_row() | {"efficiency": efficiency(p, points[0], mode=mode)} for p in points],
        "model": {
            "parameters": {n: {**asdict(p), "interval": p.interval} for n, p in model.parameters().items()},
            "confidence": CONFIDENCE,
            "relative_residual": model.residual,
            "gradient_bytes": model.gradient_bytes,
        },
        "predictions": [_without_nan(asdict(p)) for p in predictions],
        "published": {"statements": [asdict(s) for s in STATEMENTS], "note": NO_NUMBERS},
    }
    write_json(out / "scaling.json", document)


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in row.items()}  # noqa: PLR0124 - NaN is not itself


def point_rows(analysis: Analysis) -> list[dict[str, str]]:
    """Rows of the table of measured runs."""
    points, mode = analysis.points, analysis.mode
    rows = []
    for p in points:
        modelled = predict(analysis.model, p.processes).seconds
        rows.append(
            {
                "processes": f"{p.processes}{' (crowded)' if p.oversubscribed else ''}",
                "ms/step": f"{1e3 * p.mean('step'):.1f}",
                "model": f"{1e3 * modelled:.1f}",
                "atoms/s": f"{p.atoms / p.mean('step'):,.0f}",
                "efficiency": f"{efficiency(p, points[0], mode=mode):.2f}",
                "compute": f"{1e3 * p.mean('compute'):.1f}",
                "slowest": f"{1e3 * p.mean('waiting'):.1f}",
                "all-reduce": f"{1e3 * p.mean('communication'):.1f}",
                "data": f"{1e3 * p.mean('data'):.1f}",
                "GiB": f"{p.device_gib if p.device_gib is not None else p.host_gib:.2f}",
            }
        )
    return rows


def prediction_rows(analysis: Analysis) -> list[dict[str, str]]:
    """Rows of the table of predictions."""
    rows = []
    for p in analysis.predictions:
        if p.impossible:
            rows.append({"processes": f"{p.processes:,}", "ms/step": "—", "95 %": p.impossible, "efficiency": "—"})
        else:
            interval = "—" if p.interval is None else f"{1e3 * p.interval[0]:.1f} … {1e3 * p.interval[1]:.1f}"
            row = {"processes": f"{p.processes:,}", "ms/step": f"{1e3 * p.seconds:.1f}", "95 %": interval}
            rows.append({**row, "efficiency": f"{p.efficiency:.2f}"})
        rows[-1]["beyond"] = f"{p.beyond:.3g} ×"
    return rows


def parameter_lines(model: Fit) -> list[str]:
    """The fitted parameters, each with its interval or why there is none."""
    return [f"{name:18s} {_told(name, p)}" for name, p in model.parameters().items()]


def _told(name: str, parameter: Parameter) -> str:
    unit, factor = _UNITS[name]
    if parameter.note and not parameter.value:
        return f"not determined: {parameter.note}"
    interval = parameter.interval
    value = f"{factor * parameter.value:.4g} {unit}"
    if interval is None:
        return f"{value}  ({parameter.note or 'as many rows as parameters: no interval'})"
    return f"{value}  (95 %: {factor * interval[0]:.4g} … {factor * interval[1]:.4g})"


def caveats(analysis: Analysis) -> list[str]:
    """What has to be said beside the numbers."""
    lines = [f"the model meets the measured times of a step within {100 * analysis.model.residual:.1f} % (rms)"]
    if any(p.oversubscribed for p in analysis.points):
        lines.append(
            "crowded: more threads than cores; such times say nothing about a machine that has the cores"
            + (", and are not fitted" if sum(not p.oversubscribed for p in analysis.points) > 1 else "")
        )
    far = [p for p in analysis.predictions if p.beyond > 1 and not p.impossible]
    if far:
        lines.append(
            f"predictions reach {max(p.beyond for p in far):.3g} × beyond the largest run: they hold only as far as nothing"
            " appears that these runs do not show (network between nodes, congestion, a busy file system); the intervals hold"
            " the scatter of these runs and nothing else"
        )
    return lines


def published_lines() -> list[str]:
    """Published statements, with their sources."""
    reach = [f"{s.machine}: “{s.words}”, {s.source}" for s in STATEMENTS]
    return [*reach, f"({NO_NUMBERS})"]
