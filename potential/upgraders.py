"""Upgrades of checkpoint documents from older schema versions, one step each.

A change of what :mod:`hydrapot.potential.checkpoint` stores raises its ``SCHEMA_VERSION`` and registers here
the function that turns a file of the version before into one of the new version. Steps are never edited
afterwards: a file of version 1 goes through all of them. A tiny file of every version is kept in
``tests/data``.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from hydrapot.potential.errors import CheckpointError

#: (document, tensors) of one schema version → those of the next.
Upgrader = Callable[[dict[str, Any], dict[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]]]

#: Version that the step starts from → the step. Empty as long as there is one schema.
UPGRADERS: Mapping[int, Upgrader] = {}


def upgrade(
    document: dict[str, Any],
    tensors: dict[str, Tensor],
    *,
    target: int,
    upgraders: Mapping[int, Upgrader] = UPGRADERS,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Bring a document and its tensors to schema version `target`, step by step.

    Raises
    ------
    CheckpointError
        The version is not a number, newer than `target`, or older than any known step.
    """
    version = document.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise CheckpointError("invalid document: schema_version is not a whole number")
    if version > target:
        raise CheckpointError(
            f"schema version {version} is newer than this hydrapot reads (up to {target}): upgrade hydrapot"
        )
    while version < target:
        if version not in upgraders:
            raise CheckpointError(
                f"schema version {version} is unknown to this hydrapot, which reads "
                f"{min([*upgraders, target])} to {target}: get a newer file of this model"
            )
        document, tensors = upgraders[version](document, tensors)
        version += 1
        document = {**document, "schema_version": version}
    return document, tensors
