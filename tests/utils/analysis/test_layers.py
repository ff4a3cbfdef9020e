"""Images of an analysed question: every layer lies where it belongs."""

import cv2
import numpy as np
import pytest

from tests.analysed import SIZES, draw_one
from utils.analysis.layers import (
    MAP_SIDE,
    SHOWN_SIDE,
    draw_question,
    map_layer,
    points_layer,
    shown_size,
)
from utils.errors import InputError
from utils.reports.visualize import MASK_COLOUR, POSITIVE_COLOUR, TRUTH_COLOUR


def read(path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    order = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(image, order)


@pytest.mark.parametrize("size", [(60, 200), (200, 60), (700, 500)])
def test_a_hot_cell_lies_where_the_image_is_hot(size):
    values = np.zeros((size[0] // 10, size[1] // 10), np.float32)
    values[1, -2] = 1
    layer = map_layer(values)
    red = layer[..., 0].astype(int) - layer[..., 2]
    row, column = np.unravel_index(red.argmax(), red.shape)
    assert row / layer.shape[0] == pytest.approx(1 / values.shape[0], abs=1 / MAP_SIDE)
    hot = (values.shape[1] - 2) / values.shape[1]
    assert column / layer.shape[1] == pytest.approx(hot, abs=1 / MAP_SIDE)


def test_what_a_map_does_not_see_is_grey_and_nothing_else_is():
    values = np.linspace(0, 1, 40 * 60, dtype=np.float32).reshape(40, 60)
    values[:, :10] = np.nan
    layer = map_layer(values)
    grey = (layer[..., :3] == 40).all(axis=2)
    assert grey[:, :10].all() and not grey[:, 10:].any()
    assert map_layer(np.full((4, 4), np.nan)).shape == (4, 4, 4)
    assert len(np.unique(map_layer(np.ones((4, 4))).reshape(-1, 4), axis=0)) == 1


def test_a_fine_map_is_reduced_and_keeps_its_edge():
    values = np.zeros((500, 1000), np.float32)
    values[:, 500:] = np.nan
    layer = map_layer(values)
    assert layer.shape == (48, 96, 4)
    grey = (layer[..., :3] == 40).all(axis=2)
    assert grey[:, 48:].all() and not grey[:, :48].any()


@pytest.mark.parametrize("size", [(60, 200), (200, 60), (1000, 900)])
def test_points_keep_their_places(size):
    shown = shown_size(size)
    assert max(shown) == SHOWN_SIDE
    layer = points_layer(np.array([[size[1] - 30, 20], [5, 5]]), np.array([1, -1]), size, shown)
    rows, columns = np.nonzero((layer[..., :3] == POSITIVE_COLOUR).all(axis=2))
    scale = shown[0] / size[0]
    assert rows.mean() == pytest.approx((20.5) * scale - 0.5, abs=1)
    assert columns.mean() == pytest.approx((size[1] - 29.5) * scale - 0.5, abs=1)
    assert layer[: int(12 * scale), : int(12 * scale)].max() == 0


def test_a_question_on_disk(tmp_path):
    files = draw_one(tmp_path, 0)
    assert set(files) == {
        "image", "marks", "clip", "llava", "sam", "sam_points", "text", "points", "final", "truth"
    }  # fmt: skip
    shown = shown_size(SIZES[0])
    image, truth, final = (read(tmp_path / files[n]) for n in ("image", "truth", "final"))
    assert image.shape == (*shown, 3) and truth.shape == (*shown, 4)
    object_ = truth[..., 3] > 0
    assert image[object_][:, 0].mean() > 180 and image[~object_][:, 0].mean() < 120
    np.testing.assert_array_equal(final[..., 3] > 0, object_)
    for layer, colour in ((truth, TRUTH_COLOUR), (final, MASK_COLOUR)):
        scaled = layer[object_][:, :3] / layer[object_][:, :3].max(axis=1, keepdims=True)
        own = np.array(colour) / max(colour)
        assert (abs(scaled - own).max(axis=1) < 0.02).mean() > 0.7
    layers = sum((tmp_path / files[n]).stat().st_size for n in files if n != "image")
    assert layers < 60_000


@pytest.mark.parametrize("ground", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (0,) * 3])
def test_masks_keep_their_colour_over_any_image(ground, tmp_path):
    """As the page shows them: the layer laid over the image."""
    image = np.full((80, 120, 3), ground, np.uint8)
    truth = np.zeros((80, 120), np.uint8)
    truth[20:60, 30:90], truth[65:] = 1, 255
    nothing = np.zeros((0, 2)), np.zeros(0)
    masks = {"final": truth == 1}
    files = draw_question(image, {}, *nothing, masks, truth, tmp_path, "a")
    shown = {}
    for name in ("final", "truth"):
        layer = read(tmp_path / files[name]).astype(float)
        opacity = layer[..., 3:] / 255
        base = read(tmp_path / files["image"])
        shown[name] = layer[..., :3] * opacity + base * (1 - opacity)
    middle, ignored = (round(40.5 / 80 * 213), 160), (200, 160)
    for name, colour in (("final", MASK_COLOUR), ("truth", TRUTH_COLOUR)):
        pixel = shown[name][middle]
        assert pixel / pixel.max() == pytest.approx(np.array(colour) / max(colour), abs=0.02)
        assert pixel.max() > 0.55 * max(colour)
    assert np.ptp(shown["truth"][ignored]) <= 8
    np.testing.assert_array_equal(shown["final"][ignored], ground)


def test_an_image_is_stored_once(tmp_path):
    image = np.full((30, 40, 3), 7, np.uint8)
    nothing = np.zeros((0, 2)), np.zeros(0)
    one = draw_question(image, {}, *nothing, {}, None, tmp_path, "a")
    two = draw_question(image, {}, *nothing, {}, None, tmp_path, "b")
    other = draw_question(image + 1, {}, *nothing, {}, None, tmp_path, "c")
    assert one["image"] == two["image"] != other["image"]
    assert "truth" not in one


@pytest.mark.parametrize("shape", [(3000, 2000), (40, 60)])
def test_a_mask_of_one_pixel_is_drawn_where_it_is(shape, tmp_path):
    mask = np.zeros(shape, bool)
    mask[shape[0] // 2 + 1, shape[1] - 5] = True
    truth = mask.astype(np.uint8)
    truth[:2] = 255
    image = np.zeros((*shape, 3), np.uint8)
    nothing = np.zeros((0, 2)), np.zeros(0)
    files = draw_question(image, {}, *nothing, {"final": mask}, truth, tmp_path, "a")
    for name, colour in (("final", MASK_COLOUR), ("truth", TRUTH_COLOUR)):
        layer = read(tmp_path / files[name])
        rows, columns = np.nonzero((layer[..., :3] == colour).all(axis=2) & (layer[..., 3] > 0))
        middle = (shape[0] // 2 + 1.5) / shape[0]
        assert rows.mean() / layer.shape[0] == pytest.approx(middle, abs=0.01)
        assert columns.mean() / layer.shape[1] == pytest.approx(1 - 4.5 / shape[1], abs=0.01)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "images").write_text("in the way")
    with pytest.raises(InputError, match="--out"):
        draw_one(tmp_path, 0)
