"""Elements of HTML and SVG as text; whatever is not an element is escaped, so that no caller can forget it."""

import re
from html import escape
from typing import Final

#: Elements without content; written as ``<br/>``, which HTML and XML both read.
VOID: Final = frozenset({"br", "meta", "line", "rect", "circle", "path", "polyline", "stop", "use"})

# XML 1.0 knows no control characters but tab and line ends, and no surrogates: they would make the page unreadable.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A value as HTML: markup as it is, everything else escaped."""
    if isinstance(value, Markup):
        return value
    return Markup(escape(_ILLEGAL.sub("\ufffd", str(value)), quote=True))


def join(*parts: object) -> Markup:
    """Parts one after the other; None is nothing."""
    return Markup("".join(text(part) for part in parts if part is not None))


def tag(element: str, /, *content: object, **attributes: object) -> Markup:
    """An element.

    Parameters
    ----------
    element
        Its name.
    content
        Elements or text; None is left out.
    attributes
        ``class_`` is ``class``, ``stroke_width`` is ``stroke-width``; None is left out, True stands without a value
        of its own (``open="open"``).
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        written.append(f' {attribute}="{text(attribute if value is True else value)}"')
    opening = f"{element}{''.join(written)}"
    if element in VOID and not content:
        return Markup(f"<{opening}/>")
    return Markup(f"<{opening}>{join(*content)}</{element}>")
