"""`CHANGELOG.md`: the modules that it sends people to are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CHANGELOG.md").read_text("utf-8")
ROWS = re.findall(r"^\| (`.+`) \| (.*`.+`.*) \|$", PAGE, re.MULTILINE)


def modules(cell: str) -> list[str]:
    return re.findall(r"`([\w.]+)`", cell)


@pytest.mark.parametrize(("before", "now"), ROWS)
def test_moved_modules_are_there(before, now):
    names = modules(now)
    if now.startswith("the same names in"):
        names = [f"{names[0]}.{name.rpartition('.')[2]}" for name in modules(before)]
    for name in names:
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").is_file(), name


def test_the_table_is_read():
    assert len(ROWS) > 30
