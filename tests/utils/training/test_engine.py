"""Learning rate and settings of the engine."""

from __future__ import annotations

import pytest

from utils.training.engine import engine_settings, learning_rate


def test_learning_rate_goes_up_then_down():
    rates = [learning_rate(step, 1.0, 4, 10) for step in range(1, 11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and rates[-1] == pytest.approx(1 / 6)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(1, 1.0, 0, 10) == 1.0
    assert learning_rate(3, 1.0, 100, 5) == pytest.approx(0.03)


def test_settings():
    settings = engine_settings("bf16", 2, 4)
    assert settings["bf16"]["enabled"] and not settings["fp16"]["enabled"]
    assert settings["zero_optimization"]["stage"] == 2
    assert settings["train_micro_batch_size_per_gpu"] == 4
    assert settings["data_types"] == {}
    assert engine_settings("bf16", 3, 4)["data_types"] == {"grad_accum_dtype": "fp32"}
