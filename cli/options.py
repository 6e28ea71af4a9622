"""Options that several verbs share."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ase import Atoms

    from hydrapot.calculators import HydrapotCalculator


class Precision(StrEnum):
    """Precision of the network."""

    float32 = "float32"
    float64 = "float64"


Model = Annotated[str, typer.Argument(metavar="MODEL", help="Shipped model (hydrapot-s) or checkpoint file.")]
Structure = Annotated[
    str, typer.Argument(metavar="FILE", help="Structure in any format that ASE reads; name@index picks one of several.")
]
Head = Annotated[
    str | None, typer.Option("--head", "-H", help="Head, that is level of theory; see `hydrapot info MODEL FILE`.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Beginning of the names of the output files.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files of an earlier run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run of the same name.")]
Charge = Annotated[int | None, typer.Option("--charge", help="Total charge, e.", show_default="that of FILE, or 0")]
Spin = Annotated[
    int | None, typer.Option("--spin", help="Spin multiplicity 2S+1.", show_default="that of FILE, or not stated")
]
Dtype = Annotated[Precision, typer.Option("--dtype", help="Precision of the network.")]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads on the CPU.", show_default="as many as cores")
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network first (about a minute).")]


def structure_and_calculator(
    model: str, file: str, *, charge: int | None = None, spin: int | None = None, **calculator: Any
) -> "Atoms":
    """The structure in `file` with a calculator of `model`, and with charge and spin if they are given."""
    from hydrapot.workflows.structures import read_structure

    atoms = read_structure(file)
    if charge is not None:
        atoms.info["charge"] = charge
    if spin is not None:
        atoms.info["spin"] = spin
    atoms.calc = make_calculator(model, **calculator)
    return atoms


def make_calculator(model: str, *, dtype: Precision, **calculator: Any) -> "HydrapotCalculator":
    """A calculator from options of the command line."""
    from hydrapot.calculators import HydrapotCalculator

    return HydrapotCalculator(model, dtype=dtype.value, **calculator)


def default_output(file: str, verb: str) -> Path:
    """``NAME-VERB`` in the current folder, for an input ``…/NAME.suffix``."""
    name = Path(file.rpartition("@")[0] or file).name
    return Path(f"{name.split('.')[0] or name}-{verb}")
