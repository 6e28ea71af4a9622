"""Weak and strong scaling of a training on this machine, with the cost model and what it predicts.

``python benchmarks/training_scaling.py [--processes 1,2] [--steps 40] [--compile] [--data DIR] [-o OUT]``: the model of
examples/pretrain_s.yaml on four of its datasets, each run through mpiexec. Prints what ``hydrapot scaling`` prints (commands,
numbers, caveats); hardware and seed stand in scaling.json. Two idle cores take about three minutes; ``--compile`` adds about
two for each run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
DATASETS = ("mvl_snap_Cu", "mvl_snap_Ni", "mlptrain_diels_alder_pbe0", "botnet_3bpa")
CLI = "from hydrapot.cli.main import app_main; app_main()"


def write_config(folder: Path) -> Path:
    """The shipped configuration with four datasets, so that reading them takes seconds."""
    document = yaml.safe_load((ROOT / "examples" / "pretrain_s.yaml").read_text(encoding="utf-8"))
    document["datasets"] = [d for d in document["datasets"] if d["file"].split(".")[0] in DATASETS]
    document["split"] = str(ROOT / "examples" / document["split"])
    file = folder / "scaling.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return file


def main() -> None:
    """Run both modes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--compile", action="store_true", help="compile the training step")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "pretrain")
    parser.add_argument("-o", "--out", type=Path, help="kept there; a temporary folder otherwise")
    options = parser.parse_args()
    print("command:", " ".join(sys.argv))
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        config = write_config(out)
        for mode in ("strong", "weak"):
            words = [
                sys.executable,
                "-c",
                CLI,
                "scaling",
                str(config),
                "--data",
                str(options.data),
                "-o",
                str(out / mode),
            ]
            words += ["--mode", mode, "--processes", options.processes, "--steps", str(options.steps), "--threads", "1"]
            words += ["--set", f"run.compile={str(options.compile).lower()}", "--set", "sampler.edge_slots=12000"]
            words += ["--predict", "4,8" if mode == "strong" else "64,512,4096,16384"]
            subprocess.run(words, check=True)
            document = json.loads((out / mode / "scaling.json").read_text(encoding="utf-8"))
            print(f"seed {document['seed']}; hardware: {document['points'][0]['hardware']}\n", flush=True)


if __name__ == "__main__":
    main()
