"""Stages are added up, by name."""

import time

import pytest

from utils.stopwatch import Stopwatch, no_watch


def test_stages_are_added_up():
    watch = Stopwatch()
    for seconds in (0.02, 0.03):
        with watch("sleep"):
            time.sleep(seconds)
    with pytest.raises(ValueError), watch("error"):
        raise ValueError
    assert watch.seconds["sleep"] == pytest.approx(0.05, abs=0.02)
    assert list(watch.shares()) == ["sleep", "error"]
    assert sum(watch.shares().values()) == pytest.approx(1)


def test_nothing_measured():
    assert Stopwatch().shares() == {}
    with no_watch("anything") as nothing:
        assert nothing is None
