"""One's own data: the three forms as documented, training and evaluation, and mistakes in them."""

from __future__ import annotations

import json
import pickle
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.doctor.__main__ import main as check_data
from dataset.flag_checks import own_names
from dataset.own.sets import OwnEval, OwnTrain
from dataset.preview import PreviewOptions
from dataset.sampling import SamplingOptions
from utils.cli.options import TestOptions, TrainOptions
from utils.cli.parser import resolve
from utils.errors import InputError

SIZE = (60, 80)
PAGE = Path(__file__).parents[3] / "docs" / "own_data.md"
EXAMPLES = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.S)]
SETTINGS = SamplingOptions(seed=5)


def box(left: int, top: int, right: int, bottom: int, value: int = 1) -> np.ndarray:
    """uint8[H, W] with a box; right and bottom are outside of it."""
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = value
    return mask


def image(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_pair(root: Path, content: object, name: str = "cup.jpg", split: str = "train") -> None:
    image(root / "own" / "mine" / split / name)
    path = (root / "own" / "mine" / split / name).with_suffix(".json")
    path.write_text(json.dumps(content), encoding="utf-8")


def write_table(root: Path, content: object, split: str = "train") -> Path:
    image(root / "own" / "mine" / "images" / "kitchen" / "cup.jpg")
    path = root / "own" / "mine" / f"{split}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def changed(number: int, **changes) -> dict:
    """A copy of a documented example with other values; None removes a key."""
    copy = json.loads(json.dumps(EXAMPLES[number]))
    target = copy[0] if isinstance(copy, list) else copy
    for key, value in changes.items():
        target[key] = value
        if value is None:
            del target[key]
    return copy


def test_the_documented_pair(tmp_path):
    write_pair(tmp_path, EXAMPLES[0])
    assert own_names(tmp_path) == ["mine"]
    item = OwnEval(tmp_path, "mine", "train")[0]
    truth = box(10, 10, 41, 31) + box(50, 5, 61, 16, 255)
    assert [q.exists for q in item.questions] == [True, False]
    assert (item.questions[0].truth == truth).all()
    assert item.questions[0].text == (
        "What is the thing one drinks from in this image? Please output segmentation mask."
    )
    assert (item.questions[1].truth == np.where(truth == 255, 255, 0)).all()
    assert item.questions[1].answer_hint == "There is no teapot here, but there is a cup."
    train = OwnTrain(tmp_path, "mine", SETTINGS)
    samples = [train.sample(index) for index in range(200)]
    present = [sample for sample in samples if sample.exists[0]]
    assert 10 <= 200 - len(present) <= 50
    for sample in present:
        assert sample.masks.dtype == np.uint8 and len(sample.masks) == 2
        assert (sample.masks == box(10, 10, 41, 31)).all()
    denied = next(sample for sample in samples if not sample.exists[0])
    assert denied.kind == "absent" and denied.masks.shape == (0, *SIZE)
    assert "There is no teapot here, but there is a cup." in denied.conversations[0]


def test_the_documented_list(tmp_path):
    write_table(tmp_path, EXAMPLES[1], split="val")
    item = OwnEval(tmp_path, "mine", "val")[0]
    assert item.image_path.endswith("images/kitchen/cup.jpg") and item.image.shape == (*SIZE, 3)
    assert [(q.text, q.exists) for q in item.questions] == [
        ("What does one drink from? Please output segmentation mask.", True)
    ]
    assert (item.questions[0].truth == box(10, 10, 41, 31)).all()
    assert len(OwnTrain(tmp_path, "mine", SETTINGS, split="val").sample(0).conversations) == 1


def test_the_documented_coco(tmp_path):
    write_table(tmp_path, EXAMPLES[2])
    item = OwnEval(tmp_path, "mine", "train")[0]
    plates = box(50, 40, 70, 55)
    plates[:, :2] = 1  # 120 pixels down the columns
    found = {question.text: question for question in item.questions}
    expected = {
        "What is the cup on the left in this image? Please output segmentation mask.": (
            box(10, 10, 40, 30),
            "expression",
        ),
        "What does one drink from? Please output segmentation mask.": (
            box(10, 10, 40, 30),
            "expression",
        ),
        "What is plate in this image? Please output segmentation mask.": (plates, "class"),
        "What is the teapot in this image? Please output segmentation mask.": (
            box(0, 0, 0, 0),
            "absent",
        ),
    }
    assert set(found) == set(expected)
    for text, (truth, kind) in expected.items():
        assert (found[text].truth == truth).all(), text
        assert found[text].kind == kind and found[text].exists == (kind != "absent")
    assert len(OwnEval(tmp_path, "mine", "train", false_premises=False)[0].questions) == 3


def test_instances_with_and_without_sentences(tmp_path):
    content = changed(2)
    content["annotations"][2]["sentences"] = ["the cup on the left", "the old plate"]
    content["images"][0]["absent"] = ["Where is the cow?"]
    write_table(tmp_path, content)
    old_plate, left_cup = box(0, 0, 2, 60), box(10, 10, 40, 30)
    masks = {q.text: q.truth for q in OwnEval(tmp_path, "mine", "train")[0].questions}
    by_start = {text[:20]: mask for text, mask in masks.items()}
    assert (by_start["What is the cup on t"] == (left_cup | old_plate)).all()
    assert (by_start["What is the old plat"] == old_plate).all()
    assert (by_start["What is plate in thi"] == (old_plate | box(50, 40, 70, 55))).all()
    train = OwnTrain(tmp_path, "mine", SamplingOptions(num_classes_per_sample=9))
    denied = next(s for s in map(train.sample, range(100)) if not s.exists[0])
    assert "there is no such thing" in denied.conversations[0]
    assert "where is the cow" not in denied.conversations[0].partition("ASSISTANT:")[2].lower()


def test_draws_follow_from_seed_and_index_and_travel_to_workers(tmp_path):
    write_table(tmp_path, EXAMPLES[2])
    train = OwnTrain(tmp_path, "mine", SETTINGS)
    again = pickle.loads(pickle.dumps(OwnTrain(tmp_path, "mine", SETTINGS)))
    other = OwnTrain(tmp_path, "mine", SamplingOptions(seed=6))
    told = [train.sample(index).conversations for index in range(20)]
    assert told == [again.sample(index).conversations for index in range(20)]
    assert told != [other.sample(index).conversations for index in range(20)]
    assert {len(sample) for sample in told} == {1, 3}  # one false premise; 3 of 3 questions


def test_images_in_the_split_folder_and_absent_only(tmp_path):
    content = changed(2, annotations=[], categories=None)
    content["images"][0]["file_name"] = "photo.webp"
    content["images"].append({"id": 2, "file_name": "unused.jpg"})
    write_table(tmp_path, content)
    image(tmp_path / "own" / "mine" / "train" / "photo.webp")
    train = OwnTrain(tmp_path, "mine", SETTINGS)
    assert len(train) == 1
    assert train.sample(0).exists == [False]
    image(tmp_path / "own" / "mine" / "other" / "photo.png")
    (tmp_path / "own" / "mine" / "other" / "photo.json").write_text(json.dumps(EXAMPLES[0]))
    assert len(OwnTrain(tmp_path, "mine", SETTINGS, "other")) == 1


def test_a_changed_file_is_read_again(tmp_path):
    write_table(tmp_path, EXAMPLES[1])
    assert len(OwnTrain(tmp_path, "mine", SETTINGS)) == 1
    write_table(tmp_path, EXAMPLES[1] * 3)
    assert len(OwnTrain(tmp_path, "mine", SETTINGS)) == 3


def coco(**changes):
    return {key: [{**EXAMPLES[2][key][0], **value}] for key, value in changes.items()}


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg", "C:\\x.jpg", ""])
def test_paths_that_leave_the_folder_are_refused(tmp_path, path):
    image(tmp_path / "own" / "secret.jpg")
    for content in (changed(1, image=path), changed(2, **coco(images={"file_name": path}))):
        write_table(tmp_path, content)
        with pytest.raises(InputError, match=r"leaves the data set's folder|not the path of an im"):
            OwnTrain(tmp_path, "mine", SETTINGS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(1, image=None), r"train\.json, entry 0: expected an object with image"),
        ([7], r"entry 0: expected an object"),
        ([], "asks nothing about any image"),
        ({"shapes": []}, "expected a list of entries with image"),
        (changed(2, annotations={}), "'annotations' must be a list"),
        (changed(2, **coco(images={"id": None})), r"images\[0\]: id is None"),
        (changed(2, images=EXAMPLES[2]["images"] * 2), "id 1 is given twice"),
        (changed(2, **coco(images={"absent": [""]})), "'' is not a sentence"),
        (changed(2, **coco(images={"absent": 5})), "absent must be a list of texts, not 5"),
        (changed(2, **coco(images={"height": -1})), "height and width are"),
        (changed(2, **coco(annotations={"image_id": 9})), "no image has the id 9"),
        (
            changed(2, **coco(annotations={"sentences": ["[SEG] it"]})),
            r"holds <image> or another of \[SEG\]",
        ),
        (
            changed(2, **coco(annotations={"sentences": [], "category_id": 99})),
            r"annotations\[0\] has no sentences, and no category has the id 99",
        ),
        (changed(2, **coco(categories={"name": 3})), r"categories\[0\]: 3 is not a sentence"),
    ],
)
def test_damaged_tables_are_named_at_once(tmp_path, content, message):
    write_table(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        OwnTrain(tmp_path, "mine", SETTINGS)
    assert "train.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(1, image="gone.jpg"), r"entry 0 \(gone.jpg\): no image gone.jpg in"),
        (changed(1, text=[]), "text must hold at least one"),
        (changed(1, text=["<image> what?"]), "none with <image>"),
        (changed(1, shapes=None), "KeyError: 'shapes'"),
        (changed(2, **coco(images={"height": 61})), r"has \(height, width\) \(60, 80\), the file"),
        (changed(2, **coco(annotations={"segmentation": [[1, 2, 3]]})), "image id 1: a segm"),
    ],
)
def test_broken_entries_are_named_when_drawn(tmp_path, content, message):
    write_table(tmp_path, content)
    train = OwnTrain(tmp_path, "mine", SETTINGS)
    with pytest.raises(InputError, match=message) as caught:
        [train.sample(index) for index in range(9)]
    assert "train.json" in str(caught.value)


def test_folders_with_something_missing(tmp_path):
    root = tmp_path / "own" / "mine" / "train"
    with pytest.raises(InputError, match=r"no data set 'mine' at .*there: none"):
        OwnTrain(tmp_path, "mine", SETTINGS)
    root.mkdir(parents=True)
    with pytest.raises(InputError, match="no images"):
        OwnTrain(tmp_path, "mine", SETTINGS)
    write_pair(tmp_path, EXAMPLES[0])
    image(root / "bare.png")
    with pytest.raises(InputError, match=r"bare\.png has no annotation bare\.json"):
        OwnTrain(tmp_path, "mine", SETTINGS)
    (root / "bare.png").unlink()
    (root / "alone.json").write_text("{}")
    with pytest.raises(InputError, match=r"alone\.json has no image"):
        OwnTrain(tmp_path, "mine", SETTINGS)
    (root / "alone.json").unlink()
    image(root / "cup.png")
    with pytest.raises(InputError, match="several images are called cup"):
        OwnTrain(tmp_path, "mine", SETTINGS)
    with pytest.raises(InputError, match=r"no split 'val' in .*there: train"):
        OwnEval(tmp_path, "mine", "val")
    for name in ("../mine", "", "a/b", "."):
        with pytest.raises(InputError, match="plain name"):
            OwnTrain(tmp_path, name, SETTINGS)
        with pytest.raises(InputError, match="plain name"):
            OwnTrain(tmp_path, "mine", SETTINGS, name)


def test_the_documented_commands(tmp_path):
    write_pair(tmp_path, EXAMPLES[0])
    write_pair(tmp_path, EXAMPLES[0], split="val")
    write_table(tmp_path, EXAMPLES[2], split="test")
    text = PAGE.read_text().replace("\\\n", " ")
    text = text.replace("DATASET_DIR", str(tmp_path)).replace("NAME", "mine")
    commands = [shlex.split(line) for line in re.findall(r"^((?:python|bash) .*)$", text, re.M)]
    assert [command[:3] for command in commands] == [
        ["python", "-m", "dataset.doctor"],
        ["python", "-m", "dataset.preview"],
        ["bash", "train_read.sh", "ReasonSeg"],
        ["python", "test_read.py", "--dataset_dir"],
    ]
    assert check_data(commands[0][3:]) == 0
    for options, arguments in (
        (PreviewOptions, commands[1][3:]),
        (TrainOptions, commands[2][5:]),
        (TestOptions, commands[3][2:]),
    ):
        if options is TrainOptions:
            arguments = [a.replace("reason_seg||mine", "mine") for a in arguments]
            arguments = [a.replace("1,1", "1") for a in arguments]
        _, problems, _, _ = resolve(options, arguments)
        about_data = [p.message for p in problems if not re.match("--(version|vis|pre)", p.message)]
        assert [m for m in about_data if "SAM" not in m] == []
