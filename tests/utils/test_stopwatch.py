"""Stages are added up, by name."""

import pytest

from utils.stopwatch import Stopwatch, null_timer


def test_stages_are_added_up(monkeypatch):
    times = iter([10.0, 12.0, 20.0, 23.0, 30.0, 31.0])  # begin and end of each stage below
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    timer = Stopwatch()
    for _ in range(2):
        with timer("decode"):
            pass
    with pytest.raises(ValueError), timer("error"):
        raise ValueError
    monkeypatch.undo()
    assert timer.seconds == {"decode": 5.0, "error": 1.0}
    assert list(timer.shares()) == ["decode", "error"]
    assert sum(timer.shares().values()) == pytest.approx(1)


def test_nothing_measured():
    assert Stopwatch().shares() == {}
    with null_timer("anything") as nothing:
        assert nothing is None
