"""What is checked before LAMMPS may move an atom: versions, capabilities, neighbor lists, ghosts.

A message-passing potential in a domain-decomposed engine goes wrong silently. A list that lacks pairs, or features that
do not reach a ghost, still give smooth energies and stable trajectories; they are just those of something else.
"""

import logging
import time
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from hydrapot.lammps_plugin.errors import SharedError
from hydrapot.lammps_plugin.halo import TagHalo
from hydrapot.potential.errors import ConfigurationError, SimulationError, UnsupportedChargeError
from hydrapot.potential.neighbors import neighbor_list

logger = logging.getLogger(__name__)

#: Of the sum of covalent radii: as for the guards of `hydrapot md` (workflows/guards.py).
CLOSEST_CONTACT = 0.5
#: Å. Largest difference between a ghost and an image of its owner; positions travel as float64.
SAME_PLACE = 1e-6
#: Pairs this close to the cutoff (relative) may be listed or not: rounding decides, and they contribute nothing.
_EDGE = 1e-9
#: s. mpiexec forwards what a process has written, and an abort can overtake it: on a busy machine last words got lost.
_WORDS = 0.2


def abort(comm: Any, error: BaseException) -> NoReturn:
    """End all processes with the message: one that fails alone would leave the others waiting forever."""
    if not isinstance(error, SharedError):
        text = str(error) or type(error).__name__
        logger.critical("process %d of %d: %s", comm.rank, comm.size, text, exc_info=_traceback(error))
    else:
        if comm.rank == 0:
            logger.critical("%s", error)
        comm.Barrier()
    for handler in logging.getLogger().handlers:
        handler.flush()
    time.sleep(_WORDS)
    comm.Abort(1)
    raise SystemExit(1)  # pragma: no cover - Abort does not return


def _traceback(error: BaseException) -> BaseException | None:
    from hydrapot.potential.errors import HydrapotError

    return None if isinstance(error, HydrapotError) else error


def check_engine(lmp: Any, *, charge: int = 0) -> None:
    """Refuse settings of LAMMPS under which energies would have other units or no meaning, or forces would lack a part.

    Parameters
    ----------
    charge
        e, of the whole system.

    Raises
    ------
    ConfigurationError, UnsupportedChargeError
    """
    units = lmp.extract_global("units")
    if units != "metal":
        raise ConfigurationError(f"the potential works in eV and Å: the input deck needs `units metal`, not {units}")
    if not lmp.extract_setting("newton_pair"):
        raise ConfigurationError("forces on ghost atoms are added to their owners only with `newton on`")
    if charge != 0 and any(lmp.extract_box()[5]):
        raise UnsupportedChargeError(
            f"charge {charge:+d} in a periodic box has no defined energy: use charge 0, or a `boundary` without `p`"
        )


def check_neighbors(
    positions: NDArray[np.float64],
    n_local: int,
    pair_i: NDArray[np.int64],
    pair_j: NDArray[np.int64],
    *,
    cutoff: float,
) -> int:
    """Number of pairs of own atoms within the cutoff that the engine's list lacks, or has twice.

    Catches ``neigh_modify exclude``, ``special_bonds``, half lists and lists that are out of date.

    Parameters
    ----------
    positions
        ``(S, 3)`` Å, own atoms first, ghosts where their images are.
    pair_i, pair_j
        ``(P,)``.
    """
    if n_local == 0:
        return 0
    limit = cutoff * (1.0 - _EDGE)
    edges = neighbor_list(positions, np.zeros((3, 3)), np.zeros(3, dtype=bool), cutoff=limit)
    receivers = edges.edge_index[0]
    expected = np.bincount(receivers[receivers < n_local], minlength=n_local)
    vectors = positions[pair_j] - positions[pair_i]
    listed = np.bincount(pair_i[(vectors * vectors).sum(axis=1) < limit * limit], minlength=n_local)
    return int(np.abs(expected - listed).sum())


def check_ghosts(halo: TagHalo, positions: NDArray[np.float64], types: NDArray[Any], cell: NDArray[np.float64]) -> int:
    """Number of ghosts whose owner, as the halo has it, is another atom; collective.

    What a ghost receives is compared with what it is: type, and position up to a lattice vector.

    Parameters
    ----------
    positions, types
        ``(S, 3)`` Å and ``(S,)``.
    cell
        ``(3, 3)`` Å, lattice vectors in rows.
    """
    truth = torch.from_numpy(np.column_stack([positions, types]).astype(np.float64))
    received = halo.to_ghosts(truth[: halo.n_local])[halo.n_local :].numpy()
    ghosts = truth[halo.n_local :].numpy()
    shifts = np.linalg.solve(cell.T, (ghosts[:, :3] - received[:, :3]).T).T
    displaced = np.abs((shifts - np.round(shifts)) @ cell).max(axis=1, initial=0.0) > SAME_PLACE
    return int((displaced | (ghosts[:, 3] != received[:, 3])).sum())


def check_distances(
    comm: Any, squares: NDArray[np.float64], radii: NDArray[np.float64], *, closest: float = CLOSEST_CONTACT
) -> None:
    """Raise on all processes if atoms of one of them came impossibly close; collective.

    Parameters
    ----------
    squares, radii
        ``(P,)`` squared distance (Å²) and sum of covalent radii (Å) of each pair.
    closest
        Smallest distance in units of the sum of covalent radii.

    Raises
    ------
    SharedError
    """
    ratios = squares / (radii * radii)
    worst = int(ratios.argmin()) if len(ratios) else -1
    found = np.array([ratios[worst] if worst >= 0 else np.inf])
    comm.Allreduce(found.copy(), found, op=_minimum())
    if not found[0] >= closest * closest:
        raise SharedError(
            f"two atoms came as close as {found[0] ** 0.5:.2f} of the sum of their covalent radii (limit {closest:g}): "
            "the run has left the realm of the possible; the last restart file is good"
        )


def demand_finite(values: NDArray[np.float64], *, shared: bool = True) -> None:
    """Raise unless all values are finite.

    Parameters
    ----------
    values
        Energies, virials, forces.
    shared
        Whether every process has the same values, such as sums over all of them.

    Raises
    ------
    SharedError, SimulationError
        The latter for values of one process.
    """
    if not np.isfinite(values).all():
        raise (SharedError if shared else SimulationError)(
            "energies or forces are not finite (NaN or infinity): the run has left the realm of the possible, or the "
            "weights are damaged; the last restart file is good"
        )


def _minimum() -> Any:
    from mpi4py import MPI

    return MPI.MIN


def demand_none(comm: Any, *, missing_pairs: int, wrong_ghosts: int) -> None:
    """Raise on all processes if one of them found something; collective.

    Raises
    ------
    SharedError
    """
    found = np.array([missing_pairs, wrong_ghosts], dtype=np.int64)
    comm.Allreduce(found.copy(), found)
    if found[0]:
        raise SharedError(
            f"LAMMPS' neighbor list differs from the true neighbors in {found[0]} places: remove `neigh_modify exclude`, "
            "and use `special_bonds lj/coul 1 1 1`"
        )
    if found[1]:
        raise SharedError(
            f"{found[1]} ghost atoms would receive the features of another atom: results would be wrong in this version"
        )
