"""Ethanol by a potential, water around it by a force field: a mixed simulation in OpenMM.

    python examples/openmm_mixed.py [--steps 1000] [--output ethanol]

Builds ethanol in a box of TIP3P water with CHARMM36, which OpenMM ships; gives the interactions within ethanol to a head of
hydrapot-s that was trained on ethanol (PBE); simulates the mixed system at 300 K; writes its last frame, and the system. Takes
less than a minute on one core, and no network. Needs `pip install 'hydrapot[openmm]'`.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import openmm
from ase.build import molecule
from openmm import app, unit

from hydrapot.calculators.openmm_mixed import create_mixed_system

MODEL, HEAD = "hydrapot-s", "botnet_ethanol_methanol"
# Atom names of CHARMM's residue ETOH in the order of ASE's molecule, and their bonds.
NAMES = ["C2", "C1", "O1", "HO1", "H11", "H12", "H21", "H22", "H23"]
BONDS = ["C1 C2", "C1 O1", "C1 H11", "C1 H12", "O1 HO1", "C2 H21", "C2 H22", "C2 H23"]
ENERGY = unit.kilojoules_per_mole


def ethanol() -> app.Modeller:
    """One molecule with its topology."""
    atoms = molecule("CH3CH2OH")
    topology = app.Topology()
    residue = topology.addResidue("ETOH", topology.addChain())
    added = {
        name: topology.addAtom(name, app.Element.getBySymbol(symbol), residue)
        for name, symbol in zip(NAMES, atoms.symbols, strict=True)
    }
    for bond in BONDS:
        topology.addBond(*(added[name] for name in bond.split()))
    return app.Modeller(topology, atoms.positions * unit.angstrom)


def energy(simulation: app.Simulation, **groups: set[int]) -> float:
    """Potential energy, kJ/mol."""
    return float(simulation.context.getState(energy=True, **groups).getPotentialEnergy().value_in_unit(ENERGY))


def main() -> None:
    """Build, simulate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of 0.5 fs")
    parser.add_argument("--output", type=Path, default=Path("ethanol"), help="beginning of the file names")
    arguments = parser.parse_args()
    began = time.perf_counter()

    force_field = app.ForceField("charmm36.xml", "charmm36/water.xml")
    modeller = ethanol()
    modeller.addSolvent(force_field, model="tip3p", padding=0.75 * unit.nanometer)
    topology = modeller.topology
    solute = [atom.index for atom in topology.atoms() if atom.residue.name == "ETOH"]
    everything = force_field.createSystem(
        topology, nonbondedMethod=app.PME, nonbondedCutoff=0.7 * unit.nanometer, constraints=None, rigidWater=True
    )
    print(f"{topology.getNumAtoms()} atoms, {len(solute)} of them by {MODEL}, head {HEAD}")

    # The head was trained on isolated molecules, and the solute stays in one piece: no periodic images for the potential.
    mixed, _ = create_mixed_system(topology, everything, solute, model=MODEL, head=HEAD, periodic=False, force_group=1)
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(topology, mixed, integrator, openmm.Platform.getPlatformByName("CPU"))
    simulation.context.setPositions(modeller.positions)
    simulation.minimizeEnergy(maxIterations=100)

    print(f"energy {energy(simulation):.1f} kJ/mol, of which the potential's {energy(simulation, groups={1}):.1f}")

    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    temperatures = []
    for _ in range(10):
        simulation.step(max(1, arguments.steps // 10))
        state = simulation.context.getState(energy=True, positions=True)
        kinetic = state.getKineticEnergy() / unit.MOLAR_GAS_CONSTANT_R
        freedom = 3 * mixed.getNumParticles() - mixed.getNumConstraints()
        temperatures.append((2 * kinetic / freedom).value_in_unit(unit.kelvin))
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)[solute]
    bonds = {
        bond: np.linalg.norm(np.subtract(*(positions[NAMES.index(n)] for n in bond.split()))) for bond in BONDS[:2]
    }
    print(f"{simulation.currentStep} steps, {np.mean(temperatures):.0f} K")
    print(
        "bonds of ethanol: " + ", ".join(f"{bond.replace(' ', '-')} {length:.2f} Å" for bond, length in bonds.items())
    )

    structure = arguments.output.with_suffix(".cif")
    with structure.open("w", encoding="utf-8") as file:
        app.PDBxFile.writeFile(topology, state.getPositions(), file, keepIds=True)
    system = arguments.output.with_suffix(".xml")
    system.write_text(openmm.XmlSerializer.serialize(mixed), encoding="utf-8")
    print(
        f"written {structure} and {system}, which names the checkpoint and its hash; {time.perf_counter() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
