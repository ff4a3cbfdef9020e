"""Masks as files."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from tests.web.test_polygons import fill
from utils.protocol.rle import decode_mask
from utils.reports.visualize import encode_png
from web.drawing import COLOURS, Renderer
from web.export import FILES, export


@pytest.fixture
def segments():
    rng = np.random.default_rng(0)
    return [SimpleNamespace(mask=rng.random((13, 17)) < 0.4, score=score) for score in (0.5, 0.75)]


@pytest.mark.parametrize("shown", [[0, 1], [1], []])
def test_every_file_holds_the_shown_masks(segments, shown):
    wanted = np.zeros((13, 17), bool)
    for layer in shown:
        wanted |= segments[layer].mask
    files = {name: export(name, segments, shown) for name in FILES}
    image = Image.open(io.BytesIO(files["mask.png"]))
    assert image.mode == "L" and np.array_equal(np.asarray(image), wanted * 255)

    codes = json.loads(files["mask_rle.json"])
    assert np.array_equal(decode_mask(codes), wanted)
    assert np.array_equal(coco_mask.decode({k: codes[k] for k in ("size", "counts")}), wanted)
    shapes = json.loads(files["polygons.json"])
    assert shapes["size"] == [13, 17]
    for layer, code, shape in zip(shown, codes["layers"], shapes["layers"], strict=True):
        assert code["layer"] == shape["layer"] == layer + 1
        assert code["colour"] == shape["colour"] == list(COLOURS)[layer]
        assert code["score"] == shape["score"] == segments[layer].score
        assert np.array_equal(decode_mask(code), segments[layer].mask)
        assert np.array_equal(fill(shape["rings"], (13, 17)), segments[layer].mask)


def test_another_name_is_no_file(segments):
    with pytest.raises(KeyError):
        export("../../etc/passwd", segments, [0])


@pytest.mark.parametrize("size", [(60, 80), (3000, 1500), (500, 500)])
def test_places_on_what_is_shown_are_places_in_the_image(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
    renderer = Renderer(image)
    height, width = renderer.size
    assert 300 < max(height, width) <= 1600 and abs(height / width - size[0] / size[1]) < 0.01
    np.testing.assert_allclose(renderer.in_image(-0.5, -0.5), (-0.5, -0.5))
    corner = renderer.in_image(width - 0.5, height - 0.5)
    np.testing.assert_allclose(corner, (size[1] - 0.5, size[0] - 0.5), atol=1)
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(encode_png(renderer.plain, level=1)))), renderer.plain
    )


def test_each_layer_has_its_colour():
    grey = np.full((500, 500, 3), 128, np.uint8)
    mask = np.zeros((2, 500, 500), bool)
    mask[0, 50:200], mask[1, 300:450] = True, True
    segments = [
        SimpleNamespace(mask=m, points=np.array([[400.0, 250.0]]), point_labels=np.array([1]))
        for m in mask
    ]
    renderer = Renderer(grey)
    both = renderer.overlay(segments, [0, 1], None)
    for row, colour in ((125, "cyan"), (375, "magenta")):
        expected = np.array(COLOURS[colour]) * (3 + 2 * 128 / 255) / 5
        np.testing.assert_allclose(both[row, 250], expected, atol=1)
    assert np.array_equal(both[250, 250], grey[0, 0])
    assert np.array_equal(renderer.overlay(segments, [1], None)[125, 250], grey[0, 0])
    assert not np.array_equal(renderer.overlay(segments, [], 0)[250, 400], grey[0, 0])
    assert np.array_equal(renderer.plain, grey)
