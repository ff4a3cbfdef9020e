"""Stages are added up, by name."""

import time

import pytest

from utils.stopwatch import Stopwatch, null_timer


def test_stages_are_added_up():
    timer = Stopwatch()
    for seconds in (0.02, 0.03):
        with timer("sleep"):
            time.sleep(seconds)
    with pytest.raises(ValueError), timer("error"):
        raise ValueError
    assert timer.seconds["sleep"] == pytest.approx(0.05, abs=0.02)
    assert list(timer.shares()) == ["sleep", "error"]
    assert sum(timer.shares().values()) == pytest.approx(1)


def test_nothing_measured():
    assert Stopwatch().shares() == {}
    with null_timer("anything") as nothing:
        assert nothing is None
