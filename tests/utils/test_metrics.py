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
    assert (see.present_count, see.absent_count) == (3, see.count - 3)


def slow_pair(pred, truth) -> tuple[int, int]:
    """Pixel after pixel, by the definition."""
    both = either = 0
    for predicted, true in zip(pred.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if true == 255:
            continue
        both += bool(predicted) and true == 1
        either += bool(predicted) or true == 1
    return both, either


@pytest.mark.parametrize("seed", range(4))
def test_random_masks_against_an_independent_count(seed):
    rng = np.random.default_rng(seed)
    metrics, pairs = SegmentationMetrics(), []
    for _ in range(30):
        size = rng.integers(1, 14, 2)
        empty = rng.random(2) < 0.25
        pred = (rng.random(size) < 0.4) & ~empty[0]
        truth = rng.choice(np.array([0, 1, 255], np.uint8), size, p=[0.5, 0.4, 0.1])
        truth[(truth == 1) & empty[1]] = 0
        metrics.update(pred[None], truth[None])
        pairs.append(slow_pair(pred, truth))
    assert metrics.pairs == pairs
    ious = [i / (u + 1e-5) if u > 0 else 1.0 for i, u in pairs]
    assert metrics.giou == pytest.approx(sum(ious) / 30, abs=1e-14)
    assert metrics.ciou == sum(i for i, _ in pairs) / (sum(u for _, u in pairs) + 1e-10)
