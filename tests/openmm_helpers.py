"""Topologies, systems and contexts of OpenMM for tests, from structures of ASE."""

import numpy as np
import openmm
from ase.build import molecule
from openmm import app

from hydrapot.calculators.openmm_box import ReducedBox

SHIPPED = "hydrapot-s"
ORGANIC, COPPER, ETHANOL = "qm22_b3lyp_molecules", "mvl_snap_Cu", "botnet_ethanol_methanol"


def topology_of(atoms, *, bonds=(), box=None):
    """One residue of all atoms; `box` in Å."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    added = [
        topology.addAtom(f"{symbol}{k}", app.Element.getBySymbol(symbol), residue)
        for k, symbol in enumerate(atoms.symbols)
    ]
    for i, j in bonds:
        topology.addBond(added[i], added[j])
    if box is not None:
        topology.setPeriodicBoxVectors(
            openmm.unit.Quantity(list(map(openmm.Vec3._make, box * 0.1)), openmm.unit.nanometer)
        )
    return topology


def system_of(atoms, *, box=None):
    """Particles without forces; `box` in Å."""
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(float(mass))
    if box is not None:
        system.setDefaultPeriodicBoxVectors(*(box * 0.1))
    return system


def context_of(system, positions, *, integrator=None, platform="Reference"):
    """A context at `positions` (Å)."""
    context = openmm.Context(
        system, integrator or openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform)
    )
    context.setPositions(np.asarray(positions) * 0.1)
    return context


def answers(context, **groups):
    """Energy (kJ/mol) and forces (kJ/mol/nm)."""
    state = context.getState(energy=True, forces=True, **groups)
    return state.getPotentialEnergy()._value, np.array(state.getForces(asNumpy=True)._value)


def ethanol():
    """The molecule, slightly distorted, and its bonds."""
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.03, seed=4)
    distances = atoms.get_all_distances()
    light = atoms.numbers == 1
    bonds = [
        (i, j)
        for i in range(len(atoms))
        for j in range(i)
        if not (light[i] and light[j]) and distances[i, j] < (1.2 if light[i] or light[j] else 1.7)
    ]
    assert len(bonds) == len(atoms) - 1
    return atoms, bonds


def reduced(atoms):
    """The structure in OpenMM's frame."""
    frame = ReducedBox.of(atoms)
    turned = atoms.copy()
    turned.set_cell(frame.box, scale_atoms=False)
    turned.positions = frame.into(atoms.positions)
    return turned
