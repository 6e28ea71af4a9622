"""What is checked of the communication that ML-IAP offers: versions known to be wrong, and the rows that travel.

LAMMPS' own tests of ML-IAP have no message passing, so that a release could carry features to the wrong places for two
months without anybody noticing: forces stay smooth, trajectories stable. Version numbers catch the releases; what catches
the defect, in any build, are numbers of which each process knows what has to arrive.

:func:`check_exchange` follows names: what ghosts receive, and what owners get back from them. A mix-up of atoms of one
element that is the same on both ways escapes it. :func:`check_pairs` follows geometry: each pair of atoms is known to either
of them, so what the neighbors of an atom know of it, on whatever process, has to be what it knows of them. Atoms move and
lists change, hence both are repeated, ever less often (:func:`is_due`).
"""

import ctypes
import re
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hydrapot.lammps_plugin.errors import SharedError
from hydrapot.potential.decomposed import Halo
from hydrapot.potential.errors import ConfigurationError, SimulationError

#: Versions in which `forward_exchange` of ML-IAP with Kokkos carries the wrong numbers: "the trajectories were stable but
#: indeed wrong" (github.com/lammps/lammps, pull request 4808 of 11 December 2025, about 4744 of 21 October 2025). Builds
#: between releases bear the date of the release before, so the tests below are what decides for them.
BROKEN_EXCHANGE = (20251021, 20251231)
#: Of sums over neighbors, Å: Kokkos may have positions of single precision.
SAME_SURROUNDINGS = 1e-4
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def check_version(*, kokkos: bool) -> None:
    """Refuse versions of LAMMPS that are known to give wrong forces.

    Parameters
    ----------
    kokkos
        Whether LAMMPS' own exchange of ML-IAP is used; the plain pair style has none.

    Raises
    ------
    ConfigurationError
    """
    version = engine_version()
    first, last = BROKEN_EXCHANGE
    if kokkos and version is not None and first <= version <= last:
        raise ConfigurationError(
            f"LAMMPS {version} communicates wrong features in ML-IAP with Kokkos (its pull request 4808): use a version "
            f"before {first} or after {last}"
        )


def engine_version() -> int | None:
    """Version, as a date, of the LAMMPS in this process; None where it cannot be asked.

    The library itself is asked: the Python module knows its version only where it was installed as a package.
    """
    try:
        ask = ctypes.CDLL(None).lammps_extract_global
    except (AttributeError, OSError, TypeError):  # no such symbol in view: a program linked statically
        version = str(getattr(sys.modules.get("lammps"), "__version__", ""))
        return int(version) if re.fullmatch(r"20\d{6}", version) else None
    ask.argtypes, ask.restype = (ctypes.c_void_p, ctypes.c_char_p), ctypes.c_char_p
    return parse_version((ask(None, b"lammps_version") or b"").decode(errors="replace"))


def parse_version(text: str) -> int | None:
    """``20251210`` from ``"10 Dec 2025"``, as LAMMPS writes it in any language; None from anything else."""
    found = re.match(r"(\d{1,2}) (\w{3})\w* (\d{4})", text)
    if found is None or found[2] not in _MONTHS:
        return None
    return int(found[3]) * 10000 + (_MONTHS.index(found[2]) + 1) * 100 + int(found[1])


def is_due(evaluation: int) -> bool:
    """Whether the exchange is tested in this evaluation, the first being 1: 1, 2, 4, 8, …"""
    return evaluation & (evaluation - 1) == 0


def check_exchange(halo: Halo, elements: Tensor, n_local: int, *, width: int, comm: Any) -> None:
    """Compare what ghosts receive with their owners, and what owners get back with what ghosts were given; collective.

    Rows of the width in use carry a number of their owner, its element, and a pattern of columns. On the way back, ghosts
    send 1 and the number they have received: an owner then has a count, and that many times its own number, and the counts
    add up to the number of ghosts.

    Parameters
    ----------
    halo
        Between the atoms.
    elements
        int64 ``(S,)``, any numbers that tell the kinds of atoms apart.
    n_local
        Own atoms.
    width
        Columns of the features.
    comm
        Communicator of mpi4py of all processes; None where there is none, which spares the last of these checks.

    Raises
    ------
    SimulationError
        On the process that found something.
    """
    columns = torch.arange(width, dtype=torch.float64, device=elements.device)
    name = torch.arange(n_local, dtype=torch.float64, device=elements.device) + 1.0
    # Small whole numbers: sums of them are exact, in float32 too.
    rows = name[:, None] * 8.0 + columns % 7.0
    rows = torch.cat([rows, elements[:n_local, None].double()], dim=1)
    received = halo.to_ghosts(rows)
    pattern = received[:, :width] - columns % 7.0
    good = (pattern == pattern[:, :1]).all(dim=1) & (received[:, width] == elements.double())
    good &= torch.cat([received[:n_local] == rows, good.new_ones(len(good) - n_local, width + 1)]).all(dim=1)
    back = torch.stack([torch.ones_like(pattern[:, 0]), pattern[:, 0] / 8.0], dim=1)
    back[:n_local] = 0.0
    returned = halo.to_owners(back)
    good_back = returned[:, 1] == returned[:, 0] * name
    wrong, wrong_back = int((~good).sum()), int((~good_back).sum())
    if wrong or wrong_back:
        raise SimulationError(
            f"{wrong} of {len(good) - n_local} ghost atoms receive features of another atom, {wrong_back} of {n_local} atoms "
            "get back what is not theirs: results would be wrong in this version of LAMMPS"
        )
    if comm is None:
        return
    lost = np.array([len(good) - n_local - int(returned[:, 0].sum())], dtype=np.int64)
    comm.Allreduce(lost.copy(), lost)
    if lost[0]:
        raise SharedError(
            f"what {lost[0]} ghost atoms send back does not arrive: results would be wrong in this version of LAMMPS"
        )


def check_pairs(
    halo: Halo,
    *,
    elements: Tensor,
    pair_i: Tensor,
    pair_j: Tensor,
    r_ij: Tensor,
    n_local: int,
    cutoff: float,
) -> None:
    """Compare what each own atom knows of its neighbors with what all of them know of it; collective.

    Every pair stands in the lists of both atoms. With w = 1 − r²/r_c², which leaves nothing to the rounding at the cutoff,
    Σ_j w (1, r_ij, e_j) over the neighbors of atom i, e_j being their elements, is known to its process. The neighbors know
    the terms too, as w (1, −r_ji, e_j), and send them to the atom that they hold for i.

    Parameters
    ----------
    halo
        Between the atoms.
    elements
        int64 ``(S,)``, any numbers that tell the kinds of atoms apart.
    pair_i, pair_j
        int64 ``(P,)``, own atoms and their neighbors.
    r_ij
        ``(P, 3)`` Å, from i to j.
    n_local
        Own atoms.
    cutoff
        Å.

    Raises
    ------
    SimulationError
        On the process that found something.
    """
    weights = (1.0 - (r_ij * r_ij).sum(dim=1, keepdim=True) / (cutoff * cutoff)).clamp(min=0.0)
    kinds = elements[:, None].double() / 128.0  # no larger than the other columns
    known = r_ij.new_zeros(len(elements), 5)
    known.index_add_(0, pair_i, weights * torch.cat([torch.ones_like(weights), r_ij, kinds[pair_j]], dim=1))
    told = torch.zeros_like(known)
    told.index_add_(0, pair_j, weights * torch.cat([torch.ones_like(weights), -r_ij, kinds[pair_i]], dim=1))
    differences = (halo.to_owners(told) - known[:n_local]).abs().amax(dim=1)
    wrong = int((~(differences < SAME_SURROUNDINGS)).sum())
    if wrong:
        raise SimulationError(
            f"{wrong} of {n_local} atoms are told of other neighbors than they have: ghosts belong to other atoms, or "
            "neighbor lists lack pairs; results would be wrong in this version of LAMMPS"
        )
