"""What has to be said about a dataset when it is imported: nothing of it is in the files, and nothing is guessed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hydrapot.potential.errors import ConfigurationError
from hydrapot.potential.metadata import LevelOfTheory
from hydrapot.training.data.store_layout import StoreAttributes

GIVEN = ("licence", "attribution", "references", "note")


def attributes_of(path: Path | None, given: Mapping[str, str | None]) -> StoreAttributes:
    """Return the attributes of a store from a YAML file, and from options that take its place or complete it.

    Parameters
    ----------
    path
        A mapping with ``level_of_theory`` (fields of `LevelOfTheory`), ``licence``, ``attribution`` and perhaps
        ``references`` and ``note``.
    given
        Fields of `LevelOfTheory` and of those named above; None is not given.

    Raises
    ------
    ConfigurationError
        The file cannot be read, a field is unknown, or functional, licence or attribution is missing.
    """
    document = _read(path) if path is not None else {}
    theory = document.pop("level_of_theory", {})
    if not isinstance(theory, dict):
        raise ConfigurationError(f"{path}: level_of_theory has fields: {', '.join(LevelOfTheory.model_fields)}")
    for key, value in given.items():
        if value is None:
            continue
        (document if key in GIVEN else theory)[key] = value
    missing = [
        option
        for option, there in (
            ("--functional", theory.get("functional")),
            ("--licence", document.get("licence")),
            ("--attribution", document.get("attribution")),
        )
        if not there
    ]
    if missing:
        raise ConfigurationError(
            f"say {', '.join(missing)}, or --about with a YAML file: what the labels are and whose, no file tells"
        )
    try:
        return StoreAttributes(level_of_theory=LevelOfTheory(**theory), **document)
    except (ValidationError, TypeError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        else:
            text = str(error)
        raise ConfigurationError(f"{path or 'options'}: {text}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: a mapping with level_of_theory, licence and attribution is expected")
    return document
