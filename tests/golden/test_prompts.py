"""Token ids, labels, paddings, both views and ReasonSeg masks against the original: exactly."""

import json
import shutil

import numpy as np
import pytest
from transformers import CLIPImageProcessorPil, LlamaTokenizer

from dataset.image import clip_view, sam_view
from dataset.masks import draw_reason_seg
from dataset.reason_seg import load_annotation
from dataset.tokenization import encode_batch, encode_prompt, load_tokenizer
from tests.released_tiny import CLIP, GOLDEN
from utils.protocol.constants import IGNORE_INDEX
from utils.protocol.image_transforms import default_clip_processor
from utils.protocol.tokenization import answer_labels

TOKENIZER_FILES = (
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer_config.json",
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(GOLDEN / "released_tiny")


@pytest.mark.parametrize("number", range(6))
def test_ids_and_labels(misc, tokenizer, number):
    entry = misc[1]["tokenize"][number]
    ids = encode_prompt(entry["prompt"], tokenizer)
    assert ids == entry["input_ids"]
    assert answer_labels(entry["prompt"], ids, tokenizer) == entry["labels"]


@pytest.mark.parametrize("padding", ["right", "left"])
def test_padded_batches(misc, tokenizer, padding):
    arrays, meta = misc
    batch = encode_batch([entry["prompt"] for entry in meta["tokenize"]], tokenizer, padding)
    assert np.array_equal(batch["input_ids"], arrays[f"{padding}_ids"])
    assert np.array_equal(batch["attention_mask"], arrays[f"{padding}_mask"])
    for entry, labels, mask in zip(
        meta["tokenize"], batch["labels"], batch["attention_mask"], strict=True
    ):
        assert labels[mask].tolist() == entry["labels"]
        assert (labels[~mask] == IGNORE_INDEX).all()


def test_added_tokens_without_flags_give_other_ids(tokenizer, tmp_path):
    """A released folder does not store the flags: without setting them again, ids differ."""
    for name in TOKENIZER_FILES:
        shutil.copy(GOLDEN / "released_tiny" / name, tmp_path)
    plain = LlamaTokenizer.from_pretrained(str(tmp_path), legacy=True, use_fast=False)
    piece = "Sure, the segmentation result is [SEG] ."
    assert plain(piece).input_ids != tokenizer(piece).input_ids
    again = load_tokenizer(tmp_path)
    assert again(piece).input_ids == tokenizer(piece).input_ids


def test_a_saved_tokenizer_gives_the_same_ids(misc, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(GOLDEN / "released_tiny" / "tokenizer.model", tmp_path)
    again = load_tokenizer(tmp_path)
    for entry in misc[1]["tokenize"]:
        assert encode_prompt(entry["prompt"], again) == entry["input_ids"]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("source", ["folder", "default"])
def test_views(figures, images, number, source):
    arrays, meta = figures
    frame, size = sam_view(images[number])
    assert frame.shape == (3, 1024, 1024)
    assert list(size) == meta["images"][number]["sam_shape"][0]
    assert list(images[number].shape[:2]) == meta["images"][number]["hw"]
    assert np.abs(frame.numpy()[:, ::32, ::32] - arrays[f"sam_input_{number}"]).max() <= 1e-6
    assert (frame[:, size[0] :] == 0).all() and (frame[:, :, size[1] :] == 0).all()

    processor = default_clip_processor()
    if source == "folder":
        processor = CLIPImageProcessorPil.from_pretrained(str(CLIP))
    view = clip_view(images[number], processor)
    assert view.shape == (3, 336, 336)
    assert np.abs(view.numpy()[:, ::12, ::12] - arrays[f"clip_input_{number}"]).max() <= 1e-6


@pytest.mark.parametrize("number", range(6))
def test_reason_seg_masks(misc, tmp_path, number):
    arrays, meta = misc
    case = meta["reason"][number]
    path = tmp_path / "image.json"
    text = json.dumps(case["json"], ensure_ascii=False)
    path.write_bytes(text.encode(case["encoding"].replace("utf8", "utf-8")))
    annotation = load_annotation(path, tuple(case["hw"]))
    assert annotation.mask.dtype == np.uint8
    name = f"reason_mask_{number}"
    assert np.array_equal(annotation.mask, arrays[name])
    older = draw_reason_seg(case["json"]["shapes"], tuple(case["hw"]), fill="4.8")
    assert np.array_equal(older, np.load(GOLDEN.parent / "polygons_4.8.npz")[name])
    assert annotation.texts == case["text"]
    assert annotation.is_sentence == case["json"]["is_sentence"]
