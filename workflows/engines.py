"""What can move the atoms of ``hydrapot md``, by name.

An engine joins by :func:`register` with a function that makes its :class:`Provider`; the function imports what the engine
needs, so that a name in this table costs nothing until somebody asks for it.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from ase import Atoms

from hydrapot.potential.errors import ConfigurationError
from hydrapot.workflows.dynamics import Engine
from hydrapot.workflows.mdsettings import MDSettings


class Provider(Protocol):
    """A way to move atoms, as a context: it is open while the run lasts.

    Attributes
    ----------
    first
        Whether this process runs the workflow. The others of an engine that has several have done what the first asked for
        when they enter the context, and have nothing more to do.
    """

    first: bool

    def engine(self, atoms: Atoms, settings: MDSettings) -> Engine | None:
        """For :func:`~hydrapot.workflows.md`; None stands for the integrators of ASE.

        Parameters
        ----------
        atoms
            The structure with its calculator.
        settings
            Of the run.

        Raises
        ------
        ConfigurationError
            The engine cannot do this run.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> Any: ...


#: Makes a provider from the name or path of the model and the number of threads (None leaves it to the engine).
Factory = Callable[[str, int | None], AbstractContextManager[Provider]]

_FACTORIES: dict[str, Factory] = {}


def register(name: str) -> Callable[[Factory], Factory]:
    """Decorator: the function makes the provider of the engine `name`."""

    def add(factory: Factory) -> Factory:
        _FACTORIES[name] = factory
        return factory

    return add


def engine_names() -> tuple[str, ...]:
    """Names of the engines."""
    return tuple(_FACTORIES)


def open_engine(name: str, *, model: str, threads: int | None = None) -> AbstractContextManager[Provider]:
    """The provider of an engine, to be entered before the structure is read.

    Parameters
    ----------
    name
        One of :func:`engine_names`.
    model
        Name or path of the model, for engines whose processes read it themselves.
    threads
        Of each process; None leaves it to the engine.

    Raises
    ------
    ConfigurationError
        An engine that is not known, or not installed.
    """
    if name not in _FACTORIES:
        raise ConfigurationError(f"engine {name!r} is not known: {', '.join(engine_names())}")
    return _FACTORIES[name](model, threads)


class AseProvider:
    """The integrators of ASE, on one process.

    Raises
    ------
    ConfigurationError
        Started by ``mpiexec`` on several processes, which would all write the same files.
    """

    first = True

    def __init__(self) -> None:
        refuse_several_processes("ase")

    def engine(self, atoms: Atoms, settings: MDSettings) -> Engine | None:  # noqa: ARG002 - those of the protocol
        """See :class:`Provider`."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def refuse_several_processes(name: str) -> None:
    """For an engine that has no use for them.

    Raises
    ------
    ConfigurationError
        Started by ``mpiexec`` on several processes, which would all write the same files.
    """
    processes = _launched_processes()
    if processes > 1:
        raise ConfigurationError(
            f"the engine {name} runs on one process, not on {processes}: use --engine lammps, or start without mpiexec"
        )


def _launched_processes() -> int:
    """How many processes the launcher started, as MPICH's and Open MPI's say to each of them."""
    counts = [os.environ.get(name, "") for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")]
    return max([int(count) for count in counts if count.isdigit()], default=1)


@register("ase")
def _ase(_model: str, _threads: int | None) -> AbstractContextManager[Provider]:
    return AseProvider()


@register("lammps")
def _lammps(model: str, threads: int | None) -> AbstractContextManager[Provider]:
    from hydrapot.workflows.mdlammps import LammpsProcesses

    return LammpsProcesses(model, threads=threads)


@register("openmm")
def _openmm(model: str, _threads: int | None) -> AbstractContextManager[Provider]:
    from hydrapot.workflows.mdopenmm import OpenMMProvider

    return OpenMMProvider(model)


@register("auto")
def _auto(model: str, threads: int | None) -> AbstractContextManager[Provider]:
    from hydrapot.workflows.mdauto import AutoProvider

    return AutoProvider(model, threads=threads)
