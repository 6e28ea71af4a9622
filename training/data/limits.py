"""Which structures are left out of an import because their numbers cannot be right, or cannot be learned from.

The limits are wide: they catch broken calculations, wrong units and atoms on top of each other, not unusual physics.
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from hydrapot.potential.constants import GPA
from hydrapot.potential.errors import HydrapotError
from hydrapot.potential.neighbors import neighbor_list
from hydrapot.training.data.frames import Frames
from hydrapot.training.data.readers import LABELS

SEARCH = 2.0
"""Å. A search within a small fraction of the distance between atoms costs more: its grid has more cells than atoms."""


class Limits(BaseModel):
    """Bounds of what is imported; None switches a test off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_force: float | None = Field(
        default=100.0,
        gt=0,
        description="eV/Å, of any atom. A C–H bond at 0.6 Å is pushed apart by 100 eV/Å; thermal forces stay below 20.",
    )
    min_distance: float | None = Field(
        default=0.5,
        gt=0,
        description="Å, between any two atoms or images. The shortest bond, that of H₂, has 0.74 Å.",
    )
    max_stress: float | None = Field(
        default=1000.0, gt=0, description="GPa, of any component: three times the pressure in the center of the Earth."
    )
    max_atoms: int | None = Field(default=None, gt=0, description="Atoms of a structure.")
    require: tuple[str, ...] = Field(
        default=(), description="Labels that every structure must have; with none named, any one label will do."
    )


def left_out(frames: Frames, limits: Limits) -> dict[int, tuple[str, str]]:
    """Return, for each structure that the limits exclude, the reason in a word or two and what was found.

    Raises
    ------
    ValueError
        A label that does not exist is required.
    """
    unknown = set(limits.require) - set(LABELS)
    if unknown:
        raise ValueError(f"there is no label {min(unknown)!r}, only {', '.join(LABELS)}")
    found: dict[int, tuple[str, str]] = {}
    has = {"energy": ~np.isnan(frames.energy), "forces": frames.has_forces, "stress": frames.has_stress}
    for label in limits.require:
        for i in np.flatnonzero(~has[label]):
            found.setdefault(int(i), (f"no {label}", f"{label} is required"))
    for i in np.flatnonzero(~(has["energy"] | has["forces"] | has["stress"])):
        found.setdefault(int(i), ("no labels", "neither energy nor forces nor stress"))
    if limits.max_atoms is not None:
        for i in np.flatnonzero(frames.counts > limits.max_atoms):
            found.setdefault(int(i), ("too many atoms", f"{frames.counts[i]} atoms"))
    if limits.max_force is not None and len(frames):
        norms = np.linalg.norm(frames.forces, axis=1)
        largest = np.maximum.reduceat(np.nan_to_num(norms), frames.offsets[:-1])
        for i in np.flatnonzero(largest > limits.max_force):
            found.setdefault(int(i), ("absurd forces", f"{largest[i]:.4g} eV/Å"))
    if limits.max_stress is not None:
        component = np.nan_to_num(np.abs(frames.stress)).max(axis=(1, 2)) * GPA if len(frames) else np.zeros(0)
        for i in np.flatnonzero(component > limits.max_stress):
            found.setdefault(int(i), ("absurd stress", f"{component[i]:.4g} GPa"))
    if limits.min_distance is not None:
        for k in range(len(frames)):
            if k in found:
                continue
            structure = frames.structure(k)
            try:
                nearest = nearest_distance(
                    structure.positions, structure.cell, structure.pbc, cutoff=max(limits.min_distance, SEARCH)
                )
            except HydrapotError as error:
                found[k] = ("no neighbor list", " ".join(str(error).split()))
                continue
            if nearest < limits.min_distance:
                found[k] = ("atoms too close", f"{nearest:.4f} Å")
    return found


def nearest_distance(
    positions: NDArray[np.float64], cell: NDArray[np.float64], pbc: NDArray[np.bool_], *, cutoff: float
) -> float:
    """Return the smallest distance (Å) between two atoms, images included; infinity if none is below ``cutoff``."""
    if not pbc.any() and len(positions) <= 512:
        if len(positions) < 2:
            return float("inf")
        # For molecules, all pairs at once are faster than a list.
        square = (positions**2).sum(axis=1)
        distances = square[:, None] + square[None, :] - 2.0 * positions @ positions.T
        np.fill_diagonal(distances, np.inf)
        first, second = np.unravel_index(int(np.argmin(distances)), distances.shape)
        return float(np.linalg.norm(positions[first] - positions[second]))
    edges = neighbor_list(positions, cell, pbc, cutoff=cutoff)
    if not len(edges.shifts):
        return float("inf")
    receivers, senders = edges.edge_index
    vectors = positions[senders] - positions[receivers] + edges.shifts @ cell
    return float(np.linalg.norm(vectors, axis=1).min())
