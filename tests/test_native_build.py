"""What an installation does about the native engine: builds it, or goes without and says so."""

import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from hydrapot.potential import native
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.native import library as binding
from tests.native_helpers import needs_native
from tests.potential_helpers import tiny_potential

ROOT = Path(__file__).resolve().parent.parent
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="not main")
HEADER = "".join(
    (ROOT / "potential/native/include" / name).read_text(encoding="utf-8")
    for name in ("hydrapot.h", "hydrapot_messages.h")
)


@pytest.fixture
def without_library(monkeypatch, tmp_path):
    monkeypatch.setattr(binding, "library_path", lambda: tmp_path / "libhydrapot.so")
    binding._open.cache_clear()
    yield tmp_path / "libhydrapot.so"
    binding._open.cache_clear()


def test_it_is_built_where_there_is_a_compiler():
    assert SETUP["compiler"]() is None or native.available(), native.reason_missing()


def test_without_the_library_there_is_a_reason(without_library):
    assert not native.available()
    assert "not built in this installation" in native.reason_missing()
    with pytest.raises(ConfigurationError, match=r"install hydrapot again with a C\+\+17 compiler"):
        native.NativeModel(tiny_potential())


def test_a_library_that_is_none_has_a_reason(without_library):
    without_library.write_bytes(b"not a library")
    assert "cannot be loaded" in native.reason_missing()


def test_without_a_compiler_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert SETUP["compiler"]() is None
    monkeypatch.setenv("CXX", sys.executable)  # runs, but compiles nothing
    assert SETUP["compiler"]() is None


def test_flags_bind_to_no_processor():
    flags = [*SETUP["FLAGS"], *(flag for own in SETUP["KERNEL_FLAGS"].values() for flag in own)]
    assert not [flag for flag in flags if flag.startswith(("-march", "-mtune", "-mcpu", "-ffast-math", "-Ofast"))]
    assert {path.stem for path in SETUP["sources"]()} <= {
        path.stem for path in (ROOT / "potential/native/src").glob("*.cpp")
    }


def test_kernels_use_nothing_of_the_library_that_has_code():
    """An inline function compiled for AVX-512 may replace its namesake everywhere; see kernels/simd.hpp."""
    allowed = {"cstddef", "cstdint", "immintrin.h"}
    for path in (ROOT / "potential/native/src/kernels").glob("*.hpp"):
        assert set(re.findall(r"#include <([^>]+)>", path.read_text(encoding="utf-8"))) <= allowed, path


@needs_native
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_the_library_shows_the_interface_of_its_header_only():
    line = ["nm", "-D", "--defined-only", str(native.library_path())]
    symbols = {
        row.split()[-1] for row in subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
    }
    declared = set(re.findall(r"HYDRAPOT_API [\w* ]*?(hydrapot_\w+)\(", HEADER))
    assert {name for name in symbols if name.startswith("hydrapot")} == declared
    assert set(binding._FUNCTIONS) <= declared
    needed = subprocess.run(
        ["objdump", "-p", str(native.library_path())], capture_output=True, text=True, check=True
    ).stdout
    assert not re.search(r"NEEDED.*(torch|python|gomp)", needed)


def test_the_binding_is_for_the_version_of_the_header():
    assert int(re.search(r"#define HYDRAPOT_ABI (\d+)", HEADER)[1]) == binding.ABI
    for structure, name in (
        (binding.Architecture, "architecture"),
        (binding.Options, "options"),
        (binding.Input, "input"),
        (binding.Output, "output"),
        (binding.MessagesOptions, "messages_options"),
        (binding.MessagesArrays, "messages_arrays"),
    ):
        body = re.search(rf"typedef struct \{{([^}}]*)\}} hydrapot_{name};", HEADER)[1]
        body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
        body = re.sub(r"void \(\*(\w+)\)\([^;]*;", r"void* \1;", body)  # a pointer to a function
        names = [n for line in body.split(";") for n in re.findall(r"(\w+)\s*(?:,|$)", line.strip())]
        assert names == [field[0] for field in structure._fields_], name


@pytest.mark.slow
def test_wheel_and_sdist(tmp_path):
    line = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(line, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    (sdist,) = tmp_path.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    built = SETUP["compiler"]() is not None
    assert ("hydrapot/potential/native/libhydrapot.so" in names) == built
    assert wheel.name.endswith("-none-any.whl") != built
    for file in (ROOT / "potential/native").rglob("*.?pp"):
        inside = file.relative_to(ROOT).as_posix()
        assert f"hydrapot/{inside}" in names
        with tarfile.open(sdist) as archive:
            assert [name for name in archive.getnames() if name.endswith(f"/{inside}")], inside
