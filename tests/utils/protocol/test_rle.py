"""Run-length codes: without loss, the same as pycocotools reads, and safe against damage."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from utils.protocol.rle import (
    decode_mask,
    decode_truth,
    encode_mask,
    encode_truth,
    intact_code,
    run_lengths,
)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 7), (120, 400)])
def test_masks_survive(share, size):
    mask = np.random.default_rng(0).random(size) < share
    code = json.loads(json.dumps(encode_mask(mask)))
    assert np.array_equal(decode_mask(code), mask)
    assert np.array_equal(coco_mask.decode(code).astype(bool), mask)


def test_smooth_masks_and_lists_of_counts():
    mask = np.zeros((50, 60), bool)
    mask[10:40, 5:55] = True
    mask[20:30, 20:30] = False
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)
    assert decode_mask({"size": [2, 2], "counts": [1, 2, 1]}).tolist() == [[0, 1], [1, 0]]


def test_truth_keeps_what_does_not_count():
    truth = np.random.default_rng(1).choice(np.array([0, 1, 255], np.uint8), (9, 11))
    assert np.array_equal(decode_truth(*encode_truth(truth)), truth)
    truth[truth == 255] = 0
    code, left_out = encode_truth(truth)
    assert left_out is None and np.array_equal(decode_truth(code, left_out), truth)


def test_intact_codes_are_fit_for_pycocotools():
    """Also with runs of no pixels, which nobody writes and everybody may read."""
    rng = np.random.default_rng(2)
    for _ in range(100):
        cuts = np.sort(rng.integers(0, 13 * 7 + 1, 9))
        code = {"size": [13, 7], "counts": np.diff([0, *cuts, 13 * 7]).tolist()}
        mask, text = decode_mask(code), intact_code(code)
        assert isinstance(text["counts"], str) and intact_code(text) == text
        assert run_lengths(text["counts"]) == code["counts"]
        assert np.array_equal(decode_mask(text), mask)
        other = rng.random((13, 7)) < 0.5
        both = coco_mask.merge([text, encode_mask(other)], intersect=True)
        assert coco_mask.area(both) == (mask & other).sum()


@pytest.mark.parametrize("size", [[0, 5], [1 << 16, 1 << 16]])
def test_sizes_that_pycocotools_cannot_count(size):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}"):
        intact_code({"size": size, "counts": [size[0] * size[1]] if size[0] else []})


@pytest.mark.parametrize(
    "code",
    [
        {"size": [2, 3], "counts": ""},
        {"size": [2, 3], "counts": [1, 2]},
        {"size": [2, 3], "counts": [7, -1]},
        {"size": [2, 3], "counts": "é"},
        {"size": [2, 3], "counts": "P"},
        {"size": [2], "counts": [2]},
        {"counts": [2]},
        {"size": [-1, -6], "counts": [6]},
        {"size": [2, 3], "counts": ["x"]},
        {"size": [2, 3], "counts": [float("inf")]},
        {"size": [2, 3], "counts": "P" * 12 + "0"},
        "text",
        None,
    ],
)
def test_damage_is_refused(code):
    with pytest.raises(ValueError):
        decode_mask(code)
