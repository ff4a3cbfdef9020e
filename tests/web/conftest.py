"""A small reader whose answers differ, behind a running server."""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model import Reader, load_read
from tests.model.babble import babbling, images
from tests.small_read import write_small_read
from web.engine import Engine
from web.limits import Limits
from web.serving import serving
from web.session import Session

LIMITS = Limits(upload_bytes=2 << 20, pixels=1_000_000, new_tokens=10)


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Reader:
    """With it, most answers hold one `[SEG]`, and some two."""
    return babbling(load_read(write_small_read(tmp_path_factory.mktemp("small") / "read")))


@pytest.fixture
def session(reader) -> Session:
    return Session(Engine(reader), LIMITS)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """uint8[60, 80, 3]."""
    return images(1)[0]


@pytest.fixture(scope="module")
def upload(image, tmp_path_factory) -> str:
    """Path of the image."""
    path: Path = tmp_path_factory.mktemp("upload") / "noise.png"
    Image.fromarray(image).save(path)
    return str(path)


@pytest.fixture(scope="module")
def server(reader):
    """Address of the page. The model takes its time for a token, so that one sees it come."""
    thinking = reader.model.lm_head.register_forward_pre_hook(lambda *_: time.sleep(0.01))
    with serving(reader, limits=LIMITS, most_visitors=12) as address:
        yield address.rstrip("/")
    thinking.remove()
