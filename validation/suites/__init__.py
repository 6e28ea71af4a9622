"""The suites of ``hydrapot validate``, one module each with a ``SUITE``; :data:`NAMES` is their order in plan and report."""

from importlib import import_module

from hydrapot.validation.suite import Suite

#: Class A first: what fails there makes an accuracy meaningless.
NAMES: tuple[str, ...] = (
    "contract",
    "gradient",
    "jacobian",
    "symmetry",
    "cutoff",
    "size",
    "walls",
    "nve",
    "md",
    "precision",
    "parity",
    "relaxation",
    "eos",
    "elastic",
    "phonons",
    "vacancy",
    "surface",
    "adsorption",
    "barrier",
    "softening",
    "held_out",
    "uncertainty",
)


#: Where those modules are.
PACKAGE = "hydrapot.validation.suites"


def load_suite(name: str) -> Suite:
    """One suite."""
    suite = import_module(f"{PACKAGE}.{name}").SUITE
    assert isinstance(suite, Suite)  # noqa: S101 - for the type checker
    return suite


def load_suites() -> tuple[Suite, ...]:
    """All suites in their order."""
    return tuple(load_suite(name) for name in NAMES)
