"""What is validated: a head of a checkpoint, or any ASE calculator, in each precision that it is used in."""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers, chemical_symbols
from pydantic import BaseModel, ConfigDict

from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.load import load
from hydrapot.potential.metadata import HeadInfo
from hydrapot.validation.evaluators import CalculatorEvaluator, Evaluator, PotentialEvaluator
from hydrapot.validation.precisions import PRECISIONS, precision_calculator
from hydrapot.validation.probe import find_cutoff, find_receptive_field, find_resolution


class SubjectSpec(BaseModel):
    """Names what is validated; small, so that every worker process can make the subject anew.

    Either `model` with `head`, or `factory`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    head: str | None = None
    factory: str | None = None  # "module:function" without arguments, or "path.py:function"
    elements: tuple[str, ...] = ()  # of a factory's calculator
    cutoff: float | None = None  # Å, of a factory's calculator; measured when absent
    receptive_field: float | None = None  # Å; measured when absent
    resolution: float | None = None  # measured when absent


@dataclass(frozen=True)
class Identity:
    """What results and certificate say about the subject.

    Attributes
    ----------
    name, head, level_of_theory, source
        Words; `source` is the model's name or path, or the factory.
    sha256
        Content hash of the checkpoint; of a factory's calculator, the hash of the factory's source file.
    """

    name: str
    head: str
    level_of_theory: str
    source: str
    sha256: str


class Subject:
    """Calculators and evaluators of what is validated; made by :func:`open_subject`.

    Attributes
    ----------
    identity
        Name, head, level of theory, hash.
    elements
        Atomic numbers, ascending.
    cutoff, receptive_field
        Å.
    resolution
        Relative rounding of its energies and forces: 1e-16 class for float64, 1e-7 class for float32. Limits that
        hold in float64 are widened by suites in proportion, up to caps of their own.
    precisions
        What :meth:`calculator` can make, best first.
    head_info
        The head's record, for a checkpoint; None for any other calculator.
    """

    identity: Identity
    elements: tuple[int, ...]
    cutoff: float
    receptive_field: float
    resolution: float
    precisions: tuple[str, ...]
    head_info: HeadInfo | None = None

    def calculator(self, precision: str | None = None) -> Calculator:
        """A new calculator in one of :attr:`precisions`, the best by default.

        Raises
        ------
        ConfigurationError
            A precision that this subject does not have.
        """
        raise NotImplementedError

    @cached_property
    def evaluator(self) -> Evaluator:
        """In the best precision; what most suites use."""
        return self.evaluator_of(self.calculator())

    def evaluator_of(self, calculator: Calculator) -> CalculatorEvaluator:
        """An evaluator of a calculator of this subject."""
        return CalculatorEvaluator(
            calculator, cutoff=self.cutoff, elements=self.elements, receptive_field=self.receptive_field
        )

    @property
    def symbols(self) -> tuple[str, ...]:
        """Elements as symbols."""
        return tuple(chemical_symbols[z] for z in self.elements)

    def _check_precision(self, precision: str | None) -> str:
        if precision is None:
            return self.precisions[0]
        if precision not in self.precisions:
            known = ", ".join(self.precisions)
            raise ConfigurationError(f"{self.identity.name} cannot be evaluated in {precision!r}: choose from {known}")
        return precision


class CheckpointSubject(Subject):
    """A head of a checkpoint."""

    def __init__(self, model: str, *, head: str | None) -> None:
        self.potential = load(model)
        head = self.potential.check_head(head)
        info = self.potential.info.heads[head]
        self.head_info = info
        self.identity = Identity(
            Path(model).stem, head, str(info.level_of_theory), model, self.potential.info.content_hash
        )
        self.elements = tuple(
            sorted(atomic_numbers[symbol] for symbol, count in info.structures_per_element.items() if count > 0)
        )
        self.cutoff = self.potential.cutoff
        self.receptive_field = self.cutoff * self.potential.config.encoder.layers
        self.resolution = sys.float_info.epsilon
        self.precisions = PRECISIONS

    def calculator(self, precision: str | None = None) -> Calculator:
        """See :meth:`Subject.calculator`."""
        return precision_calculator(self.potential, head=self.identity.head, precision=self._check_precision(precision))

    @cached_property
    def evaluator(self) -> Evaluator:
        """The model itself in float64: batches, and strain gradients before anything symmetrized them."""
        return PotentialEvaluator(load(self.identity.source), head=self.identity.head)


class CalculatorSubject(Subject):
    """Any ASE calculator, made by a factory without arguments."""

    def __init__(
        self,
        factory: Callable[[], Calculator],
        *,
        name: str,
        elements: tuple[str, ...] = (),
        cutoff: float | None = None,
        receptive_field: float | None = None,
        resolution: float | None = None,
        sha256: str = "",
    ) -> None:
        self.factory = factory
        try:
            calculator = factory()
        except Exception as error:
            raise ConfigurationError(f"{name} raised {type(error).__name__}: {error}") from error
        if not hasattr(calculator, "get_potential_energy"):
            raise ConfigurationError(f"{name} returned {type(calculator).__name__}, not an ASE calculator")
        symbols = elements or tuple(getattr(calculator, "elements", ()) or ())
        if not symbols:
            raise ConfigurationError(f"{name} does not say which elements it knows: name them with --elements")
        unknown = [symbol for symbol in symbols if symbol not in atomic_numbers]
        if unknown:
            raise ConfigurationError(f"unknown element {unknown[0]!r}")
        self.identity = Identity(name, "", str(getattr(calculator, "level_of_theory", "not stated")), name, sha256)
        self.elements = tuple(sorted(atomic_numbers[symbol] for symbol in symbols))
        self.cutoff = find_cutoff(calculator, self.elements) if cutoff is None else cutoff
        if receptive_field is None:
            receptive_field = find_receptive_field(calculator, self.elements, cutoff=self.cutoff)
        self.receptive_field = receptive_field
        if resolution is None:
            resolution = find_resolution(calculator, self.elements, cutoff=self.cutoff)
        self.resolution = resolution
        self.precisions = ("native",)

    def calculator(self, precision: str | None = None) -> Calculator:
        """See :meth:`Subject.calculator`."""
        self._check_precision(precision)
        return self.factory()


def open_subject(spec: SubjectSpec) -> Subject:
    """Make what `spec` names.

    Raises
    ------
    ConfigurationError
        Neither or both of model and factory, a factory that cannot be imported, a calculator of unknown elements.
    UnknownHeadError, CheckpointError
    """
    if (spec.model is None) == (spec.factory is None):
        raise ConfigurationError("name either a model or, with --calculator, a factory of a calculator")
    if spec.model is not None:
        return CheckpointSubject(spec.model, head=spec.head)
    assert spec.factory is not None  # noqa: S101 - for the type checker
    if spec.head is not None:
        raise ConfigurationError("--head belongs to a model; a --calculator has no heads")
    factory = _import_factory(spec.factory)
    return CalculatorSubject(
        factory,
        name=spec.factory,
        elements=spec.elements,
        cutoff=spec.cutoff,
        receptive_field=spec.receptive_field,
        resolution=spec.resolution,
        sha256=_hash(factory),
    )


def _import_factory(place: str) -> Callable[[], Calculator]:
    module_name, _, attribute = place.rpartition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"--calculator {place!r}: write MODULE:FUNCTION or FILE.py:FUNCTION")
    try:
        if module_name.endswith(".py"):
            path = Path(module_name)
            loaded = importlib.util.spec_from_file_location(path.stem, path)
            if loaded is None or loaded.loader is None or not path.exists():
                raise ConfigurationError(f"{path} does not exist")
            module = importlib.util.module_from_spec(loaded)
            loaded.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(f"--calculator {place!r} cannot be imported: {error}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ConfigurationError(f"{module_name} has no function {attribute!r}")
    return factory  # type: ignore[no-any-return]


def _hash(factory: Callable[[], Calculator]) -> str:
    """SHA-256 of the file that defines the factory, and of the version of its distribution."""
    try:
        source = Path(inspect.getfile(factory)).read_bytes()
    except (TypeError, OSError):
        source = repr(factory).encode()
    with contextlib.suppress(PackageNotFoundError):
        source += version(factory.__module__.partition(".")[0]).encode()
    return hashlib.sha256(source).hexdigest()
