"""The benchmark of inference runs and compares as it says, on a tiny model."""

import argparse
import json
import math

import pytest

from benchmarks import inference, inference_full


@pytest.mark.slow
def test_both_ways_give_the_same_and_are_told(monkeypatch):
    monkeypatch.setattr(inference, "COUNTS", (1, 8))
    monkeypatch.setattr(inference, "TOKENS", 5)
    result = inference.compare("tiny", repeats=1)
    assert result["largest_difference"] < inference.TOLERANCE
    assert result["masks"] >= 8
    assert [row["questions"] for row in result["rows"]] == [1, 8]
    for row in result["rows"]:
        assert row["ratio"] == row["plain_s"] / row["engine_s"] > 0
        assert row["cpu_ratio"] == row["plain_cpu_s"] / row["engine_cpu_s"] > 0
    assert "| 8 |" in inference.table(result)
    json.dumps(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"largest_difference": math.inf}, "differ"),
        ({"cost_of_16": 3.5}, "3.5 times as much"),
        ({"rows": [{"questions": 8, "ratio": 20.0}]}, "only 20 times"),
        ({}, ""),
    ],
)
def test_broken_promises_are_told(capsys, change, message):
    kept = {
        "largest_difference": 1e-5,
        "cost_of_16": 2.0,
        "rows": [{"questions": 8, "ratio": 60.0}],
    }
    assert inference.good({**kept, **change}) == (not change)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_full_size_mode_on_a_cpu():
    options = argparse.Namespace(
        size="tiny",
        device="cpu",
        precision="bf16",
        rows=[4, 16],
        images=2,
        attn_implementation="sdpa",
        compile=False,
    )
    result, page = inference_full.full_size(options)
    assert [run["rows"] for run in result["runs"]] == [4, 16]
    for run in result["runs"]:
        assert run["questions"] == 29
        assert run["tokens_per_s"] == pytest.approx(20 * run["questions_per_s"])
        assert sum(run["stages"].values()) == pytest.approx(1)
        assert run["masks"] >= 29
    assert "FP-RefCOCO val" in page and "- |" in page
    json.dumps(result)
