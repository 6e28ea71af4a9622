"""Reference energies of a dataset, from its training structures and its entry in the configuration."""

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hydrapot.potential.references import (
    ReferenceEnergies,
    fit_references,
    isolated_references,
    prior_array,
    zero_references,
)
from hydrapot.training.data.frames import DatasetError, Frames


def make_references(
    frames: Frames,
    train: NDArray[np.integer[Any]],
    *,
    mode: Literal["isolated", "zero", "fit"],
    prior: Mapping[str, float] | None = None,
) -> ReferenceEnergies:
    """Return the reference energies of a dataset.

    Parameters
    ----------
    frames
        The whole dataset; its frames marked as isolated atoms serve the mode ``isolated``.
    train
        Indices of the training structures; the mode ``fit`` sees nothing else.
    mode
        ``isolated``, ``zero`` or ``fit``, see `hydrapot.potential.references`.
    prior
        Symbol to energy in eV, for ``fit`` only.
    """
    structures = frames.subset(train)
    elements = np.unique(structures.numbers).tolist()
    if prior is not None and mode != "fit":
        raise DatasetError(f"dataset {frames.name!r}: a prior has no effect with references: {mode}")
    if mode == "zero":
        return zero_references(elements)
    if mode == "isolated":
        atoms = frames.subset(frames.isolated)
        charged = np.flatnonzero(atoms.charge)
        if len(charged):
            symbol = chemical_symbols[atoms.numbers[charged[0]]]
            raise DatasetError(f"dataset {frames.name!r}: the isolated {symbol} is charged, and no reference")
        return isolated_references(atoms.numbers, atoms.energy, required=elements)
    given = None if prior is None else prior_array(prior)
    return fit_references(structures.compositions(), structures.energy, prior=given)


def as_json(references: Mapping[str, ReferenceEnergies]) -> bytes:
    """Return the reference energies of several datasets as a JSON document.

    ``values`` are in eV per symbol; ``determined`` are the elements whose own energy the data tell, not only that of some
    combination with others.
    """
    document = {
        name: {
            "mode": found.mode,
            "unit": "eV",
            "values": {chemical_symbols[z]: float(found.values[z]) for z in found.elements.tolist()},
            "determined": [chemical_symbols[z] for z in found.elements.tolist() if found.determined([z])],
        }
        for name, found in references.items()
    }
    return (json.dumps(document, indent=1) + "\n").encode()
