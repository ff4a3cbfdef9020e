"""Polygons of masks: every pixel's centre is inside exactly when the pixel is."""

import numpy as np
import pytest

from web.export import rings_of


def fill(rings, shape) -> np.ndarray:
    """Even-odd rule at the centres of pixels: how many upright edges lie to the left."""
    crossings = np.zeros(shape, int)
    for ring in rings:
        for (x, y), (to_x, to_y) in zip(ring, ring[1:] + ring[:1], strict=True):
            assert (x == to_x) != (y == to_y)
            low, high = sorted((y, to_y))
            crossings[low:high, x:] += 1
    return crossings % 2 == 1


def area(ring) -> float:
    """Positive for a ring that runs clockwise as seen on a screen."""
    corners = np.array(ring)
    after = np.roll(corners, -1, axis=0)
    return float((corners[:, 0] * after[:, 1] - after[:, 0] * corners[:, 1]).sum() / 2)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_random_masks_come_back(share):
    rng = np.random.default_rng(0)
    for shape in [(1, 1), (1, 9), (7, 1), (6, 8), (23, 31)]:
        for _ in range(20):
            mask = rng.random(shape) < share
            rings = rings_of(mask)
            assert np.array_equal(fill(rings, shape), mask)
            assert sum(map(area, rings)) == mask.sum()


def test_a_square_with_a_hole():
    mask = np.zeros((8, 9), bool)
    mask[1:7, 2:8] = True
    mask[3:5, 4:6] = False
    outer, hole = sorted(rings_of(mask), key=area, reverse=True)
    assert outer == [[2, 1], [8, 1], [8, 7], [2, 7]]
    assert area(outer) == 36 and area(hole) == -4
    assert sorted(hole) == [[4, 3], [4, 5], [6, 3], [6, 5]]


def test_pixels_that_touch_at_a_corner_share_a_ring():
    board = np.indices((4, 4)).sum(axis=0) % 2 == 0
    rings = rings_of(board)
    assert np.array_equal(fill(rings, board.shape), board) and sum(map(area, rings)) == 8


def test_no_mask_and_the_whole_image():
    assert rings_of(np.zeros((3, 4), bool)) == []
    assert rings_of(np.ones((3, 4), bool)) == [[[0, 0], [4, 0], [4, 3], [0, 3]]]
