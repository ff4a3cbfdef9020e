"""Drawn polygons are the same on every release of OpenCV; the order and labels of ReasonSeg."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataset.masks import draw_polygon, draw_reason_seg
from utils.protocol.constants import POLYGON_FILLS

DATA = Path(__file__).parents[1] / "data"
Cases = list[tuple[str, np.ndarray, np.ndarray]]


def load_cases(fill: str) -> Cases:
    """Kind, points float64[n, 2], and mask uint8[H, W] that OpenCV drew (polygon_cases.py)."""
    with np.load(DATA / f"polygons_{fill}.npz") as stored:
        areas = stored["sizes"].prod(axis=1)
        pixels = np.unpackbits(stored["masks"], count=int(areas.sum()))
        masks = np.split(pixels, np.cumsum(areas)[:-1])
        points = np.split(stored["points"], np.cumsum(stored["lengths"])[:-1])
        return [
            (str(kind), corners, mask.reshape(size))
            for kind, corners, mask, size in zip(
                stored["kinds"], points, masks, stored["sizes"], strict=True
            )
        ]


@pytest.fixture(scope="module")
def stored() -> Cases:
    return load_cases("4.11")


def test_the_stored_polygons_are_of_every_kind(stored):
    kinds = [kind for kind, _, _ in stored]
    assert len(kinds) == 240 and len(set(kinds)) == 10
    outside = [
        (points < 0).any() or (points >= mask.shape[::-1]).any() for _, points, mask in stored
    ]
    assert sum(outside) >= 80 and len(outside) - sum(outside) >= 80


@pytest.mark.parametrize("fill", POLYGON_FILLS)
@pytest.mark.parametrize("value", [1, 255])
def test_polygons_are_drawn_as_a_release_of_opencv_draws_them(fill, value):
    different = {}
    for number, (kind, points, expected) in enumerate(load_cases(fill)):
        mask = np.zeros(expected.shape, np.uint8)
        draw_polygon(mask, points.tolist(), value, fill)
        if not np.array_equal(mask, expected * value):
            different[f"{number}, {kind}"] = int((mask != expected * value).sum())
    assert different == {}


def test_the_releases_differ():
    pairs = zip(*(load_cases(fill) for fill in POLYGON_FILLS), strict=True)
    assert sum(not np.array_equal(new[2], old[2]) for new, old in pairs) > 100


def test_drawing_keeps_what_is_outside_of_the_polygon(stored):
    for _, points, expected in stored:
        mask = np.full(expected.shape, 7, np.uint8)
        draw_polygon(mask, points.tolist(), 1)
        assert np.array_equal(mask, np.where(expected == 1, 1, 7))


@pytest.mark.parametrize("points", [[], [1, 2], [[1, 2, 3]], [[[1, 2]], [[3, 4]]]])
def test_points_that_are_no_pairs(points):
    with pytest.raises(ValueError, match="not pairs"):
        draw_polygon(np.zeros((5, 5), np.uint8), points, 1)


@pytest.mark.parametrize("far", [1e9, -300.0, float("nan"), float("inf")])
def test_points_far_outside(far):
    with pytest.raises(ValueError, match="not finite, or far outside"):
        draw_polygon(np.zeros((20, 5), np.uint8), [[1, 2], [far, 3], [3, 4]], 1)


def box(label: str, left: int, top: int, side: int) -> dict:
    right, bottom = left + side, top + side
    return {"label": label, "points": [[left, top], [right, top], [right, bottom], [left, bottom]]}


@pytest.mark.parametrize(("first", "last"), [("target", "ignore"), ("ignore", "target")])
def test_of_equal_areas_the_later_polygon_is_drawn_first(first, last):
    """Sorted by area and reversed: what comes first in the file ends on top."""
    mask = draw_reason_seg(
        [box(first, 2, 2, 6), box("target", 0, 0, 15), box(last, 4, 4, 6)], (20, 20)
    )
    value = {"target": 1, "ignore": 255}
    assert mask[6, 6] == value[first] and mask[9, 9] == value[last] and mask[14, 14] == 1


@pytest.mark.parametrize(
    ("label", "value"),
    [("flag", 0), ("Flag", 0), ("flagpole", 1), ("a flag", 1), ("ignore", 255), ("to_Ignore", 255)],
)
def test_the_label_flag_alone_is_skipped(label, value):
    assert draw_reason_seg([box(label, 2, 2, 6)], (10, 10))[4, 4] == value


def test_an_ignored_flag_does_not_count():
    assert draw_reason_seg([box("ignored flag", 2, 2, 6)], (10, 10))[4, 4] == 255
