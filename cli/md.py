"""``hydrapot md``."""

from contextlib import ExitStack
from enum import StrEnum
from typing import Annotated

import typer

from hydrapot.cli import options


class Ensemble(StrEnum):
    """What is held constant, and how."""

    nve = "nve"
    langevin = "langevin"
    nose_hoover = "nose-hoover"
    npt = "npt"


class Cell(StrEnum):
    """What a barostat changes."""

    isotropic = "isotropic"
    full = "full"


class Frames(StrEnum):
    """Format of the frames."""

    traj = "traj"
    extxyz = "extxyz"
    pdb = "pdb"
    cif = "cif"


def md(
    model: options.Model,
    file: options.Structure,
    *,
    head: options.Head = None,
    output: options.Output = None,
    steps: Annotated[int, typer.Option("--steps", "-n", help="Time steps in all.")] = 1000,
    ensemble: Annotated[
        Ensemble, typer.Option("--ensemble", "-e", help="Constant energy, temperature (two ways), or also pressure.")
    ] = Ensemble.langevin,
    temperature: Annotated[
        float, typer.Option("--temperature", "-T", help="K. For nve at the start; from a minimum half of it remains.")
    ] = 300.0,
    timestep: Annotated[float | None, typer.Option(help="fs.", show_default="0.5 with hydrogen, 1 without")] = None,
    pressure: Annotated[float, typer.Option(help="GPa, for npt.")] = 0.0,
    cell: Annotated[Cell, typer.Option(help="For npt: change the volume, or all lengths and angles.")] = Cell.isotropic,
    thermostat_time: Annotated[float, typer.Option(help="fs; 1/friction for langevin.")] = 100.0,
    barostat_time: Annotated[float, typer.Option(help="fs, for npt.")] = 1000.0,
    seed: Annotated[int, typer.Option(help="Of the velocities and of langevin.")] = 0,
    keep_velocities: Annotated[bool, typer.Option("--keep-velocities", help="Start with those in FILE.")] = False,
    interval: Annotated[int, typer.Option(help="Steps between frames and rows of the table.")] = 10,
    engine: Annotated[
        str,
        typer.Option(
            help="ase; lammps, which `mpiexec -n 4 hydrapot md …` divides between processes; or auto: lammps where its "
            "pair style is built (`hydrapot lammps build`) and can do the run, otherwise ase; or openmm, whose barostat "
            "is Monte Carlo."
        ),
    ] = "ase",
    frames: Annotated[
        Frames, typer.Option(help="Format of the frames; traj keeps all digits, pdb and cif (mmCIF) names.")
    ] = Frames.traj,
    charge: options.Charge = None,
    spin: options.Spin = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    dtype: options.Dtype = options.Precision.float32,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    compile_: options.Compile = False,
) -> None:
    """Run molecular dynamics.

    Writes OUTPUT.traj (frames), OUTPUT.csv (energies, temperature, pressure), OUTPUT.json, OUTPUT.png and
    OUTPUT.restart.npz; OUTPUT is FILE-md unless given. A run that was killed goes on with the same command and
    --resume, as if nothing had happened. Exit code 3 if temperature, distances or energy ran away.
    """
    from hydrapot import workflows
    from hydrapot.cli.reporting import INTERRUPTED, STOPPED, say
    from hydrapot.training.interrupt import StopRequest
    from hydrapot.workflows.engines import open_engine

    settings = workflows.MDSettings.checked(
        ensemble=ensemble.value,
        steps=steps,
        timestep=timestep,
        temperature=temperature,
        pressure=pressure,
        cell=cell.value,
        thermostat_time=thermostat_time,
        barostat_time=barostat_time,
        seed=seed,
        velocities="file" if keep_velocities else "new",
        interval=interval,
    )
    output = output or options.default_output(file, "md")
    with ExitStack() as stack:
        request = stack.enter_context(StopRequest())
        provider = stack.enter_context(open_engine(engine, model=model, threads=threads))
        if not provider.first:
            return
        atoms = options.structure_and_calculator(
            model,
            file,
            charge=charge,
            spin=spin,
            head=head,
            dtype=dtype,
            device=device,
            threads=threads,
            compile=compile_,
        )
        result = workflows.md(
            atoms,
            settings,
            output=output,
            frames=frames.value,
            overwrite=overwrite,
            resume=resume,
            progress=True,
            stop=lambda: request.requested is not None,
            engine=provider.engine(atoms, settings),
        )
    found = result.summary["results"]
    rate = f"{found['steps_per_second']:.1f} steps/s"
    typer.echo(f"{result.status}: {result.summary['reason']}, {found['time_ps']:.3f} ps ({rate})")
    if "temperature_mean_k" in found:
        typer.echo(f"temperature {found['temperature_mean_k']:.1f} ± {found['temperature_std_k']:.1f} K")
    if "pressure_mean_gpa" in found:
        typer.echo(f"pressure    {found['pressure_mean_gpa']:.3f} ± {found['pressure_std_gpa']:.3f} GPa")
    if "drift_mev_per_atom_per_ps" in found:
        drift, error = found["drift_mev_per_atom_per_ps"], found["drift_uncertainty_mev_per_atom_per_ps"]
        typer.echo(f"drift       {drift:+.2e} ± {error:.0e} meV/atom/ps ({found['conserved_quantity']})")
    typer.echo(f"written     {output}.{frames.value}, .csv, .json, .png, .restart.npz")
    if result.status == "interrupted":
        say("interrupted: go on with --resume")
        raise typer.Exit(INTERRUPTED.get(request.requested or "", STOPPED))
