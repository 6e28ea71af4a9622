"""What a wheel contains follows from pyproject.toml; these tests keep the explicit lists in it complete."""

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def room_folders():
    mapping = CONFIG["tool"]["setuptools"]["package-dir"]
    return {package: ROOT / folder for package, folder in mapping.items()}


def test_every_package_folder_is_in_the_wheel():
    found = set()
    for package, folder in room_folders().items():
        for init in folder.rglob("__init__.py"):
            found.add(".".join((package, *init.parent.relative_to(folder).parts)))
    assert found == set(CONFIG["tool"]["setuptools"]["packages"])


def test_every_module_lies_in_a_package():
    for folder in room_folders().values():
        for module in folder.rglob("*.py"):
            assert (module.parent / "__init__.py").is_file(), f"{module.parent} has no __init__.py"


def test_every_room_is_mapped_and_typed():
    for package, folder in room_folders().items():
        assert (folder / "py.typed").is_file(), f"{package} has no py.typed"


def test_training_brings_no_mpi_of_its_own():
    extras = CONFIG["project"]["optional-dependencies"]
    names = {Requirement(line).name.lower() for line in extras["training"]}
    assert not names & {"mpich", "openmpi", "impi-rt", "hydrapot"}


def test_metadata_of_the_installation_is_this_version():
    assert importlib.metadata.version("hydrapot") == CONFIG["project"]["version"]
