"""Reading images: grey images with more than 8 bits, compared with OpenCV's own reading."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from model.inference.inputs import load_pixels
from tests.web.conftest import LIMITS
from utils.protocol.image_files import read_image, to_rgb
from web.limits import read_upload


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """uint16[30, 40] from dark to bright."""
    values = np.random.default_rng(0).integers(0, 65536, (30, 40)).astype(np.uint16)
    values[0, :4] = 0, 255, 256, 65535
    return values


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_grey_of_16_bits_is_what_opencv_reads(values, tmp_path, name):
    path = tmp_path / name
    cv2.imwrite(str(path), values)
    with Image.open(path) as opened:
        assert opened.mode in ("I;16", "I;16B", "I")  # not what PIL scales by itself
    wanted = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert 100 < wanted.mean() < 150
    assert np.array_equal(read_image(path), wanted)
    assert np.array_equal(load_pixels(str(path)), wanted)
    with Image.open(path) as opened:
        assert np.array_equal(load_pixels(opened), wanted)
    if name == "a.png":
        assert np.array_equal(read_upload(path, LIMITS), wanted)


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
def test_both_orders_of_bytes(values, tmp_path, kind):
    Image.fromarray(values.astype(kind)).save(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif")[..., 1], values // 256)


def test_16_bit_png_as_older_pillow_opens_it(values):
    opened = Image.fromarray(values.astype(np.int32))
    opened.format = "PNG"
    assert opened.mode == "I"
    assert np.array_equal(to_rgb(opened)[..., 2], values // 256)


def test_a_turned_image_of_16_bits(values, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png")[..., 0], np.rot90(values, -1) // 256)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 65535), (-1000, 3000), (7, 7)])
def test_grey_of_32_bits_spans_its_own_range(values, kind, low, high):
    given = (low + values / 65535 * (high - low)).astype(kind)
    file = io.BytesIO()
    Image.fromarray(given).save(file, "TIFF")
    read = read_image(file)
    assert read.shape == (30, 40, 3) and read.dtype == np.uint8
    if low == high:
        assert not read.any()
        return
    assert read.min() == 0 and read.max() == 255
    wanted = np.interp(given, [given.min(), given.max()], [0, 255])
    np.testing.assert_allclose(read[..., 0], wanted, atol=0.51)


def test_what_is_not_finite_is_black():
    given = np.array([[0.0, 0.5, 1.0, np.nan, np.inf, -np.inf]], np.float32)
    assert to_rgb(Image.fromarray(given))[0, :, 0].tolist() == [0, 128, 255, 0, 0, 0]
    assert not to_rgb(Image.fromarray(given[:, 3:])).any()


def test_8_bits_stay_as_they_are(tmp_path):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png")[..., 0], values)
