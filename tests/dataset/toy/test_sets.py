"""The toy world's copies of the other data sets, read back by plain json and PIL.

Masks are compared with those of the scenes that the images were painted from. Referring sets:
test_refer.py.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.toy import coco
from dataset.toy import world as toy
from dataset.toy.scene import sample_scene
from tests.dataset.toy.truth import (
    IMAGES,
    QUERY_OF,
    SEED,
    SHARE,
    check_image,
    coco_index,
    decode,
    form_of,
    labels_of,
    read,
    scenes,
    side_of,
    union,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return toy.write_world(tmp_path_factory.mktemp("sets"), IMAGES, SEED)


# ------------------------------------------------------------------ label maps


def test_ade20k(world):
    names = {120: "circle", 42: "square", 115: "triangle", 67: "star"}
    grounds = Counter()
    for number, scene in enumerate(scenes("ade20k"), start=1):
        stem = f"ADE_train_{number:08d}"
        check_image(world / "ade20k/images/training" / f"{stem}.jpg", scene)
        labels = labels_of(world / "ade20k/annotations/training" / f"{stem}.png")
        for value, shape in names.items():
            own = [m for t, m in zip(scene.things, scene.masks, strict=True) if t.shape == shape]
            assert np.array_equal(labels == value, union(own, labels.shape))
        grounds.update(set(np.unique(labels)) - set(names))
    assert set(grounds) == {0, 1} and grounds[0] > grounds[1] > 0
    assert len(list((world / "ade20k").rglob("*.jpg"))) == SHARE


def test_cocostuff(world):
    names = {36: "circle", 83: "square", 165: "triangle", 118: "star"}
    grounds = Counter()
    for index, scene in enumerate(scenes("coco")):
        stem = f"{30 + 37 * index:012d}"
        check_image(world / "coco/train2017" / f"{stem}.jpg", scene)
        labels = labels_of(world / "cocostuff/train2017" / f"{stem}.png")
        for value, shape in names.items():
            own = [m for t, m in zip(scene.things, scene.masks, strict=True) if t.shape == shape]
            assert np.array_equal(labels == value, union(own, labels.shape))
        grounds.update(set(np.unique(labels)) - set(names))
    assert set(grounds) == {125, 172, 255} and grounds[255] == SHARE


def test_mapillary(world):
    root = world / "mapillary"
    entries = read(root / "config_v2.0.json")["labels"]
    readable = [entry["readable"] for entry in entries]
    assert readable[0] == "Ground" and readable[-1] == "Unlabeled" and len(set(readable)) == 26
    stems = sorted(path.stem for path in (root / "training/images").glob("*.jpg"))
    assert stems == sorted(path.stem for path in (root / "training/v2.0/labels").glob("*.png"))
    assert len(stems) == SHARE and all(len(stem) == 22 for stem in stems)
    images = {stem: np.asarray(Image.open(root / f"training/images/{stem}.jpg")) for stem in stems}
    grounds = Counter()
    for scene in scenes("mapillary"):
        alike = [stem for stem, image in images.items() if image.shape == scene.image.shape]
        stem = min(alike, key=lambda s: np.abs(images[s].astype(int) - scene.image).mean())
        check_image(root / f"training/images/{stem}.jpg", scene)
        with Image.open(root / f"training/v2.0/labels/{stem}.png") as image:
            assert image.mode == "P"
            palette, labels = image.getpalette(), np.array(image)
        assert palette[: 3 * len(entries)] == [c for entry in entries for c in entry["color"]]
        for thing, mask in zip(scene.things, scene.masks, strict=True):
            value = [name.lower() for name in readable].index(thing.name)
            assert np.array_equal(labels == value, mask > 0)
        grounds[readable[labels[scene.masks.max(axis=0) == 0][0]]] += 1
    assert set(grounds) == {"Ground", "Unlabeled"}


# ------------------------------------------------------------------ COCO's form


def test_paco(world):
    content = read(world / "vlpart/paco/annotations/paco_lvis_v1_train.json")
    images, annotations, names = coco_index(content)
    assert {"red_circle", "red_circle:top", "blue_star_(toy)", "blue_star_(toy):bottom"} <= set(
        names.values()
    )
    forms = Counter(form_of(annotation) for annotation in content["annotations"])
    assert set(forms) == {"polygon", "polygons", "counts", "string", "empty"}
    for annotation in content["annotations"]:
        assert annotation["iscrowd"] == (form_of(annotation) == "counts")
    for (image_id, image), scene in zip(images.items(), scenes("coco"), strict=True):
        assert image["file_name"] == f"train2017/{image_id:012d}.jpg"
        assert (world / "coco" / image["file_name"]).is_file()
        size = image["height"], image["width"]
        assert size == scene.image.shape[:2]
        things = {t.name: (t, m) for t, m in zip(scene.things, scene.masks, strict=True)}
        found = set()
        for annotation in annotations[image_id]:
            whole, _, part = names[annotation["category_id"]].partition(":")
            thing, mask = things[whole.replace("_(toy)", "").replace("_", " ")]
            found.add((thing.name, part))
            truth = side_of(thing, mask, part) if part else mask
            if annotation["segmentation"]:
                assert np.array_equal(decode(annotation["segmentation"], size), truth)
            assert annotation["area"] == truth.sum()
        assert {name for name, part in found if not part} == set(things)
        assert {part for _, part in found} == {"", "top", "bottom"}


def test_pascal_part(world):
    root = world / "vlpart/pascal_part"
    images, annotations, names = coco_index(read(root / "train.json"))
    assert sorted(names.values()) == sorted(
        f"{shape}:{side}"
        for shape in ("circle", "square", "triangle", "star")
        for side in ("left", "right")
    )
    several = 0
    for (image_id, image), scene in zip(images.items(), scenes("pascal"), strict=True):
        check_image(root / "VOCdevkit/VOC2010/JPEGImages" / image["file_name"], scene)
        size = image["height"], image["width"]
        for number, name in names.items():
            shape, part = name.split(":")
            own = [a for a in annotations[image_id] if a["category_id"] == number]
            several += len(own) > 1
            truth = [
                side_of(thing, mask, part)
                for thing, mask in zip(scene.things, scene.masks, strict=True)
                if thing.shape == shape
            ]
            masks = [decode(a["segmentation"], size) for a in own]
            truth = [mask for mask in truth if mask.sum() >= 20]
            assert np.array_equal(union(masks, size), union(truth, size))
            for annotation, mask in zip(own, masks, strict=True):
                x, y, width, height = annotation["bbox"]
                assert mask[y : y + height, x : x + width].sum() == mask.sum() > 0
    assert several


def test_every_form_of_segmentation_is_exact():
    rng = np.random.default_rng(8)
    for _ in range(25):
        scene = sample_scene(rng)
        for thing, mask in zip(scene.things, scene.masks, strict=True):
            for truth in (mask, side_of(thing, mask, "top")):
                for form in set(coco.FORMS):
                    got = decode(coco.segmentation_of(truth, form), mask.shape)
                    assert np.array_equal(got, truth), form


def test_pixels_that_touch_at_corners_are_polygons_of_their_own():
    mask = np.eye(4, dtype=np.uint8)
    polygons = coco.polygons_along_edges(mask)
    assert sorted(map(len, polygons)) == [8, 8, 8, 8]
    assert np.array_equal(decode(polygons, (4, 4)), mask)
    assert coco.polygons_along_edges(np.zeros((3, 3), np.uint8)) == []


# ------------------------------------------------------------------ conversations


def test_conversations_are_true(world):
    entries = read(world / "llava_dataset/llava_instruct_150k.json")
    numbers = {1: "One.", 2: "Two.", 3: "Three.", 4: "Four."}
    checked, places = Counter(), Counter()
    for entry, scene in zip(entries, scenes("coco"), strict=True):
        assert entry["image"] == f"{entry['id']}.jpg"
        assert (world / "coco/train2017" / entry["image"]).is_file()
        turns = entry["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert 4 <= len(turns) <= 8
        values = [turn["value"] for turn in turns]
        assert sum(value.count("<image>") for value in values) == values[0].count("<image>") == 1
        places["start" if values[0].startswith("<image>\n") else "end"] += 1
        values[0] = values[0].replace("<image>", "").strip()
        for question, answer in zip(values[::2], values[1::2], strict=True):
            if question == "How many objects are there?":
                assert answer == numbers[len(scene.things)]
                checked["count"] += 1
            elif question.startswith("What is in the "):
                place = question.removeprefix("What is in the ").removesuffix(" corner?")
                names = [thing.name for thing in scene.things if thing.place == place]
                assert answer == "Nothing." if not names else answer.endswith(f" {names[0]}.")
                checked["corner"] += 1
            elif question.startswith("What colour is "):
                phrase = question.removeprefix("What colour is ").removesuffix("?")
                thing = next(t for t in scene.things if QUERY_OF[phrase].matches(t))
                assert answer == f"It is {thing.colour}."
                checked["colour"] += 1
            elif question.startswith("Is there "):
                words = question.removeprefix("Is there ").removesuffix(" in this image?")
                query = QUERY_OF[words.split(" ", 1)[1]]
                assert answer.startswith("Yes" if query.count(scene.things) else "No")
                checked["there"] += 1
            elif question == "What is in this image?":
                assert all(thing.name in answer for thing in scene.things)
                checked["list"] += 1
    assert set(checked) == {"count", "corner", "colour", "there", "list"}
    assert set(places) == {"start", "end"}


@pytest.mark.parametrize("images, share, evaluation", [(6, 6, 2), (100, 10, 2), (600, 60, 6)])
def test_other_sets_get_a_share(images, share, evaluation):
    assert (toy.share_of(images), toy.evaluation_share(images)) == (share, evaluation)
