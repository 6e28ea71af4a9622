"""Subjects and references with known answers, for the accuracy suites."""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from hydrapot.validation.domain import Domain
from hydrapot.validation.subject import CalculatorSubject
from hydrapot.validation.suite import Context, Tier


class ChangedEMT(Calculator):
    """EMT with results changed by `change(results, atoms)`."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, change):
        super().__init__()
        self.change = change

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        copy = self.atoms.copy()
        copy.calc = EMT()
        results = {"energy": copy.get_potential_energy(), "forces": copy.get_forces()}
        if copy.pbc.all():
            results["stress"] = copy.get_stress()
        self.results = {}  # nothing stays from before if `change` raises
        self.change(results, copy)
        self.results = results


def emt_subject(change=None, *, elements=("Cu",)):
    factory = EMT if change is None else lambda: ChangedEMT(change)
    return CalculatorSubject(factory, name="EMT", elements=elements, cutoff=6.0, receptive_field=12.0)


def context(subject, *, structures=None, tier=Tier.STANDARD, **domain):
    """A context on given structures."""
    made = Context(subject, Domain(**domain), tier=tier)
    if structures is not None:
        made.__dict__["structures"] = structures  # in place of the property that builds them from the domain
    return made


def rattled_copper(count, *, width=(0.02, 0.25), seed=0):
    """Cells of 4 copper atoms, displaced by ever more."""
    rng = np.random.default_rng(seed)
    structures = []
    for size in np.linspace(*width, count):
        atoms = bulk("Cu", a=3.6, cubic=True)
        atoms.positions += size * rng.normal(size=(4, 3))
        atoms.set_cell(atoms.cell.array * (1 + 0.01 * rng.normal()), scale_atoms=True)
        structures.append(atoms)
    return structures


def label(atoms: Atoms, calculator=None, *, shift=0.0):
    """A copy with the results of EMT, energies shifted by eV per atom."""
    copy = atoms.copy()
    copy.calc = calculator or EMT()
    results = {"energy": copy.get_potential_energy() + shift * len(copy), "forces": copy.get_forces()}
    if copy.pbc.all():
        results["stress"] = copy.get_stress()
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def references(folder: Path, structures, *, name="test", max_structures=200):
    """The field `references` of a domain whose folder is `folder`."""
    write(folder / f"{name}.extxyz", structures)
    reference = {
        "name": name,
        "file": f"{name}.extxyz",
        "level_of_theory": "EMT",
        "max_structures": max_structures,
    }
    return {"references": {"held_out": [reference]}, "folder": folder}


def metric(outcome, name, subject=None):
    """The only metric of that name (and subject)."""
    found = [m for m in outcome.metrics if m.name == name and subject in {None, m.subject}]
    assert len(found) == 1, [m.name for m in outcome.metrics]
    return found[0]
