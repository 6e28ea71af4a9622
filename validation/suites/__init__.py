"""The suites of ``hydrapot validate``, one module each with a ``SUITE``; :data:`NAMES` is their order in plan and report."""

from importlib import import_module

from hydrapot.validation.suite import Suite

#: Class A first: what fails there makes an accuracy meaningless.
NAMES: tuple[str, ...] = (
    "nve",
    "relaxation",
    "eos",
    "elastic",
)


def load_suites() -> tuple[Suite, ...]:
    """All suites in their order."""
    return tuple(import_module(f"hydrapot.validation.suites.{name}").SUITE for name in NAMES)
