"""The toy world's copies of the published data sets, read back by plain json, pickle and PIL.

Masks are compared with those of the scenes the pictures were painted from.
"""

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from dataset import toy, toy_coco
from dataset.toy_files import draw_scenes
from dataset.toy_questions import KINDS, QUERIES
from dataset.toy_scene import sample_scene

IMAGES, SEED = 300, 3
SHARE, EVALUATION = 30, 3
STREAMS = {"ade20k": 10, "coco": 11, "mapillary": 12, "pascal": 13, "refer": 14, "clef": 15}
REFS = {
    "refclef": "unc",
    "refcoco": "unc_exclude_unified",
    "refcoco+": "unc_exclude_unified",
    "refcocog": "umd_exclude_unified",
    "R-refcoco": "unc_exclude_unified",
    "R-refcoco+": "unc_exclude_unified",
    "R-refcocog": "umd_exclude_unified",
    "fprefcoco": "berkeley_exclude_unified",
    "fprefcoco+": "berkeley_exclude_unified",
    "fprefcocog": "berkeley_exclude_unified",
}
QUERY_OF = {
    text: query
    for queries in QUERIES.values()
    for query in queries
    for text in (*query.phrases, query.missing)
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return toy.write_world(tmp_path_factory.mktemp("sets"), IMAGES, SEED)


def scenes(pool: str, count: int = SHARE) -> list:
    return [scene for _, _, scene in draw_scenes(SEED, STREAMS[pool], count)]


def read(path: Path):
    return json.loads(path.read_text("utf-8"))


def labels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode in ("L", "P")
        return np.array(picture)


def check_picture(path: Path, scene) -> None:
    """The picture on disk is the scene's, but for JPEG's losses."""
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert image.shape == scene.image.shape
    assert np.abs(image - scene.image).mean() < 5


def decode(segmentation, size) -> np.ndarray:
    height, width = size
    if not segmentation:
        return np.zeros(size, np.uint8)
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        return coco_mask.decode(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation, dict):
        return coco_mask.decode(segmentation)
    if isinstance(segmentation[0], dict):
        return coco_mask.decode(coco_mask.merge(segmentation))
    return coco_mask.decode(
        coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    )  # fmt: skip


def form_of(annotation: dict) -> str:
    segmentation = annotation["segmentation"]
    if not segmentation:
        return "empty"
    if isinstance(segmentation, dict):
        return "counts" if isinstance(segmentation["counts"], list) else "string"
    if isinstance(segmentation[0], dict):
        return "list of RLE"
    return "polygon" if len(segmentation) == 1 else "polygons"


def side_of(thing, mask: np.ndarray, part: str) -> np.ndarray:
    """The half of a mask above, below, left or right of the thing's centre."""
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    cx, cy = (round(v) for v in thing.centre)
    inside = {"top": y < cy, "bottom": y >= cy, "left": x < cx, "right": x >= cx}[part]
    return mask * inside


def union(masks: list, size) -> np.ndarray:
    return np.any(masks, axis=0) if masks else np.zeros(size, bool)


# ------------------------------------------------------------------ label maps


def test_ade20k(world):
    names = {120: "circle", 42: "square", 115: "triangle", 67: "star"}
    grounds = Counter()
    for number, scene in enumerate(scenes("ade20k"), start=1):
        stem = f"ADE_train_{number:08d}"
        check_picture(world / "ade20k/images/training" / f"{stem}.jpg", scene)
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
        check_picture(world / "coco/train2017" / f"{stem}.jpg", scene)
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
        check_picture(root / f"training/images/{stem}.jpg", scene)
        with Image.open(root / f"training/v2.0/labels/{stem}.png") as picture:
            assert picture.mode == "P"
            palette, labels = picture.getpalette(), np.array(picture)
        assert palette[: 3 * len(entries)] == [c for entry in entries for c in entry["color"]]
        for thing, mask in zip(scene.things, scene.masks, strict=True):
            value = [name.lower() for name in readable].index(thing.name)
            assert np.array_equal(labels == value, mask > 0)
        grounds[readable[labels[scene.masks.max(axis=0) == 0][0]]] += 1
    assert set(grounds) == {"Ground", "Unlabeled"}


# ------------------------------------------------------------------ COCO's form


def coco_index(content: dict) -> tuple[dict, dict, dict]:
    """Images, annotations by image, and category names, by their ids."""
    images = {image["id"]: image for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    annotations: dict[int, list] = {number: [] for number in images}
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    assert len(images) == len(content["images"])
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert len(set(ids)) == len(ids)
    return images, annotations, names


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
        check_picture(root / "VOCdevkit/VOC2010/JPEGImages" / image["file_name"], scene)
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
                for form in set(toy_coco.FORMS):
                    got = decode(toy_coco.segmentation_of(truth, form), mask.shape)
                    assert np.array_equal(got, truth), form


def test_pixels_that_touch_at_corners_are_polygons_of_their_own():
    mask = np.eye(4, dtype=np.uint8)
    polygons = toy_coco.polygons_along_edges(mask)
    assert sorted(map(len, polygons)) == [8, 8, 8, 8]
    assert np.array_equal(decode(polygons, (4, 4)), mask)
    assert toy_coco.polygons_along_edges(np.zeros((3, 3), np.uint8)) == []


# ------------------------------------------------------------------ referring sets


def load_refs(world: Path, name: str) -> tuple[list[dict], dict, dict]:
    folder = world / "refer_seg" / name
    assert [path.name for path in folder.glob("*.p")] == [f"refs({REFS[name]}).p"]
    raw = (folder / f"refs({REFS[name]}).p").read_bytes()
    assert raw[:2] == b"\x80\x02"
    images, annotations, _ = coco_index(read(folder / "instances.json"))
    return pickle.loads(raw), images, annotations


@pytest.mark.parametrize("name", REFS)
def test_sentences_are_true_of_their_masks(world, name):
    refs, images, annotations = load_refs(world, name)
    pool = "clef" if name == "refclef" else "refer"
    count = SHARE + 3 * EVALUATION
    by_image = dict(zip(images, scenes(pool, count), strict=True))
    folder = "saiapr_tc-12" if pool == "clef" else "mscoco/images/train2014"
    for image_id, image in images.items():
        check_picture(
            world / "refer_seg/images" / folder / image["file_name"], by_image[image_id]
        )  # fmt: skip
    assert len({ref["ref_id"] for ref in refs}) == len(refs)
    sent_ids = [s["sent_id"] for ref in refs for s in ref["sentences"]]
    assert len(set(sent_ids)) == len(sent_ids)
    for ref in refs:
        scene, image = by_image[ref["image_id"]], images[ref["image_id"]]
        own = {a["id"]: a for a in annotations[ref["image_id"]]}
        ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        size = image["height"], image["width"]
        masks = [decode(own[i]["segmentation"], size) for i in ids if i != -1]
        meant = union(masks, size)
        assert [s["sent_id"] for s in ref["sentences"]] == ref["sent_ids"]
        for sentence in ref["sentences"]:
            assert sentence["tokens"] == sentence["sent"].split()
            assert sentence["raw"].lower() == sentence["sent"]
            true = true_mask(scene, sentence["sent"])
            false = sentence.get("is_false_premise") or sentence.get("exist") is False
            assert not true.any() if false else np.array_equal(meant, true)
            if "gt_sent" in sentence:
                assert np.array_equal(meant, true_mask(scene, sentence["gt_sent"]))


def true_mask(scene, sentence: str) -> np.ndarray:
    """What a sentence speaks of, in one scene."""
    if sentence.endswith("s") and sentence not in QUERY_OF:
        word = sentence.removeprefix("the ").removesuffix(" objects").removesuffix("s")
        chosen = [word in (t.shape, t.colour) for t in scene.things]
    else:
        chosen = [QUERY_OF[sentence].matches(t) for t in scene.things]
        assert sum(chosen) <= 1
    return union([m for m, c in zip(scene.masks, chosen, strict=True) if c], scene.masks.shape[1:])


@pytest.mark.parametrize("name", REFS)
def test_splits(world, name):
    refs, images, _ = load_refs(world, name)
    expected = ["train", "val"] + (["test"] if name.endswith("g") else ["testA", "testB"])
    pictures = {split: set() for split in expected}
    for ref in refs:
        pictures[ref["split"]].add(ref["image_id"])
    assert sum(map(len, pictures.values())) == len(set().union(*pictures.values()))
    assert len(pictures["train"]) == SHARE and len(pictures["val"]) == EVALUATION
    order = list(images)
    assert pictures["train"] == set(order[:SHARE]), "the same pictures are in training everywhere"


def test_the_sets_differ_where_the_published_ones_do(world):
    forms, ann_ids, keys = {}, {}, {}
    for name in REFS:
        refs, _, annotations = load_refs(world, name)
        forms[name] = {form_of(a) for entries in annotations.values() for a in entries}
        ann_ids[name] = [ref["ann_id"] for ref in refs]
        keys[name] = Counter(key for ref in refs for s in ref["sentences"] for key in s)
        for ref in refs:
            for sentence in ref["sentences"]:
                if sentence.get("is_false_premise"):
                    assert sentence["gt_sent"] and ref["ann_id"] != -1
        sentences = [s["sent"] for ref in refs for s in ref["sentences"]]
        has_places = any("top left" in s or "bottom right" in s for s in sentences)
        assert has_places == ("+" not in name)
    assert forms["refclef"] == {"list of RLE", "empty"}
    assert forms["refcoco"] == {"polygon", "polygons", "counts", "string", "empty"}
    for name in ("R-refcoco", "R-refcoco+", "R-refcocog"):
        assert [-1] in ann_ids[name] and any(len(ids) > 1 for ids in ann_ids[name])
        assert keys[name]["exist"] == keys[name]["sent"] and "gt_sent" not in keys[name]
    for name in ("fprefcoco", "fprefcoco+", "fprefcocog"):
        assert keys[name]["is_false_premise"] == keys[name]["sent"] == 2 * keys[name]["gt_sent"]
    for name in ("refclef", "refcoco", "refcoco+"):
        assert all(isinstance(ann_id, int) for ann_id in ann_ids[name])
        assert set(keys[name]) == {"sent", "sent_id", "tokens", "raw"}
    assert {type(ann_id) for ann_id in ann_ids["refcocog"]} == {int, list}


def test_the_refs_name_files_as_the_published_ones_do(world):
    refs, images, _ = load_refs(world, "refcoco")
    for ref in refs:
        picture = images[ref["image_id"]]["file_name"].removesuffix(".jpg")
        assert ref["file_name"] == f"{picture}_{ref['ann_id']}.jpg"
    _, images, _ = load_refs(world, "refclef")
    assert images[2053]["file_name"] == "02/images/2053.jpg"


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


# ------------------------------------------------------------------ size


@pytest.mark.parametrize("images, share, evaluation", [(6, 6, 2), (100, 10, 2), (600, 60, 6)])
def test_other_sets_get_a_share(images, share, evaluation):
    assert (toy.share_of(images), toy.evaluation_share(images)) == (share, evaluation)


def test_the_smallest_world_has_every_set(tmp_path):
    world = toy.write_world(tmp_path, 6, 0)
    for folder, entries in toy.FOLDERS.items():
        names = {path.name for path in (world / folder).iterdir()}
        assert names - {"toy_world.json"} <= set(entries) and len(names) > 1
    for name in REFS:
        refs, images, _ = load_refs(world, name)
        assert len(images) == 12 and Counter(ref["split"] for ref in refs)["val"] > 0
    assert set(KINDS) == set(QUERIES)
