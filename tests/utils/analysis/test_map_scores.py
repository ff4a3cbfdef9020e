"""Scores of maps and points against brute force."""

import numpy as np
import pytest

from utils.analysis.map_scores import best_s_iou, correlate, scale, score_map, score_points
from utils.analysis.records import Correlation, MapScore, PointScore


def brute_iou(values, truth, threshold) -> float:
    """IoU of the cut map, pixel by pixel."""
    scaled = scale(values)
    both = either = 0
    for v, t in zip(scaled.ravel(), truth.ravel(), strict=True):
        if t == 255:
            continue
        chosen, true = bool(v >= threshold), t == 1
        both += chosen and true
        either += chosen or true
    return both / either if either else 0.0


def example(seed: int, levels: int | None, unseen: bool, ignored: bool):
    """A map with noise about a disk, and its truth."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:17, :23]
    truth = ((x - 14) ** 2 + (y - 7) ** 2 < 20).astype(np.uint8)
    values = (truth + rng.normal(0, 0.6, truth.shape)).astype(np.float32)
    if levels:
        values = np.round(values * levels) / levels
    if ignored:
        truth[rng.random(truth.shape) < 0.1] = 255
    if unseen:
        values[:, :4] = values[:, 15:] = np.nan
    return values, truth


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize(("unseen", "ignored"), [(False, False), (True, False), (True, True)])
def test_s_iou_is_that_of_every_threshold_tried(seed, levels, unseen, ignored):
    values, truth = example(seed, levels, unseen, ignored)
    found = score_map(values, truth)
    assert found.s_iou == pytest.approx(brute_iou(values, truth, 0.5))
    scaled = scale(values)
    tried = {float(t): brute_iou(values, truth, t) for t in np.unique(scaled[~np.isnan(scaled)])}
    assert found.best_s_iou == pytest.approx(max(tried.values()))
    assert tried[found.best_threshold] == pytest.approx(found.best_s_iou)
    assert best_s_iou(values, truth) == found.best_s_iou > found.s_iou


def test_scaling():
    np.testing.assert_allclose(scale(np.array([2.0, np.nan, 4, 3])), [0, np.nan, 1, 0.5])
    np.testing.assert_array_equal(scale(np.full((2, 2), 7.0)), np.zeros((2, 2)))


def test_simple_maps():
    truth = np.zeros((4, 4), np.uint8)
    truth[:2] = 1
    perfect = truth.astype(np.float32)
    assert score_map(perfect, truth) == MapScore(1.0, 1.0, 1.0)
    # A constant map can select nothing, or everything.
    assert score_map(perfect * 0, truth) == MapScore(0.0, 0.5, 0.0)
    half = perfect.copy()
    half[0] = np.nan
    assert score_map(half, truth) == MapScore(0.5, 0.5, 1.0)
    blind = perfect.copy()
    blind[:2] = np.nan
    blind[3, 0] = 1
    assert score_map(blind, truth) == MapScore(0.0, 0.0, 1.0)


def test_points():
    truth = np.zeros((10, 20), np.uint8)
    truth[2:5, 3:8] = 1
    truth[9] = 255
    points = [[3, 2], [7.4, 4.4], [7.6, 4], [2.4, 2], [0, 0], [5, 3], [19.4, 8.4], [1, 9], [4, 9]]
    labels = [1, 1, 1, 1, 0, 0, 0, 0, 1]
    found = score_points(np.array([*points, [5, 3]]), np.array([*labels, -1]), truth)
    assert found == PointScore(positive=4, negative=3, positive_inside=2, negative_outside=2)
    assert score_points(np.zeros((0, 2)), np.zeros(0), truth) == PointScore(0, 0, 0, 0)
    far = score_points(np.array([[-3.0, 2], [50, 3]]), np.array([0, 1]), truth)
    assert far == PointScore(1, 1, 0, 1)


def brute_ranks(values):
    return [1 + sum(o < v for o in values) + (sum(o == v for o in values) - 1) / 2 for v in values]


def test_correlation_with_ties():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, (4, 6)).astype(np.float32)
    second = first + rng.integers(0, 4, (4, 6))
    found = correlate(first, second)
    flat = [list(map(float, one.ravel())) for one in (first, second)]
    assert found.pearson == pytest.approx(np.corrcoef(*flat)[0, 1])
    assert found.rank == pytest.approx(np.corrcoef(*map(brute_ranks, flat))[0, 1])
    monotone = correlate(first, -np.exp(first))
    assert monotone.rank == pytest.approx(-1) and monotone.pearson > -0.99


def test_constant_maps_have_no_correlation():
    assert correlate(np.ones((3, 3)), np.eye(3)) == Correlation(None, None)
