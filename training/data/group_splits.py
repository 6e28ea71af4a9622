"""Hold out whole trajectories: the stricter way of dividing datasets, `make_manifest(by="groups")`.

The unit is a stratum: one (group, composition) of a dataset. A trajectory has one composition, so its frames are in one
unit. Units that share equal structures or twins, within a dataset or across datasets, stay together: whole connected
components are held out or not.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
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
    members = {
        name: np.array([component.get(int(label), -1) for label in classes[name]], np.int64) for name in datasets
    }
    for name, frames in datasets.items():
        members[name][frames.isolated] = -1
    contains = {name: frames.compositions() > 0 for name, frames in datasets.items()}
    sides: dict[int, bool] = {}
    for name in sorted(datasets, key=lambda name: (len(datasets[name]), name)):
        sizes = Counter(members[name][members[name] >= 0].tolist())
        quota = int(np.floor(sum(sizes.values()) * fraction + 0.5))
        taken = sum(size for c, size in sizes.items() if sides.get(c, False))
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        for c in rng.permutation(sorted(sizes)).tolist():
            if taken >= quota:
                break
            if c in sides or taken + sizes[c] > OVERSHOOT * quota:
                continue
            out = {c} | {other for other, side in sides.items() if side}
            if all(_keeps_elements(members[d], contains[d], c, out, least=least) for d in datasets):
                sides[c] = True
                taken += sizes[c]
        for c in sizes:
            sides.setdefault(c, False)
    return {label: sides.get(c, False) for label, c in component.items()}


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


def _keeps_elements(
    members: NDArray[np.int64], contains: NDArray[np.bool_], component: int, out: set[int], *, least: int
) -> bool:
    """Whether the elements of a component stay in the training side of one dataset once it is held out."""
    inside = members == component
    if not inside.any():
        return True
    remaining = contains[(members >= 0) & ~np.isin(members, sorted(out))].sum(axis=0)
    return bool((remaining[contains[inside].any(axis=0)] >= least).all())
