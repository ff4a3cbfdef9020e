"""Maps on images, against torch's resizing and pixel by pixel."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from utils.analysis.map_frames import PlacedMap
from utils.protocol.geometry import clip_box, sam_box


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)


def resized(values: np.ndarray, shape) -> np.ndarray:
    cells = torch.from_numpy(values)[None, None]
    return F.interpolate(cells, size=shape, mode="bilinear", align_corners=False)[0, 0].numpy()


def by_hand(placed: PlacedMap, y: float, x: float) -> float:
    """Bilinear value at a place of the image, NaN outside the view."""
    left, top, right, bottom = placed.box
    rows, columns = placed.values.shape
    if not (left <= x <= right and top <= y <= bottom):
        return np.nan
    v = min(max((y - top) / (bottom - top) * rows - 0.5, 0), rows - 1)
    u = min(max((x - left) / (right - left) * columns - 0.5, 0), columns - 1)
    r, c = min(int(v), rows - 2), min(int(u), columns - 2)
    a, b = v - r, u - c
    upper = (1 - b) * placed.values[r, c] + b * placed.values[r, c + 1]
    lower = (1 - b) * placed.values[r + 1, c] + b * placed.values[r + 1, c + 1]
    return (1 - a) * upper + a * lower


@pytest.mark.parametrize("size", [(60, 60), (6, 6), (37, 37)])
def test_over_a_square_image_it_is_resized(values, size):
    placed = PlacedMap(values, clip_box(size, 336))
    np.testing.assert_allclose(placed.over(size), resized(values, size), atol=1e-5)


@pytest.mark.parametrize("size", [(40, 90), (90, 40), (41, 43)])
@pytest.mark.parametrize("shape", [None, (20, 30)])
def test_crop_and_padding_pixel_by_pixel(values, size, shape):
    inside = (60, round(60 * size[1] / size[0])) if size[0] > size[1] else (30, 60)
    for box in (clip_box(size, 336), sam_box(size, inside, 60)):
        placed = PlacedMap(values, box)
        rows, columns = shape or size
        expected = [
            [
                by_hand(placed, (r + 0.5) * size[0] / rows, (c + 0.5) * size[1] / columns)
                for c in range(columns)
            ]
            for r in range(rows)
        ]
        np.testing.assert_allclose(placed.over(size, shape), np.array(expected), atol=1e-5)


def test_what_the_crop_leaves_out_is_not_seen(values):
    wide = PlacedMap(values, clip_box((40, 100), 40)).over((40, 100))
    assert np.isnan(wide[:, :30]).all() and np.isnan(wide[:, 70:]).all()
    assert not np.isnan(wide[:, 30:70]).any()
    padded = PlacedMap(values, sam_box((40, 100), (24, 60), 60)).over((40, 100))
    assert not np.isnan(padded).any()


def test_the_boxes():
    assert clip_box((100, 100), 336) == (0, 0, 100, 100)
    assert clip_box((336, 672), 336) == (168, 0, 504, 336)
    assert clip_box((200, 50), 112) == (0, 75, 50, 125)
    # 333 pixels become 336; the longer side 504, of which 84 are cut off on either side.
    assert clip_box((333, 500), 336) == pytest.approx((84 * 500 / 504, 0, 420 * 500 / 504, 333))
    assert sam_box((50, 100), (512, 1024), 1024) == (0, 0, 100, 100)


def test_a_map_on_the_cells_of_another(values):
    same = PlacedMap(values, clip_box((50, 70), 336))
    assert same.onto(same.box, 6) is values
    frame = PlacedMap(np.arange(64, dtype=np.float32).reshape(8, 8), (0, 0, 80, 80))
    box = (20.0, 10.0, 60.0, 50.0)
    found = frame.onto(box, 4)
    # Linear in rows and columns, so the mean over a cell is the value in its middle.
    expected = [
        [by_hand(frame, 10 + 10 * (r + 0.5), 20 + 10 * (c + 0.5)) for c in range(4)]
        for r in range(4)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    fine = PlacedMap(
        np.random.default_rng(1).normal(size=(32, 32)).astype(np.float32), (0, 0, 1, 1)
    )
    means = fine.values.reshape(8, 4, 8, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(fine.onto((0, 0, 1, 1), 8), means, atol=1e-5)
