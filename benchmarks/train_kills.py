"""Kill -9 at random moments of a training run: nothing is lost, and the resumed run is the uninterrupted one, to the bit.

    python benchmarks/train_kills.py                     # ten kills, one process
    python benchmarks/train_kills.py --processes 2       # ten kills of one of two processes, by turns

A run of 8 channels on two tiny datasets (EMT, made on the spot; eager, one thread a process, seed 1) saves its state after
every step and is killed at random moments, also while it starts, reads or writes; then it is started again with --resume.
After each kill the state on the disk must be whole and not older than the state before. Passes (exit code 0) when weights,
moments, average and position at the end equal those of a run that was never interrupted, bit by bit.
"""

import argparse
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hydrapot.training.state import load_state  # noqa: E402 - after the path
from tests.training_helpers import write_datasets  # noqa: E402

CLI = "from hydrapot.cli.main import app_main; app_main()"


def start(project: Path, out: Path, *, steps: int, processes: int) -> subprocess.Popen[bytes]:
    """Begin the run, or go on with it."""
    script = project / "train_cli.py"
    script.write_text(CLI)
    launcher = (
        ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"] if processes > 1 else []
    )
    settings = {
        "run.steps": steps,
        "run.validate_every": max(steps // 3, 1),
        "run.checkpoint_minutes": 1e-6,
        "sampler.parts": processes,
    }
    command = [sys.executable, *launcher, str(script), "train", str(project / "train.yaml")]
    command += ["--data", str(project / "data"), "-o", str(out), "--threads", "1"]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    if (out / "state.safetensors").exists():
        command.append("--resume")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(project)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def workers(process: subprocess.Popen[bytes], processes: int) -> list[int]:
    """Process ids of the run itself, without its launcher."""
    if processes == 1:
        return [process.pid]
    return [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait_for_a_save(process: subprocess.Popen[bytes], out: Path) -> None:
    """Until the run has written a state of its own."""
    state = out / "state.safetensors"
    before = state.stat().st_mtime_ns if state.exists() else 0
    while process.poll() is None and not (state.exists() and state.stat().st_mtime_ns != before):
        time.sleep(0.005)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a run that nobody kills."""
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()[-3000:]


def stored_step(out: Path) -> int:
    """Step of the state on the disk, which must be whole; 0 before the first."""
    state = out / "state.safetensors"
    return int(load_state(state)[1]["step"]) if state.exists() else 0


def main() -> int:
    """Print the table; 0 if all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(
        f"{' '.join(sys.argv)}\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    )
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        write_datasets(project)
        began = time.monotonic()
        finish(start(project, project / "whole", steps=options.steps, processes=options.processes))
        whole = time.monotonic() - began
        print(f"uninterrupted: {options.steps} steps in {whole:.0f} s")
        out, step, kills = project / "killed", 0, 0
        while kills < options.kills:
            process = start(project, out, steps=options.steps, processes=options.processes)
            # By turns: anywhere from the first import on; and within the first seconds of steps and saves.
            if kills % 2:
                time.sleep(rng.uniform(0.0, 0.9) * whole * (1.0 - 0.8 * step / options.steps))
            else:
                wait_for_a_save(process, out)
                time.sleep(rng.uniform(0.0, 2.0) * rng.random())
            if process.poll() is not None:
                finish(process)
                print("finished before it could be killed: choose more --steps")
                return 1
            running = workers(process, options.processes)
            victim = running[kills % len(running)] if running else process.pid
            os.kill(victim, signal.SIGKILL)
            process.communicate(timeout=120)
            kills += 1
            now = stored_step(out)
            print(f"kill {kills:2d}: state of step {now:4d} of {options.steps}, whole", flush=True)
            assert now >= step, "a state was lost"
            step = now
        finish(start(project, out, steps=options.steps, processes=options.processes))
        (a, first), (b, second) = (load_state(p / "state.safetensors") for p in (project / "whole", out))
        same = a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        same = same and first["position"] == second["position"] and first["step"] == second["step"]
        left = [p.name for p in out.iterdir() if p.name.endswith(".tmp")]
    print(
        f"{kills} kills; {len(a)} tensors and the position {'equal' if same else 'DIFFER'}; files left behind: {left or 'none'}"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
