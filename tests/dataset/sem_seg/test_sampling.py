"""Training draws of classes and parts: what is asked, what is answered, and how often."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest

from dataset.image import read_image
from dataset.sampling import SamplingOptions
from dataset.sem_seg.label_maps import read_label_map
from dataset.sem_seg.sampling import SemSegTrain, phrase
from dataset.templates import load_templates
from tests.dataset.handmade import (
    corners,
    drawn,
    rectangle,
    run_lengths,
    write_ade20k,
    write_cocostuff,
    write_image,
    write_json,
)
from utils.errors import InputError

SIZE = (8, 10)
QUESTION = re.compile(r"What is (.+) in this image\? Please output segmentation mask\.")
DENIAL = re.compile(r"Sorry, there is no (.+?) in this image(?:, but there is (.+))?\.")
QUARTERS = [(0, 0, 5, 4), (5, 0, 10, 4), (0, 4, 5, 8), (5, 4, 10, 8)]
MASKS = [rectangle(SIZE, *quarter) for quarter in QUARTERS]
ADE = {"a": ("wall", "building", "sky", "floor"), "b": ("bed", "tree", "bed", "bed")}
ADE_VALUES = {"wall": 1, "building": 2, "sky": 3, "floor": 4, "tree": 5, "bed": 8}
COCO = {"c": ("person", "zebra", "giraffe", "zebra")}
COCO_VALUES = {"person": 0, "zebra": 23, "giraffe": 24}
PASCAL = "vlpart/pascal_part"


def painted(names: tuple[str, ...], values: dict[str, int]) -> np.ndarray:
    return sum(mask * values[name] for mask, name in zip(MASKS, names, strict=True)).astype(
        np.uint8
    )


TRUTH = {
    key: {
        name: sum(mask for mask, own in zip(MASKS, names, strict=True) if own == name)
        for name in names
    }
    for key, names in {**ADE, **COCO}.items()
}
"""Image -> class -> uint8[H, W]."""


def write_parts(root: Path, segmentations: list, names: list[str]) -> None:
    """PASCAL-Part with one image; its first categories have the segmentations."""
    write_image(root / PASCAL / "VOCdevkit/VOC2010/JPEGImages/p.jpg", SIZE)
    image = {"id": 1, "file_name": "p.jpg", "height": SIZE[0], "width": SIZE[1]}
    annotations = [
        {"id": n, "image_id": 1, "category_id": n, "segmentation": segmentation}
        for n, segmentation in enumerate(segmentations)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    content = {"images": [image], "annotations": annotations, "categories": categories}
    write_json(root / PASCAL / "train.json", content)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for key, names in ADE.items():
        write_ade20k(tmp_path, key, painted(names, ADE_VALUES))
    for key, names in COCO.items():
        write_cocostuff(tmp_path, key, painted(names, COCO_VALUES))
    parts = [[corners(*QUARTERS[0])], run_lengths(MASKS[1])]
    write_parts(tmp_path, parts, ["dog:tail", "bus:licence_plate", "cat:ear", "cow:horn"])
    return tmp_path


@pytest.fixture
def cached(monkeypatch):
    """Images and label maps are decoded once."""
    monkeypatch.setattr("dataset.sem_seg.label_maps.read_image", functools.cache(read_image))
    monkeypatch.setattr(
        "dataset.sem_seg.label_maps.read_label_map", functools.cache(read_label_map)
    )


def asked_and_answered(sample) -> list[tuple[str, str]]:
    answers = [text.split("ASSISTANT: ")[1].removesuffix("</s>") for text in sample.conversations]
    return [
        (QUESTION.fullmatch(question)[1], answer)
        for question, answer in zip(sample.questions, answers, strict=True)
    ]


def near(count: int, share: float, total: int) -> bool:
    """Within three standard errors."""
    return abs(count - share * total) < 3 * np.sqrt(share * (1 - share) * total)


@pytest.mark.slow
@pytest.mark.parametrize("premise_draw", ["sample", pytest.param("class", marks=pytest.mark.slow)])
def test_shares_of_sources_images_and_answers(data, cached, premise_draw):
    settings = SamplingOptions(num_classes_per_sample=2, seed=2, premise_draw=premise_draw)
    train = SemSegTrain(data, "ade20k||cocostuff", settings)
    number, images = 20_000, dict.fromkeys("abc", 0)
    answers = {"true": 0, "denied": 0, "corrected": 0}
    firsts, absents = dict.fromkeys(ADE["a"], 0), {0: 0, 1: 0, 2: 0}
    for index in range(number):
        sample = train.sample(index)
        key = Path(sample.image_path).stem
        images[key] += 1
        present = set(TRUTH[key])
        masks, said = iter(sample.masks), set()
        turns = asked_and_answered(sample)
        assert len(turns) == len({name for name, _ in turns}) == 2
        for (name, answer), exists in zip(turns, sample.exists, strict=True):
            if exists:
                assert answer == "Sure, the segmentation result is [SEG]."
                assert (next(masks) == TRUTH[key][name]).all()
                answers["true"] += 1
                said.add("true")
                continue
            denied, instead = DENIAL.fullmatch(answer).groups()
            assert denied == name
            assert name not in present
            assert instead is None or instead in present
            answers["denied" if instead is None else "corrected"] += 1
            said.add("denied" if instead is None else "corrected")
        assert next(masks, None) is None
        assert sample.kind == ("class" if any(sample.exists) else "absent")
        absents[sample.exists.count(False)] += 1
        assert len(said) == 1 or premise_draw == "class"
        if key == "a" and sample.exists[0]:
            firsts[turns[0][0]] += 1
    assert near(images["c"], 0.5, number)
    assert near(images["a"], 0.25, number)
    draws = number if premise_draw == "sample" else 2 * number
    for name, share in (("true", 0.85), ("denied", 0.07), ("corrected", 0.08)):
        assert near(answers[name] * draws / (2 * number), share, draws), name
    if premise_draw == "sample":
        assert absents[1] == 0 and near(absents[2], 0.15, number)
    else:
        assert near(absents[2], 0.15**2, number)  # chosen for each class by itself
    for name, count in firsts.items():
        assert near(count, 0.25, sum(firsts.values())), name


def test_absent_classes_come_from_the_same_source(data, cached):
    train = SemSegTrain(data, "cocostuff", SamplingOptions(seed=1))
    asked = set()
    for sample in map(train.sample, range(3000)):
        turns = zip(asked_and_answered(sample), sample.exists, strict=True)
        asked |= {name for (name, _), exists in turns if not exists}
    usable = {name for name in train.sources[0].classes if name not in TRUTH["c"]}
    assert asked <= usable
    assert len(asked) > 0.9 * len(usable)
    assert not any("-" in name for name in asked)


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (3, 3), (4, 4), (9, 4)])
def test_number_of_classes(data, cached, most, expected):
    train = SemSegTrain(data, "ade20k", SamplingOptions(num_classes_per_sample=most))
    for index in range(30):
        sample = train.sample(index)
        assert len(sample.conversations) == (
            expected if sample.image_path[-5] == "a" else min(most, 2)
        )
        assert sample.masks.shape == (sum(sample.exists), *SIZE)
        assert sample.conversations[0].count("<im_start><image><im_end>\n") == 1


def test_without_an_absent_class_every_question_is_true(data):
    write_parts(data, [[corners(*QUARTERS[0])], run_lengths(MASKS[1])], ["dog:tail", "cat:ear"])
    train = SemSegTrain(data, "pascal_part", SamplingOptions())
    assert all(all(train.sample(index).exists) for index in range(60))


def test_absent_classes_are_not_repeated(data):
    """One absent class for four present ones: it is asked at most once in a sample."""
    names = ["dog:tail", "dog:ear", "dog:eye", "dog:leg", "cow:horn"]
    write_parts(data, [run_lengths(mask) for mask in MASKS], names)
    train = SemSegTrain(data, "pascal_part", SamplingOptions(num_classes_per_sample=4))
    absent = [sample.exists.count(False) for sample in map(train.sample, range(150))]
    assert set(absent) == {0, 1}


@pytest.mark.parametrize(("part_masks", "expected"), [("annotation", 3), ("union", 2)])
def test_masks_of_annotations_or_of_classes(data, part_masks, expected):
    """Two tails in one image: two annotations, each asked alone, or one class."""
    names = ["dog:tail", "dog:tail", "cat:ear"]
    write_parts(data, [run_lengths(mask) for mask in MASKS[:3]], names)
    settings = SamplingOptions(num_classes_per_sample=9, part_masks=part_masks)
    train = SemSegTrain(data, "pascal_part", settings)
    for sample in map(train.sample, range(20)):
        tails = [
            mask
            for (name, _), mask in zip(asked_and_answered(sample), sample.masks, strict=True)
            if "tail" in name
        ]
        assert len(sample.masks) == expected
        assert any((sample.masks[n] == MASKS[2]).all() for n in range(expected))
        if part_masks == "union":
            assert len(tails) == 1 and (tails[0] == MASKS[0] | MASKS[1]).all()
        else:
            tails.sort(key=lambda mask: int(mask.argmax()))
            assert (np.stack(tails) == np.stack(MASKS[:2])).all()


def test_annotations_are_drawn_with_equal_chances(data):
    """Three tails and one ear: three of four questions are about a tail, unless tails are one."""
    names = ["dog:tail", "dog:tail", "dog:tail", "cat:ear"]
    write_parts(data, [run_lengths(mask) for mask in MASKS], names)
    for part_masks, share in (("annotation", 0.75), ("union", 0.5)):
        settings = SamplingOptions(num_classes_per_sample=1, part_masks=part_masks)
        train = SemSegTrain(data, "pascal_part", settings)
        tails = sum("tail" in train.sample(index).questions[0] for index in range(600))
        assert near(tails, share, 600)


@pytest.mark.parametrize(
    ("class_names", "plate"), [("original", "licence_plate"), ("spaces", "licence plate")]
)
def test_parts_are_called_in_two_ways(data, class_names, plate):
    """Half of the parts are "the X of the Y"; underscores stay unless told."""
    settings = SamplingOptions(num_classes_per_sample=1, class_names=class_names)
    train = SemSegTrain(data, "pascal_part", settings)
    truth = {
        "dog tail": MASKS[0],
        "the tail of the dog": MASKS[0],
        f"bus {plate}": MASKS[1],
        f"the {plate} of the bus": MASKS[1],
    }
    absent = {"cat ear", "the ear of the cat", "cow horn", "the horn of the cow"}
    seen = set()
    for index in range(400):
        sample = train.sample(index)
        ((name, answer),) = asked_and_answered(sample)
        seen.add(name)
        if sample.exists[0]:
            assert (sample.masks[0] == truth[name]).all()
        else:
            denied, instead = DENIAL.fullmatch(answer).groups()
            assert denied == name and name in absent
            assert instead is None or instead in truth
    assert seen == set(truth) | absent
    rng = np.random.default_rng(0)
    long = sum(phrase(("dog", "tail"), rng).startswith("the ") for _ in range(20_000))
    assert near(long, 0.5, 20_000)


def test_a_class_without_a_pixel_is_passed_over(data):
    """An empty segmentation is neither asked for nor called absent."""
    names = ["dog:tail", "dog:ear", "cat:ear"]
    write_parts(data, [[], run_lengths(MASKS[2])], names)
    train = SemSegTrain(data, "pascal_part", SamplingOptions())
    for index in range(60):
        sample = train.sample(index)
        assert len(sample.questions) == 1
        assert not re.search("dog tail|the tail", sample.conversations[0])
        assert (sample.masks == MASKS[2]).all()


def test_an_image_without_a_class_is_replaced_by_another(data, tmp_path):
    for number in range(3):
        write_ade20k(data, f"empty{number}", np.zeros(SIZE, np.uint8))
    train = SemSegTrain(data, "ade20k", SamplingOptions())
    found = {Path(train.sample(index).image_path).stem for index in range(40)}
    assert found == {"a", "b"}
    nothing = tmp_path / "nothing"
    write_ade20k(nothing, "empty", np.zeros(SIZE, np.uint8))
    with pytest.raises(InputError, match=r"show no class to ask for, .* ade20k: .*empty\.jpg"):
        SemSegTrain(nothing, "ade20k", SamplingOptions()).sample(0)


def test_varied_templates_leave_no_placeholder(data, cached):
    settings = SamplingOptions(templates=load_templates("varied"), conv_type="llava_llama_2")
    train = SemSegTrain(data, "ade20k||cocostuff||pascal_part", settings)
    for index in range(300):
        sample = train.sample(index)
        assert not re.search(r"\{\w*\}", "".join(sample.conversations))
        counts = [text.count("[SEG]") for text in sample.conversations]
        assert counts == [int(exists) for exists in sample.exists]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_and_the_first_step_change_nothing(data, workers):
    train = SemSegTrain(data, "ade20k||pascal_part", SamplingOptions(seed=5))
    alone = drawn(train, 0, 6, workers=0)
    assert drawn(train, 0, 6, workers) == alone
    assert drawn(train, 2, 6, workers) == alone[2:]
    assert (
        drawn(SemSegTrain(data, "ade20k||pascal_part", SamplingOptions(seed=6)), 0, 6, 0) != alone
    )


@pytest.mark.parametrize("spec", ["", "ade20", "ade20k||", "ade20k|cocostuff"])
def test_unknown_names_are_told_with_the_known_ones(data, spec):
    with pytest.raises(InputError, match="--sem_seg_data .* is unknown; .*ade20k, cocostuff"):
        SemSegTrain(data, spec, SamplingOptions())
