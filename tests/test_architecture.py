"""The rooms of the package keep to their direction of imports and to the rules for library code.

Everything is read from the syntax tree, so that modules whose engine is not installed are checked too.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# cli -> workflows, training, validation -> calculators, lammps_plugin -> potential: a room imports only
# from lower floors, never from its neighbors.
FLOOR = {
    "potential": 0,
    "calculators": 1,
    "lammps_plugin": 1,
    "training": 2,
    "validation": 2,
    "workflows": 2,
    "cli": 3,
}
PICKLE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
PICKLE_CALLS = {"torch.load", "torch.save"}
# LAMMPS' ML-IAP unpickles what it is given. The file that is written for it holds one call of our loader and the bytes of
# a checkpoint; nothing of ours reads it.
PICKLE_EXCEPTIONS = {("lammps_plugin/export.py", "torch.save")}
# Absolute folders of one particular machine. A relative path or a word like `framework/` does not count.
MACHINE_PATH = re.compile(r"(?<![\w./-])/(?:work|root|home|Users|mnt|scratch)/\w")
# What job scripts are written from: folders that are the same for everyone on a public machine.
PATH_EXCEPTIONS = {"training/sites.py"}
SCRIPT_FOLDERS = ("tests", "examples", "benchmarks", "docs")


def dotted(node: ast.expr) -> str:
    """`a.b.c` for an attribute chain, the empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def imported_modules(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import: also lazy, relative, or by name at run time."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            parent = ".".join((*base, *((node.module,) if node.module else ())))
            yield from ((node.lineno, f"{parent}.{alias.name}") for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and dotted(node.func).rpartition(".")[2] in {"import_module", "__import__"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            yield node.lineno, node.args[0].value


def import_complaints(tree: ast.Module, path: Path) -> Iterator[str]:
    """Imports that run against the direction, use a bare folder name, or bring in pickle."""
    room = path.parts[0]
    for line, name in imported_modules(tree, ("hydrapot", *path.parent.parts)):
        top, *rest = name.split(".")
        if top in FLOOR:
            yield f"{path}:{line}: imports {name} by its folder's name; write hydrapot.{name}"
        elif top in PICKLE_MODULES or any(name.startswith(call) for call in PICKLE_CALLS):
            yield f"{path}:{line}: uses {name}; nothing is stored as pickle"
        elif top == "hydrapot" and rest and rest[0] != room and FLOOR.get(rest[0], 99) >= FLOOR[room]:
            yield f"{path}:{line}: {room}/ imports {name}, against the direction cli -> ... -> potential"


def call_complaints(tree: ast.Module, path: Path) -> Iterator[str]:
    """Calls that library code never makes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        if name == "print" and path.parts[0] != "cli":
            yield f"{path}:{node.lineno}: print() in library code; use logging"
        if name in PICKLE_CALLS and (path.as_posix(), name) not in PICKLE_EXCEPTIONS:
            yield f"{path}:{node.lineno}: {name} reads or writes pickle; use safetensors"
        for keyword in node.keywords:
            if keyword.arg == "allow_pickle" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                yield f"{path}:{node.lineno}: allow_pickle"


def complaints(source: str, path: Path) -> list[str]:
    """Everything that is wrong with the module `path` (relative to the repository) of a room."""
    tree = ast.parse(source, filename=str(path))
    found = [*import_complaints(tree, path), *call_complaints(tree, path)]
    if not ast.get_docstring(tree):
        found.append(f"{path}:1: no docstring")
    found.extend(path_complaints(source, path))
    return found


def path_complaints(source: str, path: Path) -> Iterator[str]:
    """Lines that name a folder of one particular machine."""
    for number, line in enumerate(source.splitlines(), start=1):
        if MACHINE_PATH.search(line) and path.as_posix() not in PATH_EXCEPTIONS:
            yield f"{path}:{number}: names a path of one machine"


def modules(*folders: str) -> list[Path]:
    return sorted(
        path.relative_to(ROOT)
        for folder in folders
        if (ROOT / folder).is_dir()
        for path in (ROOT / folder).rglob("*.py")
    )


@pytest.mark.parametrize("path", modules(*FLOOR), ids=str)
def test_module_keeps_the_rules_of_its_room(path):
    assert complaints((ROOT / path).read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize("path", modules(*SCRIPT_FOLDERS), ids=str)
def test_script_has_a_docstring_and_no_machine_path(path):
    source = (ROOT / path).read_text(encoding="utf-8")
    assert list(path_complaints(source, path)) == []
    assert ast.get_docstring(ast.parse(source)), f"{path}: no docstring"


def test_configuration_and_documents_name_no_machine_path():
    suffixes = {".md", ".toml", ".yaml", ".yml", ".json", ".cfg", ""}
    files = [p for p in (*ROOT.iterdir(), *ROOT.glob(".ci/*")) if p.is_file() and p.suffix in suffixes]
    for folder in (*FLOOR, *SCRIPT_FOLDERS):
        files += [p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix in suffixes - {""}]
    assert len(files) > 3
    found = [c for p in files for c in path_complaints(p.read_text(encoding="utf-8"), p.relative_to(ROOT))]
    assert found == []


# The checker itself: each of these must be caught, and for the stated reason.
VIOLATIONS = {
    "upward import": ("potential/a.py", "import hydrapot.training.trainer", "against the direction"),
    "upward from-import": ("potential/a.py", "from hydrapot import calculators", "against the direction"),
    "upward relative import": (
        "potential/backbones/a.py",
        "from ...training import x",
        "against the direction",
    ),
    "sideways import": (
        "training/a.py",
        "from hydrapot.validation.contract import x",
        "against the direction",
    ),
    "lazy import": (
        "calculators/a.py",
        "def f():\n    from hydrapot.workflows import md",
        "against the direction",
    ),
    "dynamic import": ("potential/a.py", "import_module('hydrapot.cli.main')", "against the direction"),
    "unknown room": ("cli/a.py", "import hydrapot.elsewhere", "against the direction"),
    "bare room": ("training/a.py", "from potential.model import Potential", "folder's name"),
    "print": ("workflows/a.py", "print('done')", "print()"),
    "pickle": ("training/a.py", "import pickle", "pickle"),
    "torch.load": ("potential/a.py", "import torch\ntorch.load('x')", "safetensors"),
    "torch.load where LAMMPS' file is written": ("lammps_plugin/export.py", "torch.load('x')", "safetensors"),
    "torch.save beside that": ("lammps_plugin/mliap.py", "torch.save(1, 'x')", "safetensors"),
    "torch.save by name": ("training/a.py", "from torch import save", "pickle"),
    "numpy pickle": ("training/a.py", "np.load('x', allow_pickle=True)", "allow_pickle"),
    "machine path": ("validation/a.py", "x = '" + "/" + "home/me/data'", "one machine"),
}


@pytest.mark.parametrize(("path", "code", "reason"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_checker_catches(path, code, reason):
    found = complaints(f'"""A module."""\n{code}\n', Path(path))
    assert len(found) == 1
    assert reason in found[0]


def test_checker_catches_a_missing_docstring():
    assert complaints("x = 1\n", Path("potential/a.py")) == ["potential/a.py:1: no docstring"]


def test_checker_lets_sound_code_pass():
    source = '''"""A module of the command line."""
import torch
from hydrapot.potential import load
from hydrapot.workflows import md
from . import options
print(torch.zeros(3))
torch.nn.Module().load_state_dict({})
'''
    assert complaints(source, Path("cli/a.py")) == []
