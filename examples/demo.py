"""What `make demo` runs: the shipped potential relaxes a crystal and a molecule and runs molecular dynamics on both.

    python examples/demo.py [MODEL]

Results go to the folder demo-output/. About a minute on two cores.
"""

import sys
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii
from ase.visualize.plot import plot_atoms
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from hydrapot.calculators import HydrapotCalculator
from hydrapot.potential import HydrapotError, shipped_models
from hydrapot.potential.load import load
from hydrapot.potential.model import Potential
from hydrapot.workflows import MDResult, MDSettings, md, relax

OUTPUT = Path("demo-output")
MODEL = "hydrapot-s"
# One thread is as fast as two for so few atoms, and does not suffer from whatever else the machine does.
THREADS = 1
console = Console(highlight=False)


def crystal() -> Atoms:
    """Sixty-four atoms of magnesium oxide, 3 % too large and shaken."""
    atoms = bulk("MgO", "rocksalt", a=4.25 * 1.03, cubic=True).repeat(2)
    atoms.rattle(0.08, seed=1)
    return atoms


def shaken_ethanol() -> Atoms:
    """A molecule of ethanol with its atoms displaced."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.08, seed=1)
    return atoms


def run(potential: Potential, atoms: Atoms, *, name: str, head: str, settings: MDSettings) -> MDResult:
    """Relax, then molecular dynamics; say what happens."""
    level = potential.info.heads[potential.check_head(head)].level_of_theory
    console.rule(f"[bold]{name}: {atoms.get_chemical_formula()}, head {head}, {level}", align="left")
    periodic = bool(atoms.pbc.all())
    atoms.calc = HydrapotCalculator(potential, head=head, dtype="float64", threads=THREADS)
    relaxed = relax(
        atoms,
        cell="isotropic" if periodic else "none",
        output=OUTPUT / f"{name}-relax",
        overwrite=True,
        progress=True,
    )
    results = relaxed.summary["results"]
    gain = 1000 * (results["energy_start_ev"] - results["energy_ev"]) / len(atoms)
    line = f"{relaxed.status} after {results['steps']} steps, {gain:.0f} meV/atom lower"
    if periodic:
        line += f", lattice parameter {(results['volume_a3'] / len(atoms) * 8) ** (1 / 3):.3f} Å"
    console.print(line)
    atoms.calc = HydrapotCalculator(potential, head=head, threads=THREADS)
    result = md(atoms, settings, output=OUTPUT / f"{name}-md", overwrite=True, progress=True)
    found = result.summary["results"]
    line = f"{found['temperature_mean_k']:.0f} ± {found['temperature_std_k']:.0f} K over {found['time_ps']:.1f} ps"
    if "drift_mev_per_atom_per_ps" in found:
        line += f", {found['conserved_quantity']} drifts {found['drift_mev_per_atom_per_ps']:+.4f} meV/atom/ps"
    console.print(f"{line}, {found['steps_per_second']:.0f} steps/s")
    return result


def picture(runs: dict[str, tuple[Atoms, MDResult]]) -> Path:
    """Structures at the end, energy and temperature on the way."""
    figure = Figure(figsize=(9, 2.9 * len(runs)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(runs), 3, width_ratios=[1, 1.5, 1.5], squeeze=False)
    for (structure, energy, temperature), (name, (atoms, result)) in zip(axes, runs.items(), strict=True):
        shown = atoms.copy()
        shown.wrap(eps=0.1)
        plot_atoms(shown, structure, rotation="-80x,12y,3z", radii=0.7 * covalent_radii[shown.numbers])
        structure.set_axis_off()
        settings = result.summary["settings"]
        structure.set_title(f"{name}, {settings['ensemble']}, {settings['temperature']:g} K", fontsize=10)
        time_ps, table = result.table["time_ps"], result.table
        total = table["potential_ev"] + table["kinetic_ev"]
        for values, label, color in ((table["potential_ev"], "potential", "#1f4e79"), (total, "total", "#c55a11")):
            energy.plot(time_ps, 1000 * (values - values[0]) / len(atoms), color=color, lw=1, label=label)
        energy.set_ylabel("energy change (meV/atom)", fontsize=8)
        energy.legend(fontsize=7, frameon=False)
        temperature.plot(time_ps, table["temperature_k"], color="#548235", lw=1)
        temperature.axhline(np.mean(table["temperature_k"][len(time_ps) // 5 :]), color="0.4", ls="--", lw=0.9)
        temperature.set_ylabel("temperature (K)", fontsize=8)
        for axis in (energy, temperature):
            axis.set_xlabel("time (ps)", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(color="0.92", lw=0.6)
            axis.margins(x=0.01)
    path = OUTPUT / "demo.png"
    figure.savefig(path, dpi=150)
    return path


def main() -> None:
    """Run the demonstration."""
    began = time.perf_counter()
    name = sys.argv[1] if len(sys.argv) > 1 else MODEL
    if name == MODEL and MODEL not in shipped_models():
        sys.exit(f"error: this checkout does not hold the weights of {MODEL}: train them first, or name a checkpoint")
    try:
        potential = load(name)
        elements = {e for head in potential.info.heads.values() for e in head.structures_per_element}
        console.print(f"{name}: {len(potential.heads)} heads, {len(elements)} elements (hydrapot info {name})")
        OUTPUT.mkdir(exist_ok=True)
        mgo, ethanol = crystal(), shaken_ethanol()
        runs = {
            "MgO": (
                mgo,
                run(
                    potential,
                    mgo,
                    name="MgO",
                    head="polymlp_MgO",
                    settings=MDSettings(ensemble="langevin", steps=800, temperature=600, interval=5),
                ),
            ),
            "ethanol": (
                ethanol,
                run(
                    potential,
                    ethanol,
                    name="ethanol",
                    head="botnet_ethanol_methanol",
                    settings=MDSettings(ensemble="nve", steps=2000, temperature=600, interval=5),
                ),
            ),
        }
    except HydrapotError as error:
        sys.exit(f"error: {error}")
    path = picture(runs)
    seconds = time.perf_counter() - began
    console.print(f"\ndone in {seconds:.0f} s: structures, trajectories, tables, plots in {OUTPUT}/; look at {path}")


if __name__ == "__main__":
    main()
