"""Referring sets from files in their real layout, against masks drawn with numpy."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.refer.sets import SOURCES, ReferSegEval, ReferSegTrain
from dataset.sampling import SamplingOptions
from dataset.templates import load_templates
from tests.coco_truth import SIZE, box, pack, polygon, runs
from utils.errors import InputError

SPLIT_BY = {
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
TWO = box(3, 4, 12, 9) | box(10, 5, 25, 18)
SPARSE = (np.random.default_rng(1).random(SIZE) < 0.1).astype(np.uint8)
NONE = np.zeros(SIZE, np.uint8)

SEGMENTATIONS = {
    10: [polygon(3, 4, 12, 9)],
    11: [polygon(3, 4, 12, 9), polygon(10, 5, 25, 18)],
    12: {"size": list(SIZE), "counts": pack(runs(SPARSE))},
    13: {"size": list(SIZE), "counts": runs(SPARSE)},
    14: [],
    15: [{"size": list(SIZE), "counts": pack(runs(box(20, 1, 30, 20)))}],
}
TRUTH = {10: box(3, 4, 12, 9), 11: TWO, 12: SPARSE, 13: SPARSE, 14: NONE, 15: box(20, 1, 30, 20)}


def ref(ref_id: int, ann_id, split: str, *sentences, image_id: int = 1) -> dict:
    """A ref whose sentences are texts, or (text, further fields)."""
    entries = []
    for number, sentence in enumerate(sentences):
        text, more = (sentence, {}) if isinstance(sentence, str) else sentence
        entries.append({"sent": text, "raw": text, "sent_id": number, "tokens": [], **more})
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "category_id": 1,
        "image_id": image_id,
        "split": split,
        "file_name": f"image {image_id}_{ref_id}.jpg",
        "sentences": entries,
    }


def write_set(
    root: Path,
    refs: list[dict],
    name: str = "refcoco",
    split_by: str | None = None,
    segmentations: dict | None = None,
    images: tuple[int, ...] = (1, 2),
) -> Path:
    """Write a set as it is on disk; returns the data folder."""
    folder = root / "refer_seg" / name
    folder.mkdir(parents=True, exist_ok=True)
    part = "saiapr_tc-12" if name == "refclef" else "mscoco/images/train2014"
    image_folder = root / "refer_seg" / "images" / part
    for number in images:
        file = image_folder / file_name(number, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
    instances = {
        "images": [
            {"id": n, "file_name": file_name(n, name), "height": SIZE[0], "width": SIZE[1]}
            for n in images
        ],
        "annotations": [
            {"id": n, "image_id": 1, "segmentation": s, "iscrowd": int(n == 13), "category_id": 1}
            for n, s in (segmentations or SEGMENTATIONS).items()
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    path = folder / f"refs({split_by or SPLIT_BY[name]}).p"
    path.write_bytes(pickle.dumps(refs, 2))
    return root


def file_name(number: int, name: str) -> str:
    return f"{number:02d}/images/{number}.jpg" if name == "refclef" else f"COCO_{number:012d}.jpg"


EVERY_FORM = [ref(n, n, "val", f"form {n}") for n in SEGMENTATIONS] + [
    ref(20, [10, 15], "val", "both"),
    ref(21, [10], "val", "one in a list"),
    ref(22, -1, "val", "nothing"),
    ref(23, [-1], "val", "nothing in a list"),
    ref(24, 10, "val", "First ", ("gone", {"exist": False}), "third"),
    ref(25, 10, "val", ("false", {"is_false_premise": True, "gt_sent": "the box"})),
    ref(26, 10, "val", ("true", {"is_false_premise": False, "exist": True})),
]
EXPECTED = [(f"form {n}", True, TRUTH[n]) for n in SEGMENTATIONS] + [
    ("both", True, TRUTH[10] | TRUTH[15]),
    ("one in a list", True, TRUTH[10]),
    ("nothing", False, NONE),
    ("nothing in a list", False, NONE),
    ("first", True, TRUTH[10]),
    ("gone", False, NONE),
    ("third", True, TRUTH[10]),
    ("false", False, NONE),
    ("true", True, TRUTH[10]),
]


@pytest.mark.parametrize("name", SPLIT_BY)
def test_every_form_of_a_mask_in_every_set(tmp_path, name):
    data = write_set(tmp_path, EVERY_FORM, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        (item,) = ReferSegEval(data, name, "val")
    assert item.image.shape == (*SIZE, 3)
    assert item.image_path.endswith(file_name(1, name))
    assert len(item.questions) == len(EXPECTED)
    for question, (text, exists, mask) in zip(item.questions, EXPECTED, strict=True):
        asked = f"What is {text} in this image? Please output segmentation mask."
        assert question.text == asked
        assert question.exists is exists
        assert question.kind == ("expression" if exists else "absent")
        assert question.truth.dtype == np.uint8 and (question.truth == mask).all(), text


def test_the_sources_are_those_of_the_layout():
    assert {name: source.split_by[0] for name, source in SOURCES.items()} == SPLIT_BY


def test_splits_images_and_their_order(tmp_path):
    refs = [
        ref(1, 10, "testA", "a", image_id=1),
        ref(2, -1, "testA", "b", image_id=2),
        ref(3, 11, "testA", "c", "d", image_id=1),
        ref(4, -1, "train", "e", image_id=2),
        ref(5, 12, "val", "f", image_id=1),
        ref(6, 12, "testB", "g", image_id=1),
        ref(7, 12, "test", "h", image_id=1),
        ref(8, 12, "test", image_id=2),
    ]
    data = write_set(tmp_path, refs)

    def asked(split: str, **more) -> list[list[str]]:
        items = ReferSegEval(data, "refcoco", split, **more)
        return [[q.text.split()[2] for q in item.questions] for item in items]

    assert asked("testA") == [["a", "c", "d"], ["b"]]
    assert asked("testA", false_premises=False) == [["a", "c", "d"]]
    assert asked("train") == [["e"]] and asked("train", false_premises=False) == []
    assert [asked(split) for split in ("val", "testB", "test")] == [[["f"]], [["g"]], [["h"]]]
    with pytest.raises(InputError, match="'testC'.*testA, train, val, testB, test"):
        ReferSegEval(data, "refcoco", "testC")


@pytest.mark.parametrize("name", ["refcoco", "refcocog", "R-refcocog", "fprefcoco+"])
@pytest.mark.parametrize("there", ["unc", "umd", "google", "berkeley"])
def test_the_original_splits_are_used_with_a_warning(tmp_path, name, there):
    data = write_set(tmp_path, [ref(1, 10, "train", "a")], name, there)
    with pytest.warns(UserWarning, match="validation images may be in the training split") as seen:
        ReferSegTrain(data, name, SamplingOptions())
    assert len(seen) == 1 and f"refs({there}).p is used" in str(seen[0].message)
    write_set(tmp_path, [ref(1, 10, "train", "b")], name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sample = ReferSegTrain(data, name, SamplingOptions()).sample(0)
        item = ReferSegEval(data, name, "train", split_by=there)[0]
    assert "What is b in" in sample.questions[0]
    assert "What is a in" in item.questions[0].text


def test_missing_files_and_unknown_names(tmp_path):
    data = write_set(tmp_path, [ref(1, 10, "val", "a")], split_by="google")
    with pytest.raises(InputError, match=r"no refs\(unc\)\.p.*there: refs\(google\)\.p"):
        ReferSegEval(data, "refcoco", "val", split_by="unc")
    with pytest.raises(InputError, match=r"refcoco\+.*no refs file at all.*refer"):
        ReferSegEval(data, "refcoco+", "val")
    with pytest.raises(InputError, match=r"'coco'.*refclef, refcoco"):
        ReferSegTrain(data, "coco||refcoco", SamplingOptions())
    with (
        pytest.warns(UserWarning, match="is used"),
        pytest.raises(InputError, match="no split 'train'"),
    ):
        ReferSegTrain(data, "refcoco", SamplingOptions())
    (data / "refer_seg" / "refcoco" / "instances.json").unlink()
    with pytest.raises(InputError, match=r"instances\.json"):
        ReferSegEval(data, "refcoco", "val", split_by="google")


def test_json_without_the_pickle_is_enough(tmp_path):
    data = write_set(tmp_path, EVERY_FORM)
    path = data / "refer_seg" / "refcoco" / "refs(unc_exclude_unified).p"
    path.with_suffix(".json").write_text(json.dumps(pickle.loads(path.read_bytes())))
    path.unlink()
    (item,) = ReferSegEval(data, "refcoco", "val")
    assert [q.exists for q in item.questions] == [exists for _, exists, _ in EXPECTED]


MIXED = [
    ref(1, 11, "train", "the box", "The Other", "red one", ("no", {"exist": False}), image_id=1),
    ref(2, 10, "train", ("blue", {"is_false_premise": True, "gt_sent": " Green\n"}), image_id=1),
    ref(3, -1, "train", "nowhere", image_id=2),
    ref(4, 10, "val", "not for training", image_id=1),
]


@pytest.mark.parametrize("name", ["refcoco", "R-refcoco", "fprefcoco", "refclef"])
def test_training_draws(tmp_path, name):
    train = ReferSegTrain(write_set(tmp_path, MIXED, name), name, SamplingOptions())
    denial = "Sorry, there is no {} in this image"
    blue = denial.format("blue") + (", but there is green." if name == "fprefcoco" else ".")
    answers = {
        "no": denial.format("no") + ".",
        "blue": blue,
        "nowhere": denial.format("nowhere") + ".",
    }
    seen: set[str] = set()
    for index in range(60):
        sample = train.sample(index)
        assert len(sample.conversations) == len(sample.exists) == len(set(sample.questions)) <= 3
        assert len(sample.masks) == sum(sample.exists)
        assert sample.masks.dtype == np.uint8 and (sample.masks == TRUTH[11]).all()
        assert sample.kind == ("expression" if any(sample.exists) else "absent")
        texts = zip(sample.questions, sample.conversations, sample.exists, strict=True)
        for question, conversation, exists in texts:
            asked = question.removeprefix("What is ").split(" in this image?")[0]
            seen.add(asked)
            assert exists is (asked not in answers)
            wanted = answers.get(asked, "Sure, the segmentation result is [SEG].")
            assert conversation.endswith(f"{question} ASSISTANT: {wanted}</s>")
    assert seen == {"the box", "the other", "red one", *answers}


def test_sets_of_a_mixture_are_drawn_alike(tmp_path):
    for name, count in (("refcoco", 1), ("refcoco+", 9)):
        refs = [ref(n, 10, "train", f"{name} {n}") for n in range(count)]
        data = write_set(tmp_path, refs, name)
    train = ReferSegTrain(data, "refcoco||refcoco+", SamplingOptions())
    assert len(train) == 2
    plus = np.mean(["refcoco+" in train.sample(n).questions[0] for n in range(400)])
    assert abs(plus - 0.5) < 3 * np.sqrt(0.25 / 400)


def test_blank_sentences_are_evaluated_but_not_trained(tmp_path):
    refs = [ref(1, 10, split, " ", "word") for split in ("train", "val")]
    data = write_set(tmp_path, refs)
    train = ReferSegTrain(data, "refcoco", SamplingOptions())
    assert all(len(train.sample(n).questions) == 1 for n in range(5))
    assert len(ReferSegEval(data, "refcoco", "val")[0].questions) == 2
    write_set(tmp_path, [ref(1, 10, "train", " ")])
    with pytest.raises(InputError, match="no sentence to ask"):
        ReferSegTrain(data, "refcoco", SamplingOptions()).sample(0)


def fingerprint(source: ReferSegTrain | ReferSegEval) -> list:
    if isinstance(source, ReferSegEval):
        return [[q.text for q in item.questions] for item in source]
    samples = [source.sample(index) for index in (5, 0, 11, 2**41)]
    return [[s.image_path, s.conversations, int(s.masks.sum())] for s in samples]


def report(train: ReferSegTrain, results) -> None:
    results.put(fingerprint(train))


def test_draws_depend_on_seed_and_index_alone(tmp_path):
    data = write_set(tmp_path, MIXED + EVERY_FORM)
    varied = load_templates("varied")
    for make in (
        lambda seed: ReferSegTrain(data, "refcoco", SamplingOptions(templates=varied, seed=seed)),
        lambda seed: ReferSegEval(data, "refcoco", "val", templates=varied, seed=seed),
    ):
        first = fingerprint(make(3))
        assert fingerprint(make(3)) == fingerprint(pickle.loads(pickle.dumps(make(3)))) == first
        assert fingerprint(make(4)) != first


def test_another_process_draws_the_same(tmp_path):
    data = write_set(tmp_path, MIXED)
    settings = SamplingOptions(templates=load_templates("varied"), seed=3)
    train = ReferSegTrain(data, "refcoco", settings)
    expected = fingerprint(train)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    worker = context.Process(target=report, args=(train, results))
    worker.start()
    assert results.get(timeout=60) == expected
    worker.join()
