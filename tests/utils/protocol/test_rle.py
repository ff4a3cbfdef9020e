"""Run-length codes: without loss, the same as pycocotools reads, and safe against damage."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from utils.protocol.rle import decode_mask, decode_truth, encode_mask, encode_truth


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
        "text",
        None,
    ],
)
def test_damage_is_refused(code):
    with pytest.raises(ValueError):
        decode_mask(code)
