"""What an import has done: counted while it runs, file by file, and kept through interruptions."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hydrapot.training.data.frames import Frames
from hydrapot.training.data.limits import Limits
from hydrapot.training.data.readers import Reject

EXAMPLES = 5
"""Structures that are named for each reason and file; the counts are complete."""


class Example(BaseModel):
    """One structure that was left out."""

    model_config = ConfigDict(extra="forbid")

    where: str
    reason: str
    detail: str


class FileTally(BaseModel):
    """What has become of one file so far."""

    model_config = ConfigDict(extra="forbid")

    name: str
    layout: str
    structures: int = Field(default=0, description="imported")
    atoms: int = 0
    energies: int = 0
    forces: int = Field(default=0, description="structures with forces")
    stresses: int = 0
    rejected: dict[str, int] = Field(default_factory=dict, description="reason → structures")
    examples: list[Example] = Field(default_factory=list)

    def add(self, frames: Frames, rejects: Iterable[Reject]) -> None:
        """Count some structures that were imported and some that were not."""
        self.structures += len(frames)
        self.atoms += int(frames.offsets[-1])
        self.energies += int((~np.isnan(frames.energy)).sum())
        self.forces += int(frames.has_forces.sum())
        self.stresses += int(frames.has_stress.sum())
        for reject in rejects:
            seen = self.rejected.get(reject.reason, 0)
            self.rejected[reject.reason] = seen + 1
            if seen < EXAMPLES:
                self.examples.append(Example(where=reject.where, reason=reject.reason, detail=reject.detail))


class Duplicates(BaseModel):
    """Structures whose geometry occurs more than once."""

    model_config = ConfigDict(extra="forbid")

    geometries: int = Field(description="geometries that occur more than once")
    structures: int = Field(description="structures beyond the first of each")


class ImportReport(BaseModel):
    """The whole import, as it is written to ``report.json`` in the store."""

    model_config = ConfigDict(extra="forbid")

    name: str
    hydrapot: str
    content: str = Field(description="hash of the store")
    limits: Limits
    settings: dict[str, Any] = Field(description="format, labels, keys and split that were asked for")
    files: list[FileTally]
    duplicates: Duplicates | None = Field(description="None: not counted")

    @property
    def structures(self) -> int:
        """Structures that were imported."""
        return sum(file.structures for file in self.files)

    @property
    def rejected(self) -> dict[str, int]:
        """Reason → structures that were left out, most frequent first."""
        return sum_of(self.files)


def sum_of(files: Iterable[FileTally]) -> dict[str, int]:
    """Reason → structures of all files that were left out, most frequent first."""
    total: Counter[str] = Counter()
    for file in files:
        total.update(file.rejected)
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
