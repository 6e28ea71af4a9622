"""Bookkeeping of ``benchmarks/speed.py``: ratios, tables, files, and workers that fail. Nothing is timed here."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
OURS, COMPILED, NATIVE = "hydrapot torch", "hydrapot compiled", "hydrapot native"

FAKE_WORKER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from speed_protocol import serve, timed

class Fake:
    def describe(self):
        print("chatter that must not reach the protocol")
        return {"threads": getattr(self, "threads", 0), "limit": os.environ.get("OMP_NUM_THREADS", "none")}
    def prepare(self, name, n_cells):
        if n_cells == 13:
            raise ValueError("no such\\nsystem")
        self.n_cells = n_cells
        return {"atoms": 4 * n_cells**3, "edges": 0}
    def set_threads(self, threads):
        self.threads = threads
    def evaluate(self):
        if self.n_cells == 99:
            os.kill(os.getpid(), signal.SIGKILL)
        return timed(lambda: bytearray(64 << 20))
    def neighbor_list(self):
        return 0.5

serve(Fake)
"""


@pytest.fixture
def report_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed_report

    return speed_report


@pytest.fixture
def protocol(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import speed_protocol

    return speed_protocol


def example(module: ModuleType):
    def timing(model: str, *seconds: float, atoms: int = 864, threads: int = 1, error: str = ""):
        return module.Timing(model=model, atoms=atoms, threads=threads, seconds=list(seconds), error=error)

    timings = [
        timing(module.PEER, 2.0, 4.0, 3.0),
        timing(OURS, 1.0, 1.0, 1.0),
        timing(COMPILED, 0.5, 0.25, 0.5),
        timing(NATIVE, 0.02, 0.05, 0.025),
        timing(NATIVE, 0.0125, threads=2),
        timing(OURS, 1.0, atoms=108),
        timing(module.PEER, atoms=10_976, error="killed, most likely for want of memory"),
        timing(OURS, 10.976, atoms=10_976),
    ]
    machine = module.Hardware(cpu="a processor", cores=2, memory_gib=23.4, system="Linux 6", load_average=0.1)
    return module.Report(
        date="2026-01-01T00:00:00+00:00",
        command="python benchmarks/speed.py",
        quick=False,
        hardware=machine,
        software={OURS: {"torch": "2.13.0", "parameters": 600_000}},
        timings=timings,
        neighbor_lists=[timing(OURS, 0.00864)],
        memory=[
            module.Memory(model=OURS, atoms=10_976, threads=1, bytes=10_976_000 * 5),
            module.Memory(model=module.PEER, atoms=10_976, threads=1, error="out of memory"),
        ],
        promises=module.judge(timings, native=NATIVE, compiled=COMPILED),
    )


def test_ratio_is_taken_round_by_round(report_module: ModuleType):
    report = example(report_module)
    ratio = report_module.ratio_to_peer(report.timings[2], report.timings)
    assert (ratio.lowest, ratio.median, ratio.highest) == (4.0, 6.0, 16.0)


def test_no_ratio_without_the_peer(report_module: ModuleType):
    report = example(report_module)
    assert report_module.ratio_to_peer(report.timings[5], report.timings) is None  # not measured at this size
    assert report_module.ratio_to_peer(report.timings[7], report.timings) is None  # ran out of memory


def test_promises(report_module: ModuleType):
    """100 times the peer is kept, 20 times the compiled network too, a second thread that doubles as well."""
    promises = example(report_module).promises
    assert [promise.measured for promise in promises] == pytest.approx([100.0, 20.0, 2.0])
    assert all(promise.passed for promise in promises)
    assert "kept" in report_module.verdict(promises[0])
    slow = [t.model_copy(update={"seconds": [2.0] * 3}) for t in example(report_module).timings[:5]]
    missed = report_module.judge(slow, native=NATIVE, compiled=COMPILED)
    assert [promise.passed for promise in missed] == [False] * 3
    assert "NOT kept" in report_module.verdict(missed[0])
    assert [promise.passed for promise in report_module.judge([], native=NATIVE, compiled=COMPILED)] == [None] * 3


def test_ratios_stay_within_a_system(report_module: ModuleType):
    timings = example(report_module).timings
    other = timings[1].model_copy(update={"system": "Si"})
    assert report_module.ratio_to_peer(other, timings) is None


def test_table(report_module: ModuleType):
    rows = report_module.rows(example(report_module))
    assert rows[1] == ("Cu", "864", "1", OURS, "1157", "1157–1157", "3.00", "2.00–4.00", "10.0", "")
    assert rows[6][4:] == ("killed, most likely for want of memory", "", "", "", "", "out of memory")
    assert rows[7][4:] == ("1000", "1000–1000", "", "", "", "5")


def test_files(report_module: ModuleType, tmp_path: Path):
    report = example(report_module)
    report_module.write(report, tmp_path)
    assert report_module.Report.model_validate_json((tmp_path / "speed.json").read_text()) == report
    text = (tmp_path / "speed.md").read_text()
    assert "| Cu | 864 | 1 | hydrapot compiled | 579 |" in text
    assert "a processor" in text
    assert "parameters 600000" in text
    assert report_module.terminal_table(report).row_count == len(report.timings)


@pytest.fixture
def worker(protocol: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    script = tmp_path / "fake.py"
    script.write_text(FAKE_WORKER)
    worker = protocol.Worker(Path(sys.executable), script, str(BENCHMARKS), log=tmp_path / "log")
    yield worker
    worker.close()


def test_worker_answers(worker, tmp_path: Path):
    assert worker.ask("prepare", name="Cu", n_cells=2) == {"atoms": 32, "edges": 0}
    assert worker.ask("evaluate", threads=2)["seconds"] > 0.0
    assert worker.ask("neighbor_list", threads=1) == {"seconds": 0.5}
    assert worker.ask("describe") == {"threads": 1, "limit": "none"}
    worker.close()
    assert "chatter" in (tmp_path / "log").read_text()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is measured on Linux only")
def test_worker_measures_memory(worker):
    worker.ask("prepare", name="Cu", n_cells=2)
    assert 0.9 < worker.ask("memory", threads=1)["bytes"] / (64 << 20) < 1.5


def test_worker_survives_an_error_and_reports_being_killed(protocol: ModuleType, worker):
    with pytest.raises(protocol.WorkerError, match=r"^ValueError: no such$"):
        worker.ask("prepare", name="Cu", n_cells=13)
    worker.ask("prepare", name="Cu", n_cells=99)
    with pytest.raises(protocol.WorkerError, match="want of memory"):
        worker.ask("evaluate", threads=1)
    with pytest.raises(protocol.WorkerError, match="want of memory"):
        worker.ask("describe")


def test_exit_codes_in_words(protocol: ModuleType):
    assert protocol.describe_exit(3) == "ended with exit code 3"
    assert protocol.describe_exit(-11) == "ended by SIGSEGV"
