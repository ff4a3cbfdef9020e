"""`docs/faithful.md`: its flags, their choices, and the presets that keep to the original."""

import re
from pathlib import Path

import pytest

from utils.cli.options import TrainOptions
from utils.cli.parser import resolve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faithful.md").read_text("utf-8")
ROWS = re.findall(r"^\| `--(\w+)` \| `(\w+)`: .* \| `(\w+)`: .* \|$", PAGE, re.MULTILINE)


def options_of(preset: Path, *argv: str) -> TrainOptions:
    return resolve(TrainOptions, ["--config", str(preset), *argv])[0]


def test_the_page_has_a_row_for_each_choice():
    assert [name for name, _, _ in ROWS] == ["part_masks", "premise_draw", "class_names"]


@pytest.mark.parametrize("preset", sorted((ROOT / "configs").glob("read_*.yaml")))
def test_published_presets_do_as_the_original(preset):
    options = options_of(preset)
    for name, original, other in ROWS:
        assert getattr(TrainOptions(), name) == getattr(options, name) == original
        assert getattr(options_of(preset, f"--{name}", other), name) == other


def test_the_tiny_preset_takes_the_other_choices():
    options = options_of(ROOT / "configs" / "tiny.yaml")
    assert all(getattr(options, name) == other for name, _, other in ROWS)
