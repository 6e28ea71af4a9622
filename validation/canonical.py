"""One byte sequence for one JSON value, so that hashes and signatures of a document are well defined.

The form is that of RFC 8785 (JSON Canonicalization Scheme): UTF-8, no white space, members sorted by the UTF-16 code
units of their names, the shortest text for a string, and numbers as ECMAScript writes them (the shortest decimal that
reads back to the same float64; ``1.0`` is ``1``, ``1e-07`` is ``1e-7``, minus zero is ``0``). NaN and infinity have no
canonical form; integers only as far as float64 holds them exactly.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from hydrapot.potential.errors import ConfigurationError


def canonical(value: Any) -> bytes:
    """Canonical JSON of a value made of None, bool, int, float, str, lists and mappings with text as keys.

    Raises
    ------
    ConfigurationError
        A value that has no canonical form: another type, NaN, infinity, an integer that float64 cannot hold, text
        that is not Unicode (lone surrogates).
    """
    try:
        return _text(value).encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError("text with a lone surrogate has no canonical JSON") from error


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def parse(data: bytes) -> Any:
    """The value of canonical JSON.

    Raises
    ------
    ConfigurationError
        Not JSON, or not in canonical form: white space, unsorted or repeated names, a number or text written otherwise.
    """
    try:
        value = json.loads(data.decode("utf-8"))
        same = canonical(value) == data
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or without canonical form
        raise ConfigurationError(f"not JSON in canonical form: {' '.join(str(error).split())}") from error
    if not same:
        raise ConfigurationError("JSON, but not in canonical form (RFC 8785)")
    return value


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, int):
        return _integer(int(value))
    if isinstance(value, float):
        return _number(float(value))
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        # "surrogatepass": such a key is refused when the whole is encoded.
        members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{_text(key)}:{_text(item)}" for key, item in members) + "}"
    raise ConfigurationError(f"{type(value).__name__} has no canonical JSON")


def _integer(value: int) -> str:
    try:
        text = _number(float(value))
    except OverflowError as error:
        raise ConfigurationError("an integer beyond float64 has no canonical JSON") from error
    if text != str(value):  # also true for those powers of two whose shortest decimal is another integer
        raise ConfigurationError(f"{value} is not exact in float64 and has no canonical JSON")
    return text


def _number(value: float) -> str:
    """ECMAScript's Number::toString (ECMA-262, 6.1.6.1.20)."""
    if not math.isfinite(value):
        raise ConfigurationError(f"{value} has no canonical JSON")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    # repr gives the shortest digits that read back to the same float64, which is what ECMAScript asks for.
    decimal = Decimal(repr(abs(value))).normalize()
    _, places, exponent = decimal.as_tuple()
    digits = "".join(map(str, places))
    k = len(digits)
    n = k + int(exponent)  # the value is 0.digits × 10^n
    if k <= n <= 21:
        return f"{sign}{digits}{'0' * (n - k)}"
    if 0 < n <= 21:
        return f"{sign}{digits[:n]}.{digits[n:]}"
    if -6 < n <= 0:
        return f"{sign}0.{'0' * -n}{digits}"
    mantissa = digits if k == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{sign}{mantissa}e{n - 1:+d}"
