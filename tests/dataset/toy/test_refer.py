"""The toy world's referring sets, read back by plain json and pickle.

Masks are compared with those of the scenes that the images were painted from.
"""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dataset.toy import world as toy
from tests.dataset.toy.truth import (
    EVALUATION,
    IMAGES,
    QUERY_OF,
    SEED,
    SHARE,
    check_image,
    coco_index,
    decode,
    form_of,
    read,
    scenes,
    union,
)

pytestmark = pytest.mark.slow

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


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return toy.write_world(tmp_path_factory.mktemp("refer"), IMAGES, SEED)


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
        check_image(
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
    by_split = {split: set() for split in expected}
    for ref in refs:
        by_split[ref["split"]].add(ref["image_id"])
    assert sum(map(len, by_split.values())) == len(set().union(*by_split.values()))
    assert len(by_split["train"]) == SHARE and len(by_split["val"]) == EVALUATION
    order = list(images)
    assert by_split["train"] == set(order[:SHARE]), "the same images are in training everywhere"


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
        image = images[ref["image_id"]]["file_name"].removesuffix(".jpg")
        assert ref["file_name"] == f"{image}_{ref['ann_id']}.jpg"
    _, images, _ = load_refs(world, "refclef")
    assert images[2053]["file_name"] == "02/images/2053.jpg"


def test_the_smallest_world_has_every_set(tmp_path):
    world = toy.write_world(tmp_path, 6, 0)
    for folder, entries in toy.FOLDERS.items():
        names = {path.name for path in (world / folder).iterdir()}
        assert names - {"toy_world.json"} <= set(entries) and len(names) > 1
    for name in REFS:
        refs, images, _ = load_refs(world, name)
        assert len(images) == 12 and Counter(ref["split"] for ref in refs)["val"] > 0
