"""A small READ; see `tests.small_read`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model import Reader, load_read
from tests.released_tiny import GOLDEN
from tests.small_read import write_small_read

QUESTION = "Please segment the red circle in this image."
"""With `talking`, the model answers it with a `[SEG]` within six tokens."""


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> Path:
    """A checkpoint as this project writes it."""
    return write_small_read(tmp_path_factory.mktemp("small") / "read")


@pytest.fixture
def reader(small_folder) -> Reader:
    """A reader of its own for each test."""
    return load_read(small_folder)


@pytest.fixture
def talking(reader) -> Reader:
    """Says `[SEG]` in answer to some questions."""
    with np.load(GOLDEN / "model.npz") as arrays, torch.no_grad():
        reader.model.lm_head.weight[800] = torch.from_numpy(arrays["gen_lmhead_seg_0_0"])
    return reader


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    """uint8[60, 80, 3] noise."""
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
