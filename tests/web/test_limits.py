"""What visitors may send."""

import tracemalloc
from collections import deque

import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.web import hostile
from tests.web.conftest import LIMITS
from utils.errors import InputError
from web.limits import Limits, read_upload
from web.uploads import Uploads


@pytest.mark.parametrize("name", hostile.FILES)
def test_hostile_files_are_refused_with_a_message(name, tmp_path):
    path = hostile.write(tmp_path, name)
    with pytest.raises(InputError, match=hostile.FILES[name][1]) as refusal:
        read_upload(path, LIMITS)
    assert "lease" in str(refusal.value) and str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize("most_pixels_of_pil", [Image.MAX_IMAGE_PIXELS, None])
def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch, most_pixels_of_pil):
    """Neither where Pillow refuses it, nor where the limits alone do."""
    path = hostile.write(tmp_path, "bomb.png")
    assert path.stat().st_size < 100_000
    unpacked = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: unpacked.append(image.size))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most_pixels_of_pil)
    tracemalloc.start()
    with pytest.raises(InputError, match="too large"):
        read_upload(path, Limits())
    assert unpacked == [] and tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_images_of_all_kinds(mode, tmp_path):
    wanted = np.full((8, 12), 1, np.uint8)
    image = Image.fromarray(wanted * 200).convert("RGB")
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "image.png")
    if mode == "I;16":
        Image.fromarray(wanted.astype(np.uint16) * 256).save(path)
    else:
        image.convert(mode).save(path)
    read = read_upload(path, LIMITS)
    assert read.shape == (8, 12, 3) and read.dtype == np.uint8


def test_a_turned_photograph_is_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_upload(tmp_path / "turned.jpg", LIMITS).shape == (30, 20, 3)


def test_the_larger_the_image_the_fewer_masks_fit():
    limits = Limits()
    assert limits.tokens((600, 800)) == limits.new_tokens
    assert 32 <= limits.tokens((5000, 5000)) < 64 < limits.tokens((3000, 4000))


def test_only_files_of_the_folder_are_opened(tmp_path):
    inside = tmp_path / "uploads"
    inside.mkdir()
    (tmp_path / "secret.png").write_bytes(b"s")
    (inside / "mine.png").write_bytes(b"m")
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    uploads = Uploads(inside, LIMITS)
    assert uploads.path({"path": str(inside / "mine.png")}) == str(inside / "mine.png")
    assert uploads.path(None) is None
    for name in (
        "/etc/passwd",
        str(tmp_path / "secret.png"),
        f"{inside}/../secret.png",
        str(inside / "link.png"),
        str(inside),
        f"file://{inside}/mine.png",
        "http://127.0.0.1/x.png",
        f"{inside}/mine.png\0.jpg",
        f"{inside}/\ud83d.png",
        f"{inside}/{'a' * 10_000}",
        "mine.png",
        "",
        7,
        None,
        {"path": "x"},
    ):
        with pytest.raises(InputError, match="not uploaded here"):
            uploads.path({"path": name})
    with pytest.raises(InputError):
        uploads.path(str(inside / "mine.png"))
    written = uploads.write(b"png", deque())
    assert uploads.holds(str(written)) and written.read_bytes() == b"png"


def test_drawn_images_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr("web.uploads.KEPT", 2)
    uploads, drawn = Uploads(tmp_path, LIMITS), deque()
    paths = [uploads.write(b"png", drawn) for _ in range(4)]
    assert [path.exists() for path in paths] == [False, False, True, True]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_folder_is_full_at_some_time(tmp_path, monkeypatch):
    uploads = Uploads(tmp_path, LIMITS)
    assert uploads.has_room()
    uploads.write(b"12345", deque())
    monkeypatch.setattr("web.uploads.MOST_BYTES", 5)
    assert not uploads.has_room()
