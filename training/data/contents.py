"""What a dataset holds, in a few numbers that add up over its parts: elements, periodicity, charges, pressures."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.units import GPa
from numpy.typing import NDArray

from hydrapot.training.data.frames import Frames
from hydrapot.training.data.splits import INTERPOLATION_STRATA

#: As many kinds of structures as make a dataset more than a few trajectories.
STRATA = INTERPOLATION_STRATA
#: Structures remembered for each element: as many as its reference energy can be fitted to.
EXAMPLES = 16


@dataclass
class Contents:
    """Summary of some structures.

    Attributes
    ----------
    structures, energies, stresses
        How many there are, and how many carry an energy or a stress.
    elements
        Atomic number → structures that contain it.
    examples
        Atomic number → numbers of the first structures that contain it, at most :data:`EXAMPLES`.
    periodicity
        As in ``TTF``.
    charge_spin
        Charge and spin multiplicity (0 where it is not given).
    charged_cell
        First charged structure with a periodic direction, if there is one.
    isolated
        First structure that is marked as an isolated reference atom, if there is one.
    pressure
        GPa, lowest and highest of the labelled stresses.
    strata
        Names of the first few kinds of structures (group and composition), at most :data:`STRATA`.
    """

    structures: int = 0
    energies: int = 0
    stresses: int = 0
    elements: dict[int, int] = field(default_factory=dict)
    examples: dict[int, list[int]] = field(default_factory=dict)
    periodicity: set[str] = field(default_factory=set)
    charge_spin: set[tuple[int, int]] = field(default_factory=set)
    charged_cell: int | None = None
    isolated: int | None = None
    pressure: tuple[float, float] | None = None
    strata: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Text that :meth:`from_json` reads."""
        document = dict(vars(self))
        document["periodicity"] = sorted(self.periodicity)
        document["charge_spin"] = sorted(self.charge_spin)
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Contents":
        """Read what :meth:`to_json` wrote; raises ValueError or KeyError for anything else."""
        d: dict[str, Any] = json.loads(text)
        return cls(
            structures=int(d["structures"]),
            energies=int(d["energies"]),
            stresses=int(d["stresses"]),
            elements={int(z): int(n) for z, n in d["elements"].items()},
            examples={int(z): [int(i) for i in numbers] for z, numbers in d["examples"].items()},
            periodicity=set(d["periodicity"]),
            charge_spin={(int(q), int(s)) for q, s in d["charge_spin"]},
            charged_cell=None if d["charged_cell"] is None else int(d["charged_cell"]),
            isolated=None if d["isolated"] is None else int(d["isolated"]),
            pressure=None if d["pressure"] is None else (float(d["pressure"][0]), float(d["pressure"][1])),
            strata=[str(name) for name in d["strata"]],
        )


def contents_of(frames: Frames, *, first: int = 0) -> Contents:
    """Summary of `frames`, whose structures are numbered from `first` on."""
    compositions = frames.compositions()
    present = compositions > 0
    elements = np.flatnonzero(present.any(axis=0)).tolist()
    stress = frames.stress[frames.has_stress]
    pressure = -np.trace(stress, axis1=1, axis2=2) / 3.0 / GPa
    charged = np.flatnonzero((frames.charge != 0) & frames.pbc.any(axis=1))
    isolated = np.flatnonzero(frames.isolated)
    pairs = np.unique(np.stack([frames.charge, frames.spin], axis=1), axis=0)
    return Contents(
        structures=len(frames),
        energies=int(np.isfinite(frames.energy).sum()),
        stresses=len(stress),
        elements={z: int(present[:, z].sum()) for z in elements},
        examples={z: (first + np.flatnonzero(present[:, z])[:EXAMPLES]).tolist() for z in elements},
        periodicity={"".join("T" if p else "F" for p in row) for row in np.unique(frames.pbc, axis=0).tolist()},
        charge_spin={(int(q), int(s)) for q, s in pairs.tolist()},
        charged_cell=first + int(charged[0]) if len(charged) else None,
        isolated=first + int(isolated[0]) if len(isolated) else None,
        pressure=(float(pressure.min()), float(pressure.max())) if len(pressure) else None,
        strata=_strata(frames, compositions),
    )


def _strata(frames: Frames, compositions: NDArray[np.int64]) -> list[str]:
    found: dict[str, None] = {}
    for group, composition in zip(frames.group, compositions, strict=True):
        found[hashlib.sha256(str(group).encode() + composition.tobytes()).hexdigest()[:16]] = None
        if len(found) == STRATA:
            break
    return list(found)


def merged(parts: Iterable[Contents]) -> Contents:
    """Summary of all parts together, which come in the order of their structures."""
    total = Contents()
    for part in parts:
        total.structures += part.structures
        total.energies += part.energies
        total.stresses += part.stresses
        for z, n in part.elements.items():
            total.elements[z] = total.elements.get(z, 0) + n
            total.examples[z] = (total.examples.get(z, []) + part.examples[z])[:EXAMPLES]
        total.periodicity |= part.periodicity
        total.charge_spin |= part.charge_spin
        total.strata = list(dict.fromkeys(total.strata + part.strata))[:STRATA]
        if total.charged_cell is None:
            total.charged_cell = part.charged_cell
        if total.isolated is None:
            total.isolated = part.isolated
        ranges = [p for p in (total.pressure, part.pressure) if p is not None]
        if ranges:
            total.pressure = (min(p[0] for p in ranges), max(p[1] for p in ranges))
    return total
