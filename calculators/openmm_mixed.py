"""A potential for a part of a system, a force field for the rest, by openmm-ml: what it takes from the force field, and link
atoms where bonds are cut.

Interactions within the part are the potential's, all others the force field's ("mechanical embedding"). A bond between
the two sides is capped for the potential by a hydrogen atom, a virtual site along the bond.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openmm
import openmm.app
from openmmml.mlpotential import MLPotential, MLPotentialImpl

from hydrapot.calculators.openmm import MOLECULES, add_to_system, name_molecules
from hydrapot.potential.errors import ConfigurationError

#: Arguments for the embedding, which openmm-ml hands to the potential as well.
_EMBEDDING = frozenset({"linkAtomDistances", "mlLongRange"})
_MODEL = frozenset({"model", "head", "charge", "spin", "periodic", "total", "scale", "keep_molecules"})
_HOW = frozenset({"dtype", "device", "backend", "skin", "threads"})
_ARGUMENTS = _MODEL | _HOW
#: The name under which any checkpoint can be asked for.
_ANY = "hydrapot"


class HydrapotImplementation(MLPotentialImpl):  # type: ignore[misc]  # openmm-ml has no types
    """A potential as openmm-ml knows it.

    Parameters
    ----------
    name
        Name of a shipped model; or ``"hydrapot"``, with the argument `model`.
    **arguments
        Any of :func:`~hydrapot.calculators.openmm.add_to_system`; those given later, to ``createSystem`` or
        ``createMixedSystem``, come first.

    Raises
    ------
    ConfigurationError
        An argument that is not known, or ``"hydrapot"`` without `model`.
    """

    def __init__(self, name: str, **arguments: Any) -> None:
        self.name = name
        self.arguments = _known(arguments)
        if name != _ANY:
            if "model" in arguments:
                raise ConfigurationError(f"{name!r} is a model: for another one say MLPotential('hydrapot', model=...)")
            self.arguments["model"] = name
        if "model" not in self.arguments:
            raise ConfigurationError(
                "name a model: MLPotential('hydrapot', model='hydrapot-s'), or the path of a checkpoint"
            )

    def addForces(  # noqa: N802 - as openmm-ml calls it
        self,
        topology: openmm.app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        **arguments: Any,
    ) -> None:
        """Add the force; called by openmm-ml.

        Raises
        ------
        ConfigurationError
            An argument that is not known; and as :func:`~hydrapot.calculators.openmm.add_to_system`.
        """
        add_to_system(system, topology, atoms, force_group=forceGroup, **{**self.arguments, **_known(arguments)})

    def getMLLongRange(self) -> bool:  # noqa: N802 - as openmm-ml calls it
        """Nothing acts beyond the receptive field."""
        return False


def create_mixed_system(
    topology: openmm.app.Topology,
    system: openmm.System,
    atoms: Iterable[int],
    *,
    model: str | Path,
    interpolate: bool = False,
    force_group: int = 0,
    remove_constraints: bool = True,
    link_atom_distances: Iterable[tuple[int, int, Any]] = (),
    **arguments: Any,
) -> tuple[openmm.System, openmm.app.Topology]:
    """A system in which the interactions among `atoms` are the potential's.

    Parameters
    ----------
    topology, system
        The whole system, as a force field describes it.
    atoms
        Indices of the potential's part.
    model
        Name of a shipped model or path of a checkpoint.
    interpolate
        Add a global parameter ``lambda_interpolate``: 0 is the force field alone, 1 the mixed system.
    force_group
        Of the potential.
    remove_constraints
        Take away constraints within the part, whose bonds are the potential's then.
    link_atom_distances
        (atom, atom, distance) of bonds between the sides where the hydrogen is not to lie at the sum of the covalent radii.
    **arguments
        head, charge, spin and all others of :func:`~hydrapot.calculators.openmm.add_to_system`.

    Returns
    -------
    system, topology
        New ones; link atoms come last.

    Raises
    ------
    ConfigurationError, CheckpointError, UnknownHeadError, UnknownElementError, UnsupportedChargeError
    """
    chosen = [int(index) for index in atoms]
    if not chosen:
        raise ConfigurationError("no atoms for the potential: name at least one")
    # openmm-ml needs no registration for this, so that it works from a source tree, too.
    potential = MLPotential.__new__(MLPotential)
    potential._impl = HydrapotImplementation(_ANY, model=model, **arguments)  # noqa: SLF001
    try:
        made = potential.createMixedSystem(
            topology,
            system,
            chosen,
            removeConstraints=remove_constraints,
            forceGroup=force_group,
            interpolate=interpolate,
            returnInfo=True,
            linkAtomDistances=list(link_atom_distances),
        )
    except NotImplementedError as error:  # say, to interpolate in a force field with a CustomNonbondedForce
        raise ConfigurationError(f"openmm-ml cannot make this mixed system: {error}") from error
    mixed, extended = made["system"], made["topology"]
    if arguments.get("keep_molecules", True) and not any(force.getName() == MOLECULES for force in mixed.getForces()):
        name_molecules(mixed, topology, atoms=chosen)  # bonds inside a collective variable do not count for OpenMM
    return mixed, extended


def _known(arguments: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(arguments) - _ARGUMENTS - _EMBEDDING)
    if unknown:
        raise ConfigurationError(f"argument {unknown[0]!r} is not known: choose from {', '.join(sorted(_ARGUMENTS))}")
    return {name: value for name, value in arguments.items() if name in _ARGUMENTS}
