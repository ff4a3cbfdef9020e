"""Label maps of ADE20K, COCO-Stuff and Mapillary: classes, masks, and files that do not fit."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from dataset.sem_seg.label_maps import ade20k, cocostuff, load_classes, mapillary, read_label_map
from tests.dataset.handmade import (
    rectangle,
    write_ade20k,
    write_cocostuff,
    write_image,
    write_json,
    write_labels,
)
from utils.errors import InputError

SIZE = (12, 20)
BOX, TOP, SPOT = (
    rectangle(SIZE, 2, 3, 9, 10),
    rectangle(SIZE, 0, 0, 20, 2),
    rectangle(SIZE, 15, 5, 16, 6),
)


def painted(ground: int, *values: int) -> np.ndarray:
    """A label map: the ground, and the values where BOX, TOP and SPOT are."""
    labels = np.full(SIZE, ground, np.uint8)
    for area, value in zip((BOX, TOP, SPOT), values, strict=False):
        labels[area == 1] = value
    return labels


def by_name(source, number: int = 0) -> dict[str, np.ndarray]:
    image = source.load(number)
    return {source.classes[n]: image.mask(place) for place, n in enumerate(image.present)}


def absent_names(source, number: int = 0) -> set[str]:
    return {source.classes[n] for n in source.load(number).absent}


def assert_masks(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, mask in expected.items():
        assert found[name].dtype == np.uint8
        assert (found[name] == mask).all(), name


def write_mapillary(root, labels: np.ndarray, readables=None, palette=False, name="x"):
    readables = readables or ["Bird", "Curb", "Traffic Light", "Curb", "Unlabeled"]
    entries = [{"readable": readable, "color": [n, n, n]} for n, readable in enumerate(readables)]
    write_json(root / "mapillary/config_v2.0.json", {"labels": entries})
    write_image(root / "mapillary/training/images" / f"{name}.jpg", labels.shape)
    return write_labels(
        root / "mapillary/training/v2.0/labels" / f"{name}.png", labels, palette=palette
    )


@pytest.mark.parametrize(
    ("name", "count", "some"),
    [
        ("ade20k", 150, {0: "wall", 44: "chest of drawers", 74: "computer", 149: "flag"}),
        ("cocostuff", 182, {0: "person", 66: "dining table", 95: "building-other", 181: "wood"}),
    ],
)
def test_class_lists(name, count, some):
    classes = load_classes(name)
    assert len(classes) == len(set(classes)) == count
    assert {n: classes[n] for n in some} == some


def test_ade20k_ignores_zero_and_counts_from_one(tmp_path):
    write_ade20k(tmp_path, "ADE_train_1", painted(0, 1, 150, 42))
    source = ade20k(tmp_path)
    assert_masks(by_name(source), {"wall": BOX, "flag": TOP, "box": SPOT})
    assert absent_names(source) == set(load_classes("ade20k")) - {"wall", "flag", "box"}
    assert source.load(0).image.shape == (*SIZE, 3)
    assert source.load(0).path.endswith("ade20k/images/training/ADE_train_1.jpg")


def test_cocostuff_ignores_255_and_classes_with_a_dash(tmp_path):
    write_cocostuff(tmp_path, "000000000009", painted(255, 0, 109, 181))
    source = cocostuff(tmp_path)
    assert_masks(by_name(source), {"person": BOX, "wood": SPOT})
    assert not any("-" in name for name in source.classes)
    usable = {name for name in load_classes("cocostuff") if "-" not in name}
    # 109 is desk-stuff: nobody can say that there is no desk.
    assert absent_names(source) == usable - {"person", "wood", "desk"}


@pytest.mark.parametrize("palette", [False, True])
def test_mapillary_takes_names_from_its_file(tmp_path, palette):
    write_mapillary(tmp_path, painted(4, 0, 1, 3), palette=palette)
    source = mapillary(tmp_path)
    assert source.classes == ["bird", "curb", "traffic light"]
    assert_masks(by_name(source), {"bird": BOX, "curb": TOP | SPOT})
    assert absent_names(source) == {"traffic light"}


def test_images_and_label_maps_are_paired_by_name(tmp_path):
    for name, value in (("b", 2), ("a", 1), ("é.x", 3)):
        write_ade20k(tmp_path, name, painted(value))
    write_image(tmp_path / "ade20k/images/training/bare.jpg", SIZE)
    write_labels(tmp_path / "ade20k/annotations/training/orphan.png", painted(4))
    (tmp_path / "ade20k/images/training/notes.txt").touch()
    source = ade20k(tmp_path)
    found = [sorted(by_name(source, n)) for n in range(len(source))]
    assert found == [["wall"], ["building"], ["sky"]]
    assert source.paths(2)[0].name == "é.x.jpg"
    assert source.names.dtype.kind == "S"


def test_many_names_take_little_room_in_a_worker(tmp_path):
    for number in range(300):
        for path in ("coco/train2017/{}.jpg", "cocostuff/train2017/{}.png"):
            file = tmp_path / path.format(f"{number:012d}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    source = cocostuff(tmp_path)
    assert len(pickle.dumps(source)) < 300 * 12 + 10_000
    assert pickle.loads(pickle.dumps(source)).paths(7) == source.paths(7)


@pytest.mark.parametrize("shape", [(12, 19), (20, 12), (1, 1)])
def test_a_label_map_of_another_size_is_named(tmp_path, shape):
    path = write_ade20k(tmp_path, "other", painted(1))
    write_labels(path, np.ones(shape, np.uint8))
    with pytest.raises(InputError, match=rf"other\.png is {shape[1]} x {shape[0]} pixels"):
        ade20k(tmp_path).load(0)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "1", "I;16", "LA"])
def test_a_label_map_of_another_kind_is_named(tmp_path, mode):
    path = write_ade20k(tmp_path, "coloured", painted(1))
    Image.fromarray(painted(1)).convert(mode).save(path)
    with pytest.raises(InputError, match=r"coloured\.png is an image of mode"):
        ade20k(tmp_path).load(0)


@pytest.mark.parametrize(
    ("write", "read", "value"),
    [
        (lambda root, labels: write_ade20k(root, "x", labels), ade20k, 151),
        (lambda root, labels: write_cocostuff(root, "x", labels), cocostuff, 182),
        (lambda root, labels: write_cocostuff(root, "x", labels), cocostuff, 254),
        (write_mapillary, mapillary, 5),
    ],
)
def test_a_class_outside_the_list_is_named(tmp_path, write, read, value):
    write(tmp_path, painted(1, 2, 1, value))
    with pytest.raises(InputError, match=rf"x\.png holds the value {value}"):
        read(tmp_path).load(0)


@pytest.mark.parametrize("read", [ade20k, cocostuff, mapillary])
def test_missing_data_say_where_they_come_from(tmp_path, read):
    with pytest.raises(InputError, match=f"{read.__name__}.*http"):
        read(tmp_path)


def test_folders_without_a_pair_are_refused(tmp_path):
    write_ade20k(tmp_path, "x", painted(1)).unlink()
    with pytest.raises(InputError, match="no image .* has a label map"):
        ade20k(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"labels": []},
        {"labels": {}},
        {"labels": [{"readable": "x"}] * 257},
        {"labels": ["Bird"]},
        {"labels": [{"name": "Bird"}]},
        {"labels": [{"readable": 3}]},
        {"labels": [{"readable": " "}]},
        {"labels": [{"readable": "\ud800"}]},
        {"labels": [{"readable": "a [SEG]"}]},
    ],
)
def test_a_damaged_class_list_is_named(tmp_path, content):
    write_mapillary(tmp_path, painted(0))
    write_json(tmp_path / "mapillary/config_v2.0.json", content)
    with pytest.raises(InputError, match=r"config_v2\.0\.json is damaged"):
        mapillary(tmp_path)


def test_random_damage_gives_a_map_of_the_right_size_or_an_error_with_the_name(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 150, SIZE).astype(np.uint8)
    whole = write_labels(tmp_path / "broken.png", labels, palette=True).read_bytes()
    refused = 0
    for _ in range(500):
        raw = bytearray(whole)
        for place in rng.integers(0, len(raw), size=rng.integers(1, 6)):
            raw[place] = rng.integers(256)
        (tmp_path / "broken.png").write_bytes(raw[: rng.integers(len(raw) // 2, len(raw) + 1)])
        try:
            found = read_label_map(tmp_path / "broken.png", SIZE)
        except InputError as error:
            assert "broken.png" in str(error)
            refused += 1
        else:
            assert (found.shape, found.dtype) == (SIZE, np.uint8)
    assert refused > 400
    (tmp_path / "broken.png").unlink()
    with pytest.raises(InputError, match=r"no label map at .*broken\.png"):
        read_label_map(tmp_path / "broken.png", SIZE)
