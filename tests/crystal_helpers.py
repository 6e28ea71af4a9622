"""Contexts of EMT crystals, and calculators that are wrong in a chosen way, for the suites of class B."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from hydrapot.validation.domain import Domain, References, StructureSource
from hydrapot.validation.metrics import Metric, Outcome
from hydrapot.validation.subject import CalculatorSubject
from hydrapot.validation.suite import Context, Tier

COPPER = StructureSource(name="Cu", crystal="fcc", formula="Cu", a=3.62)
#: Its shear (C11 − C12) is negative in EMT, and so are phonons along [110]: a crystal that is really unstable.
UNSTABLE = StructureSource(name="CuAl", crystal="cesiumchloride", formula="CuAl", a=3.05)


class Altered(Calculator):
    """EMT (or another calculator) with results changed by `change(results, atoms)`."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE has it

    def __init__(self, change: Callable[[dict[str, Any], Atoms], None], inner: Calculator | None = None) -> None:
        super().__init__()
        self.inner = inner or EMT()
        self.change = change
        self.evaluations = 0

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        self.inner.calculate(self.atoms, list(self.implemented_properties), system_changes)
        self.results = {
            k: np.copy(self.inner.results[k]) for k in self.implemented_properties if k in self.inner.results
        }
        self.results["energy"] = float(self.results["energy"])
        self.evaluations += 1
        self.change(self.results, self.atoms)


def context_of(
    factory: Callable[[], Calculator] = EMT,
    *structures: StructureSource,
    elements: tuple[str, ...] = ("Al", "Cu"),
    level_of_theory: str = "",
    references: References | None = None,
    limits: dict[str, float] | None = None,
    tier: Tier = Tier.STANDARD,
    folder: Path | None = None,
) -> Context:
    """Without measuring cutoffs, which these suites do not need."""
    subject = CalculatorSubject(EMT, name="test", elements=elements, cutoff=6.0, receptive_field=12.0)
    subject.factory = factory
    if level_of_theory:
        object.__setattr__(subject.identity, "level_of_theory", level_of_theory)
    domain = Domain(structures=structures or (COPPER,), references=references or References(), limits=limits or {})
    return Context(subject, domain, tier, folder=folder)


def metric(outcome: Outcome, name: str, subject: str | None = None) -> Metric:
    """The one metric of that name (and subject)."""
    found = [m for m in outcome.metrics if m.name == name and subject in {None, m.subject}]
    assert len(found) == 1, f"{len(found)} metrics {name!r}: {[m.subject for m in found]}"
    return found[0]


def not_a_number(results: dict[str, Any], atoms: Atoms) -> None:
    """Every result is NaN once an atom or the cell has moved at all, and forces always."""
    del atoms
    results["forces"][:] = np.nan
    results["stress"][:] = np.nan


def raises(results: dict[str, Any], atoms: Atoms) -> None:
    """What a network without the right tables does."""
    raise KeyError("element 29")
