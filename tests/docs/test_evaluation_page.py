"""`docs/evaluation.md`: its table, its example and its lines are those of the code."""

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from tests.masks_at_hand import question, values
from utils.evaluation.mask_rows import prediction_row, truth_row
from utils.evaluation.protocols import PRESETS, cells_of

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")


def rows_under(header: str) -> list[list[str]]:
    """Cells of a table, whose header begins so."""
    _, _, rest = PAGE.partition(f"\n| {header}")
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in rest.split("\n\n")[0].splitlines()[2:]
    ]


def test_the_table_of_protocols():
    rows = [[cell.replace("`", "") for cell in row] for row in rows_under("`--protocols`")]
    assert rows == [[p.name, p.title, *cells_of(p).values()] for p in PRESETS.values()]


def test_the_same_masks_give_four_gious():
    """Each cell of the example, and each mean: what the page says is what the command counts."""
    masks = [re.findall(r"`(.+?)`", cell) for row in rows_under("question") for cell in row[1:]]
    questions = [
        question(true or ".... ....", predicted, name)
        for name, true, predicted in zip("abc", masks[::2], masks[1::2], strict=True)
    ]
    told = rows_under("protocol | a")
    for name, *single, mean in told:
        counted = [values([one], name.strip("`"))["giou"] for one in questions]
        assert [float(Fraction(cell)) for cell in single] == pytest.approx(counted, abs=2e-5)
        assert float(mean) == round(values(questions, name.strip("`"))["giou"], 3)
    assert len({row[-1] for row in told}) == 4


def test_the_lines_that_are_shown():
    blocks = re.findall(r"^```json\n(.*?)^```", PAGE, re.S | re.M)
    predictions, truths = ([json.loads(line) for line in one.splitlines()] for one in blocks)
    assert [prediction_row("row", row).names[0][0] for row in predictions] == ["id", "pair"]
    assert [truth_row("row", row).exists for row in truths] == [True, False]
