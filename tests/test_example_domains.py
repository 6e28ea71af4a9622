"""The domain files under ``examples/domains``: they load, build, and name heads that know their elements."""

import re
from pathlib import Path

import pytest

from hydrapot.potential.load import load
from hydrapot.validation.domain import load_domain

FILES = sorted((Path(__file__).resolve().parent.parent / "examples" / "domains").glob("*.yaml"))


def test_there_are_some():
    assert {"cu", "ethanol", "mgo", "si"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_domain(path):
    domain = load_domain(path)
    structures = domain.build()
    assert structures
    head = re.search(r"--head (\S+)", path.read_text(encoding="utf-8"))
    assert head, "the first comment shows how to use the file"
    counts = load("hydrapot-s").info.heads[head[1]].structures_per_element
    for atoms in structures.values():
        assert set(atoms.get_chemical_symbols()) <= set(domain.elements)
        assert all(counts.get(symbol, 0) > 0 for symbol in atoms.get_chemical_symbols())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_references_to_fill_in_are_valid(path, tmp_path):
    """Uncommented, as a user would do it."""
    text = path.read_text(encoding="utf-8")
    given, _, commented = text.partition("# references:")
    # Prose begins with a capital.
    lines = [line.removeprefix("# ") for line in commented.splitlines() if not re.match("# [A-Z]", line)]
    filled = [given, "references:", *lines]
    copy = tmp_path / path.name
    copy.write_text("\n".join(filled), encoding="utf-8")
    references = load_domain(copy).references
    assert references.phonons or references.held_out or references.elastic
