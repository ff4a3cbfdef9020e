"""The toy world: reproducible, unambiguous, in ReasonSeg's form, and matched where it is scored."""

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset import toy
from dataset.toy_questions import KINDS, QUERIES, absent, answerable, deny
from dataset.toy_scene import MIN_VISIBLE, sample_scene
from utils.errors import InputError

IMAGES, SEED = 120, 5


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return toy.write_world(tmp_path_factory.mktemp("toy"), IMAGES, SEED)


def annotations(world: Path, split: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((world / split).glob("*.json"))]


def fill(annotation: dict, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for shape in annotation["shapes"]:
        points = np.array([shape["points"]], np.int32)
        cv2.polylines(mask, points, True, 1, 1)
        cv2.fillPoly(mask, points, 1)
    return mask


def test_the_same_seed_gives_the_same_bytes(world, tmp_path):
    again = toy.write_world(tmp_path / "again", IMAGES, SEED)
    other = toy.write_world(tmp_path / "other", IMAGES, SEED + 1)
    files = sorted(path.relative_to(world) for path in world.rglob("*.*"))
    assert files == sorted(path.relative_to(again) for path in again.rglob("*.*"))
    assert all((world / f).read_bytes() == (again / f).read_bytes() for f in files)
    assert any((world / f).read_bytes() != (other / f).read_bytes() for f in files)


def test_every_split_has_pictures_with_annotations(world):
    for split, count in toy.split_sizes(IMAGES).items():
        pictures = {path.stem for path in (world / split).glob("*.jpg")}
        assert len(pictures) == count
        assert pictures == {path.stem for path in (world / split).glob("*.json")}
    assert sum(toy.split_sizes(IMAGES).values()) == IMAGES


def test_an_annotation_has_the_keys_of_reasonseg_and_a_kind(world):
    for split in toy.SPLITS:
        for number, annotation in enumerate(annotations(world, split)):
            assert set(annotation) == {
                "shapes", "text", "is_sentence", "false_premise_QA", "kind"
            }  # fmt: skip
            assert annotation["kind"] == KINDS[number % len(KINDS)]
            assert annotation["text"] and annotation["shapes"]
            assert (
                all(text.endswith(("?", ".")) for text in annotation["text"])
                == (annotation["is_sentence"])
            )
            for question, is_sentence, answer in annotation["false_premise_QA"]:
                assert isinstance(question, str) and isinstance(is_sentence, bool)
                assert answer.startswith("Sorry, there is no ")


def test_validation_and_test_questions_are_matched(world):
    for split in ("val", "test"):
        rows = annotations(world, split)
        true = Counter((row["text"][0], row["is_sentence"]) for row in rows)
        false = Counter((q, s) for row in rows for q, s, _ in row["false_premise_QA"])
        assert true == false
        assert all(len(row["text"]) == 1 for row in rows)


def test_polygons_give_back_the_visible_part():
    rng = np.random.default_rng(3)
    for _ in range(40):
        scene = sample_scene(rng)
        for mask in scene.masks:
            shapes = [{"points": points} for points in toy.polygons(mask)]
            assert np.array_equal(fill({"shapes": shapes}, mask.shape), mask)


def test_written_pictures_and_masks_fit_together(world):
    for path in sorted((world / "test").glob("*.json")):
        image = np.asarray(Image.open(path.with_suffix(".jpg")).convert("RGB")).astype(int)
        inside = fill(json.loads(path.read_text()), image.shape[:2]) > 0
        assert 0.01 < inside.mean() < 0.4
        colour = np.median(image[inside], axis=0)
        assert colour.max() - colour.min() > 60, "a thing is colourful, the ground is not"


def test_scenes_keep_their_rules():
    rng = np.random.default_rng(4)
    overlapping = 0
    for _ in range(60):
        scene = sample_scene(rng)
        assert 2 <= len(scene.things) == len(scene.masks) <= 4
        assert len({thing.place for thing in scene.things}) == len(scene.things)
        assert len({thing.name for thing in scene.things}) == len(scene.things)
        assert scene.masks.sum(axis=0).max() == 1
        assert scene.image.shape[:2] == scene.masks.shape[1:]
        boxes = [cv2.boundingRect(mask) for mask in scene.masks]
        overlapping += any(
            a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
            for i, a in enumerate(boxes)
            for b in boxes[:i]
        )
    assert overlapping > 10 and 0 < MIN_VISIBLE < 1


def test_questions_are_unambiguous():
    rng = np.random.default_rng(6)
    for _ in range(60):
        things = sample_scene(rng).things
        for kind in KINDS:
            assert all(query.count(things) == 1 for query in answerable(things, kind))
            assert all(query.count(things) == 0 for query in absent(things, kind))


def test_no_wording_has_two_meanings():
    meanings: dict[str, set] = {}
    for queries in QUERIES.values():
        for query in queries:
            for text in (*query.phrases, *query.sentences):
                meanings.setdefault(text.lower(), set()).add(query.wanted)
    assert all(len(wanted) == 1 for wanted in meanings.values())


def test_a_correction_names_something_that_is_there():
    rng = np.random.default_rng(7)
    for _ in range(30):
        things = sample_scene(rng).things
        for query in absent(things, "colour"):
            answer = deny(query, things, correct=True)
            assert any(answer.endswith(f" {thing.name}.") for thing in things)
            assert deny(query, things, correct=False).endswith("in the image.")


@pytest.mark.parametrize("images, seed, word", [(3, 0, "--images 3"), (50, -1, "--seed -1")])
def test_impossible_sizes_are_refused(tmp_path, images, seed, word):
    with pytest.raises(InputError, match=word):
        toy.write_world(tmp_path, images, seed)


def test_other_files_are_never_replaced(tmp_path, capsys):
    folder = tmp_path / "reason_seg" / "ReasonSeg"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    assert toy.main(["--out", str(tmp_path), "--images", "30"]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert (folder / "mine.txt").read_text() == "mine"


def test_a_second_run_replaces_the_first(tmp_path):
    assert toy.main(["--out", str(tmp_path), "--images", "40"]) == 0
    assert toy.main(["--out", str(tmp_path), "--images", "20"]) == 0
    root = tmp_path / "reason_seg" / "ReasonSeg"
    assert len(list(root.rglob("*.jpg"))) == 20
