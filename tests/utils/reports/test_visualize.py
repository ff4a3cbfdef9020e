"""Images of answers: what is drawn where, and that nothing is lost on the way to the disk."""

import base64
import colorsys
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from utils.errors import InputError
from utils.reports.visualize import (
    IGNORED_COLOUR,
    MASK_COLOUR,
    NEGATIVE_COLOUR,
    POSITIVE_COLOUR,
    TRUTH_COLOUR,
    answer_tiles,
    display_scale,
    embed_png,
    heat_map,
    mask_image,
    overlay,
    paint_mask,
    paint_points,
    save_png,
    sheet,
    truth_image,
)

GROUNDS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "grey": (128, 128, 128),
}.values()
IMAGE = np.full((40, 60, 3), 100, np.uint8)
MASK = np.zeros((40, 60), bool)
MASK[10:20, 30:45] = True


def test_small_images_are_enlarged_and_large_ones_are_not():
    assert display_scale((40, 60)) == 11
    assert display_scale((1000, 700)) == 1
    assert overlay(IMAGE, MASK).shape == (440, 660, 3)


def test_overlay_marks_the_mask_and_leaves_the_rest():
    drawn = overlay(IMAGE, MASK, scale=4)
    assert (drawn[60, 150] != 100).any()
    assert (drawn[:20] == 100).all() and (drawn[:, :80] == 100).all()
    assert (overlay(IMAGE, np.zeros_like(MASK), scale=4) == 100).all()


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("colour", [MASK_COLOUR, TRUTH_COLOUR])
def test_a_mask_has_the_hue_of_its_legend_on_any_ground(ground, colour):
    image = np.full((120, 180, 3), ground, np.uint8)
    mask = np.zeros((120, 180), bool)
    mask[30:90, 40:140] = True
    drawn = paint_mask(image, mask, colour)
    hue, saturation, value = colorsys.rgb_to_hsv(*(x / 255 for x in drawn[60, 90].tolist()))
    own_hue, own_saturation, own_value = colorsys.rgb_to_hsv(*(x / 255 for x in colour))
    assert hue == pytest.approx(own_hue, abs=0.01)
    assert saturation == pytest.approx(own_saturation, abs=0.02)
    assert own_value * 0.55 < value <= own_value
    outline = (drawn == colour).all(axis=2)
    assert outline[29:31, 45:135].any(axis=0).all() and outline[35:85, 39:41].any(axis=1).all()
    assert (drawn[:25] == ground).all() and (drawn[95:] == ground).all()


@pytest.mark.parametrize("ground", GROUNDS)
def test_grey_is_what_does_not_count_and_nothing_else(ground):
    truth = np.zeros((120, 180), np.uint8)
    truth[20:50, 20:160], truth[70:100, 20:160] = 1, 255
    drawn = truth_image(np.full((120, 180, 3), ground, np.uint8), truth, 1).astype(int)
    assert np.ptp(drawn[85, 90]) <= 8  # IGNORED_COLOUR itself is a grey with a trace of blue
    assert np.ptp(IGNORED_COLOUR) <= 8
    assert np.ptp(drawn[35, 90]) > 100


def test_what_lies_below_a_mask_can_be_made_out():
    shades = np.linspace(0, 255, 180).astype(np.uint8)
    image = np.repeat(np.tile(shades, (120, 1))[..., None], 3, axis=2)
    drawn = paint_mask(image, np.ones((120, 180), bool))
    row = drawn[60, 10:-10, 2].astype(int)
    assert (np.diff(row) >= 0).all() and np.ptp(row) > 80


def test_points_by_label():
    points = np.array([[5.0, 5.0], [20.0, 5.0], [50.0, 30.0]])
    drawn = paint_points(overlay(IMAGE, MASK & False, scale=8), points, np.array([1, 0, -1]), 8)
    assert tuple(drawn[44, 44]) == POSITIVE_COLOUR
    assert tuple(drawn[44, 164]) == NEGATIVE_COLOUR
    assert (drawn[200:, 300:] == 100).all()  # neutral


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (50, 50)])
def test_heat_lies_where_clip_looks(size):
    image = np.full((*size, 3), 100, np.uint8)
    similarity = np.zeros((8, 8), np.float32)
    similarity[4, 4] = 1
    drawn = heat_map(image, similarity, scale=2).astype(int)
    short = min(size)
    top, left = (size[0] - short) // 2 * 2, (size[1] - short) // 2 * 2
    cell = short * 2 / 8
    hot = drawn[int(top + 4.5 * cell), int(left + 4.5 * cell)]
    cold = drawn[top + 4, left + 4]
    assert hot[0] > hot[2] and cold[2] > cold[0]
    if size[1] > size[0]:
        assert (drawn[:, : left - 1] == 50).all()


def test_a_constant_map_is_drawn():
    assert np.isfinite(heat_map(IMAGE, np.ones((8, 8)))).all()


def test_truth_shows_ignored_pixels_otherwise():
    truth = MASK.astype(np.uint8)
    truth[30:36, 5:15] = 255
    drawn = truth_image(IMAGE, truth, scale=1)
    assert drawn[15, 37, 0] > drawn[15, 37, 1] < drawn[15, 37, 2]
    assert len({int(v) for v in drawn[33, 10]}) < 3 and (drawn[33, 10] != 100).any()


def test_masks_are_saved_without_loss(tmp_path):
    path = save_png(tmp_path / "new" / "mask.png", mask_image(MASK))
    assert np.array_equal(np.asarray(Image.open(path)) == 255, MASK)
    with pytest.raises(InputError, match=r"\.png"):
        save_png(tmp_path / "mask.jpg", mask_image(MASK))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        save_png(tmp_path / "file" / "mask.png", mask_image(MASK))


def test_embedded_images_are_the_images():
    text = embed_png(IMAGE)
    header, data = text.split(",")
    assert header == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), IMAGE)


@pytest.mark.parametrize("size", [(40, 60), (900, 1300)])
def test_tiles_of_an_answer_have_one_size(size):
    image = np.full((*size, 3), 100, np.uint8)
    mask = np.zeros(size, bool)
    mask[: size[0] // 2] = True
    corner = np.array([[size[1] - 1.0, size[0] - 1.0]])
    segment = SimpleNamespace(similarity=np.eye(4), points=corner, point_labels=np.array([1]))
    tiles = answer_tiles(image, [segment], mask, mask.astype(np.uint8), side=128)
    assert [name for name, _ in tiles] == ["image", "similarity", "points", "mask", "truth"]
    (shape,) = {tile.shape for _, tile in tiles}
    assert 110 <= min(shape[:2]) <= 256
    drawn = dict(tiles)["points"]
    assert tuple(drawn[-1, -1]) == POSITIVE_COLOUR and (drawn[0] == 100).all()
    assert (dict(tiles)["mask"][-1] == 100).all() and (dict(tiles)["mask"][0] != 100).any()


def test_a_sheet_wraps_long_text():
    tiles = [("image", IMAGE), ("answer", IMAGE)]
    short, long = sheet(tiles, ["a question"]), sheet(tiles, ["word " * 60])
    assert short.shape[1] == long.shape[1] == 16 + 2 * (60 + 16)
    assert long.shape[0] > short.shape[0]
