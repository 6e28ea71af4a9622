"""The native engine under the sanitizers of the compiler: random sizes, shapes and cells (``tests/native/fuzz.cpp``),
and its sums for training (``tests/native/fuzz_messages.cpp``).

Address and undefined-behavior sanitizer together, thread sanitizer by itself. The engine has threads of its own rather than
OpenMP, whose run-time library the thread sanitizer cannot see into, so a report here is a real race.
"""

import platform
import runpy
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hydrapot.potential import save
from tests.potential_helpers import tiny_potential

ROOT = Path(__file__).resolve().parent.parent
FLAGS = {
    "none": [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
ROUNDS = {"none": 60, "address": 25, "thread": 12}


def build(tmp_path, flags, driver):
    """A driver with the whole engine; kernels with the flags of a release."""
    setup = runpy.run_path(str(ROOT / "setup.py"), run_name="not main")
    command = setup["compiler"]()
    if command is None:
        pytest.skip("no C++17 compiler")
    common = [
        "-std=c++17",
        "-O1",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
        *flags,
        f"-I{ROOT / 'potential/native/include'}",
    ]
    common += ["-DHYDRAPOT_X86"] if setup["X86"] else []

    def unit(path):
        output = tmp_path / f"{path.stem}.o"
        own = setup["KERNEL_FLAGS"].get(path.stem, [])
        subprocess.run([*command, *common, *own, "-c", str(path), "-o", str(output)], check=True)
        return str(output)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(unit, [*setup["sources"](), ROOT / f"tests/native/{driver}.cpp"]))
    program = tmp_path / driver
    subprocess.run([*command, *flags, *objects, "-pthread", "-o", str(program)], check=True)
    return program


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="sanitizers of GCC and Clang on Linux")
@pytest.mark.parametrize("sanitizer", FLAGS)
@pytest.mark.parametrize("driver", ["fuzz", "fuzz_messages"])
def test_random_models_and_structures(tmp_path, driver, sanitizer):
    program = build(tmp_path, FLAGS[sanitizer], driver)
    line = [str(program), "1", str(ROUNDS[sanitizer])]
    if driver == "fuzz":
        save(tiny_potential(), tmp_path / "tiny.safetensors")
        line.append(str(tmp_path / "tiny.safetensors"))
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""
