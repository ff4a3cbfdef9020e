"""A small READ: the language model and CLIP of the golden values, SAM with fewer cells."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model import ReadConfig, Reader, ReadForCausalLM, load_read
from model.builder import save_model
from model.sam import sam_sizes, sam_sizes_dict
from tests.released_tiny import CLIP, GOLDEN, SMALL_SAM, fill_by_formula
from utils.tokenization import load_tokenizer, seg_token_id

QUESTION = "Please segment the red circle in this image."
"""With `talking`, the model answers it with a `[SEG]` within six tokens."""


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory) -> Path:
    """A checkpoint as this project writes it."""
    config = ReadConfig.from_pretrained(GOLDEN / "released_tiny")
    config.sam = sam_sizes_dict(sam_sizes(SMALL_SAM))
    model = ReadForCausalLM(config)
    fill_by_formula(model)
    model.load_vision_tower(CLIP)
    tokenizer = load_tokenizer(GOLDEN / "released_tiny")
    config.seg_token_id = seg_token_id(tokenizer)
    folder = tmp_path_factory.mktemp("small") / "read"
    save_model(model, tokenizer, folder)
    return folder


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
def picture() -> np.ndarray:
    """uint8[60, 80, 3] noise."""
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
