"""What a suite is, and what it is given: subject, domain, tier, seeds, and a store for finished pieces."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ase import Atoms

from hydrapot.potential.container import write_atomically
from hydrapot.validation.domain import Domain, supercell
from hydrapot.validation.metrics import Outcome
from hydrapot.validation.preparation import default_structures
from hydrapot.validation.subject import Subject

logger = logging.getLogger(__name__)


class Tier(StrEnum):
    """How much is tested."""

    SMOKE = "smoke"
    STANDARD = "standard"
    FULL = "full"


#: Atoms in the largest structure of a tier.
MAX_ATOMS = {Tier.SMOKE: 32, Tier.STANDARD: 64, Tier.FULL: 256}


@dataclass(frozen=True)
class Context:
    """What a suite is given.

    Attributes
    ----------
    subject
        What is validated.
    domain
        What it is meant for.
    tier
        How much to test.
    precisions
        Of the network, to be compared with float64.
    engines
        Among which parity is tested.
    seeds
        Of everything random.
    folder
        Where finished pieces are kept, so that an interrupted suite goes on; None keeps nothing.
    prepared
        Structures made before, for suites that run side by side; None makes them when they are asked for.
    """

    subject: Subject
    domain: Domain
    tier: Tier = Tier.STANDARD
    precisions: Sequence[str] = ("f64", "f32")
    engines: Sequence[str] = ("ase",)
    seeds: Sequence[int] = (0, 1)
    folder: Path | None = None
    prepared: Mapping[str, Atoms] | None = None

    @property
    def max_atoms(self) -> int:
        """Atoms in the largest structure."""
        return MAX_ATOMS[self.tier]

    @cached_property
    def structures(self) -> Mapping[str, Atoms]:
        """Structures of the domain as given, or made of the subject's elements; not relaxed, not repeated."""
        if self.prepared is not None:
            return {name: atoms.copy() for name, atoms in self.prepared.items()}
        return self.domain.build() or default_structures(self.subject, self.domain)

    def repeated(self, name: str, *, max_atoms: int | None = None) -> Atoms:
        """The structure `name`, periodic ones repeated to at most `max_atoms` (default: the tier's)."""
        return supercell(self.structures[name], max_atoms=max_atoms or self.max_atoms)

    def limit(self, suite: str, metric: str, default: float) -> float:
        """A limit: that of the domain, or `default`."""
        return self.domain.limit(suite, metric, default)

    def piece(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `compute` returns (plain JSON values), from an earlier run if that finished this piece.

        `key` has to name everything that the piece depends on beside subject, domain and tier, for which `folder`
        stands.
        """
        if self.folder is None:
            return compute()
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        path = self.folder / f"{name}.json"
        if path.exists():
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["key"] == key:
                logger.info("kept from an earlier run: %s", key)
                return dict(document["value"])
        value = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"key": key, "value": value}).encode())
        return value


@dataclass(frozen=True)
class Suite:
    """One group of tests that belong together.

    Attributes
    ----------
    name, title
        ``nve`` and a heading.
    purpose
        One line for plan and report: which user's mistake this prevents.
    category
        ``"A"``: no reference data, hard limits. ``"B"``: accuracy against a level of theory.
    run
        The tests. It raises only for defects of ours; what a potential does wrong is a metric.
    evaluations
        Expected work in evaluations times atoms, for the plan.
    tiers
        Tiers that include it.
    requires
        Modules of optional dependencies; without them the suite is N-A.
    """

    name: str
    title: str
    purpose: str
    category: str
    run: Callable[[Context], Outcome]
    evaluations: Callable[[Context], float]
    tiers: frozenset[Tier] = field(default_factory=lambda: frozenset({Tier.STANDARD, Tier.FULL}))
    requires: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Modules that are not installed."""
        return [module for module in self.requires if find_spec(module) is None]


ALL_TIERS = frozenset(Tier)
