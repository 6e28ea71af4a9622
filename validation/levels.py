"""Levels of theory in words: which functional, and whether two of them can be compared."""

import re

#: As they are written in heads, data sets and reference tables; the longer name first where one begins like another.
_FUNCTIONALS = (
    "BEEF-vdW", "r2SCAN", "SCAN", "revPBE", "RPBE", "PBEsol", "PBE0", "PBE", "PW91", "LDA", "B3LYP",
    "wB97X-V", "wB97X-D", "wB97X", "HSE06", "BLYP", "MP2", "CCSD(T)",
)  # fmt: skip


def functional(level_of_theory: str) -> str | None:
    """The exchange-correlation functional (or wavefunction method) that a level of theory names; None for none known."""
    for name in _FUNCTIONALS:
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9(])", level_of_theory, flags=re.IGNORECASE):
            return name
    return None


def comparison(head: str, reference: str) -> str:
    """What to keep in mind when results at the level of theory `head` are held against those at `reference`."""
    ours, theirs = functional(head), functional(reference)
    if ours is None or theirs is None:
        unknown = " and ".join(
            word for word, known in (("the potential", ours), ("the reference", theirs)) if known is None
        )
        return f"level of theory of {unknown} is not known: part of the difference may be the functional's"
    if ours != theirs:
        return f"different levels of theory ({ours} against {theirs}): part of the difference is the functional's"
    return ""
