"""Input decks written for ``pair_style hydrapot``, run by the ``fix external`` driver without a line changed.

    pair_style hydrapot precision double energy total
    pair_coeff * * MODEL HEAD Cu O

A deck is run up to these two lines, the driver takes their place, and the rest follows; loops with ``jump SELF`` work on
either side.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrapot.lammps_plugin.settings import Settings, parse_heads
from hydrapot.potential.errors import ConfigurationError

_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w)")
#: Options of the compiled pair style that mean nothing here: how it computes, not what.
_IGNORED = {"threads", "radial"}
_NATIVE_ONLY = "needs the compiled pair style: `hydrapot lammps build`"


@dataclass(frozen=True)
class Deck:
    """An input deck around its potential.

    Attributes
    ----------
    before, after
        Lines up to ``pair_style hydrapot``, and those that remain.
    style
        Words after ``pair_style hydrapot``.
    coefficients
        Words after ``pair_coeff * *``; None where the deck has no such line.
    """

    before: str
    after: str
    style: tuple[str, ...]
    coefficients: tuple[str, ...] | None


def read_deck(path: Path) -> Deck:
    """Read and divide a deck.

    Raises
    ------
    ConfigurationError
        There is no ``pair_style hydrapot``, or something in the deck that this driver cannot do.
    """
    return divide_deck(path.read_text(encoding="utf-8"), name=str(path))


def divide_deck(text: str, *, name: str) -> Deck:
    """The parts of a deck; `name` is for messages, errors as for :func:`read_deck`."""
    before: list[str] = []
    after: list[str] = []
    style: tuple[str, ...] | None = None
    coefficients: tuple[str, ...] | None = None
    for line in _logical_lines(text):
        words = _words(line)
        command = words[0] if words else ""
        if command == "pair_style" and "hydrapot" in words[1:]:
            if words[1] != "hydrapot":
                raise ConfigurationError(f"{name}: pair_style {words[1]} with hydrapot {_NATIVE_ONLY}")
            if style is not None:
                raise ConfigurationError(f"{name}: pair_style hydrapot occurs twice; changing it {_NATIVE_ONLY}")
            style = tuple(words[2:])
        elif command == "pair_coeff" and style is not None:
            if coefficients is not None or words[1:3] != ["*", "*"]:
                raise ConfigurationError(f"{name}: write one line `pair_coeff * * MODEL HEAD ELEMENT …`")
            coefficients = tuple(words[3:])
        elif command == "clear":
            raise ConfigurationError(f"{name}: `clear` in a deck with pair_style hydrapot {_NATIVE_ONLY}")
        elif command == "pair_style" and style is not None:
            raise ConfigurationError(f"{name}: a second pair_style in a deck with hydrapot {_NATIVE_ONLY}")
        elif style is not None and coefficients is None and command in {"", "neighbor", "neigh_modify", "mass"}:
            before.append(line)  # what commonly stands between the two lines does not need the potential
        else:
            (before if style is None else after).append(line)
    if style is None:
        raise ConfigurationError(
            f"{name} has no potential: add `pair_style hydrapot` and `pair_coeff * * MODEL HEAD ELEMENT …`"
        )
    return Deck("\n".join([*before, ""]), "\n".join([*after, ""]), style, coefficients)


def deck_settings(
    deck: Deck,
    *,
    variable: Callable[[str], str | None],
    model: str | None = None,
    head: str | None = None,
    elements: tuple[str, ...] = (),
) -> Settings:
    """What the two lines say, with what the caller says put in its place.

    Parameters
    ----------
    variable
        Value of a LAMMPS variable.
    model, head, elements
        Override those of the deck; together they make its ``pair_coeff`` unnecessary.

    Raises
    ------
    ConfigurationError
    """

    def expand(word: str) -> str:
        def value(match: re.Match[str]) -> str:
            found = variable(match[1] or match[2])
            if found is None:
                raise ConfigurationError(f"{match[0]} in {word!r} is not a variable of the deck")
            return found

        if "$(" in word:
            raise ConfigurationError(f"{word!r}: formulas are not evaluated in pair_style and pair_coeff of hydrapot")
        return _VARIABLE.sub(value, word)

    options: dict[str, Any] = {}
    words = [expand(word) for word in deck.style]
    if len(words) % 2:
        raise ConfigurationError(f"pair_style hydrapot: {words[-1]} needs a value")
    for key, value in zip(words[::2], words[1::2], strict=True):
        allowed = {"precision": ("single", "double"), "energy": ("total", "interaction")}.get(key)
        if allowed is not None and value in allowed:
            options[key] = value
        elif key in {"charge", "spin"}:
            options[key] = _whole(key, value)
        elif key not in _IGNORED:
            raise ConfigurationError(f"pair_style hydrapot: `{key} {value}` is not known")
    coefficients = [expand(word) for word in deck.coefficients or ()]
    model = model or (coefficients[0] if coefficients else None)
    head = head or (coefficients[1] if len(coefficients) > 1 else None)
    elements = elements or tuple(coefficients[2:])
    if model is None or head is None or not elements:
        raise ConfigurationError(
            "name model, head and elements: `pair_coeff * * MODEL HEAD ELEMENT …`, one for each type"
        )
    if "NULL" in elements:
        raise ConfigurationError(f"NULL for an atom type {_NATIVE_ONLY}")
    return Settings(model=model, heads=parse_heads(head), elements=elements, **options)


def _whole(key: str, value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise ConfigurationError(f"pair_style hydrapot: {key} {value!r} is not a whole number") from error


def _logical_lines(text: str) -> list[str]:
    """Lines with their continuations (``&``) and the contents of triple quotes."""
    lines: list[str] = []
    open_line = ""
    for line in text.splitlines():
        open_line += line
        if open_line.count('"""') % 2 or open_line.rstrip().endswith("&"):
            open_line += "\n"
            continue
        lines.append(open_line)
        open_line = ""
    return [*lines, open_line] if open_line else lines


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line.replace("&\n", " "), comments=True, posix=True)
    except ValueError:  # an apostrophe, say, in a text to print: no line of ours
        return line.split()
