"""PACO-LVIS and PASCAL-Part: objects and parts in COCO's form, and annotations that do not fit."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from dataset.sem_seg.coco_parts import class_name, paco_lvis, pascal_part
from tests.dataset.handmade import corners, rectangle, run_lengths, write_image, write_json
from utils.errors import InputError

SIZE = (16, 24)
PACO = "vlpart/paco/annotations/paco_lvis_v1_train.json"
PASCAL = "vlpart/pascal_part/train.json"


def compressed(mask: np.ndarray) -> dict:
    encoded = coco.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


LEFT, RIGHT = (1, 2, 5, 9), (10, 3, 14, 6)
MOUSE = rectangle(SIZE, *LEFT) | rectangle(SIZE, *RIGHT)
BUTTON, CROWD, WHEEL = (
    rectangle(SIZE, 2, 2, 4, 4),
    rectangle(SIZE, 15, 0, 24, 8),
    rectangle(SIZE, 0, 12, 3, 16),
)
CATEGORIES = [
    {"id": 7, "name": "mouse_(computer_equipment)"},
    {"id": 3, "name": "mouse_(computer_equipment):left_button_(of_a_mouse)"},
    {"id": 12, "name": "trash_can"},
    {"id": 13, "name": "trash_can:wheel"},
    {"id": 20, "name": "dog"},
    {"id": 21, "name": "dog:tail"},
    {"id": 22, "name": "mouse_(animal)"},
]


def annotation(image: int, category: int, segmentation, number: int = 0, crowd: int = 0) -> dict:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": crowd,
    }


def image_entry(number: int, file_name: str, size: tuple[int, int] = SIZE) -> dict:
    return {"id": number, "file_name": file_name, "height": size[0], "width": size[1]}


CONTENT = {
    "images": [
        image_entry(5, "train2017/000000000005.jpg"),
        image_entry(9, "000000000009.jpg"),
        image_entry(11, "train2017/000000000011.jpg"),
    ],
    "categories": CATEGORIES,
    "annotations": [
        annotation(5, 7, [corners(*LEFT), corners(*RIGHT)], 1),
        annotation(5, 3, compressed(BUTTON), 2),
        annotation(5, 12, run_lengths(CROWD), 3, crowd=1),
        annotation(5, 13, [], 4),
        annotation(9, 21, run_lengths(WHEEL), 5),
        annotation(9, 21, [corners(*RIGHT)], 6),
        annotation(9, 22, compressed(WHEEL), 7),
        annotation(999, 20, "of an image that is not listed", 8),
    ],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in (5, 9, 11):
        write_image(tmp_path / f"coco/train2017/{number:012d}.jpg", SIZE, number)
        write_image(
            tmp_path / f"vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/{number:012d}.jpg", SIZE
        )
    write_json(tmp_path / PACO, CONTENT)
    return tmp_path


def resegment(source, number: int) -> list[tuple]:
    """Class and mask of each annotation."""
    image = source.load(number)
    return [(source.classes[n], image.mask(place)) for place, n in enumerate(image.present)]


def assert_masks(found: list[tuple], expected: list[tuple]) -> None:
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (name, mask), (_, truth) in zip(found, expected, strict=True):
        assert mask.dtype == np.uint8
        assert (mask == truth).all(), name


def test_masks_of_polygons_run_lengths_crowds_and_nothing(data):
    source = paco_lvis(data)
    assert len(source) == 2  # the third image has no annotation
    assert_masks(
        resegment(source, 0),
        [
            ("mouse", MOUSE),
            (("mouse", "left_button"), BUTTON),
            ("trash_can", CROWD),
            (("trash_can", "wheel"), np.zeros(SIZE)),
        ],
    )


def test_annotations_of_one_class_have_masks_of_their_own(data):
    """Two annotations of a category; categories whose names differ in the suffix are one class."""
    tail, other_tail = WHEEL, rectangle(SIZE, *RIGHT)
    expected = [(("dog", "tail"), tail), (("dog", "tail"), other_tail), ("mouse", WHEEL)]
    assert_masks(resegment(paco_lvis(data), 1), expected)


def test_what_is_not_annotated_is_absent_but_not_the_whole_of_a_part(data):
    source = paco_lvis(data)
    assert source.classes == [
        "mouse",
        ("mouse", "left_button"),
        "trash_can",
        ("trash_can", "wheel"),
        "dog",
        ("dog", "tail"),
    ]
    absent = [{source.classes[n] for n in source.load(number).absent} for number in range(2)]
    assert absent[0] == {"dog", ("dog", "tail")}
    assert absent[1] == {("mouse", "left_button"), "trash_can", ("trash_can", "wheel")}


def test_pascal_part(data):
    content = copy.deepcopy(CONTENT)
    content["images"] = [image_entry(5, "000000000005.jpg")]
    content["categories"] = [
        {"id": 1, "name": "dog:muzzle"},
        {"id": 2, "name": "bus:licence_plate"},
    ]
    content["annotations"] = [annotation(5, 2, [corners(*LEFT)])]
    write_json(data / PASCAL, content)
    source = pascal_part(data)
    assert_masks(resegment(source, 0), [(("bus", "licence_plate"), rectangle(SIZE, *LEFT))])
    assert "JPEGImages" in source.load(0).path


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("dog", "dog"),
        ("dog_(animal)", "dog"),
        ("tape_(sticky_cloth_or_paper):roll", ("tape", "roll")),
        ("a:b_(c)", ("a", "b")),
    ],
)
def test_names(category, expected):
    assert class_name(category) == expected


@pytest.mark.parametrize("category", ["", ":", "a:", ":b", "a:b:c", "_(x)", "a:[SEG]"])
def test_names_that_say_nothing(category):
    with pytest.raises(ValueError, match="object:part"):
        class_name(category)


def test_masks_are_decoded_only_when_asked_for(data):
    content = copy.deepcopy(CONTENT)
    content["annotations"][1]["segmentation"] = {"size": [16, 24], "counts": [1]}
    write_json(data / PACO, content)
    source = paco_lvis(data)
    image = source.load(0)
    assert (image.mask(0) == MOUSE).all()
    with pytest.raises(InputError, match=r"paco_lvis_v1_train\.json .*annotation 2 of train2017"):
        image.mask(1)


def test_an_image_of_another_size_is_named(data):
    write_image(data / "coco/train2017/000000000005.jpg", (24, 16))
    with pytest.raises(
        InputError, match=r"000000000005\.jpg is 16 x 24 .*_train\.json says 24 x 16"
    ):
        paco_lvis(data).load(0)


def test_a_missing_image_is_named(data):
    (data / "coco/train2017/000000000005.jpg").unlink()
    with pytest.raises(InputError, match=r"no image at .*5\.jpg, but .*_train\.json names"):
        paco_lvis(data).load(0)


def test_missing_annotations_say_where_they_come_from(tmp_path):
    with pytest.raises(InputError, match=r"paco_lvis_v1_train\.json.*PACO.*http"):
        paco_lvis(tmp_path)
    with pytest.raises(InputError, match=r"pascal_part/train\.json.*VLPart.*http"):
        pascal_part(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"images": None},
        {"images": [3]},
        {"images": [image_entry(5, "a.jpg"), image_entry(5, "b.jpg")]},
        {"images": [image_entry(5, "")]},
        {"images": [image_entry(5, "\ud800.jpg")]},
        {"images": [image_entry(5, "a.jpg", (0, 3))]},
        {"images": [image_entry(5, "a.jpg", ("16", 24))]},
        {"images": []},
        {"categories": []},
        {"categories": [{"id": [], "name": "dog"}]},
        {"categories": [{"id": 7, "name": 3}]},
        {"annotations": {"a": 1}},
        {"annotations": [{"image_id": 5, "category_id": 7}]},
        {"annotations": [annotation(5, 8, [])]},
        {"annotations": []},
    ],
)
def test_damaged_annotations_name_the_file(data, change):
    write_json(data / PACO, {**CONTENT, **change})
    with pytest.raises(InputError, match=r"paco_lvis_v1_train\.json is damaged"):
        paco_lvis(data)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff\x00", b"[" * 100_000])
def test_files_that_are_no_json_name_the_file(data, raw):
    (data / PACO).write_bytes(raw)
    with pytest.raises(InputError, match=r"paco_lvis_v1_train\.json is damaged"):
        paco_lvis(data)


def test_a_changed_file_is_read_again_and_sources_travel(data):
    assert len(pickle.loads(pickle.dumps(paco_lvis(data)))) == 2
    content = copy.deepcopy(CONTENT)
    content["annotations"].append(annotation(11, 20, [corners(*LEFT)]))
    write_json(data / PACO, content)
    source = pickle.loads(pickle.dumps(paco_lvis(data)))
    assert len(source) == 3
    assert_masks(resegment(source, 2), [("dog", rectangle(SIZE, *LEFT))])


def test_random_damage_gives_masks_of_the_right_size_or_an_error_with_a_name(data):
    whole = json.dumps(CONTENT).encode()
    rng = np.random.default_rng(0)
    read = 0
    for _ in range(400):
        raw = bytearray(whole)
        for place in rng.integers(0, len(raw), size=rng.integers(1, 4)):
            raw[place] = rng.integers(32, 127)
        (data / PACO).write_bytes(raw)
        try:
            source = paco_lvis(data)
            for number in range(len(source)):
                for _, mask in resegment(source, number):
                    assert (mask.shape, mask.dtype) == (SIZE, np.uint8)
                    assert mask.max() <= 1
            read += 1
        except InputError as error:
            assert "paco_lvis_v1_train.json" in str(error)
    assert 10 < read < 200
