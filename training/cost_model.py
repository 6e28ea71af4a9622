r"""What a training step costs on P processes: a model fitted to measured runs, and its prediction for larger machines.

.. math::

    T(P) = \underbrace{\bigl(t_0\,k(P) + s\,w(P)\bigr)}_{\text{compute}}
           \Bigl(1 + \frac{\sigma\, e(P)}{\sqrt{k(P)}}\Bigr)
         + \underbrace{\alpha \log_2 P + \frac{2(P-1)}{P}\,\frac{B}{b}}_{\text{all-reduce}} + d

=========  =========================  ==========================================================================
symbol     field of a ``Fit``         meaning
=========  =========================  ==========================================================================
``w``                                 edge slots that a process computes in a step
``k``                                 parts of a batch that a process computes in a step
``B``                                 bytes of the gradient, known from the model
``e(P)``                              expected largest of P standard normal numbers
``t_0``    ``overhead``               time of a part that does not depend on its size, s
``s``      ``per_edge_slot``          s per edge slot
``sigma``  ``imbalance``              standard deviation of the time of a part, relative
``alpha``  ``latency``                s per stage of the all-reduce
``1/b``    ``inverse_bandwidth``      s per byte
``d``      ``data_wait``              waiting for batches, s
=========  =========================  ==========================================================================

The all-reduce is the usual ring (bandwidth term) with the depth of a tree (latency term): Thakur, Rabenseifner & Gropp, Int. J.
High Perform. Comput. Appl. 19, 49 (2005). Processes wait for the slowest; times of parts are taken as independent and normal,
so that the slowest of P is ``e(P)`` standard deviations late. Each term is fitted to its own section of the telemetry, by
least squares with bounds at zero; a parameter that the runs do not determine is left out and named.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from scipy.optimize import lsq_linear
from scipy.special import log_ndtr
from scipy.stats import t as student_t

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.scaling import Mode, Point

#: Of all intervals.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Parameter:
    """A fitted number.

    Attributes
    ----------
    value
        Zero or more.
    error
        Standard error; None if the rows leave no freedom to estimate it, or the value was given.
    freedom
        Degrees of freedom of `error`.
    note
        Why it is not determined, or where it comes from; empty for a proper fit.
    """

    value: float
    error: float | None = None
    freedom: int = 0
    note: str = ""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Two-sided 95 % interval, cut off at zero; None without an error."""
        if self.error is None:
            return None
        half = float(student_t.ppf(0.5 + CONFIDENCE / 2, self.freedom)) * self.error
        return max(self.value - half, 0.0), self.value + half


@dataclass(frozen=True)
class Fit:
    """A fitted model; see the table above."""

    overhead: Parameter
    per_edge_slot: Parameter
    imbalance: Parameter
    latency: Parameter
    inverse_bandwidth: Parameter
    data_wait: Parameter
    #: Of the training that was measured: mode, largest run, and its batch.
    mode: Mode
    measured: int
    structures: float
    edge_slots: float
    parts: int
    gradient_bytes: int
    #: Covariances of parameters that were fitted together.
    covariances: Mapping[tuple[str, str], float] = field(default_factory=dict)
    #: Root mean square of (model / measured − 1) over the points.
    residual: float = math.nan

    @property
    def undetermined(self) -> dict[str, str]:
        """Parameters that the runs do not determine, and why."""
        return {name: p.note for name, p in self.parameters().items() if p.note}

    def parameters(self) -> dict[str, Parameter]:
        """All of them, by name."""
        return {name: getattr(self, name) for name in PARAMETERS}


#: Relative range of the work of a process between rows, below which a slope is not told from a constant.
_LEAST_SPREAD = 0.1
PARAMETERS = ("overhead", "per_edge_slot", "imbalance", "latency", "inverse_bandwidth", "data_wait")


@dataclass(frozen=True)
class Prediction:
    """What the model says about a number of processes; times in seconds a step.

    Attributes
    ----------
    seconds, interval
        Of a step; 95 % interval from the errors of the parameters alone, or None.
    compute, waiting, communication, data
        Its parts.
    efficiency
        Relative to one process of the model.
    beyond
        Processes over those of the largest run that was measured: how far this is extrapolated.
    impossible
        Why there can be no such run; the times are NaN then.
    """

    processes: int
    seconds: float
    interval: tuple[float, float] | None
    compute: float
    waiting: float
    communication: float
    data: float
    efficiency: float
    beyond: float
    impossible: str = ""


@cache
def expected_maximum(n: int) -> float:
    """Mean of the largest of `n` independent standard normal numbers."""
    x = np.linspace(0.0, 12.0, 12_001)
    above = 1.0 - np.exp(n * log_ndtr(x)) - np.exp(n * log_ndtr(-x))
    return float(trapezoid(above, x))


def fit(points: Sequence[Point], *, mode: Mode) -> Fit:
    """Fit the model to matched runs, in the order of their processes.

    Every row of telemetry counts, except those of oversubscribed runs if two others are left. Errors describe how rows scatter
    within these runs, not what another day or another machine would give.

    Raises
    ------
    ConfigurationError
        Fewer than two points.
    """
    if len(points) < 2:
        raise ConfigurationError("a cost model needs runs on two numbers of processes at least")
    free = [p for p in points if not p.oversubscribed]
    points = free if len(free) > 1 else points
    rows = [(p, s) for p in points for s in p.samples]
    processes = np.array([p.processes for p, _ in rows], dtype=float)
    work = np.array([s.edge_slots for _, s in rows]) / processes
    compute, waiting, communication, data = (
        np.array([getattr(s, name) for _, s in rows]) for name in ("compute", "waiting", "communication", "data")
    )
    found: dict[str, Parameter] = {}
    together: dict[tuple[str, str], float] = {}

    def solve(
        columns: Mapping[str, NDArray[np.float64]], target: NDArray[np.float64], where: NDArray[np.bool_]
    ) -> None:
        # Noise of timings goes with their length: every number of processes counts by relative deviations.
        typical = np.array([target[processes == n].mean() for n in processes])
        weight = 1.0 / np.maximum(typical, 1e-9 * max(target.max(), 1e-12))[where]
        parameters, covariance = _solve([c[where] * weight for c in columns.values()], target[where] * weight)
        names = list(columns)
        found.update(zip(names, parameters, strict=True))
        if covariance is not None and len(names) == 2:
            together[names[0], names[1]] = float(covariance[0, 1])

    every, many = processes > 0, processes > 1
    shares = np.array([_shares(p.processes, parts=p.parts) for p, _ in rows])
    if np.ptp(work / shares) > _LEAST_SPREAD * (work / shares).mean():
        solve({"overhead": shares, "per_edge_slot": work}, compute, every)
    else:
        solve({"per_edge_slot": work}, compute, every)
        found["overhead"] = Parameter(0.0, note="the parts of all rows are of one size: counted with the work")
    depth, size = np.log2(processes), 2.0 * (1.0 - 1.0 / processes) * points[0].gradient_bytes
    if len(set(processes[many])) > 1:
        solve({"latency": depth, "inverse_bandwidth": size}, communication, many)
    else:
        solve({"inverse_bandwidth": size}, communication, many)
        found["latency"] = Parameter(0.0, note="needs two numbers of processes above one: counted with the bandwidth")
    late = np.array([lateness(p.processes, parts=p.parts) for p, _ in rows])
    solve({"imbalance": late * compute}, waiting, many)
    solve({"data_wait": np.ones_like(data)}, data, every)
    last = points[-1]
    result = Fit(
        overhead=found["overhead"],
        per_edge_slot=found["per_edge_slot"],
        imbalance=found["imbalance"],
        latency=found["latency"],
        inverse_bandwidth=found["inverse_bandwidth"],
        data_wait=found["data_wait"],
        mode=mode,
        measured=last.processes,
        structures=last.structures,
        edge_slots=last.edge_slots,
        parts=last.parts,
        gradient_bytes=last.gradient_bytes,
        covariances=together,
    )
    ratios = np.array([predict(result, p.processes).seconds / p.mean("step") - 1.0 for p in points])
    return replace(result, residual=float(np.sqrt(np.mean(ratios**2))))


def lateness(processes: int, *, parts: int) -> float:
    """Expected delay of the slowest process over the mean time of a process, in relative standard deviations of a part."""
    return expected_maximum(processes) / math.sqrt(_shares(processes, parts=parts))


def _shares(processes: int, *, parts: int) -> float:
    """Parts of a batch that a process computes; with more processes than parts, batches would be cut into more."""
    return max(parts / processes, 1.0)


def with_network(model: Fit, *, latency: float | None = None, bandwidth: float | None = None) -> Fit:
    """The model with the network of another machine.

    Parameters
    ----------
    model
        What was fitted.
    latency
        Of one stage of an all-reduce, s.
    bandwidth
        Of a process in an all-reduce, bytes/s.
    """
    if latency is not None:
        model = replace(model, latency=Parameter(latency, note="given"))
    if bandwidth is not None:
        model = replace(model, inverse_bandwidth=Parameter(1.0 / bandwidth, note="given"))
    return model


def predict(model: Fit, processes: int) -> Prediction:
    """Time of a step on `processes`, in the mode of the runs: the same batch (strong), or one that grows with them (weak)."""
    beyond = processes / model.measured
    if model.mode == "strong" and processes > model.structures:
        why = f"a batch of {model.structures:.0f} structures cannot occupy {processes} processes"
        nan = math.nan
        return Prediction(processes, nan, None, nan, nan, nan, nan, nan, beyond, why)
    values = {name: p.value for name, p in model.parameters().items()}
    compute, waiting, communication, data = _terms(model, processes, values)
    seconds = compute + waiting + communication + data
    interval = _interval(model, processes, values, seconds)
    alone = sum(_terms(model, 1, values))
    ideal = alone / processes if model.mode == "strong" else alone
    return Prediction(processes, seconds, interval, compute, waiting, communication, data, ideal / seconds, beyond)


def _interval(model: Fit, processes: int, values: dict[str, float], seconds: float) -> tuple[float, float] | None:
    """95 % interval of the time of a step, from errors and covariances of the parameters, to first order."""
    fitted = {name: p for name, p in model.parameters().items() if p.error is not None}
    if not fitted:
        return None
    slopes = {}
    for name, parameter in fitted.items():
        step = parameter.error or 1e-6 * parameter.value or 1e-12
        slopes[name] = (sum(_terms(model, processes, values | {name: values[name] + step})) - seconds) / step
    variance = sum((slopes[name] * (p.error or 0.0)) ** 2 for name, p in fitted.items())
    for (one, other), covariance in model.covariances.items():
        if one in fitted and other in fitted:
            variance += 2.0 * slopes[one] * slopes[other] * covariance
    freedom = min(p.freedom for p in fitted.values())
    half = float(student_t.ppf(0.5 + CONFIDENCE / 2, freedom)) * math.sqrt(max(variance, 0.0))
    return max(seconds - half, 0.0), seconds + half


def _terms(model: Fit, processes: int, values: dict[str, float]) -> tuple[float, float, float, float]:
    """Compute, waiting, communication and data, s."""
    strong = model.mode == "strong"
    work = model.edge_slots / (processes if strong else model.measured)
    parts = model.parts if strong else model.parts // model.measured * processes
    compute = values["overhead"] * _shares(processes, parts=parts) + values["per_edge_slot"] * work
    waiting = compute * values["imbalance"] * lateness(processes, parts=parts)
    share = 2.0 * (1.0 - 1.0 / processes)
    reduce = values["latency"] * math.log2(processes) + share * model.gradient_bytes * values["inverse_bandwidth"]
    return compute, waiting, reduce, values["data_wait"]


def _solve(
    columns: Sequence[NDArray[np.float64]], target: NDArray[np.float64]
) -> tuple[list[Parameter], NDArray[np.float64] | None]:
    """Least squares with all parameters ≥ 0; their covariances where there are more rows than parameters."""
    scale = np.array([np.abs(c).max() for c in columns])
    matrix = np.stack(columns, axis=1) / scale
    scaled = lsq_linear(matrix, target, bounds=(0.0, np.inf)).x
    scaled[scaled < 1e-9 * np.abs(target).max()] = 0.0  # the solver stays inside of the bounds
    values, freedom = scaled / scale, len(target) - len(columns)
    if freedom < 1:
        return [Parameter(float(v)) for v in values], None
    variance = float(np.sum((matrix @ scaled - target) ** 2)) / freedom
    covariance = np.linalg.pinv(matrix.T @ matrix) * variance / np.outer(scale, scale)
    errors = np.sqrt(np.diag(covariance))
    return [Parameter(float(v), float(e), freedom) for v, e in zip(values, errors, strict=True)], covariance
