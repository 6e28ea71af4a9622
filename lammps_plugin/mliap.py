"""The object that ``pair_style mliap unified`` of LAMMPS talks to, plain and with Kokkos, on CPUs and GPUs.

    pair_style mliap unified x.mliap.pt 0
    pair_coeff * * Cu O

with a file from ``hydrapot export MODEL --target lammps --head H -o x.mliap.pt``. With Kokkos features travel by LAMMPS' own
communication. The plain pair style offers none, nor does it say which atoms its ghosts are. They are found through the
library interface of LAMMPS, which a deck hands over once, anywhere before the first run:

    python hydrapot input 1 SELF format p here \"\"\"
    from hydrapot.lammps_plugin.mliap import bind as hydrapot
    \"\"\"
    python hydrapot invoke

With Kokkos this may stand there, too. Only so is it noticed that units are not `metal`, or that neighbors are missing from
LAMMPS' lists (`neigh_modify exclude`, `special_bonds`): nothing else that LAMMPS says to a model tells.

Last resort: ``unified x.mliap.pt 1`` with ``comm_modify cutoff`` of layers · cutoff + skin computes features of ghosts on
every process anew, several times slower.

What LAMMPS expects (mliap_unified.cpp): r_ij = r_j − r_i, strictly inside the cutoff; f_ij = +∂E/∂r_ij with E the sum over
own atoms, from which it makes f_i += f_ij, f_j −= f_ij and the virial −r_ij ⊗ f_ij. `update_pair_energy` halves what it is
given, so energies are set directly.
"""

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydrapot.lammps_plugin.guards import abort, check_engine, check_neighbors, demand_finite, demand_none
from hydrapot.lammps_plugin.halo import TagHalo
from hydrapot.lammps_plugin.mliap_data import Arrays, EngineHalo, NoGhosts, set_atom_energies
from hydrapot.lammps_plugin.mliap_guards import check_exchange, check_pairs, check_version, is_due
from hydrapot.lammps_plugin.settings import Model, Settings
from hydrapot.potential.decomposed import DomainPrediction, Halo, evaluate_domain
from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.model import Potential

logger = logging.getLogger(__name__)

_bound: list[Any] = []


def bind(lmp: Any) -> None:
    """Make LAMMPS' library interface known: ``lammps.lammps``, or the pointer that ``python … SELF`` passes."""
    if not hasattr(lmp, "extract_setting"):
        from lammps import lammps

        lmp = lammps(ptr=lmp)
    _bound[:] = [lmp]


class HydrapotMLIAP:
    """What LAMMPS reads and calls; the names are LAMMPS'.

    Parameters
    ----------
    model
        Its elements are what ``pair_coeff`` may name.

    Attributes
    ----------
    element_types, rcutfac, ndescriptors, nparams, interface
        LAMMPS takes 2 · rcutfac as the cutoff; numbers of descriptors and parameters mean nothing to a unified model.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.element_types = list(model.settings.elements)
        self.rcutfac = 0.5 * model.cutoff
        self.ndescriptors = 1
        self.nparams = 1
        self.interface: Any = None
        self._tag_halo: TagHalo | None = None
        self._evaluations = 0
        self._recomputed = False

    def compute_descriptors(self, data: Any) -> None:
        """Nothing: called first, with the same data."""

    def compute_gradients(self, data: Any) -> None:
        """Nothing: called second, with the same data."""

    def compute_forces(self, data: Any) -> None:
        """Set energies and forces of this process; collective.

        An exception would make LAMMPS wait for processes that have no error, so with several of them it ends all.
        """
        try:
            self._compute(data)
        except Exception as error:
            comm = _world()
            if comm is not None and comm.size > 1:
                abort(comm, error)
            raise

    def _compute(self, data: Any) -> None:
        arrays = Arrays(data)
        self._place(arrays.device)
        numbers = self._numbers(arrays)
        recomputed = self._recomputes(data)
        halo = NoGhosts() if recomputed else self._halo(data, arrays)
        self._evaluations += 1
        if self._evaluations == 1:
            self._begin(halo, arrays, recomputed=recomputed)
        if is_due(self._evaluations) and not recomputed:
            self._check_ghosts(halo, arrays)
        settings = self.model.settings
        prediction = evaluate_domain(
            self.model.potential,
            heads=settings.heads,
            numbers=numbers,
            pair_i=arrays.pair_i,
            pair_j=arrays.pair_j,
            r_ij=arrays.r_ij,
            n_local=arrays.n_total if recomputed else arrays.n_local,
            halo=halo,
            charge=settings.charge,
            spin=settings.spin,
            n_counted=arrays.n_local if recomputed else None,
        )
        self._hand_over(data, arrays, prediction)

    def _recomputes(self, data: Any) -> bool:
        """Whether ghosts have neighbors, too; a process without ghosts learns it from the others."""
        self._recomputed |= int(data.natomneigh) > int(data.nlistatoms)
        comm = _world()
        if self._evaluations == 0 and comm is not None and comm.size > 1:
            counts = np.array([self._recomputed], dtype=np.int32)
            comm.Allreduce(counts.copy(), counts)
            self._recomputed = bool(counts[0])
        return self._recomputed

    def _numbers(self, arrays: Arrays) -> Tensor:
        """``(S,)`` atomic numbers."""
        if arrays.n_total and int(arrays.elements.min()) < 0:
            raise ConfigurationError("NULL for an atom type needs the compiled pair style: `hydrapot lammps build`")
        table = torch.from_numpy(self.model.numbers[1:]).to(arrays.device)
        return table[arrays.elements]

    def _place(self, device: torch.device) -> None:
        if next(self.model.potential.parameters()).device != device:
            self.model.potential.to(device)

    def _halo(self, data: Any, arrays: Arrays) -> Halo:
        if hasattr(data, "forward_exchange"):
            return EngineHalo(data, on_device=arrays.device.type != "cpu")
        if not _bound:
            raise ConfigurationError(
                "this LAMMPS does not say which atoms ghosts are: add to the input deck, before the first run, the lines "
                "that the documentation of hydrapot.lammps_plugin.mliap begins with, or use `pair_style hydrapot`"
            )
        return self._halo_by_tags(_bound[0], arrays)

    def _halo_by_tags(self, lmp: Any, arrays: Arrays) -> TagHalo:
        comm = _demand_same(lmp, arrays)
        tags = np.zeros(0, dtype=np.int64)
        if arrays.n_total:
            tags = lmp.numpy.extract_atom("id", nelem=arrays.n_total)
        if self._tag_halo is None or not self._tag_halo.serves(tags, arrays.n_local):
            self._tag_halo = TagHalo(comm, tags, arrays.n_local)
        return self._tag_halo

    def _begin(self, halo: Halo, arrays: Arrays, *, recomputed: bool) -> None:
        """What is done once: threads, version, notices."""
        comm = _world()
        if comm is not None and comm.size > 1 and arrays.device.type == "cpu":
            torch.set_num_threads(1)
        first = comm is None or comm.rank == 0
        if first:
            self.model.announce()
        if recomputed:
            if first:
                reach = self.model.potential.config.encoder.layers * self.model.cutoff
                logger.warning(
                    "features of ghosts are computed on every process anew (ghost neighbors): exact only with "
                    "`comm_modify cutoff` of at least %g Å plus skin, and several times slower; use Kokkos, "
                    "`pair_style hydrapot`, or bind LAMMPS",
                    reach,
                )
        else:
            check_version(kokkos=isinstance(halo, EngineHalo))
        if _bound:
            self._check_engine(_bound[0], arrays, recomputed=recomputed)

    def _check_engine(self, lmp: Any, arrays: Arrays, *, recomputed: bool) -> None:
        """What only the library interface tells."""
        comm = _demand_same(lmp, arrays)
        check_engine(lmp, charge=self.model.settings.charge)
        if arrays.device.type != "cpu" or recomputed:
            return
        positions = lmp.numpy.extract_atom("x", nelem=arrays.n_total) if arrays.n_total else np.zeros((0, 3))
        pairs = arrays.pair_i.numpy(), arrays.pair_j.numpy()
        missing = check_neighbors(positions, arrays.n_local, *pairs, cutoff=self.model.cutoff)
        demand_none(comm, missing_pairs=missing, wrong_ghosts=0)

    def _check_ghosts(self, halo: Halo, arrays: Arrays) -> None:
        width = 4 * self.model.potential.config.encoder.channels
        check_exchange(halo, arrays.elements, arrays.n_local, width=width, comm=_world())
        check_pairs(
            halo,
            elements=arrays.elements,
            pair_i=arrays.pair_i,
            pair_j=arrays.pair_j,
            r_ij=arrays.r_ij,
            n_local=arrays.n_local,
            cutoff=self.model.cutoff,
        )

    def _hand_over(self, data: Any, arrays: Arrays, prediction: DomainPrediction) -> None:
        own = arrays.elements[: arrays.n_local]
        energies = prediction.energies + torch.from_numpy(self.model.references[1:]).to(arrays.device)[own]
        gradient = prediction.pair_gradient.contiguous()
        total = float(energies.sum())
        demand_finite(np.array([total, float(gradient.sum())]), shared=False)
        data.energy = total
        listed = energies[arrays.listed]
        if len(listed):
            if arrays.device.type == "cpu":
                values: NDArray[np.float64] = np.ascontiguousarray(listed.numpy())
                set_atom_energies(data, values)
            else:
                arrays.view(data.eatoms).copy_(listed)
        if not len(gradient):  # LAMMPS takes the address of the first element
            return
        if arrays.device.type == "cpu":
            data.update_pair_forces(np.ascontiguousarray(gradient.numpy()))
        else:  # raw pointers, read as float64
            torch.cuda.synchronize(arrays.device)
            data.update_pair_forces(gradient)
            torch.cuda.synchronize(arrays.device)


def _demand_same(lmp: Any, arrays: Arrays) -> Any:
    """The communicator, if the LAMMPS that was bound is the one that runs."""
    comm = _world()
    if comm is None:
        raise ConfigurationError("features travel between processes by mpi4py: pip install mpi4py")
    if int(lmp.extract_setting("nlocal")) != arrays.n_local or int(lmp.extract_setting("world_size")) != comm.size:
        raise ConfigurationError("the LAMMPS that was bound is not the one that runs, or it runs in several partitions")
    return comm


def _world() -> Any:
    """MPI's world if mpi4py is there."""
    try:
        from mpi4py import MPI
    except ImportError:
        return None
    return MPI.COMM_WORLD


def make_mliap(settings: Settings, potential: Potential | None = None) -> HydrapotMLIAP:
    """The object for a model, for use with ``lammps.mliap.load_unified``."""
    return HydrapotMLIAP(Model(settings, potential))


def load_exported(document: str, checkpoint: bytes) -> HydrapotMLIAP:
    """What an exported file calls when LAMMPS loads it.

    Parameters
    ----------
    document
        JSON: the fields of :class:`~hydrapot.lammps_plugin.settings.Settings`.
    checkpoint
        A whole checkpoint file, which is read as strictly as any.

    Raises
    ------
    CheckpointError, ConfigurationError
    """
    from hydrapot.lammps_plugin.export import read_exported

    return make_mliap(*read_exported(document, checkpoint))
