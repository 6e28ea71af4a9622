"""Telemetry of a training run: what is counted where, over all processes, and after a resume."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from hydrapot.potential.errors import ConfigurationError
from hydrapot.training.config import load_config
from hydrapot.training.energy import EnergyMeter, FileCounter, node_counters
from hydrapot.training.meter import TELEMETRY_FILE, Meter, TelemetryConfig, read_telemetry
from hydrapot.training.observer import StepEvent
from hydrapot.training.run import train
from tests.training_helpers import write_datasets


class TwoProcesses(SimpleNamespace):
    """The first of two processes; `other` is what the second one would contribute to a sum."""

    rank, world, main, device = 0, 2, True, torch.device("cpu")

    def total(self, table: torch.Tensor) -> torch.Tensor:
        result = table.clone()
        result[1] = self.other(table[0])
        return result


class Clock:
    """Time that passes when a test says so: machines that run tests are busy."""

    now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    result = Clock()
    monkeypatch.setattr("hydrapot.training.meter.time", result)
    return result


def one_process() -> SimpleNamespace:
    return SimpleNamespace(rank=0, world=1, main=True, device=torch.device("cpu"), total=lambda values: values)


def event(step: int, *, skipped: bool = False) -> StepEvent:
    return StepEvent(step, 1e-3, (1.0, 0.1, 0.2, 0.3), 2.0, 4, 100, 3000, skipped)


def make(tmp_path: Path, layout=None, *, every: int = 2, energy=None, resume_step: int = 0, **config) -> Meter:
    return Meter(
        TelemetryConfig(every=every, **config),
        out=tmp_path,
        layout=layout or one_process(),
        epoch=80,
        energy=energy or EnergyMeter([]),
        resume_step=resume_step,
    )


def test_a_section_within_another_is_counted_once(tmp_path: Path, clock: Clock):
    meter = make(tmp_path, every=1)
    with meter.section("forward_backward"):
        clock.sleep(0.02)
        with meter.section("communication"):
            clock.sleep(0.05)
    meter.step(event(1))
    seconds = read_telemetry(tmp_path / TELEMETRY_FILE)[0]["seconds"]
    assert seconds["communication"] == pytest.approx(0.05)
    assert seconds["forward_backward"] == pytest.approx(0.02)


def test_a_section_that_raises_is_closed(tmp_path: Path, clock: Clock):
    meter = make(tmp_path, every=1)
    with pytest.raises(KeyError), meter.section("data"):
        raise KeyError
    with meter.section("optimizer"):
        clock.sleep(0.02)
    meter.step(event(1))
    assert read_telemetry(tmp_path / TELEMETRY_FILE)[0]["seconds"]["optimizer"] == pytest.approx(0.02)


def test_a_section_on_any_gpu_ends_with_its_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A GPU that is not NVIDIA's runs behind the host as well."""
    meter, waited = make(tmp_path), []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    with meter.section("data"):
        pass
    assert not waited
    meter._device = torch.device("xpu", 1)
    with meter.section("forward_backward"):
        pass
    assert waited == [torch.device("xpu", 1)]


def test_rates_count_steps_since_the_last_row_without_validation(tmp_path: Path, clock: Clock):
    meter = make(tmp_path)
    with meter.section("validation"):
        clock.sleep(0.3)
    clock.sleep(0.1)
    meter.step(event(1, skipped=True))
    meter.step(event(2))
    (row,) = read_telemetry(tmp_path / TELEMETRY_FILE)
    assert row["steps"] == 2
    assert row["skipped_steps"] == 1
    assert row["epochs"] == pytest.approx(8 / 80)
    # 200 atoms in 0.1 s; with the validation it would be 500 per second.
    assert row["atoms_per_second"] == pytest.approx(2000)
    assert row["structures_per_second"] / row["atoms_per_second"] == pytest.approx(0.04)
    assert row["edge_slots_per_second"] / row["atoms_per_second"] == pytest.approx(30)
    assert 0.005 < row["host_gib_worst"] < 64


def test_rows_hold_means_and_worst_of_all_processes(tmp_path: Path, clock: Clock):
    def slower(mine: torch.Tensor) -> torch.Tensor:
        other = mine.clone()
        other[0] = mine[0] * 3  # data
        other[1] = mine[1] * 2  # forward and backward
        other[6] = 1 << 40  # host memory
        return other

    meter = make(tmp_path, TwoProcesses(other=slower), every=1)
    with meter.section("data"):
        clock.sleep(0.02)
    with meter.section("forward_backward"):
        clock.sleep(0.02)
    clock.sleep(0.05)
    meter.step(event(1))
    (row,) = read_telemetry(tmp_path / TELEMETRY_FILE)
    assert row["compute_max_over_mean"] == pytest.approx(4 / 3)
    assert row["data_wait_percent_worst"] / row["data_wait_percent"] == pytest.approx(1.5)
    assert row["host_gib_worst"] == 1024.0
    assert row["processes"] == 2


def test_rows_beyond_the_resumed_state_are_dropped_and_epochs_go_on(tmp_path: Path):
    meter = make(tmp_path, every=1)
    for step in range(1, 6):
        meter.step(event(step))
    with (tmp_path / TELEMETRY_FILE).open("a") as stream:
        stream.write('{"step": 6, "ep')  # killed while writing
    again = make(tmp_path, every=1, resume_step=3)
    again.step(event(4))
    rows = read_telemetry(tmp_path / TELEMETRY_FILE)
    assert [r["step"] for r in rows] == [1, 2, 3, 4]
    assert rows[-1]["epochs"] == pytest.approx(4 * 4 / 80)


def test_joules_add_up_over_rows_and_resumes(tmp_path: Path):
    counter = SimpleNamespace(name="node", joules=100.0)
    counter.read = lambda: counter.joules
    meter = make(tmp_path, every=1, energy=EnergyMeter([counter]))
    for step in (1, 2):
        counter.joules += 7.0
        meter.step(event(step))
    counter.joules = 5.0  # another boot
    again = make(tmp_path, every=1, energy=EnergyMeter([counter]), resume_step=2)
    counter.joules += 3.0
    again.step(event(3))
    rows = read_telemetry(tmp_path / TELEMETRY_FILE)
    assert [r["joules"] for r in rows] == pytest.approx([7.0, 14.0, 17.0])
    assert rows[-1]["joules_per_epoch"] == pytest.approx(17.0 / (12 / 80))
    assert rows[-1]["watts"] == pytest.approx(3.0 / rows[-1]["wall_seconds"])


def test_without_counters_energy_is_unknown_not_zero(tmp_path: Path):
    meter = make(tmp_path, every=1)
    meter.step(event(1))
    (row,) = read_telemetry(tmp_path / TELEMETRY_FILE)
    assert row["joules"] is None
    assert row["watts"] is None
    assert row["joules_per_epoch"] is None


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigurationError, match="pip install tensorboard"):
        make(tmp_path, tensorboard=True)


def test_tensorboard_gets_the_numbers_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = []

    class Writer:
        def __init__(self, folder: str, *, purge_step: int | None) -> None:
            written.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append("closed")

    stand_in = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", stand_in)
    meter = make(tmp_path, every=1, tensorboard=True)
    meter.step(event(1))
    meter.validation(1, {"cu": {"force_mae": 0.1}})
    meter.close()
    assert written[0] == (str(tmp_path / "tensorboard"), None)
    assert ("telemetry/loss", 1.0, 1) in written
    assert ("force_mae/cu", 0.1, 1) in written
    assert written[-1] == "closed"


# --- counters ---


def powercap(folder: Path, zone: str, name: str, count: int, wraps_at: int = 1000) -> Path:
    (folder / zone).mkdir(parents=True)
    (folder / zone / "name").write_text(name + "\n")
    (folder / zone / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    (folder / zone / "energy_uj").write_text(f"{count}\n")
    return folder / zone / "energy_uj"


def test_packages_are_read_and_their_parts_are_not(tmp_path: Path):
    powercap(tmp_path, "intel-rapl:0", "package-0", 100)
    powercap(tmp_path, "intel-rapl:0:0", "core", 50)
    powercap(tmp_path, "intel-rapl:1", "package-1", 200)
    counters = node_counters(cray=tmp_path / "none", powercap=tmp_path)
    assert [c.name for c in counters] == ["package-0", "package-1"]
    assert counters[1].read() == pytest.approx(200e-6)


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path):
    file = powercap(tmp_path, "intel-rapl:0", "package-0", 900)
    (counter,) = node_counters(cray=tmp_path / "none", powercap=tmp_path)
    meter = EnergyMeter([counter])
    for count in (950, 30, 990, 10):
        file.write_text(str(count))
        joules = meter.joules()
    assert joules == pytest.approx((2 * 1000 + 10 - 900) * 1e-6)


def test_the_counter_of_the_node_stands_alone(tmp_path: Path):
    powercap(tmp_path, "intel-rapl:0", "package-0", 100)
    (tmp_path / "energy").write_text("123456 J 1690000000 us\n")
    (counter,) = node_counters(cray=tmp_path, powercap=tmp_path)
    assert counter.name == "node"
    assert counter.read() == 123456.0


@pytest.mark.parametrize("content", ["", "denied"])
def test_a_counter_that_cannot_be_read_is_none(tmp_path: Path, content: str):
    powercap(tmp_path, "intel-rapl:0", "package-0", 1).write_text(content)
    assert node_counters(cray=tmp_path / "none", powercap=tmp_path) == []
    with pytest.raises(ValueError, match="invalid literal"):
        FileCounter("x", tmp_path / "intel-rapl:0" / "energy_uj", joules=1.0)


def test_a_counter_that_stops_answering_does_not_end_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    files = [powercap(tmp_path, f"intel-rapl:{k}", f"package-{k}", 100) for k in range(2)]
    meter = EnergyMeter(node_counters(cray=tmp_path / "none", powercap=tmp_path))
    for file in files:
        file.write_text("300")
    assert meter.joules() == pytest.approx(400e-6)
    files[0].unlink()
    files[1].write_text("500")
    assert meter.joules() == pytest.approx(600e-6)
    assert meter.names == ["package-1"]
    assert "package-0 has stopped answering" in caplog.text


def test_a_run_writes_telemetry_and_goes_on_with_it(tmp_path: Path):
    """The meter is part of every run, and an interrupted run has the rows of an uninterrupted one."""
    write_datasets(tmp_path)

    def run(steps: int, *, resume: bool) -> list[dict]:
        overrides = {"run.steps": steps, "run.validate_every": 50, "telemetry.every": 2, "run.compile": False}
        config = load_config(tmp_path / "train.yaml", overrides=overrides)
        train(
            config,
            data=tmp_path / "data",
            manifest_path=tmp_path / config.split,
            out=tmp_path / "run",
            resume=resume,
            threads=1,
            cache_dir=tmp_path / "cache",
            console=Console(quiet=True),
        )
        return read_telemetry(tmp_path / "run" / TELEMETRY_FILE)

    first, rows = run(4, resume=False), run(8, resume=True)
    assert rows[:2] == first
    assert [r["step"] for r in rows] == [2, 4, 6, 8]
    assert all(r["seconds"]["forward_backward"] > 0 and r["seconds"]["optimizer"] > 0 for r in rows)
    assert [r["epochs"] for r in rows] == sorted({r["epochs"] for r in rows})
