"""gIoU, cIoU and See against figures of the original implementation and against hand counts."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.metrics import SeeMetrics, SegmentationMetrics, intersection_and_union

GOLDEN = Path(__file__).parents[1] / "data" / "metrics.npz"


@pytest.fixture(scope="module")
def golden():
    data = np.load(GOLDEN)
    cases = [(data[f"metric_pred_{i}"], data[f"metric_gt_{i}"]) for i in range(12)]
    return cases, json.loads(str(data["meta"]))


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_golden(golden, convert):
    cases, expected = golden
    metrics = SegmentationMetrics()
    for pred, truth in cases:
        metrics.update(convert(pred), convert(truth))
    assert np.float32(metrics.giou) == np.float32(expected["giou"])
    assert metrics.ciou == pytest.approx(expected["ciou"], abs=2e-8)  # the original sums float32


def test_merging_is_exact_in_any_order(golden):
    cases, _ = golden
    whole = SegmentationMetrics()
    for pred, truth in cases:
        whole.update(pred, truth)
    for seed in range(5):
        parts = [SegmentationMetrics() for _ in range(3)]
        shuffled = random.Random(seed).sample(cases, len(cases))
        for number, (pred, truth) in enumerate(shuffled):
            parts[number % 3].update(pred, truth)
        merged = parts[2].merge(parts[0]).merge(parts[1])
        assert (merged.giou, merged.ciou, merged.count) == (whole.giou, whole.ciou, whole.count)


def test_ignored_pixels_and_empty_unions():
    truth = np.zeros((2, 2, 3), np.uint8)
    truth[0, 0] = (1, 1, 255)
    pred = np.zeros((2, 2, 3), bool)
    pred[0, 0] = (True, False, True)
    both, either = intersection_and_union(pred, truth)
    assert both.tolist() == [1, 0] and either.tolist() == [2, 0]
    metrics = SegmentationMetrics()
    metrics.update(pred, truth)
    assert metrics.giou == pytest.approx((1 / (2 + 1e-5) + 1) / 2, abs=1e-12)
    assert metrics.ciou == pytest.approx(0.5)


def test_refuses_logits_and_other_sizes():
    with pytest.raises(ValueError, match="threshold"):
        intersection_and_union(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), int))
    with pytest.raises(ValueError, match=r"\[N, H, W\]"):
        intersection_and_union(np.zeros((2, 2), bool), np.zeros((2, 2), int))


def test_nothing_counted_is_not_a_score():
    assert math.isnan(SegmentationMetrics().giou) and math.isnan(SegmentationMetrics().ciou)
    assert math.isnan(SeeMetrics().accuracy)


def test_see():
    see = SeeMetrics()
    see.update([True, True, False, False, True], [True, False, False, True, True])
    assert see.accuracy == pytest.approx(3 / 5)
    assert see.absent_precision == pytest.approx(1 / 2)
    assert see.absent_recall == pytest.approx(1 / 2)
    assert see.present_recall == pytest.approx(2 / 3)
    twice = SeeMetrics().merge(see).merge(see)
    assert twice.count == 10 and twice.accuracy == see.accuracy
