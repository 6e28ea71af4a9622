"""Scaling: what is read from runs, efficiencies, a cost model that finds what it was made from, predictions and their limits."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hydrapot.cli.main import app_main
from hydrapot.potential.errors import ConfigurationError, SimulationError
from hydrapot.training.config import load_config
from hydrapot.training.cost_model import PARAMETERS, expected_maximum, fit, lateness, predict, with_network
from hydrapot.training.hardware import processor_name
from hydrapot.training.published_scaling import STATEMENTS
from hydrapot.training.scaling import Point, Sample, check_matched, efficiency, find_mode, read_point
from hydrapot.training.scaling_report import analyze, caveats, parameter_lines, point_rows, prediction_rows
from hydrapot.training.scaling_runs import launch_command, measured_overrides, run_matched
from hydrapot.training.state import save_state
from tests.mpi_helpers import MPIEXEC, YIELDING
from tests.training_helpers import write_datasets

#: What synthetic runs are made from: s, s per edge slot, relative, s, s per byte, s.
TRUTH = {
    "overhead": 8e-3,
    "per_edge_slot": 4e-7,
    "imbalance": 0.06,
    "latency": 1.5e-3,
    "inverse_bandwidth": 1e-10,
    "data_wait": 5e-4,
}
GRADIENT = 40_000_000
SLOTS, PARTS = 1.6e6, 16


def run(processes: int, *, mode: str = "strong", noise: float = 0.02, rows: int = 40, **changes) -> Point:
    """A run whose rows follow the model, with batches of different size and noise on every section."""
    rng = np.random.default_rng(processes)
    batches = np.random.default_rng(0).uniform(0.5, 1.5, rows)
    whole = SLOTS if mode == "strong" else SLOTS / PARTS * processes
    parts = PARTS if mode == "strong" else processes
    samples = []
    for size in batches:

        def noisy(value: float) -> float:
            return value * (1.0 + noise * rng.normal())

        work = whole * size / processes
        compute = noisy(TRUTH["overhead"] * max(parts / processes, 1) + TRUTH["per_edge_slot"] * work)
        share = 2.0 * (1.0 - 1.0 / processes)
        reduce = TRUTH["latency"] * math.log2(processes) + share * GRADIENT * TRUTH["inverse_bandwidth"]
        waiting = compute * TRUTH["imbalance"] * lateness(processes, parts=parts)
        samples.append(Sample(compute, noisy(waiting), noisy(reduce), noisy(TRUTH["data_wait"]), whole * size))
    mean = whole * batches.mean()
    fields = {
        "processes": processes,
        "parts": parts,
        "seed": 0,
        "structures": mean / 400,
        "atoms": mean / 20,
        "edge_slots": mean,
        "gradient_bytes": GRADIENT,
        "compute_max_over_mean": 1.02,
        "host_gib": 1.0,
        "device_gib": None,
        "watts": None,
        "hardware": {},
        "folder": f"run-{processes}",
        "samples": tuple(samples),
    }
    return Point(**(fields | changes))


# --- what is read ---


def telemetry_row(step: int, *, processes: int = 2, steps: int = 1, seconds: float = 0.5) -> dict[str, object]:
    sections = {"data": 0.02, "forward_backward": 0.3, "communication": 0.1, "optimizer": 0.01}
    return {
        "step": step,
        "steps": steps,
        "processes": processes,
        "step_seconds": seconds,
        "structures_per_second": 8 / seconds,
        "atoms_per_second": 100 / seconds,
        "edge_slots_per_second": 4000 / seconds,
        "seconds": {name: steps * value for name, value in sections.items()},
        "communication_percent_least": 100 * 0.04 / seconds,
        "compute_max_over_mean": 1.1,
        "host_gib_worst": 0.5,
        "device_gib_worst": None,
        "watts": None,
    }


def write_run(folder: Path, rows: list[dict[str, object]], *, parts: int = 2, width: int = 10, seed: int = 3) -> Path:
    folder.mkdir()
    (folder / "telemetry.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {"config": {"run": {"seed": seed}}, "parts": parts}
    tensors = {
        "weights/a": torch.zeros(width, 3),
        "weights/b": torch.zeros(2, dtype=torch.float64),
        "average/a": torch.ones(9),
    }
    save_state(folder / "state.safetensors", tensors=tensors, document=document)
    return folder


def test_a_point_leaves_out_the_warm_up_and_adds_up(tmp_path: Path):
    rows = [telemetry_row(k, seconds=90.0 if k <= 2 else 0.5) for k in range(1, 9)]
    point = read_point(write_run(tmp_path / "run", rows))
    assert len(point.samples) == 6
    assert point.mean("step") == pytest.approx(0.5)
    assert point.mean("communication") == pytest.approx(0.04)
    assert point.mean("waiting") == pytest.approx(0.06)
    assert point.mean("compute") == pytest.approx(0.5 - 0.02 - 0.1)
    assert (point.structures, point.atoms, point.edge_slots) == pytest.approx((8, 100, 4000))
    assert point.gradient_bytes == 10 * 3 * 4 + 2 * 8  # of trained weights, not of averages
    assert (point.processes, point.parts, point.seed) == (2, 2, 3)
    assert json.dumps(point.as_row())


def test_what_one_process_does_at_sums_is_work(tmp_path: Path):
    point = read_point(write_run(tmp_path / "run", [telemetry_row(k, processes=1) for k in range(1, 9)]))
    assert point.mean("communication") == point.mean("waiting") == 0.0
    assert point.mean("compute") == pytest.approx(0.5 - 0.02)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([telemetry_row(50, steps=50)], "no row after the first 25%"),
        ([telemetry_row(k, processes=1 + k // 7) for k in range(1, 9)], "different numbers of processes"),
    ],
)
def test_a_run_that_tells_too_little_is_refused(tmp_path: Path, rows, words):
    with pytest.raises(ConfigurationError, match=words):
        read_point(write_run(tmp_path / "run", rows))


def test_a_folder_without_a_run_is_named(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"nothing here.*name the output directory"):
        read_point(tmp_path / "nothing here")


def test_modes_follow_from_the_parts_of_a_batch():
    assert find_mode([run(n) for n in (1, 2, 4)]) == "strong"
    assert find_mode([run(n, mode="weak") for n in (1, 2, 4)]) == "weak"
    with pytest.raises(ConfigurationError, match="neither the same"):
        find_mode([run(1, parts=1), run(2, parts=3)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gradient_bytes": 4}, "another model"),
        ({"seed": 7}, "another seed"),
        ({"edge_slots": 0.5 * SLOTS}, "0.50 × the work"),
        ({"processes": 1}, "the same number of processes"),
    ],
)
def test_runs_that_do_not_compare_are_refused(changes, words):
    other = (
        replace(run(2), **changes)
        if "edge_slots" not in changes
        else replace(run(2), edge_slots=0.5 * run(1).edge_slots)
    )
    with pytest.raises(ConfigurationError, match=words):
        check_matched([other, run(1)], mode="strong")


def test_efficiencies():
    def timed(point: Point, seconds: float) -> Point:
        return replace(point, samples=(Sample(seconds, 0.0, 0.0, 0.0, point.edge_slots),))

    one = timed(run(1), 1.0)
    assert efficiency(timed(run(4), 0.25), one, mode="strong") == pytest.approx(1.0)
    assert efficiency(timed(run(4), 0.5), one, mode="strong") == pytest.approx(0.5)
    alone = timed(run(1, mode="weak"), 1.0)
    assert efficiency(timed(run(4, mode="weak"), 1.0), alone, mode="weak") == pytest.approx(1.0)
    assert efficiency(timed(run(4, mode="weak"), 1.25), alone, mode="weak") == pytest.approx(0.8)


# --- the model ---


def test_the_expected_largest_of_normal_numbers():
    # Tabulated: Harter, Biometrika 48, 151 (1961).
    known = {1: 0.0, 2: 0.56419, 4: 1.02938, 10: 1.53875, 100: 2.50759}
    for n, value in known.items():
        assert expected_maximum(n) == pytest.approx(value, abs=2e-5)


def test_with_many_parts_a_process_evens_out():
    assert lateness(4, parts=16) == pytest.approx(expected_maximum(4) / 2)
    assert lateness(16, parts=16) == pytest.approx(expected_maximum(16))


@pytest.mark.parametrize("mode", ["strong", "weak"])
def test_the_fit_finds_what_the_runs_were_made_from(mode):
    model = fit([run(n, mode=mode) for n in (1, 2, 4, 8, 16)], mode=mode)
    assert not model.undetermined
    for name in PARAMETERS:
        parameter = getattr(model, name)
        assert parameter.value == pytest.approx(TRUTH[name], rel=0.15), name
        low, high = parameter.interval
        assert low <= parameter.value <= high
        assert high - low < 0.6 * TRUTH[name], name
    assert model.residual < 0.02
    beyond = predict(model, 128)
    assert beyond.beyond == 8
    assert beyond.seconds == pytest.approx(sum((beyond.compute, beyond.waiting, beyond.communication, beyond.data)))


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    inside = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        points = []
        for n in (1, 2, 4):
            point = run(n, noise=0.0)
            noisy = tuple(replace(s, communication=s.communication * (1 + 0.1 * rng.normal())) for s in point.samples)
            points.append(replace(point, samples=noisy))
        low, high = fit(points, mode="strong").inverse_bandwidth.interval
        inside += low <= TRUTH["inverse_bandwidth"] <= high
    assert 34 <= inside <= 40  # 95 % of 40 is 38


def test_a_weak_prediction_meets_runs_that_were_not_fitted():
    model = fit([run(n, mode="weak") for n in (1, 2, 4, 8)], mode="weak")
    unseen = run(64, mode="weak", noise=0.0)
    prediction = predict(model, 64)
    assert prediction.seconds == pytest.approx(unseen.mean("step"), rel=0.03)
    assert prediction.interval[0] <= unseen.mean("step") <= prediction.interval[1]


def test_what_two_numbers_of_processes_do_not_tell_is_named():
    points = [run(n) for n in (1, 2)]
    model = fit(points, mode="strong")
    assert set(model.undetermined) == {"latency"}
    assert model.latency.value == 0.0
    assert model.inverse_bandwidth.value > TRUTH["inverse_bandwidth"]  # latency is in it
    assert any("not determined" in line for line in parameter_lines(model))
    # Strong scaling of equal batches: parts are all alike, and their number is what differs.
    same = [replace(p, samples=tuple(replace(s, edge_slots=SLOTS) for s in p.samples)) for p in points]
    assert "overhead" in fit(same, mode="strong").undetermined


def test_crowded_runs_are_told_and_not_fitted():
    slow = run(4)
    slow = replace(slow, oversubscribed=True, samples=tuple(replace(s, compute=9 * s.compute) for s in slow.samples))
    analysis = analyze([run(1), run(2), slow])
    assert analysis.model.per_edge_slot.value == pytest.approx(TRUTH["per_edge_slot"], rel=0.1)
    assert "crowded" in point_rows(analysis)[2]["processes"]
    assert any("are not fitted" in line for line in caveats(analysis))


def test_a_strong_batch_has_an_end():
    model = fit([run(n) for n in (1, 2, 4)], mode="strong")
    many = int(model.structures) + 1
    assert predict(model, many).impossible
    assert math.isnan(predict(model, many).seconds)
    assert not predict(model, many - 1).impossible
    analysis = analyze([run(n) for n in (1, 2, 4)], processes=[many])
    assert "cannot occupy" in prediction_rows(analysis)[0]["95 %"]


def test_another_network_changes_only_the_sums():
    model = fit([run(n, mode="weak") for n in (1, 2, 4)], mode="weak")
    here, there = predict(model, 512), predict(with_network(model, latency=1e-6, bandwidth=1e9), 512)
    assert there.communication == pytest.approx(9e-6 + 2 * 511 / 512 * GRADIENT / 1e9)
    assert (there.compute, there.waiting, there.data) == (here.compute, here.waiting, here.data)
    assert predict(model, 1).communication == 0.0


def test_what_is_published_has_words_and_a_source():
    for statement in STATEMENTS:
        assert statement.words
        assert "arXiv" in statement.source or "SC-W" in statement.source
        if statement.devices is not None:  # a number of ours stands in the words, or follows from eight GCDs a node
            digits = statement.words.replace(",", "")
            assert str(statement.devices) in digits or (f"{statement.devices // 8}-node" in digits)


# --- runs ---


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scaling")
    write_datasets(folder)
    return folder


def test_matched_runs_share_batches_or_work(project: Path):
    config = load_config(project / "train.yaml")
    strong = [measured_overrides(config, mode="strong", processes=n, largest=4, steps=9) for n in (1, 4)]
    assert strong[0] == strong[1]
    assert strong[0]["sampler.parts"] == 4
    weak = [measured_overrides(config, mode="weak", processes=n, largest=4, steps=9)["sampler.parts"] for n in (1, 4)]
    assert weak == [1, 4]
    own = load_config(project / "train.yaml", overrides={"sampler.parts": 12})
    assert measured_overrides(own, mode="strong", processes=1, largest=4, steps=9)["sampler.parts"] == 12


def test_launchers(tmp_path: Path):
    word = tmp_path / "my launcher"
    word.write_text("#!/bin/sh\n")
    word.chmod(0o755)
    assert launch_command(f"'{word}' -n {{processes}} --bind", 3) == [str(word), "-n", "3", "--bind"]
    with pytest.raises(ConfigurationError, match="lacks"):
        launch_command("aprun -n 4", 4)
    with pytest.raises(ConfigurationError, match="is not installed"):
        launch_command("no-such-launcher {processes}", 4)


@pytest.mark.parametrize(
    ("processes", "words"),
    [([2], "two different numbers"), ([2, 3], "must divide it"), ([0, 1], "two different numbers")],
)
def test_numbers_that_make_no_sense_are_refused_before_a_run(project: Path, tmp_path: Path, processes, words):
    config = load_config(project / "train.yaml")
    with pytest.raises(ConfigurationError, match=words):
        run_matched(
            project / "train.yaml",
            config,
            data=project,
            out=tmp_path / "out",
            processes=processes,
            mode="strong",
            steps=9,
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec")
def test_a_failed_run_is_reported_with_its_output(project: Path, tmp_path: Path):
    config = load_config(project / "train.yaml")
    with pytest.raises(SimulationError, match=r"on 1 processes ended with exit code 1 \(error: .*see .*output.txt"):
        run_matched(
            project / "train.yaml", config, data=tmp_path, out=tmp_path / "out", processes=[1, 2], mode="weak", steps=9
        )


@pytest.mark.skipif(MPIEXEC is None, reason="needs mpiexec")
def test_the_command_measures_fits_draws_and_reads_again(project: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, value in YIELDING.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"
    words = [str(project / "train.yaml"), "--data", str(project / "data"), "-o", str(out), "--processes", "1,2"]
    with pytest.raises(SystemExit) as ended:
        app_main(
            ["scaling", *words, "--steps", "8", "--threads", "1", "--predict", "4", "--set", "sampler.max_structures=4"]
        )
    assert ended.value.code in {0, None}, capsys.readouterr().err
    told = capsys.readouterr()
    assert "strong scaling" in told.out
    assert "arXiv:2406.12909" in told.out
    assert "sampler.max_structures=4" in told.err
    document = json.loads((out / "scaling.json").read_text())
    assert document["mode"] == "strong"
    assert [p["processes"] for p in document["points"]] == [1, 2]
    first, second = document["points"]
    assert first["atoms"] == pytest.approx(second["atoms"])  # the same global batches
    assert first["rows"] == 6
    assert first["hardware"]["processor"]
    assert document["predictions"][0]["seconds"] > 0
    assert (out / "scaling.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(SystemExit) as ended:
        app_main(["scaling", "--from", str(out / "strong-1"), str(out / "strong-2"), "-o", str(tmp_path / "again")])
    assert ended.value.code in {0, None}
    again = json.loads((tmp_path / "again" / "scaling.json").read_text())
    assert again["points"][1]["step_seconds"] == second["step_seconds"]
    with pytest.raises(SystemExit):
        app_main(["scaling", *words])
    assert "is not empty" in capsys.readouterr().err


def test_processors_have_names(tmp_path: Path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Example 9000 @ 3 GHz\n")
    assert processor_name(tmp_path / "cpuinfo") == "Example 9000 @ 3 GHz"
    assert processor_name(tmp_path / "none")
