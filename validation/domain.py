"""The domain of use: what somebody intends to simulate, which decides what is tested and how strict the limits are."""

from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import atomic_numbers
from ase.io import read
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hydrapot.potential.errors import ConfigurationError

Range = Annotated[tuple[float, float], Field(description="Lowest and highest value.")]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StructureSource(_Document):
    """A structure of the domain: from a file, a crystal by its lattice, or a molecule that ASE knows by name."""

    name: str
    file: str | None = Field(default=None, description="Any format that ASE reads; relative to the domain file.")
    index: int = Field(default=0, description="Which structure of the file.")
    crystal: str | None = Field(default=None, description='Lattice as in ase.build.bulk, e.g. "rocksalt".')
    formula: str | None = Field(default=None, description='For a crystal, e.g. "MgO".')
    a: float | None = Field(default=None, description="Å; lattice constant of a crystal.")
    c: float | None = Field(default=None, description="Å.")
    covera: float | None = None
    molecule: str | None = Field(default=None, description='Name in ase.build.molecule, e.g. "CH3CH2OH".')
    charge: int | None = None
    spin: int | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.file, self.crystal, self.molecule)) != 1:
            raise ValueError(f"structure {self.name!r} needs exactly one of file, crystal, molecule")
        if self.crystal is not None and self.formula is None:
            raise ValueError(f"structure {self.name!r}: a crystal needs a formula")
        return self

    def build(self, folder: Path) -> Atoms:
        """The structure; `folder` is where the domain file lies.

        Raises
        ------
        ConfigurationError
            A file that is missing or unreadable, a lattice or molecule that ASE does not know.
        """
        try:
            if self.file is not None:
                atoms = read(folder / self.file, index=self.index)
            elif self.molecule is not None:
                atoms = molecule(self.molecule)
            else:
                atoms = bulk(str(self.formula), self.crystal, a=self.a, c=self.c, covera=self.covera)
        except Exception as error:
            raise ConfigurationError(f"structure {self.name!r} of the domain cannot be made: {error}") from error
        if not isinstance(atoms, Atoms):
            raise ConfigurationError(f"structure {self.name!r}: index {self.index} names several structures")
        atoms.calc = None
        for key in ("charge", "spin"):
            if getattr(self, key) is not None:
                atoms.info[key] = getattr(self, key)
        return atoms


class PhononReference(_Document):
    """Displaced-supercell forces of a first-principles code, as phonopy stores them."""

    name: str
    folder: str = Field(description="Holds phonopy_disp.yaml (or phonopy.yaml, phonopy_params.yaml) and FORCE_SETS.")
    level_of_theory: str


class LabelledReference(_Document):
    """A file of labelled structures that took no part in training."""

    name: str
    file: str
    level_of_theory: str
    max_structures: int = 200


class ElasticReference(_Document):
    """Elastic constants of a structure of the domain, GPa."""

    structure: str
    level_of_theory: str
    constants: dict[str, float] = Field(description='E.g. {"C11": 168, "C12": 121, "C44": 75}.')


class PathReference(_Document):
    """Images of a reaction path with reference energies (eV), first to last."""

    name: str
    file: str
    level_of_theory: str


class References(_Document):
    """Reference data for the accuracy suites; all optional."""

    phonons: tuple[PhononReference, ...] = ()
    held_out: tuple[LabelledReference, ...] = ()
    elastic: tuple[ElasticReference, ...] = ()
    paths: tuple[PathReference, ...] = ()


class Domain(_Document):
    """What a checkpoint is to be used for.

    The file is YAML with these fields; every one of them has a default.
    """

    name: str = "default"
    elements: tuple[str, ...] | None = Field(default=None, description="Default: those that the head was trained on.")
    structures: tuple[StructureSource, ...] = Field(
        default=(), description="Typical structures. Default: a crystal and a molecule of the elements, relaxed."
    )
    temperature: Range = (100.0, 300.0)  # K
    pressure: Range = (0.0, 0.0)  # GPa
    timestep: float | None = Field(default=None, gt=0, description="fs; default 0.5 with hydrogen, else 1.")
    ensemble: Literal["nve", "nvt", "npt"] = "nvt"
    thermostat_time: float = Field(default=100.0, gt=0, description="fs.")
    duration: float = Field(default=1.0, gt=0, description="ns; length of the runs that are planned.")
    references: References = References()
    limits: dict[str, float] = Field(
        default_factory=dict,
        description='Limits other than the default, by suite and metric: {"phonons/frequency error": 0.3}.',
    )
    folder: Path = Field(default=Path(), exclude=True, description="Where relative file names begin.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("temperature", "pressure"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name}: {low} … {high} is empty")
        if self.temperature[0] < 0:
            raise ValueError("temperatures are in K and not negative")
        unknown = [symbol for symbol in self.elements or () if symbol not in atomic_numbers]
        if unknown:
            raise ValueError(f"unknown element {unknown[0]!r}")
        names = [source.name for source in self.structures]
        if len(set(names)) < len(names):
            raise ValueError("two structures have the same name")
        return self

    def step(self, atoms: Atoms) -> float:
        """Time step in fs for a structure."""
        return self.timestep or (0.5 if 1 in atoms.numbers else 1.0)

    def build(self) -> dict[str, Atoms]:
        """Structures of the domain by name, as given: not relaxed."""
        return {source.name: source.build(self.folder) for source in self.structures}

    def limit(self, suite: str, metric: str, default: float) -> float:
        """The limit of a metric: what the domain says, else `default`."""
        return self.limits.get(f"{suite}/{metric}", default)


def load_domain(path: str | Path) -> Domain:
    """Read a domain file.

    Raises
    ------
    ConfigurationError
        Not YAML, unknown fields, contradicting values; the message names the field.
    """
    path = Path(path)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path} holds no fields of a domain")
    try:
        return Domain(**document, folder=path.parent)
    except (ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        place = ".".join(map(str, first["loc"])) or "domain"
        raise ConfigurationError(f"{path}: {place}: {first['msg']}") from error


def supercell(atoms: Atoms, *, max_atoms: int) -> Atoms:
    """The repetition of a periodic structure nearest to a cube with at most `max_atoms` atoms."""
    repeated: Atoms = atoms.copy()
    if not atoms.pbc.any():
        return repeated
    repeats = np.ones(3, dtype=int)
    while True:
        lengths = np.where(atoms.pbc, atoms.cell.lengths() * repeats, np.inf)
        grown = repeats.copy()
        grown[int(lengths.argmin())] += 1
        if len(atoms) * int(np.prod(grown)) > max_atoms:
            larger: Atoms = repeated.repeat(repeats.tolist())
            return larger
        repeats = grown
