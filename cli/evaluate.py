"""``hydrapot eval``."""

from typing import Annotated

import typer

from hydrapot.cli import options
from hydrapot.cli.columns import print_columns

#: Structures that the table on the screen shows; the JSON file holds all.
_SHOWN = 20


def evaluate(
    model: options.Model,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Structures in any format that ASE reads; name@start:stop takes some.")
    ],
    *,
    head: options.Head = None,
    output: options.Output = None,
    overwrite: options.Overwrite = False,
    dtype: options.Dtype = options.Precision.float32,
    device: options.Device = "cpu",
    threads: options.Threads = None,
) -> None:
    """Energy, forces and stress of every structure in a file, and errors if it has labels.

    Writes OUTPUT.extxyz (structures with predictions; labels as label_energy, …) and OUTPUT.json; OUTPUT is FILE-eval
    unless given.
    """
    from hydrapot import workflows

    calculator = options.make_calculator(model, head=head, dtype=dtype, device=device, threads=threads)
    output = output or options.default_output(file, "eval")
    result = workflows.evaluate_file(calculator, file, output=output, overwrite=overwrite, progress=True)
    frames = result.summary["frames"]
    labelled = any("energy_error_mev_per_atom" in frame for frame in frames)
    rows = []
    for frame in frames[:_SHOWN]:
        row = {
            "#": str(frame["index"]),
            "formula": frame["formula"],
            "E (eV)": f"{frame['energy_ev']:.5f}",
            "max |F| (eV/Å)": f"{frame['max_force_ev_per_a']:.4f}",
            "p (GPa)": f"{frame['pressure_gpa']:.3f}" if "pressure_gpa" in frame else "",
        }
        if labelled:
            error = frame.get("energy_error_mev_per_atom")
            row["ΔE (meV/atom)"] = "" if error is None else f"{error:+.2f}"
        rows.append(row)
    print_columns(rows, numbers=["#", *list(rows[0])[2:]])
    if len(frames) > _SHOWN:
        typer.echo(f"… and {len(frames) - _SHOWN} more in {output}.json")
    for name, unit in (("energy", "mev_per_atom"), ("forces", "mev_per_a"), ("stress", "gpa")):
        if f"{name}_frames" in result.errors:
            mae, rmse = (result.errors[f"{name}_{kind}_{unit}"] for kind in ("mae", "rmse"))
            typer.echo(f"{name:7} MAE {mae:9.3f}   RMSE {rmse:9.3f} {_UNITS[unit]}")
    typer.echo(f"written {output}.extxyz, .json")


_UNITS = {"mev_per_atom": "meV/atom", "mev_per_a": "meV/Å", "gpa": "GPa"}
