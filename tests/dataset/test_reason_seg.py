"""ReasonSeg: annotation files, training draws, evaluation items, and broken files."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset.image import read_image
from dataset.loader import micro_batches
from dataset.reason_seg import ReasonSegEval, ReasonSegTrain, list_split, load_annotation
from dataset.sampling import SamplingOptions
from dataset.templates import load_templates
from utils.errors import InputError

SIZE = (40, 60)


def write_pair(folder: Path, name: str, seed: int = 0, **changes) -> Path:
    """An image with a target, an ignored and a flagged polygon; returns the annotation's path."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.jpg")
    content = {
        "shapes": [
            {"label": "target", "points": [[5, 5], [30, 5], [30, 30], [5, 30]]},
            {"label": "Ignore", "points": [[10, 10], [20, 10], [20, 20], [10, 20]]},
            {"label": "flag", "points": [[0, 0], [59, 0], [59, 39], [0, 39]]},
        ],
        "text": ["The Red Box", "the box"],
        "is_sentence": False,
        "false_premise_QA": [["the cow", False, "Sorry, no cow here."], ["a hat", False, ""]],
        **changes,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "reason_seg" / "ReasonSeg"
    for number in range(4):
        write_pair(root / "train", f"p{number}", number)
    write_pair(root / "test", "phrase")
    write_pair(root / "test", "sentence", is_sentence=True, text=["Where is the box?"])
    return tmp_path


def test_mask_draws_target_then_ignored_and_skips_flags(tmp_path):
    annotation = load_annotation(write_pair(tmp_path, "a"), SIZE)
    expected = np.zeros(SIZE, np.uint8)
    expected[5:31, 5:31] = 1
    expected[10:21, 10:21] = 255
    assert (annotation.mask == expected).all()
    assert annotation.texts == ["The Red Box", "the box"]
    assert [p.question for p in annotation.false_premise] == ["the cow", "a hat"]


def test_smaller_polygons_are_drawn_on_top(tmp_path):
    shapes = [
        {"label": "target", "points": [[10, 10], [20, 10], [20, 20], [10, 20]]},
        {"label": "ignore", "points": [[5, 5], [30, 5], [30, 30], [5, 30]]},
    ]
    mask = load_annotation(write_pair(tmp_path, "a", shapes=shapes), SIZE).mask
    assert mask[15, 15] == 1
    assert mask[7, 7] == 255


def test_cp1252_is_read(tmp_path):
    path = write_pair(tmp_path, "a")
    content = json.loads(path.read_text())
    content["text"] = ["café"]
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode("cp1252"))
    assert load_annotation(path, SIZE).texts == ["café"]


def test_no_shapes_is_an_empty_mask(tmp_path):
    assert load_annotation(write_pair(tmp_path, "a", shapes=[]), SIZE).mask.sum() == 0


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": None},
        {"shapes": [{"label": "target"}]},
        {"shapes": [{"label": 3, "points": [[1, 2]]}]},
        {"shapes": [{"label": "target", "points": [["a", "b"]]}]},
        {"shapes": [{"label": "target", "points": [[1, 2, 3]]}]},
        {"shapes": [{"label": "target", "points": 7}]},
        {"text": []},
        {"text": [3]},
        {"text": None},
        {"false_premise_QA": [[]]},
        {"false_premise_QA": 5},
    ],
)
def test_damaged_annotations_name_the_file(tmp_path, change):
    path = write_pair(tmp_path, "broken", **change)
    with pytest.raises(InputError, match=r"broken\.json"):
        load_annotation(path, SIZE)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff\x00\x81", b"[" * 100_000])
def test_files_that_are_no_json_name_the_file(tmp_path, raw):
    path = tmp_path / "broken.json"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"broken\.json"):
        load_annotation(path, SIZE)


def test_draws_depend_on_seed_and_index_alone(data):
    varied = load_templates("varied")
    first, second = (
        ReasonSegTrain(data, settings=SamplingOptions(templates=varied, seed=3)) for _ in range(2)
    )
    for index in (5, 0, 11):
        a, b = first.sample(index), second.sample(index)
        assert (a.image_path, a.conversations) == (b.image_path, b.conversations)
        assert (a.masks == b.masks).all()
    other = ReasonSegTrain(data, settings=SamplingOptions(templates=varied, seed=4))
    assert [first.sample(i).conversations for i in range(20)] != [
        other.sample(i).conversations for i in range(20)
    ]


def test_one_mask_for_each_seg_and_ignored_pixels_are_background(data):
    train = ReasonSegTrain(data, settings=SamplingOptions(num_classes_per_sample=2))
    for index in range(40):
        sample = train.sample(index)
        assert sample.masks.shape == (sum(c.count("[SEG]") for c in sample.conversations), *SIZE)
        assert set(np.unique(sample.masks)) <= {0, 1}
        if sample.exists[0]:
            assert sample.masks[0, 7, 7] == 1
            assert sample.masks[0, 15, 15] == 0
            assert "What is the red box in" in "".join(sample.conversations)
        else:
            assert "[SEG]" not in "".join(sample.conversations)
            assert any("Sorry, no cow here." in c for c in sample.conversations)


def test_share_of_false_premises(data, monkeypatch):
    """20,000 draws; images and annotations are decoded once."""
    monkeypatch.setattr("dataset.reason_seg.read_image", functools.cache(read_image))
    monkeypatch.setattr("dataset.reason_seg.load_annotation", functools.cache(load_annotation))
    train = ReasonSegTrain(data, settings=SamplingOptions(seed=1))
    number = 20_000
    share = np.mean([not train.sample(index).exists[0] for index in range(number)])
    assert abs(share - 0.15) < 3 * np.sqrt(0.15 * 0.85 / number)


def test_false_premise_phrases_keep_their_case(tmp_path):
    """True phrases are asked in lower case, false ones as they are written."""
    premises = [["the Brown Cow", False, "No cow."], ["a HAT", False, ""]]
    write_pair(tmp_path / "reason_seg/ReasonSeg/train", "a", false_premise_QA=premises)
    train = ReasonSegTrain(tmp_path, settings=SamplingOptions())
    asked = {q for index in range(200) for q in train.sample(index).questions}
    frame = "What is {} in this image? Please output segmentation mask."
    phrases = ("the red box", "the box", "the Brown Cow", "a HAT")
    assert asked == {frame.format(phrase) for phrase in phrases}
    questions = ReasonSegEval(tmp_path, "train", false_premises=True)[0].questions
    evaluated = ("the red box", "the Brown Cow", "a HAT")
    assert [q.text for q in questions] == [frame.format(phrase) for phrase in evaluated]


def test_without_false_premises_every_draw_asks_for_the_object(tmp_path):
    write_pair(tmp_path / "reason_seg" / "ReasonSeg" / "train", "only", false_premise_QA=[])
    train = ReasonSegTrain(tmp_path)
    assert all(all(train.sample(index).exists) for index in range(50))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_and_the_first_step_change_nothing(data, workers):
    train = ReasonSegTrain(data, settings=SamplingOptions(seed=3))

    def drawn(first: int, workers: int) -> list[list[str]]:
        loader = micro_batches(
            train, list, micro_steps=(first, 8), batch_size=2, rank=0, world_size=1, workers=workers
        )
        return [[c for sample in step.batch for c in sample.conversations] for step in loader]

    alone = drawn(0, 0)
    assert drawn(0, workers) == alone
    assert drawn(3, workers) == alone[3:]


def test_evaluation_asks_the_first_sentence_and_keeps_ignored_pixels(data):
    items = ReasonSegEval(data, "test")
    assert len(items) == 2
    question = items[0].questions[0]
    assert question.text == "What is the red box in this image? Please output segmentation mask."
    assert question.truth[15, 15] == 255
    assert items[1].questions[0].text == "Where is the box? Please output segmentation mask."


def test_evaluation_asks_false_premises_when_told(data):
    questions = ReasonSegEval(data, "test", false_premises=True)[0].questions
    assert [q.exists for q in questions] == [True, False, False]
    assert [q.kind for q in questions[1:]] == ["absent", "absent"]
    assert set(np.unique(questions[1].truth)) == {0, 255}


def test_evaluation_with_varied_templates_asks_the_same_every_time(data):
    varied = load_templates("varied")

    def asked(seed: int) -> list[str]:
        items = ReasonSegEval(data, "train", True, varied, seed)
        return [question.text for item in items for question in item.questions]

    assert asked(42) == asked(42) != asked(43)
    backwards = ReasonSegEval(data, "train", True, varied)
    assert [q.text for n in (3, 2, 1, 0) for q in backwards[n].questions][-3:] == asked(42)[:3]
    assert len({text.replace("the red box", "") for text in asked(42)[::3]}) > 1


def test_polygons_are_filled_by_the_rule_that_is_asked_for(tmp_path):
    """OpenCV 4.8 and 4.11 round where slanted edges cross a row to different columns."""
    shapes = [{"label": "target", "points": [[19, 6], [9, 36], [1, 30], [24, 18], [31, 30]]}]
    folder = tmp_path / "reason_seg" / "ReasonSeg" / "train"
    write_pair(folder, "a", shapes=shapes)
    expected = {}
    for fill in ("4.8", "4.11"):
        expected[fill] = load_annotation(folder / "a.json", SIZE, fill).mask
        item = ReasonSegEval(tmp_path, "train", polygon_fill=fill)[0]
        assert np.array_equal(item.questions[0].truth, expected[fill])
        settings = SamplingOptions(polygon_fill=fill)
        sample = ReasonSegTrain(tmp_path, "ReasonSeg|train", settings).sample(0)
        assert np.array_equal(sample.masks[0], expected[fill] == 1)
    assert (expected["4.8"] != expected["4.11"]).any()
    assert np.array_equal(load_annotation(folder / "a.json", SIZE).mask, expected["4.11"])


def test_overall_is_the_whole_test_split(data):
    assert ReasonSegEval(data, "overall").pairs == ReasonSegEval(data, "test").pairs


def test_short_and_long_split_by_is_sentence(data):
    assert [Path(i.image_path).stem for i in ReasonSegEval(data, "short")] == ["phrase"]
    assert [Path(i.image_path).stem for i in ReasonSegEval(data, "long")] == ["sentence"]


def test_missing_data_say_where_they_come_from(tmp_path, data):
    with pytest.raises(InputError, match="LISA"):
        list_split(tmp_path / "nowhere", "train")
    (data / "reason_seg" / "ReasonSeg" / "train" / "p0.json").unlink()
    with pytest.raises(InputError, match=r"p0\.jpg"):
        list_split(data, "train")
    with pytest.raises(InputError, match=r"ReasonSeg\|SPLIT"):
        ReasonSegTrain(data, "Reason|")


def test_a_broken_image_names_the_file(data):
    folder = data / "reason_seg" / "ReasonSeg" / "test"
    image = folder / "phrase.jpg"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(InputError, match=r"phrase\.jpg"):
        ReasonSegEval(data, "test")[0]


def test_random_damage_gives_a_mask_of_the_right_size_or_an_error_with_the_name(tmp_path):
    path = write_pair(tmp_path, "broken")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        raw = bytearray(whole)
        for place in rng.integers(0, len(raw), size=rng.integers(1, 6)):
            raw[place] = rng.integers(256)
        path.write_bytes(bytes(raw[: rng.integers(1, len(raw) + 1)] if rng.random() < 0.2 else raw))
        try:
            mask = load_annotation(path, SIZE).mask
        except InputError as error:
            assert "broken.json" in str(error)
        else:
            assert mask.shape == SIZE
            assert mask.dtype == np.uint8


def test_polygons_agree_with_an_independent_drawing(tmp_path):
    """Filled by matplotlib's point-in-polygon test instead of OpenCV, away from the outline."""
    from matplotlib.path import Path as Polygon

    corners = [[8.2, 5.9], [50.1, 9.3], [40.7, 33.2], [12.5, 28.8]]
    shapes = [{"label": "target", "points": corners}]
    mask = load_annotation(write_pair(tmp_path, "a", shapes=shapes), SIZE).mask
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    inside = Polygon(corners).contains_points(np.stack([x, y], -1).reshape(-1, 2)).reshape(SIZE)
    edge = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5))) > 0
    assert (mask[~edge] == inside[~edge]).all()


def test_a_sentence_without_answer_is_denied_in_proper_english(tmp_path):
    folder = tmp_path / "reason_seg" / "ReasonSeg" / "train"
    write_pair(folder, "a", false_premise_QA=[["Where is the Cow?", True, ""]])
    train = ReasonSegTrain(tmp_path, "ReasonSeg|train", SamplingOptions())
    denied = next(s for s in map(train.sample, range(100)) if not s.exists[0])
    assert denied.questions == ["Where is the Cow? Please output segmentation mask."]
    assert denied.conversations[0].endswith("Sorry, there is no such thing in this image.</s>")
