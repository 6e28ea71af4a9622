"""The configuration's fields as text: names, types, defaults and their descriptions."""

from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


def describe(model: type[BaseModel], *, indent: int = 0) -> str:
    """Describe a configuration model as commented YAML-like text, sections nested.

    Parameters
    ----------
    model
        A pydantic model whose fields carry descriptions.
    indent
        Depth of nesting.
    """
    lines = []
    pad = "  " * indent
    for name, field in model.model_fields.items():
        section = _section(field)
        if section is None:
            default = "required" if field.default is PydanticUndefined else f"default {field.default!r}"
            lines.append(f"{pad}{name}: {_type_name(field)}, {default}")
        else:
            lines.append(f"{pad}{name}:")
            doc = (section.__doc__ or "").strip().splitlines()
            if doc and not field.description:
                lines.append(f"{pad}    {doc[0]}")
        if field.description:
            lines.append(f"{pad}    {field.description}")
        if section is not None:
            lines.append(describe(section, indent=indent + 2))
    return "\n".join(lines)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """The nested model of a field, or of the items of a list."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _type_name(field: FieldInfo) -> str:
    annotation = field.annotation
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("Literal", "one of ")
