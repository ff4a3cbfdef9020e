"""Readers and figures for the comparisons with the original implementation."""

import json
from pathlib import Path

import numpy as np
import pytest

from model import Reader, load_read
from tests.released_tiny import CLIP, GOLDEN, SAM, write_released
from utils.protocol.image_files import read_image


def load_figures(name: str):
    """Arrays of a golden file, and its `meta`."""
    arrays = np.load(GOLDEN / name)
    return arrays, json.loads(str(arrays["meta"]))


@pytest.fixture(scope="session")
def figures():
    """`model.npz`."""
    return load_figures("model.npz")


@pytest.fixture(scope="session")
def misc():
    """`misc.npz`."""
    return load_figures("misc.npz")


@pytest.fixture(scope="session")
def released(tmp_path_factory) -> Path:
    """The tiny checkpoint in the released layout."""
    return write_released(tmp_path_factory.mktemp("released") / "tiny")


@pytest.fixture(scope="session")
def loaded(released) -> Reader:
    """What a user gets; shared, so a test that changes weights puts them back."""
    return load_read(released, vision_tower=CLIP, sam=SAM)


@pytest.fixture
def reader(loaded):
    """The shared reader in evaluation mode, without gradients and with its own weights."""
    model = loaded.model
    yield loaded
    model.requires_grad_(False)
    model.zero_grad()
    model.eval()


@pytest.fixture(scope="session")
def images() -> list[np.ndarray]:
    """The three images, uint8[H, W, 3]."""
    return [read_image(GOLDEN / f"image_{i}.png") for i in range(3)]
