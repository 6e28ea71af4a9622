"""The engine ``auto`` of ``hydrapot md``: the fastest on a CPU that is at hand and can do the run."""

import logging
from typing import Self

from ase import Atoms

from hydrapot.calculators import HydrapotCalculator
from hydrapot.lammps_plugin.compiled import reason_missing
from hydrapot.potential.errors import ConfigurationError
from hydrapot.workflows.dynamics import Engine
from hydrapot.workflows.engines import AseProvider
from hydrapot.workflows.mdlammps import LammpsProcesses
from hydrapot.workflows.mdsettings import MDSettings

logger = logging.getLogger(__name__)


class AutoProvider:
    """LAMMPS with the compiled pair style, where it is built and for runs that it can do; otherwise ASE.

    Says in one line which, and why.

    Parameters
    ----------
    model
        Name or path of the model.
    threads
        Of each process.

    Raises
    ------
    ConfigurationError
        ASE is what remains, but there are several processes.
    """

    def __init__(self, model: str, *, threads: int | None = None) -> None:
        self._missing = reason_missing()
        self._provider: AseProvider | LammpsProcesses
        if self._missing is not None:
            try:
                self._provider = AseProvider()
            except ConfigurationError as error:
                raise ConfigurationError(f"{self._missing}, and {error}") from error
        else:
            self._provider = LammpsProcesses(model, threads=threads)
        self.first = self._provider.first

    def engine(self, atoms: Atoms, settings: MDSettings) -> Engine | None:
        """See :class:`Provider`."""
        if isinstance(self._provider, AseProvider):
            logger.info("engine ase: %s", self._missing)
            return None
        obstacle = self._provider.obstacle(atoms, settings)
        if obstacle is None and isinstance(atoms.calc, HydrapotCalculator) and atoms.calc.backend != "native":
            obstacle = "the network is evaluated by torch"
        if obstacle is None:
            logger.info("engine lammps: the pair style is built, and can do this run")
            return self._provider.engine(atoms, settings)
        logger.info("engine ase: %s", obstacle)
        return AseProvider().engine(atoms, settings)

    def __enter__(self) -> Self:
        self._provider.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._provider.__exit__(*exception)
