"""COCO segmentations of every form, against masks drawn with numpy; and damaged ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dataset.masks import decode_segmentation
from tests.coco_truth import SIZE, box, pack, polygon, runs
from utils.protocol.rle import run_lengths

MASKS = {
    "box": box(3, 4, 12, 9),
    "at the corner": box(0, 0, 5, 5),
    "all": box(0, 0, 30, 20),
    "none": box(0, 0, 0, 0),
    "two": box(3, 4, 12, 9) | box(20, 1, 30, 20),
    "noise": (np.random.default_rng(0).random(SIZE) < 0.4).astype(np.uint8),
    "sparse": (np.random.default_rng(1).random(SIZE) < 0.01).astype(np.uint8),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("form", ["list", "text", "bytes", "in a list"])
def test_run_lengths(name, form):
    mask = MASKS[name]
    counts = {"list": runs(mask), "bytes": pack(runs(mask)).encode()}.get(form, pack(runs(mask)))
    given = {"size": list(SIZE), "counts": counts}
    drawn = decode_segmentation([given] if form == "in a list" else given, SIZE)
    assert drawn.dtype == np.uint8 and drawn.shape == SIZE
    assert (drawn == mask).all()


def test_unpacking_is_the_inverse_of_packing():
    rng = np.random.default_rng(0)
    for _ in range(100):
        counts = rng.integers(0, 2 ** rng.integers(1, 24), rng.integers(1, 40)).tolist()
        assert run_lengths(pack(counts)) == run_lengths(pack(counts).encode()) == counts


def test_polygons_are_united():
    parts = [polygon(3, 4, 12, 9), polygon(10, 5, 25, 18)]
    expected = box(3, 4, 12, 9) | box(10, 5, 25, 18)
    assert (decode_segmentation(parts, SIZE) == expected).all()
    assert (decode_segmentation(parts[:1], SIZE) == box(3, 4, 12, 9)).all()


def test_lists_of_run_lengths_are_united_with_polygons():
    first = {"size": list(SIZE), "counts": pack(runs(box(0, 0, 5, 5)))}
    second = {"size": list(SIZE), "counts": runs(box(3, 3, 9, 9))}
    drawn = decode_segmentation([first, second, polygon(20, 1, 30, 20)], SIZE)
    assert (drawn == (box(0, 0, 5, 5) | box(3, 3, 9, 9) | box(20, 1, 30, 20))).all()


def test_corners_outside_the_image_are_cut():
    assert (decode_segmentation([polygon(-10, -5, 12, 9)], SIZE) == box(0, 0, 12, 9)).all()


@pytest.mark.parametrize("empty", [[], {}, None, [[]], [[3, 4]], [[3, 4, 5, 6]]])
def test_nothing_is_an_empty_mask(empty):
    drawn = decode_segmentation(empty, SIZE)
    assert drawn.shape == SIZE and drawn.dtype == np.uint8 and not drawn.any()


def test_a_line_beside_a_polygon_changes_nothing():
    drawn = decode_segmentation([[3, 4, 5, 6], polygon(3, 4, 12, 9)], SIZE)
    assert (drawn == box(3, 4, 12, 9)).all()


GOOD = runs(MASKS["two"])


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("text", "list or a dict"),
        (7, "list or a dict"),
        ([7], "list of numbers"),
        (["text"], "list of numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "pairs"),
        ([[1, 2, 3, 4, 5, "6"]], "numbers"),
        ([[1, 2, 3, 4, 5, None]], "numbers"),
        ([[1, 2, 3, 4, 5, True]], "numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "finite"),
        ([[1, 2, 3, 4, 5, float("inf")]], "finite"),
        ([[1, 2, 3, 4, 5, 10**400]], "outside"),
        ([[1, 2, 3, 4, 5, 1e9]], "outside"),
        ([[-31, 2, 3, 4, 5, 6]], "outside"),
        ({"counts": GOOD}, "size"),
        ({"size": [30, 20], "counts": GOOD}, "size"),
        ({"size": "x", "counts": GOOD}, "size"),
        ({"size": [20], "counts": GOOD}, "size"),
        ({"size": [20, 30]}, "counts"),
        ({"size": [20, 30], "counts": 5}, "counts"),
        ({"size": [20, 30], "counts": None}, "counts"),
        ({"size": [20, 30], "counts": []}, "sum to 0"),
        ({"size": [20, 30], "counts": ""}, "sum to 0"),
        ({"size": [20, 30], "counts": GOOD[:-1]}, "sum to"),
        ({"size": [20, 30], "counts": [*GOOD, 1]}, "sum to 601"),
        ({"size": [20, 30], "counts": [700, -100]}, "negative"),
        ({"size": [20, 30], "counts": [600.0]}, "whole"),
        ({"size": [20, 30], "counts": ["600"]}, "whole"),
        ({"size": [20, 30], "counts": pack(GOOD)[:-1]}, "sum to|inside"),
        ({"size": [20, 30], "counts": pack([700, -100])}, "negative"),
        ({"size": [20, 30], "counts": pack(GOOD) + "o"}, "inside"),
        ({"size": [20, 30], "counts": "o" * 9 + "0"}, "too long"),
        ({"size": [20, 30], "counts": "a b"}, "character"),
        ({"size": [20, 30], "counts": "é\ud800"}, "character"),
    ],
)
def test_what_cannot_be_used_is_refused(broken, why):
    for given in (broken, [broken] if isinstance(broken, dict) else broken):
        with pytest.raises(ValueError, match=why):
            decode_segmentation(given, SIZE)


def test_random_damage_gives_a_mask_of_the_right_size_or_a_reason():
    rng = np.random.default_rng(0)
    whole = [
        json.dumps({"size": list(SIZE), "counts": pack(runs(MASKS["noise"]))}),
        json.dumps({"size": list(SIZE), "counts": runs(MASKS["two"])}),
        json.dumps([polygon(3, 4, 12, 9), polygon(10, 5, 25, 18)]),
    ]
    refused = 0
    for turn in range(3000):
        raw = bytearray(whole[turn % 3].encode())
        for place in rng.integers(0, len(raw), size=rng.integers(1, 4)):
            raw[place] = rng.integers(32, 127)
        try:
            given = json.loads(raw)
        except ValueError:
            continue
        try:
            drawn = decode_segmentation(given, SIZE)
        except ValueError:
            refused += 1
        else:
            assert drawn.shape == SIZE and drawn.dtype == np.uint8 and drawn.max() <= 1
    assert refused > 300
