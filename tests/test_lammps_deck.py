"""Decks written for `pair_style hydrapot`: what is read from them, and what is refused."""

import pytest

from hydrapot.lammps_plugin.deck import deck_settings, divide_deck
from hydrapot.lammps_plugin.settings import Settings, parse_heads
from hydrapot.potential.errors import ConfigurationError

DECK = """# a comment & that ends so
units metal
variable m string hydrapot-s
print \"\"\"three
pair_style in a text\"\"\"
print "it's"
pair_style hydrapot precision double energy interaction &
   charge -1 spin 2 threads 4  # comment
neighbor 1.0 bin
pair_coeff * * ${m} crystals $e O
run 0
"""


def read(text: str, **overrides) -> Settings:
    variables = {"m": "hydrapot-s", "e": "Cu"}
    return deck_settings(divide_deck(text, name="in.x"), variable=variables.get, **overrides)


def test_reads_both_lines_and_leaves_the_rest():
    deck = divide_deck(DECK, name="in.x")
    assert deck.before.splitlines()[-1] == "neighbor 1.0 bin"
    assert "pair_style in a text" in deck.before
    assert deck.after == "run 0\n"
    assert read(DECK) == Settings(
        model="hydrapot-s",
        heads={"crystals": 1.0},
        elements=("Cu", "O"),
        precision="double",
        energy="interaction",
        charge=-1,
        spin=2,
    )


def test_the_caller_may_put_others_in_place():
    found = read(DECK, model="x.safetensors", head="a:0.25,b:0.75", elements=("Ag",))
    assert (found.model, found.heads, found.elements) == ("x.safetensors", {"a": 0.25, "b": 0.75}, ("Ag",))
    assert read("pair_style hydrapot\nrun 0", model="m", head="h", elements=("Cu",)).precision == "single"


def test_a_head_may_have_a_colon_in_its_name_if_it_has_a_weight():
    assert parse_heads("a:b:0.5,c") == {"a:b": 0.5, "c": 1.0}
    with pytest.raises(ConfigurationError, match="'half' is not a weight"):
        parse_heads("a:half")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run 0", "has no potential"),
        ("pair_style lj/cut 3\nrun 0", "has no potential"),
        ("pair_style hydrapot\nclear", "`clear`"),
        ("pair_style hydrapot\npair_style zero 3", "second pair_style"),
        ("pair_style hydrapot\npair_style hydrapot", "occurs twice"),
        ("pair_style hybrid hydrapot lj/cut 3", "needs the compiled pair style"),
        ("pair_style hydrapot\npair_coeff 1 1 m h Cu", "write one line"),
        ("pair_style hydrapot\npair_coeff * * m h Cu\npair_coeff * * m h Cu", "write one line"),
        ("pair_style hydrapot precision", "precision needs a value"),
        ("pair_style hydrapot precision half", "`precision half` is not known"),
        ("pair_style hydrapot speed high", "`speed high` is not known"),
        ("pair_style hydrapot charge one", "charge 'one' is not a whole number"),
        ("pair_style hydrapot", "name model, head and elements"),
        ("pair_style hydrapot\npair_coeff * * m h", "name model, head and elements"),
        ("pair_style hydrapot\npair_coeff * * m h NULL Cu", "NULL"),
        ("pair_style hydrapot\npair_coeff * * $x h Cu", "not a variable"),
        ("pair_style hydrapot\npair_coeff * * $(1+1) h Cu", "formulas"),
    ],
)
def test_refuses(text, message):
    with pytest.raises(ConfigurationError, match=message):
        read(text)
