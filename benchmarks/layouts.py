"""Every parallel layout beside one process: first gradient, losses, and time, from the same global batches in float64.

    python benchmarks/layouts.py                    # all layouts on 1, 2 and 4 processes, 50 steps
    python benchmarks/layouts.py --processes 2 --steps 20

Processes have one thread each and exchange through gloo. Two tiny datasets labelled by EMT are made on the spot; 8 channels,
2 layers, eager, seed 1, four parts a batch. "gradient" is the norm of the difference of the first gradients over the norm of
the gradient, "loss" the largest relative difference of the losses of any step. Passes (exit code 0) when every gradient is
within 1e-11 and every loss within 1e-8.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.training_helpers import write_datasets  # noqa: E402 - needs the path

GRADIENT, LOSS = 1e-11, 1e-8
#: Kind, processes, settings. With unequal branches one process holds both heads, or groups are of unequal size.
UNEQUAL = {"sampler.temperature": 1.0, "datasets.0.sampling": 9.0}
LAYOUTS: list[tuple[str, int, dict[str, object]]] = [
    ("data", 2, {}),
    ("data", 4, {}),
    ("sharded", 2, {}),
    ("sharded", 4, {}),
    ("task", 2, {}),
    ("task+data", 4, {}),
    ("task+data", 2, UNEQUAL),
    ("task+data", 4, UNEQUAL),
]


def run(project: Path, out: Path, processes: int, settings: dict[str, object]) -> float:
    """Seconds of a run of the tests' worker."""
    launcher = (
        ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"] if processes > 1 else []
    )
    command = [sys.executable, *launcher, str(ROOT / "tests" / "training_worker.py"), str(project), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    began = time.monotonic()
    subprocess.run(
        [*command, str(out / "record"), json.dumps(settings)],
        check=True,
        env={**environment, "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
    )
    return time.monotonic() - began


def differences(reference: Path, other: Path) -> tuple[float, float, int]:
    """Of first gradients, and of losses; number of steps."""
    first = [load_file(p / "record.safetensors") for p in (reference, other)]
    assert first[0].keys() == first[1].keys()
    flat = [torch.cat([g[n].flatten() for n in sorted(g) if n != "norm"]) for g in first]
    losses = [json.loads((p / "record.json").read_text())["losses"] for p in (reference, other)]
    pairs = list(zip(*losses, strict=True))
    return float((flat[0] - flat[1]).norm() / flat[0].norm()), max(abs(a - b) / abs(a) for a, b in pairs), len(pairs)


def main() -> int:
    """Print the table; 0 if all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--processes", type=int, default=4, help="largest number")
    options = parser.parse_args()
    print(
        f"{' '.join(sys.argv)}\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    )
    base = {
        "run.precision": "float64",
        "run.steps": options.steps,
        "run.validate_every": options.steps,
        "sampler.parts": 4,
        "sampler.max_structures": 4,
        "sampler.edge_slots": 600,
    }
    print(
        f"\n{'layout':12s} {'processes':>9s} {'branches':>9s} {'gradient':>10s} {'loss':>10s} {'steps':>6s} {'seconds':>8s}"
    )
    worst = [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        write_datasets(project)
        alone: dict[str, Path] = {}
        for k, (kind, processes, more) in enumerate(LAYOUTS):
            if processes > options.processes:
                continue
            tasks = "task" in kind
            same = json.dumps([tasks, more])  # the batches of task layouts are of one branch in each part
            if same not in alone:
                alone[same] = project / f"one{k}"
                seconds = run(
                    project, alone[same], 1, {**base, **more, "layout.kind": "task+data" if tasks else "data"}
                )
                print(
                    f"{'one process':12s} {1:9d} {('unequal' if more else 'equal') if tasks else '-':>9s} {'':32s} {seconds:4.0f}"
                )
            out = project / f"many{k}"
            seconds = run(project, out, processes, {**base, **more, "layout.kind": kind})
            gradient, loss, steps = differences(alone[same], out)
            branches = ("unequal" if more else "equal") if tasks else "-"
            print(
                f"{kind:12s} {processes:9d} {branches:>9s} {gradient:10.1e} {loss:10.1e} {steps:6d} {seconds:8.0f}",
                flush=True,
            )
            worst = [max(worst[0], gradient), max(worst[1], loss)]
    passed = worst[0] < GRADIENT and worst[1] < LOSS
    print(
        f"\nworst: gradient {worst[0]:.1e} (limit {GRADIENT}), loss {worst[1]:.1e} (limit {LOSS}): {'PASS' if passed else 'FAIL'}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
