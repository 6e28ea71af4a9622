"""Structures as pymatgen writes them into JSON, read without pymatgen."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydrapot.training.data.readers.records import MalformedError, number_of


def structure_of(document: Any) -> dict[str, Any]:
    """Return numbers, positions (Å), cell (Å) and pbc of a ``Structure.as_dict()``, as fields of `Record`.

    ``lattice.matrix`` holds the vectors in rows; ``sites`` hold ``species`` (one, fully occupied) and the position
    ``xyz``, or ``abc`` in fractions of the vectors.

    Raises
    ------
    MalformedError
        Keys are missing, or a site is disordered.
    """
    try:
        lattice = document["lattice"]
        matrix = np.asarray(lattice["matrix"], np.float64)
        sites = document["sites"]
        numbers = [_element(site) for site in sites]
        positions = [_position(site, matrix) for site in sites]
    except MalformedError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise MalformedError("malformed structure", f"{type(error).__name__}: {error}") from None
    return {"numbers": numbers, "positions": positions, "cell": matrix, "pbc": lattice.get("pbc", True)}


def site_property(document: Any, name: str) -> list[Any] | None:
    """Return a property of all sites, or None if no site has it."""
    values = [(site.get("properties") or {}).get(name) for site in document["sites"]]
    missing = sum(value is None for value in values)
    if missing == len(values):
        return None
    if missing:
        raise MalformedError(f"malformed {name}", f"{missing} of {len(values)} sites have none")
    return values


def _element(site: Any) -> int:
    species = site["species"]
    if len(species) != 1 or abs(float(species[0]["occu"]) - 1.0) > 1e-8:
        raise MalformedError("disordered site", f"{len(species)} species on a site, or one of occupation below 1")
    return number_of(str(species[0]["element"]))


def _position(site: Any, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    if "xyz" in site:
        return np.asarray(site["xyz"], np.float64)
    fractions: NDArray[np.float64] = np.asarray(site["abc"], np.float64)
    return fractions @ matrix
