"""``hydrapot relax``."""

from enum import StrEnum
from typing import Annotated

import typer

from hydrapot.cli import options


class Cell(StrEnum):
    """What of the cell is relaxed."""

    none = "none"
    isotropic = "isotropic"
    full = "full"
    shape = "shape"


class Optimizer(StrEnum):
    """ASE's optimizers."""

    FIRE = "FIRE"
    LBFGS = "LBFGS"
    BFGS = "BFGS"


def relax(
    model: options.Model,
    file: options.Structure,
    *,
    head: options.Head = None,
    output: options.Output = None,
    fmax: Annotated[float, typer.Option(help="Largest force that is left, eV/Å.")] = 0.01,
    max_steps: Annotated[int, typer.Option(help="Steps after which to give up.")] = 500,
    cell: Annotated[
        Cell, typer.Option(help="Relax the cell too: its volume, all of it, or its shape at constant volume.")
    ] = Cell.none,
    pressure: Annotated[float, typer.Option(help="Pressure on a relaxed cell, GPa.")] = 0.0,
    smax: Annotated[float, typer.Option(help="Largest stress that is left in a relaxed cell, GPa.")] = 0.05,
    optimizer: Annotated[Optimizer, typer.Option(help="FIRE is robust, the others are faster near a minimum.")] = (
        Optimizer.FIRE
    ),
    charge: options.Charge = None,
    spin: options.Spin = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    dtype: options.Dtype = options.Precision.float64,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    compile_: options.Compile = False,
) -> None:
    """Relax a structure: atoms, and the cell on request.

    Writes OUTPUT.traj (every step), OUTPUT.extxyz (the result), OUTPUT.json and OUTPUT.png; OUTPUT is FILE-relax unless
    given. Exit code 3 if it did not converge.
    """
    from hydrapot import workflows
    from hydrapot.cli.reporting import INTERRUPTED, STOPPED, say
    from hydrapot.training.interrupt import StopRequest

    atoms = options.structure_and_calculator(
        model, file, charge=charge, spin=spin, head=head, dtype=dtype, device=device, threads=threads, compile=compile_
    )
    output = output or options.default_output(file, "relax")
    with StopRequest() as request:
        result = workflows.relax(
            atoms,
            fmax=fmax,
            max_steps=max_steps,
            cell=cell.value,
            pressure=pressure,
            smax=smax,
            optimizer=optimizer.value,
            output=output,
            overwrite=overwrite,
            resume=resume,
            progress=True,
            stop=lambda: request.requested is not None,
        )
    found = result.summary["results"]
    typer.echo(f"{result.status} after {found['steps']} steps ({found['steps_per_second']:.1f} steps/s)")
    typer.echo(f"energy         {found['energy_ev']:.6f} eV ({found['energy_ev'] - found['energy_start_ev']:+.6f})")
    typer.echo(f"largest force  {found['max_force_ev_per_a']:.5f} eV/Å")
    if cell is not Cell.none:
        typer.echo(f"largest stress {found['max_residual_stress_gpa']:.4f} GPa   volume {found['volume_a3']:.4f} Å³")
    typer.echo(f"written        {output}.traj, .extxyz, .json, .png")
    if request.requested is not None and result.status == "interrupted":
        say("interrupted: go on with --resume")
        raise typer.Exit(INTERRUPTED.get(request.requested, STOPPED))
    if not result.converged:
        say(f"error: not converged after {found['steps']} steps: go on with --resume")
        raise typer.Exit(STOPPED)
