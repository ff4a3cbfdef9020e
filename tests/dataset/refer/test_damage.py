"""Referring sets with broken files: an error that names them, never a wrong mask."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.refer.sets import ReferSegEval, ReferSegTrain, ReferSet
from dataset.sampling import SamplingOptions
from tests.coco_truth import SIZE, box, polygon
from tests.dataset.refer.test_sets import SEGMENTATIONS, file_name, ref, write_set
from utils.errors import InputError


def instances(data: Path) -> Path:
    return data / "refer_seg" / "refcoco" / "instances.json"


def change_instances(data: Path, change) -> None:
    content = json.loads(instances(data).read_text())
    change(content)
    instances(data).write_text(json.dumps(content))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    refs = [ref(77, 10, split, "the box", ("x", {"exist": False})) for split in ("train", "val")]
    refs += [ref(78, -1, "val", "nothing", image_id=2)]
    return write_set(tmp_path, refs)


def check_broken(data: Path, pattern: str) -> None:
    """Training and evaluation both refuse, and only when it comes to the broken image."""
    train = ReferSegTrain(data, "refcoco", SamplingOptions())
    items = ReferSegEval(data, "refcoco", "val")
    assert len(items) == 2
    with pytest.raises(InputError, match=pattern):
        train.sample(0)
    with pytest.raises(InputError, match=pattern):
        items[0]
    assert items[1].questions[0].exists is False


BROKEN = {
    "no annotation": (lambda c: c["annotations"].clear(), "ann_id 10 is not among the annotations"),
    "no image": (lambda c: c["images"].pop(0), "image_id 1 is not among the images"),
    "no size": (lambda c: c["images"][0].pop("height"), "image 1 lacks a usable"),
    "size as text": (lambda c: c["images"][0].update(width="30"), "image 1 lacks a usable"),
    "no file name": (lambda c: c["images"][0].update(file_name=None), "image 1 lacks a usable"),
    "another's annotation": (
        lambda c: c["annotations"][0].update(image_id=2),
        "annotation 10 belongs to image 2",
    ),
    "no segmentation": (lambda c: c["annotations"][0].pop("segmentation"), "has no segmentation"),
    "odd polygon": (
        lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
        "annotation 10 cannot be used.*pairs",
    ),
    "run lengths of another size": (
        lambda c: c["annotations"][0].update(segmentation={"size": [30, 20], "counts": [600]}),
        "annotation 10 cannot be used.*size",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_named_when_it_is_drawn(data, name):
    change, reason = BROKEN[name]
    change_instances(data, change)
    check_broken(data, rf"ref 77 of .*refs\(unc_exclude_unified\)\.p.*instances\.json.*{reason}")


def test_broken_refs_are_counted(data):
    assert ReferSet(data, "refcoco").index.about() == {
        "refs": 3,
        "sentences": 5,
        "absent": 3,
        "broken": 0,
        "examples": [],
        "splits": {"train": 1, "val": 2},
        "images": 2,
    }
    change_instances(data, BROKEN["no annotation"][0])
    about = ReferSet(data, "refcoco").index.about()
    assert about["broken"] == 2
    assert about["examples"] == ["ref 77: its ann_id 10 is not among the annotations"] * 2


def test_absent_sentences_need_no_annotation(tmp_path):
    refs = [ref(1, 999, "val", ("x", {"is_false_premise": True, "gt_sent": "y"}))]
    (item,) = ReferSegEval(write_set(tmp_path, refs, "fprefcoco"), "fprefcoco", "val")
    assert item.questions[0].exists is False
    assert not item.questions[0].truth.any()


def image(data: Path) -> Path:
    folder = data / "refer_seg" / "images" / "mscoco" / "images" / "train2014"
    return folder / file_name(1, "refcoco")


def test_an_image_of_another_size_names_both(data):
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(image(data), "PNG")
    check_broken(data, r"COCO_000000000001\.jpg has 20 x 30 pixels.*instances\.json says 30 x 20")


def test_a_broken_or_missing_image_is_named(data):
    image(data).write_bytes(image(data).read_bytes()[:300])
    check_broken(data, r"COCO_000000000001\.jpg")
    image(data).unlink()
    check_broken(data, r"COCO_000000000001\.jpg")


@pytest.mark.parametrize("raw", ["", "[]", "{", '{"images": []}', '{"images": 1}', "[" * 100_000])
def test_instances_that_are_none_are_named(data, raw):
    instances(data).write_text(raw)
    with pytest.raises(InputError, match=r"instances\.json is damaged"):
        ReferSegEval(data, "refcoco", "val")


def test_a_refs_file_that_would_execute_is_refused(data):
    path = data / "refer_seg" / "refcoco" / "refs(unc_exclude_unified).p"
    path.write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    with pytest.raises(InputError, match=r"unified\)\.p is refused.*os\.system"):
        ReferSegTrain(data, "refcoco", SamplingOptions())


def test_random_damage_gives_samples_or_errors_that_name_a_file(tmp_path):
    refs = [ref(n, [n], "train", f"thing {n}", ("x", {"exist": False})) for n in SEGMENTATIONS]
    data = write_set(tmp_path, refs)
    paths = [instances(data), data / "refer_seg" / "refcoco" / "refs(unc_exclude_unified).p"]
    whole = [path.read_bytes() for path in paths]
    rng = np.random.default_rng(0)
    drawn = 0
    for turn in range(300):
        which = turn % 2
        raw = bytearray(whole[which])
        for place in rng.integers(0, len(raw), size=1 + (turn % 10 == 0)):
            raw[place] = rng.integers(32, 127) if turn % 4 else rng.integers(256)
        paths[which].write_bytes(bytes(raw))
        try:
            train = ReferSegTrain(data, "refcoco", SamplingOptions(seed=turn))
            samples = [train.sample(index) for index in range(2)]
        except InputError as error:
            names = ("instances.json", "refs(unc_exclude_unified).p", "train2014")
            assert any(name in str(error) for name in names)
        else:
            drawn += 1
            for sample in samples:
                assert sample.image.shape == (*SIZE, 3)
                assert sample.masks.shape == (sum(sample.exists), *SIZE)
                assert sample.masks.max(initial=0) <= 1
        paths[which].write_bytes(whole[which])
    assert 30 < drawn < 270


def test_a_changed_file_is_read_again(data):
    before = ReferSegEval(data, "refcoco", "val")[0].questions[0].truth
    assert (before == box(3, 4, 12, 9)).all()
    change_instances(data, lambda c: c["annotations"][0].update(segmentation=[polygon(0, 0, 9, 9)]))
    assert (ReferSegEval(data, "refcoco", "val")[0].questions[0].truth == box(0, 0, 9, 9)).all()
    path = data / "refer_seg" / "refcoco" / "refs(unc_exclude_unified).p"
    path.write_bytes(pickle.dumps([ref(77, -1, "val", "the box")]))
    assert ReferSegEval(data, "refcoco", "val")[0].questions[0].exists is False
