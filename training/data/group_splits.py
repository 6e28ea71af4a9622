"""Hold out whole trajectories: the stricter way of dividing datasets, `make_manifest(by="groups")`.

The unit is a stratum: one (group, composition) of a dataset. A trajectory has one composition, so its frames are in one
unit. Units that share equal structures or twins, within a dataset or across datasets, stay together: whole connected
components are held out or not.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.data.frames import Frames

OVERSHOOT = 1.5
"""A component is left out of the validation side if it would bring more than this times the share that is wanted."""


def hold_out_components(
    datasets: Mapping[str, Frames],
    classes: Mapping[str, NDArray[np.int64]],
    strata: Mapping[str, Iterable[NDArray[np.int64]]],
    *,
    fraction: float,
    seed: int,
    least: int,
) -> dict[int, bool]:
    """Decide for every class of equal structures on which side it is.

    Parameters
    ----------
    datasets
        Those that are divided this way.
    classes
        (n,) class of each structure, numbered over all datasets.
    strata
        Structures of each unit.
    fraction
        Share of each dataset to hold out. It may be missed where components are large.
    seed
        Of the choice.
    least
        Training structures that every element keeps in every dataset.

    Returns
    -------
    Class → whether it is held out.
    """
    component = _components(classes, strata)
    tables = {name: _Table.of(frames, classes[name], component) for name, frames in datasets.items()}
    sides: dict[int, bool] = {}
    for name in sorted(datasets, key=lambda name: (len(datasets[name]), name)):
        table = tables[name]
        quota = int(np.floor(sum(table.sizes.values()) * fraction + 0.5))
        taken = sum(size for c, size in table.sizes.items() if sides.get(c, False))
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        for c in rng.permutation(sorted(table.sizes)).tolist():
            if taken >= quota:
                break
            if c in sides or taken + table.sizes[c] > OVERSHOOT * quota:
                continue
            if all(other.keeps_elements_without(c, least=least) for other in tables.values()):
                sides[c] = True
                taken += table.sizes[c]
                for other in tables.values():
                    other.remove(c)
        for c in table.sizes:
            sides.setdefault(c, False)
    return {label: sides.get(c, False) for label, c in component.items()}


@dataclass
class _Table:
    """Components of one dataset: how many structures, and how many with each element."""

    sizes: dict[int, int]
    contains: dict[int, NDArray[np.int64]]
    """(119,) structures of the component that contain each element."""
    remaining: NDArray[np.int64]
    """(119,) the same of all that are not held out."""

    @classmethod
    def of(cls, frames: Frames, classes: NDArray[np.int64], component: Mapping[int, int]) -> "_Table":
        members = np.array([component.get(int(label), -1) for label in classes], np.int64)
        members[frames.isolated] = -1
        present = frames.compositions() > 0
        found, inverse = np.unique(members[members >= 0], return_inverse=True)
        counts = np.zeros((len(found), present.shape[1]), np.int64)
        np.add.at(counts, inverse, present[members >= 0])
        sizes = np.bincount(inverse, minlength=len(found))
        return cls(
            dict(zip(found.tolist(), sizes.tolist(), strict=True)),
            dict(zip(found.tolist(), counts, strict=True)),
            counts.sum(axis=0),
        )

    def keeps_elements_without(self, component: int, *, least: int) -> bool:
        """Whether the elements of a component stay in training once it is held out."""
        counts = self.contains.get(component)
        if counts is None:
            return True
        return bool((self.remaining - counts)[counts > 0].min() >= least)

    def remove(self, component: int) -> None:
        """Hold out a component."""
        if component in self.contains:
            self.remaining = self.remaining - self.contains[component]


def _components(
    classes: Mapping[str, NDArray[np.int64]], strata: Mapping[str, Iterable[NDArray[np.int64]]]
) -> dict[int, int]:
    """Number the connected components of units that share classes: class → component."""
    parent: dict[Any, Any] = {}

    def root(node: Any) -> Any:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for name, units in strata.items():
        for u, unit in enumerate(units):
            home = root((name, u))
            for label in np.unique(classes[name][unit]).tolist():
                parent[root(label)] = home
                home = root(home)
    numbers: dict[Any, int] = {}
    labels = sorted(node for node in parent if isinstance(node, int))
    return {label: numbers.setdefault(root(label), len(numbers)) for label in labels}
