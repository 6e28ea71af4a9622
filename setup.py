"""Builds the native engine (``potential/native/``) if there is a C++17 compiler; everything else is in pyproject.toml.

Without a compiler, or when it fails, hydrapot installs without the engine and says so in one line; every feature then runs
on torch. Each instruction set is a translation unit with flags of its own and is chosen when the program runs, so the
library works on any processor of its family: never ``-march=native``.
"""

import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SOURCE = ROOT / "potential" / "native" / "src"
LIBRARY = "libhydrapot.so"
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-fno-math-errno", "-DNDEBUG"]
#: Flags of the kernels of one instruction set; the others need none.
KERNEL_FLAGS = {
    "kernels_avx2": ["-mavx2", "-mfma"],
    "kernels_avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"],
}
X86 = platform.machine().lower() in {"x86_64", "amd64"}

logger = logging.getLogger(__name__)


def compiler() -> list[str] | None:
    """Command of a C++17 compiler with vector extensions that works here; None if there is none."""
    candidates = [shlex.split(os.environ["CXX"])] if os.environ.get("CXX") else [["g++"], ["clang++"], ["c++"]]
    program = "#include <thread>\n#include <variant>\ntypedef float v __attribute__((vector_size(16)));\nv x;\n"
    for command in candidates:
        if shutil.which(command[0]) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "try.cpp"
            source.write_text(program, encoding="utf-8")
            line = [*command, *FLAGS, "-shared", "-pthread", str(source), "-o", str(source.with_suffix(".so"))]
            if subprocess.run(line, capture_output=True, check=False).returncode == 0:  # noqa: S603
                return command
    return None


def sources() -> list[Path]:
    """Translation units for this kind of processor."""
    return [path for path in sorted(SOURCE.glob("*.cpp")) if X86 or path.stem not in KERNEL_FLAGS]


def inputs() -> list[Path]:
    """Everything that the library is made from."""
    return [*SOURCE.rglob("*.?pp"), *SOURCE.parent.glob("include/*.h"), Path(__file__)]


class BuildNative(build_ext):
    """Compiles the C++ library, which is not a Python module, where an extension module would go."""

    def get_ext_filename(self, fullname: str) -> str:
        """Path of the library below the root of the packages."""
        return str(Path(*fullname.split(".")).with_name(LIBRARY))

    def build_extension(self, ext: Extension) -> None:
        """Compile unless the library is newer than everything it is made from."""
        target = Path(self.get_ext_fullpath(ext.name))
        if target.is_file() and not self.force:
            made = target.stat().st_mtime
            if all(path.stat().st_mtime <= made for path in inputs()):
                return
        command = compiler()
        try:
            if command is None:
                raise RuntimeError("no C++17 compiler was found")
            self.compile(command, target)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", "") or str(error)
            logger.warning("hydrapot: the native engine is not built (%s); torch does its work", reason.strip()[-500:])

    def compile(self, command: list[str], target: Path) -> None:
        """Every translation unit, a few at a time, into one library."""
        objects = Path(self.build_temp) / "native"
        objects.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)

        def unit(path: Path) -> str:
            output = str(objects / f"{path.stem}.o")
            flags = [*FLAGS, *(["-DHYDRAPOT_X86"] if X86 else []), *KERNEL_FLAGS.get(path.stem, [])]
            run([*command, *flags, "-c", str(path), "-o", output])
            return output

        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            made = list(pool.map(unit, sources()))
        # Linked beside the target and renamed: a process may have the old library open.
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        run([*command, "-shared", "-pthread", *made, "-o", str(fresh)])
        fresh.replace(target)


def run(line: list[str]) -> None:
    """Run a compiler; its messages go into the error."""
    subprocess.run(line, check=True, capture_output=True, text=True)  # noqa: S603


if __name__ == "__main__":
    # Without a compiler there is no extension, and a wheel is then one for any platform.
    extensions = [Extension("hydrapot.potential.native.libhydrapot", [], optional=True)] if compiler() else []
    if not extensions:
        logger.warning("hydrapot: no C++17 compiler was found, the native engine is not built; torch does its work")
    setup(ext_modules=extensions, cmdclass={"build_ext": BuildNative})
