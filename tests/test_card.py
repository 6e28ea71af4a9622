"""The model card measures through the user's path what the trainer measured through its own."""

from pathlib import Path

import pytest
from rich.console import Console

from hydrapot.training.card import write_card
from hydrapot.training.config import load_config
from hydrapot.training.run import train
from tests.training_helpers import write_datasets


def test_card_agrees_with_the_trainer_and_names_everything(tmp_path: Path) -> None:
    """Two independent evaluations of the same split must agree: labels, references, repulsion and units all enter."""
    config_path = write_datasets(tmp_path)
    config = load_config(config_path, overrides={"run.steps": 20, "run.validate_every": 20})
    result = train(
        config,
        data=tmp_path / "data",
        manifest_path=tmp_path / config.split,
        out=tmp_path / "run",
        threads=1,
        cache_dir=tmp_path / "cache",
        console=Console(quiet=True),
    )
    opening = tmp_path / "opening.md"
    opening.write_text("# Purpose\n\nFor tests.\n")
    card = tmp_path / "card.md"
    measured = write_card(
        str(result.checkpoint),
        config,
        data=tmp_path / "data",
        manifest_path=tmp_path / config.split,
        out=card,
        opening=opening,
        cache_dir=tmp_path / "cache",
    )
    assert measured.keys() == result.metrics.keys()
    for head, values in result.metrics.items():
        assert measured[head].keys() == values.keys()
        for name, value in values.items():
            assert measured[head][name] == pytest.approx(value, rel=2e-3, abs=1e-3), (head, name)
    text = card.read_text()
    assert text.startswith("# Purpose")
    for expected in ("copper", "molecules", "EMT", "Cu ", "relative", "Median over heads"):
        assert expected in text
