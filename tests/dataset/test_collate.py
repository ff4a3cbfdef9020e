"""Joining samples: tokens, masks, views, and prompts that are too long."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from dataset.collate import collate
from dataset.tokenization import load_tokenizer, seg_token_id
from tests.conftest import TOKENIZER
from utils.errors import InputError
from utils.protocol.batch import Sample
from utils.protocol.constants import IGNORE_INDEX
from utils.protocol.conversation import build_prompt, user_turn
from utils.protocol.image_transforms import ImageViews


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TOKENIZER)


def make_sample(answers: list[str], size=(30, 50), question="cat?") -> Sample:
    count = sum(answer.count("[SEG]") for answer in answers)
    masks = np.stack([np.full(size, n % 2, np.uint8) for n in range(count)] or [np.zeros(size)])
    return Sample(
        "image.jpg",
        np.zeros((*size, 3), np.uint8),
        [build_prompt([(user_turn(question), answer)]) for answer in answers],
        masks[:count].astype(np.uint8),
        ["[SEG]" in answer for answer in answers],
    )


def test_rows_masks_and_image_index(tokenizer):
    samples = [make_sample(["No.", "It is [SEG] and [SEG]."]), make_sample(["[SEG]"], (20, 10))]
    batch = collate(samples, tokenizer)
    assert batch.image_index.tolist() == [0, 0, 1]
    assert [tuple(m.shape) for m in batch.masks] == [(2, 30, 50), (1, 20, 10)]
    assert batch.masks[0][:, 0, 0].tolist() == [0, 1]
    assert (batch.input_ids == seg_token_id(tokenizer)).sum(dim=1).tolist() == [0, 2, 1]
    assert batch.original_sizes == [(30, 50), (20, 10)]
    assert batch.clip_pixels is None and batch.dropped == 0


def test_views_are_made_in_the_worker_when_asked(tokenizer):
    batch = collate([make_sample(["[SEG]"])], tokenizer, ImageViews(sam_size=64))
    assert batch.sam_pixels.dtype == torch.uint8
    assert tuple(batch.sam_pixels.shape) == (1, 3, 64, 64)
    assert batch.sam_sizes == [(38, 64)]
    assert tuple(batch.clip_pixels.shape) == (1, 3, 336, 336)


def test_a_batch_with_views_carries_no_full_size_image(tokenizer):
    """An image of 12 megapixels has 36.6 MB; the model needs its size alone."""
    size = (3024, 4032)
    samples = [make_sample(["No."], size), make_sample(["[SEG]"])]
    batch = collate(samples, tokenizer, ImageViews())
    tensors = [batch.clip_pixels, batch.sam_pixels, *batch.masks]
    assert len(pickle.dumps(batch)) - sum(tensor.nbytes for tensor in tensors) < 10_000
    assert batch.original_sizes == [size, (30, 50)] and batch.images == []
    left_to_the_model = collate(samples, tokenizer)
    assert [image.shape[:2] for image in left_to_the_model.images] == [size, (30, 50)]
    assert left_to_the_model.original_sizes == batch.original_sizes


def test_an_expression_cut_before_its_seg_is_dropped_with_its_masks(tokenizer):
    short = copy.copy(tokenizer)
    short.model_max_length = 255 + 70
    sample = make_sample(["[SEG]", "A long story. " * 20 + "[SEG]", "Here: [SEG]"])
    sample.masks[1] = 7
    batch = collate([sample], short)
    assert batch.dropped == 1
    assert len(batch.input_ids) == 2
    assert not (batch.masks[0] == 7).any()
    assert len(batch.masks[0]) == (batch.input_ids == seg_token_id(tokenizer)).sum() == 2


def test_a_batch_of_nothing_but_cut_expressions_trains_on_nothing(tokenizer):
    short = copy.copy(tokenizer)
    short.model_max_length = 255 + 60
    batch = collate([make_sample(["A long story. " * 20 + "[SEG]"])], short)
    assert batch.dropped == 1
    assert (batch.labels == IGNORE_INDEX).all()
    assert len(batch.masks[0]) == 0
    assert (batch.input_ids != seg_token_id(tokenizer)).all()


def test_long_denials_are_cut_on_the_right(tokenizer):
    short = copy.copy(tokenizer)
    short.model_max_length = 255 + 60
    batch = collate([make_sample(["No. " * 100])], short)
    assert batch.input_ids.shape == (1, 60)
    assert batch.dropped == 0


def test_masks_must_match_the_seg_tokens(tokenizer):
    sample = make_sample(["[SEG]"])
    sample.masks = np.zeros((2, 30, 50), np.uint8)
    with pytest.raises(InputError, match="2 masks, but 1"):
        collate([sample], tokenizer)


def test_moving_keeps_everything(tokenizer):
    batch = collate([make_sample(["[SEG]"])], tokenizer, ImageViews(sam_size=64))
    moved = batch.to("cpu")
    assert torch.equal(moved.input_ids, batch.input_ids)
    assert torch.equal(moved.masks[0], batch.masks[0])
    assert moved.image_paths == ["image.jpg"]
