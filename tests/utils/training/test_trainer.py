"""When a training stops because of its data."""

from __future__ import annotations

import pytest

from utils.training.trainer import too_many_broken


@pytest.mark.parametrize(
    ("broken", "tried", "stops"),
    [(0, 10, False), (1, 10, False), (2, 12, False), (3, 12, True), (1, 100, False),
     (2, 100, True), (10, 1000, False), (11, 1000, True)],
)  # fmt: skip
def test_more_than_one_percent(broken, tried, stops):
    assert too_many_broken(broken, tried) is stops
