"""Fused message sums: the cases of `fused_cases.py` in Triton's interpreter, the compiler, and who gets them.

The interpreter accepts what the compiler may not, so the kernels are also compiled, for GPUs that are not there.
"""

import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hydrapot.potential.backbones import fused
from hydrapot.potential.backbones.blocked import fastest_message_sum
from hydrapot.potential.backbones.fused import FusedMessageSum, has_triton, is_usable
from hydrapot.potential.backbones.painn import DenseMessageSum

ROOT = Path(__file__).resolve().parent.parent
needs_triton = pytest.mark.skipif(not has_triton(), reason="needs a recent Triton")
#: The oldest one tried that works; that of 3.5 takes arrays for scalars, which numpy 2.4 refuses.
INTERPRETER = (3, 9)
CUDA = torch.device("cuda")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TRITON_"))}
    environment = clean | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@needs_triton
def test_kernels_in_the_interpreter():
    version = importlib.metadata.version("triton")
    if tuple(map(int, version.split(".")[:2])) < INTERPRETER:
        pytest.skip(f"the interpreter of Triton {version} does not work with numpy 2.4")
    cases = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/fused_cases.py")
    result = run(*cases, TRITON_INTERPRET="1")
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout


@needs_triton
@pytest.mark.parametrize("element", ["fp32", "fp64"])
@pytest.mark.parametrize("with_vectors", [False, True])
def test_kernels_compile_for_a_gpu(element: str, with_vectors: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hydrapot.potential.backbones import fused_kernels

    constants = {
        "F": 128,
        "R": 20,
        "HAS_VECTORS": with_vectors,
        "BLOCK_EDGES": fused.BLOCK_EDGES,
        "BLOCK_CHANNELS": fused.BLOCK_CHANNELS,
        "BLOCK_RADIAL": 32,
    }
    scalars = dict.fromkeys(("degree", "n_atoms"), "i32")
    indices = dict.fromkeys(("senders", "reverse"), "*i64")
    for name in ("sum_kernel", "node_gradient_kernel", "edge_gradient_kernel", "filter_gradient_kernel"):
        kernel = getattr(fused_kernels, name)
        known = dict.fromkeys(constants, "constexpr") | scalars | indices
        parameters = list(inspect.signature(kernel.fn).parameters)
        source = ASTSource(
            fn=kernel,
            signature={p: known.get(p, f"*{element}") for p in parameters},
            constexprs={(parameters.index(p),): value for p, value in constants.items()},
        )
        compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=dict(fused.LAUNCH))
        assert name in compiled.asm["ptx"]
        assert compiled.metadata.shared <= 48 << 10  # every GPU has that much without asking
        assert not re.search(r"\b(atom|red)\.|tf32", compiled.asm["ptx"])


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    return monkeypatch


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gpus_get_fused_kernels(dtype: torch.dtype, pretended_gpu: pytest.MonkeyPatch):
    assert fastest_message_sum(CUDA, dtype) is FusedMessageSum
    assert not is_usable(torch.device("cpu"), dtype)
    pretended_gpu.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert fastest_message_sum(CUDA, dtype) is DenseMessageSum


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_precisions_get_the_dense_form(dtype: torch.dtype):
    assert fastest_message_sum(CUDA, dtype) is DenseMessageSum


def test_no_gpu():
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert fastest_message_sum(CUDA, torch.float32) is DenseMessageSum


@needs_triton
def test_old_triton(pretended_gpu: pytest.MonkeyPatch):
    pretended_gpu.setattr("triton.__version__", "3.2.0")
    has_triton.cache_clear()
    try:
        assert fastest_message_sum(CUDA, torch.float32) is DenseMessageSum
    finally:
        has_triton.cache_clear()


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # what an import of a missing package comes to
import torch
torch.version.cuda = "13.0"
torch.cuda.is_available = lambda: True
torch.cuda.get_device_capability = lambda _: (9, 0)
from hydrapot.potential.backbones.blocked import fastest_message_sum
print(fastest_message_sum(torch.device("cuda"), torch.float32).__name__)
"""


def test_without_triton_gpus_get_the_dense_form():
    result = run("-W", "error", "-c", WITHOUT_TRITON)
    assert result.stdout == "DenseMessageSum\n", result.stderr


def test_triton_is_not_imported_before_it_is_needed():
    result = run("-c", "import sys, hydrapot.potential; print('triton' in sys.modules)")
    assert result.stdout == "False\n", result.stderr


def test_benchmark_says_so_when_there_is_no_gpu():
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    result = run("benchmarks/gpu_edges.py")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    assert "no CUDA GPU" in result.stdout
