"""Rates, shares of time, memory and energy of a run, measured on every process and told by the main one.

Each process times the sections of its own steps; every so many steps the numbers of all processes are brought together, so
that a row holds means over processes and the worst of them. Rows go to ``telemetry.jsonl`` and, if wanted, to TensorBoard.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.energy import EnergyMeter
from hydrapot.training.layout import Layout
from hydrapot.training.metrics import Metrics
from hydrapot.training.observer import Observer, Section, StepEvent

SECTIONS: tuple[Section, ...] = get_args(Section)
TELEMETRY_FILE = "telemetry.jsonl"
#: What each process contributes beside its sections.
_EXTRAS = ("host_bytes", "device_bytes", "joules")


class TelemetryConfig(BaseModel):
    """What is measured during a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(default=50, ge=1, description="Steps that one row of telemetry.jsonl covers.")
    energy: bool = Field(default=True, description="Read the energy counters of the machine, where there are any.")
    tensorboard: bool = Field(default=False, description="Write event files for TensorBoard as well, in tensorboard/.")


class Meter(Observer):
    """Measures one run.

    Parameters
    ----------
    config
        What is measured.
    out
        Output directory.
    layout
        Brings the processes' numbers together.
    epoch
        Training structures of all datasets: so many are one epoch.
    energy
        Counters of this process.
    resume_step
        Rows beyond this step, written after the state that a run resumes from, are dropped; 0 starts afresh.

    Raises
    ------
    ConfigurationError
        TensorBoard is wanted and not installed.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        *,
        out: Path,
        layout: Layout,
        epoch: int,
        energy: EnergyMeter,
        resume_step: int = 0,
    ) -> None:
        self.config, self.layout, self.epoch, self.energy = config, layout, epoch, energy
        self.file = out / TELEMETRY_FILE
        self._device = layout.device
        self._seconds = dict.fromkeys(SECTIONS, 0.0)
        self._open: list[float] = []  # time of inner sections, for each section that is open
        self._structures = self._joules = 0.0
        self._board: Any = None
        self._conflicts: dict[str, Any] | None = None
        self._weights: dict[str, float] | None = None
        if layout.main:
            kept = _rows(self.file, resume_step)
            if kept:
                self._structures = kept[-1]["epochs"] * epoch
                self._joules = kept[-1]["joules"] or 0.0
            _write(self.file, kept)
            if config.tensorboard:
                self._board = _tensorboard(out / "tensorboard", purge=resume_step)
        self._begin()

    def _begin(self) -> None:
        self._since = time.monotonic()
        self._first_joules = self.energy.joules()
        self._seconds = dict.fromkeys(SECTIONS, 0.0)
        self._steps = self._skipped = 0
        self._counts = [0, 0, 0]

    def section(self, name: Section) -> AbstractContextManager[None]:
        """As in :class:`Observer`; a section within another is taken off the outer one's time."""
        return self._timed(name)

    @contextmanager
    def _timed(self, name: Section) -> Iterator[None]:
        self._open.append(0.0)
        began = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type != "cpu":  # kernels run behind the host; what is measured is when they are done
                torch.accelerator.synchronize(self._device)
            whole = time.perf_counter() - began
            self._seconds[name] += whole - self._open.pop()
            if self._open:
                self._open[-1] += whole

    def step(self, event: StepEvent) -> None:
        """As in :class:`Observer`: every so many steps, a row."""
        self._steps += 1
        self._skipped += event.skipped
        for k, count in enumerate((event.structures, event.atoms, event.edges)):
            self._counts[k] += count
        if event.step % self.config.every == 0:
            self._row(event)

    def _row(self, event: StepEvent) -> None:
        """Bring together what all processes have measured since the last row; write it on the main one."""
        wall = time.monotonic() - self._since
        mine = [self._seconds[s] for s in SECTIONS]
        mine += [float(_peak_host_bytes()), float(_peak_device_bytes(self._device))]
        mine.append(self.energy.joules() - self._first_joules)
        table = torch.zeros(self.layout.world, len(mine) + 1, dtype=torch.float64, device=self._device)
        table[self.layout.rank] = torch.tensor([*mine, float(len(self.energy.counters))], dtype=torch.float64)
        table = self.layout.total(table).cpu()
        if self.layout.main:
            row = self._summary(event, wall, table)
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            self._to_board(row)
        self._begin()

    def _summary(self, event: StepEvent, wall: float, table: torch.Tensor) -> dict[str, Any]:
        structures, atoms, edges = self._counts
        self._structures += structures
        sections = {s: table[:, k] for k, s in enumerate(SECTIONS)}
        host, device, joules, counters = (table[:, len(SECTIONS) + k] for k in range(len(_EXTRAS) + 1))
        counted = bool(counters.sum() > 0)
        self._joules += float(joules.sum())
        busy = sections["forward_backward"]
        # Saves and validations are not what a step costs; a row in which one falls says how long it took.
        training = max(wall - float((sections["validation"] + sections["checkpoint"]).max()), 1e-9)
        epochs = self._structures / self.epoch
        return {
            "step": event.step,
            "epochs": epochs,
            "wall_seconds": wall,
            "processes": self.layout.world,
            "steps": self._steps,
            "skipped_steps": self._skipped,
            "step_seconds": training / self._steps,
            "structures_per_second": structures / training,
            "atoms_per_second": atoms / training,
            "edge_slots_per_second": edges / training,
            "seconds": {s: float(v.mean()) for s, v in sections.items()},
            "data_wait_percent": 100.0 * float(sections["data"].mean()) / training,
            "data_wait_percent_worst": 100.0 * float(sections["data"].max()) / training,
            # A process that is early waits for the others in a sum: what the slowest waits is communication proper.
            "communication_percent": 100.0 * float(sections["communication"].mean()) / training,
            "communication_percent_least": 100.0 * float(sections["communication"].min()) / training,
            "compute_max_over_mean": float(busy.max() / busy.mean().clamp(min=1e-12)),
            "host_gib_worst": float(host.max()) / 2**30,
            "device_gib_worst": float(device.max()) / 2**30 if self._device.type == "cuda" else None,
            "joules": self._joules if counted else None,
            "watts": float(joules.sum()) / wall if counted else None,
            "joules_per_epoch": self._joules / epochs if counted and epochs > 0 else None,
            "conflicts": self._conflicts,
            "head_weights": self._weights,
            "loss": event.losses[0],
            "learning_rate": event.learning_rate,
        }

    def _to_board(self, row: Mapping[str, Any]) -> None:
        if self._board is None:
            return
        for name, value in row.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"telemetry/{name}", value, row["step"])

    def validation(self, step: int, metrics: Mapping[str, Metrics]) -> None:
        """As in :class:`Observer`: errors per head, for TensorBoard (``validation.csv`` has them anyway)."""
        if self._board is None:
            return
        for head, values in metrics.items():
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{name}/{head}", value, step)

    def conflicts(self, heads: Sequence[str], cosines: torch.Tensor) -> None:
        """As in :class:`Observer`: for the next row, how often heads pull apart and which two do so most."""
        n = len(heads)
        if n < 2:
            return
        first, second = torch.triu_indices(n, n, offset=1)
        values = cosines[first, second]
        worst = int(values.argmin())
        self._conflicts = {
            "pairs": len(values),
            "against": int((values < 0).sum()),
            "mean_cosine": float(values.mean()),
            "worst_cosine": float(values[worst]),
            "worst_pair": [heads[int(first[worst])], heads[int(second[worst])]],
        }

    def balance(self, weights: Mapping[str, float]) -> None:
        """As in :class:`Observer`."""
        self._weights = dict(weights)

    def close(self) -> None:
        """As in :class:`Observer`."""
        if self._board is not None:
            self._board.close()


def _peak_host_bytes() -> int:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_device_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def read_telemetry(file: Path) -> list[dict[str, Any]]:
    """Rows of a ``telemetry.jsonl``; a last line that a killed run has left unfinished is no row."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _rows(file: Path, last_step: int) -> list[dict[str, Any]]:
    if last_step == 0 or not file.exists():
        return []
    return [row for row in read_telemetry(file) if row["step"] <= last_step]


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(file)


def _tensorboard(folder: Path, *, purge: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigurationError(
            "telemetry.tensorboard needs the package tensorboard: pip install tensorboard, or set it to false"
        ) from error
    return SummaryWriter(str(folder), purge_step=purge or None)
