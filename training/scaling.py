"""Measured scaling: what the telemetry of finished runs says about one training on different numbers of processes.

Strong scaling: the same global batches on more processes; the efficiency is ``T(P₀) P₀ / (T(P) P)`` of the times of a step.
Weak scaling: as much work for each process on any number of them; the efficiency is the rate of a process (edge slots a
second, which is what a step costs) over that on the smallest number.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.meter import TELEMETRY_FILE, read_telemetry
from hydrapot.training.progress import STATE_FILE
from hydrapot.training.state import load_state, without_prefix

Mode = Literal["strong", "weak"]
#: Share of the steps of a run that are left out at its beginning: compilation, caches, first batches.
WARM_UP = 0.25
#: Global batches of matched runs may differ by this much, relative.
_MATCHED = 0.05


@dataclass(frozen=True)
class Sample:
    """One row of telemetry: means over its steps, seconds per step, which add up to the time of a step.

    Attributes
    ----------
    compute
        Loss, gradients, update and everything else that is neither of the others; mean over processes.
    waiting
        For the slowest process, at the sums: what processes spend there, less what the last to come spends. Of a row over
        several steps this is a lower bound, since another process may be last in each.
    communication
        What sums take when everyone is there.
    data
        Waiting for batches, mean over processes.
    edge_slots
        Of the whole batch.
    """

    compute: float
    waiting: float
    communication: float
    data: float
    edge_slots: float

    @property
    def step(self) -> float:
        """Wall time of a step, without validations and saves."""
        return self.compute + self.waiting + self.communication + self.data


@dataclass(frozen=True)
class Point:
    """A training on one number of processes; counts are per step and over all processes.

    ``oversubscribed``: there were fewer cores than threads of all processes, which then do not run beside each other.
    """

    processes: int
    parts: int
    seed: int
    structures: float
    atoms: float
    edge_slots: float
    gradient_bytes: int
    compute_max_over_mean: float
    host_gib: float
    device_gib: float | None
    watts: float | None
    hardware: Mapping[str, Any]
    folder: str
    samples: tuple[Sample, ...]
    oversubscribed: bool = False

    def mean(self, name: str) -> float:
        """Mean over the rows of a field of :class:`Sample`."""
        return float(np.mean([getattr(s, name) for s in self.samples]))

    @property
    def spread(self) -> float:
        """Standard deviation of the time of a step between rows, s; NaN for a single row."""
        times = [s.step for s in self.samples]
        return float(np.std(times, ddof=1)) if len(times) > 1 else math.nan

    def as_row(self) -> dict[str, Any]:
        """For JSON."""
        means = {f"{n}_seconds": self.mean(n) for n in ("step", "compute", "waiting", "communication", "data")}
        fields = {k: v for k, v in asdict(self).items() if k != "samples"}
        spread = None if math.isnan(self.spread) else self.spread
        rates = {"atoms_per_second": self.atoms / means["step_seconds"]}
        return {**fields, **means, **rates, "step_seconds_spread": spread, "rows": len(self.samples)}


def read_point(folder: Path) -> Point:
    """A finished or stopped run, from the files in its folder.

    Parameters
    ----------
    folder
        Output directory of a run.

    Raises
    ------
    ConfigurationError
        It holds no run, or one whose telemetry ends before the warm-up is over.
    """
    telemetry = folder / TELEMETRY_FILE
    if not telemetry.exists() or not (folder / STATE_FILE).exists():
        raise ConfigurationError(
            f"{folder} holds no {TELEMETRY_FILE} and {STATE_FILE}: name the output directory of a finished run"
        )
    rows = read_telemetry(telemetry)
    kept = [row for row in rows if row["step"] - row["steps"] >= WARM_UP * rows[-1]["step"]]
    if not kept or "step_seconds" not in kept[0]:
        raise ConfigurationError(
            f"{telemetry} has no row after the first {WARM_UP:.0%} of the steps: run longer, or set telemetry.every lower"
        )
    if len({row["processes"] for row in kept}) > 1:
        raise ConfigurationError(f"{telemetry} was written by different numbers of processes: name a run of one number")
    tensors, document = load_state(folder / STATE_FILE)
    weight = np.array([row["steps"] for row in kept], dtype=float)
    weight /= weight.sum()

    def average(values: Sequence[float]) -> float:
        return float(np.dot(weight, values))

    watts = [row["watts"] for row in kept]
    devices = [row["device_gib_worst"] for row in kept if row["device_gib_worst"] is not None]
    return Point(
        processes=int(kept[0]["processes"]),
        parts=int(document.get("parts", 1)),
        seed=int(document["config"]["run"]["seed"]),
        structures=average([r["structures_per_second"] * r["step_seconds"] for r in kept]),
        atoms=average([r["atoms_per_second"] * r["step_seconds"] for r in kept]),
        edge_slots=average([r["edge_slots_per_second"] * r["step_seconds"] for r in kept]),
        gradient_bytes=sum(t.numel() * t.element_size() for t in without_prefix("weights", tensors).values()),
        compute_max_over_mean=average([r["compute_max_over_mean"] for r in kept]),
        host_gib=max(r["host_gib_worst"] for r in kept),
        device_gib=max(devices, default=None),
        watts=None if None in watts else average(watts),
        hardware=_hardware(folder),
        folder=str(folder),
        samples=tuple(_sample(row) for row in kept),
    )


def _sample(row: Mapping[str, Any]) -> Sample:
    step, steps, seconds = row["step_seconds"], row["steps"], row["seconds"]
    data, sums = seconds["data"] / steps, seconds["communication"] / steps
    least = row["communication_percent_least"] / 100.0 * step
    if row["processes"] == 1:  # the length of the gradient and the end of a step, which are work and no message
        sums = least = 0.0
    return Sample(
        compute=max(step - data - sums, 0.0),
        waiting=max(sums - least, 0.0),
        communication=least,
        data=data,
        edge_slots=row["edge_slots_per_second"] * step,
    )


def _hardware(folder: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")).get("hardware", {}))
    except (OSError, json.JSONDecodeError):
        return {}


def find_mode(points: Sequence[Point]) -> Mode:
    """Strong if all runs had the same number of parts a batch, weak if parts grew with the processes.

    Raises
    ------
    ConfigurationError
        Neither.
    """
    if len({p.parts for p in points}) == 1:
        return "strong"
    if len({p.parts / p.processes for p in points}) == 1:
        return "weak"
    listed = ", ".join(f"{p.processes}: {p.parts}" for p in points)
    raise ConfigurationError(
        f"parts of a batch by number of processes are {listed}: neither the same (strong) nor in proportion (weak)"
    )


def check_matched(points: Sequence[Point], *, mode: Mode) -> list[Point]:
    """The points in the order of their processes, one each.

    Raises
    ------
    ConfigurationError
        They are not runs of one training: another model, another seed, batches that do not fit the mode, or twice the same
        number of processes.
    """
    ordered = sorted(points, key=lambda p: p.processes)
    if len(ordered) < 2:
        raise ConfigurationError("scaling needs runs on two numbers of processes at least")
    first = ordered[0]
    for point in ordered[1:]:
        for name, word in (("gradient_bytes", "model"), ("seed", "seed")):
            if getattr(point, name) != getattr(first, name):
                raise ConfigurationError(f"{point.folder} and {first.folder} have another {word}: they do not compare")
        if mode == "strong":
            ratio = point.edge_slots / first.edge_slots
            if abs(ratio - 1.0) > _MATCHED:
                raise ConfigurationError(
                    f"a batch of {point.folder} holds {ratio:.2f} × the work of {first.folder}: strong scaling needs the same"
                    " sampler.parts in all runs"
                )
    numbers = [p.processes for p in ordered]
    if len(set(numbers)) < len(numbers):
        raise ConfigurationError(f"two runs have the same number of processes: {numbers}")
    return ordered


def efficiency(point: Point, first: Point, *, mode: Mode) -> float:
    """Parallel efficiency of `point` relative to `first`; 1 is ideal."""
    if mode == "strong":
        return first.mean("step") * first.processes / (point.mean("step") * point.processes)
    rate, alone = (p.edge_slots / p.mean("step") / p.processes for p in (point, first))
    return rate / alone
