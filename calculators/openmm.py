"""Forces of a potential in OpenMM, for a whole system or a part of it; :mod:`~hydrapot.calculators.openmm_mixed` joins it
to a force field.

>>> force = add_to_system(system, topology, model="hydrapot-s", head="qm22_b3lyp_molecules")

Energies are relative to isolated atoms unless `total` is asked for: next to 1e6 kJ/mol of an all-electron reference,
OpenMM's single precision would round them to nothing. Boxes are periodic in all three directions or in none, as OpenMM's are.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import openmm
import openmm.app
from openmm.unit import nanometer

from hydrapot.calculators.ase import DEFAULT_SKIN, HydrapotCalculator
from hydrapot.calculators.openmm_callback import Callback, Record, absolute, stored_record
from hydrapot.calculators.openmm_evaluator import Evaluator, check_same_model
from hydrapot.potential.errors import ConfigurationError, InvalidStructureError
from hydrapot.potential.load import load

#: Of forces of this package in a System.
NAME = "HydrapotForce"
MOLECULES = "HydrapotMolecules"
#: nm; what OpenMM takes for a System whose box was never set.
_UNSET_BOX = ((2.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 2.0))


class HydrapotForce:
    """One head of a potential as a ``PythonForce`` of OpenMM (8.6 or later).

    Parameters
    ----------
    model
        Name of a shipped model or path of a checkpoint. A model in memory cannot be stored or cloned, which OpenMM does.
    numbers
        Atomic numbers, in the order of the particles.
    particles
        Their indices in the System; None for all particles.
    head
        Name of the head; may be left out only if the model has a single one.
    charge, spin
        Of these atoms together: e, and multiplicity 2S+1 or None when not stated.
    periodic
        Whether the atoms interact with their periodic images.
    total
        Include reference energies of isolated atoms, as the ASE calculator does; a constant.
    scale
        Name of a global parameter, 1 by default, that multiplies energy and forces. Forces may share one.
    force_group
        0 to 31.
    dtype, device, backend, skin, threads
        As for :class:`~hydrapot.calculators.HydrapotCalculator`. With another device than the CPU the network runs in torch
        there, whatever OpenMM's platform is.
    calculator
        One that is at hand for `model`; its head, precision, device and threads count then. It is used up: from now on its
        results are those of OpenMM's particles.

    Attributes
    ----------
    force
        The ``PythonForce``.
    callback
        What OpenMM calls; `callback.failure` is the latest exception with its type, of which OpenMM keeps the text only.
    record
        What is stored in place of the model.

    Raises
    ------
    CheckpointError, UnknownHeadError, UnknownElementError, UnsupportedChargeError, ConfigurationError
    """

    def __init__(
        self,
        model: str | Path,
        numbers: Sequence[int],
        *,
        particles: Iterable[int] | None = None,
        head: str | None = None,
        charge: int = 0,
        spin: int | None = None,
        periodic: bool = False,
        total: bool = False,
        scale: str | None = None,
        force_group: int = 0,
        dtype: Literal["float32", "float64"] = "float32",
        device: str = "cpu",
        backend: Literal["auto", "native", "torch"] = "auto",
        skin: float = DEFAULT_SKIN,
        threads: int | None = None,
        calculator: HydrapotCalculator | None = None,
    ) -> None:
        if not hasattr(openmm, "PythonForce") or not hasattr(openmm.PythonForce, "setParticles"):
            raise ConfigurationError(f"OpenMM {openmm.version.version} is too old: pip install 'openmm>=8.6'")
        if not 0 <= force_group < 32:
            raise ConfigurationError(f"force_group must be from 0 to 31, not {force_group}")
        chosen = [] if particles is None else [int(index) for index in particles]
        if particles is not None and len(chosen) != len(numbers):
            raise ConfigurationError(f"{len(chosen)} particles but {len(numbers)} atomic numbers")
        if len(set(chosen)) != len(chosen):
            raise ConfigurationError("a particle is named twice")
        if len(numbers) == 0:  # OpenMM would take no particles for all of them
            raise InvalidStructureError("no atoms for the potential: name at least one")
        calculator = calculator or HydrapotCalculator(
            absolute(model), head=head, device=device, dtype=dtype, backend=backend, skin=skin, threads=threads
        )
        self.record = Record(
            model=absolute(model),
            content_hash=calculator.potential.info.content_hash,
            head=calculator.head,
            numbers=tuple(int(number) for number in numbers),
            charge=charge,
            spin=spin,
            periodic=periodic,
            total=total,
            scale=scale,
            dtype=calculator.dtype,
            device=str(calculator.device),
            backend=backend,
            skin=skin,
            threads=calculator.threads,
        )
        self.callback = Callback(self.record.text(), Evaluator(self.record, calculator))
        self.force = openmm.PythonForce(self.callback, {} if scale is None else {scale: 1.0}, chosen)
        self.force.setUsesPeriodicBoundaryConditions(periodic)
        self.force.setForceGroup(force_group)
        self.force.setName(NAME)

    @property
    def reference_energy(self) -> float:
        """eV; the energy of the isolated atoms, which OpenMM's energy leaves out unless `total` is set."""
        return self.callback.evaluator.reference_energy


def add_to_system(
    system: openmm.System,
    topology: openmm.app.Topology,
    atoms: Iterable[int] | None = None,
    *,
    model: str | Path,
    periodic: bool | None = None,
    keep_molecules: bool = True,
    **arguments: Any,
) -> HydrapotForce:
    """Add a force for all atoms of a system, or for some of them.

    Nothing is taken away: interactions among `atoms` that other forces of `system` compute would count twice. For a part
    of a force field's system use :func:`~hydrapot.calculators.openmm_mixed.create_mixed_system`.

    Parameters
    ----------
    system, topology
        That belong together.
    atoms
        Indices; None for all.
    model
        Name of a shipped model or path of a checkpoint.
    periodic
        None takes the answer from `topology`: whether it has a box.
    keep_molecules
        Tell OpenMM which atoms form molecules, by bonds of no strength: barostats then move whole molecules, and positions
        are wrapped by molecules rather than by atoms.
    **arguments
        head, charge, spin and all others of :class:`HydrapotForce`.

    Returns
    -------
    The force, which belongs to the system then.

    Raises
    ------
    ConfigurationError
        System and topology do not fit, or the system has no box although the topology has one.
    InvalidStructureError
        An atom without element.
    CheckpointError, UnknownHeadError, UnknownElementError, UnsupportedChargeError
    """
    every = list(topology.atoms())
    chosen = None if atoms is None else [int(index) for index in atoms]
    if chosen is None and len(every) != system.getNumParticles():
        raise ConfigurationError(
            f"the topology has {len(every)} atoms, the system {system.getNumParticles()} particles"
        )
    bad = [index for index in chosen or [] if not 0 <= index < len(every)]
    if bad:
        raise ConfigurationError(f"there is no atom {bad[0]}: the topology has {len(every)}, counted from 0")
    members = every if chosen is None else [every[index] for index in chosen]
    vectors = topology.getPeriodicBoxVectors()
    if periodic is None:
        periodic = vectors is not None
    if periodic:
        _check_box(system, vectors)
    made = HydrapotForce(model, [_number(atom) for atom in members], particles=chosen, periodic=periodic, **arguments)
    system.addForce(made.force)
    if keep_molecules and system.getNumParticles():
        name_molecules(system, topology, atoms=chosen)
    return made


def name_molecules(system: openmm.System, topology: openmm.app.Topology, *, atoms: Iterable[int] | None = None) -> None:
    """Tell OpenMM by bonds of no strength which atoms form molecules; nothing happens where the topology has no bonds.

    Parameters
    ----------
    system, topology
        That belong together.
    atoms
        Indices; bonds between two of them are named. None for all.
    """
    members = None if atoms is None else set(atoms)
    pairs = [(bond.atom1.index, bond.atom2.index) for bond in topology.bonds()]
    if members is not None:
        pairs = [(i, j) for i, j in pairs if i in members and j in members]
    if not pairs:
        return
    bonds = openmm.HarmonicBondForce()
    bonds.setName(MOLECULES)
    for i, j in pairs:
        bonds.addBond(i, j, 0.0, 0.0)
    system.addForce(bonds)


def stored_forces(system: openmm.System) -> list[Record]:
    """What the forces of this package in a system were made of, those inside collective variables included."""
    functions = re.findall(r'function="([0-9a-f]+)"', openmm.XmlSerializer.serialize(system))
    found = (stored_record(bytes.fromhex(function)) for function in functions)
    return [record for record in found if record is not None]


def check_system(system: openmm.System) -> list[Record]:
    """Make sure, right after a system was restored, that its checkpoints are there and are those it was made with.

    Otherwise the first evaluation says so, as an exception of OpenMM.

    Returns
    -------
    As :func:`stored_forces`.

    Raises
    ------
    CheckpointError
    """
    records = stored_forces(system)
    for record in records:
        check_same_model(record, load(record.model).info.content_hash)
    return records


def _number(atom: Any) -> int:
    if atom.element is None:
        raise InvalidStructureError(
            f"atom {atom.index} ({atom.name} of residue {atom.residue.name}) has no element: leave it out of the atoms that "
            "the potential is for, or set it in the topology"
        )
    return int(atom.element.atomic_number)


def _check_box(system: openmm.System, vectors: Any) -> None:
    """Raise where a box was forgotten: OpenMM would simulate in its default one, 2 nm wide, without a word."""
    if system.getNumParticles() == 0:  # openmm-ml collects forces in an empty System
        return
    box = _plain(system.getDefaultPeriodicBoxVectors())
    if vectors is not None and box == _UNSET_BOX and _plain(vectors) != box:
        raise ConfigurationError(
            "the topology has a periodic box, the system has none set: call "
            "system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors()) first"
        )


def _plain(vectors: Any) -> tuple[tuple[float, ...], ...]:
    """Three vectors, with OpenMM's units around all or each of them, in nm."""
    return tuple(
        tuple(float(x.value_in_unit(nanometer) if hasattr(x, "unit") else x) for x in vector) for vector in vectors
    )
