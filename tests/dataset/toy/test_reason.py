"""The toy world: reproducible, unambiguous, and ReasonSeg's part matched where it is scored.

The other data sets: test_sets.py.
"""

import hashlib
import json
import resource
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset.toy import reason
from dataset.toy import world as toy
from dataset.toy.questions import KINDS, QUERIES, absent, answerable, deny
from dataset.toy.scene import MIN_VISIBLE, sample_scene
from utils.errors import InputError
from utils.process.run_lock import LOCK_FILE, RunLock

pytestmark = pytest.mark.slow

IMAGES, SEED = 120, 5


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Path:
    return toy.write_world(tmp_path_factory.mktemp("toy"), IMAGES, SEED)


@pytest.fixture(scope="module")
def world(everything) -> Path:
    return everything / "reason_seg" / "ReasonSeg"


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with a hash of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def annotations(world: Path, split: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((world / split).glob("*.json"))]


def fill(annotation: dict, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for shape in annotation["shapes"]:
        points = np.array([shape["points"]], np.int32)
        cv2.polylines(mask, points, True, 1, 1)
        cv2.fillPoly(mask, points, 1)
    return mask


def test_the_same_seed_gives_the_same_bytes(everything, tmp_path):
    files = tree(everything)
    assert tree(toy.write_world(tmp_path / "again", IMAGES, SEED)) == files
    other = tree(toy.write_world(tmp_path / "other", IMAGES, SEED + 1))
    for ending in (".jpg", ".png", ".p", "instances.json", "150k.json"):
        mine = [digest for name, digest in files.items() if name.endswith(ending)]
        assert mine and set(mine).isdisjoint(v for n, v in other.items() if n.endswith(ending))


@pytest.mark.parametrize("name", toy.SETS)
def test_a_set_alone_is_the_same_as_among_others(everything, tmp_path, name):
    alone = tree(toy.write_world(tmp_path, IMAGES, SEED, [name]))
    assert alone and alone.items() <= tree(everything).items()


def test_every_split_has_images_with_annotations(world):
    for split, count in reason.split_sizes(IMAGES).items():
        images = {path.stem for path in (world / split).glob("*.jpg")}
        assert len(images) == count
        assert images == {path.stem for path in (world / split).glob("*.json")}
    assert sum(reason.split_sizes(IMAGES).values()) == IMAGES


def test_an_annotation_has_the_keys_of_reasonseg_and_a_kind(world):
    for split in reason.SPLITS:
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
            shapes = [{"points": points} for points in reason.polygons(mask)]
            assert np.array_equal(fill({"shapes": shapes}, mask.shape), mask)


def test_written_images_and_masks_fit_together(world):
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


@pytest.mark.parametrize(
    "images, seed, sets, word",
    [
        (3, 0, toy.SETS, "--images 3"),
        (50, -1, toy.SETS, "--seed -1"),
        (50, 0, ["vqa", "video"], r"--sets vqa\|\|video"),
        (50, 0, [""], "--sets"),
        (50, 0, [], "--sets"),
    ],
)
def test_impossible_requests_are_refused(tmp_path, images, seed, sets, word):
    with pytest.raises(InputError, match=word):
        toy.write_world(tmp_path, images, seed, sets)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", toy.FOLDERS)
def test_other_files_are_never_replaced(tmp_path, capsys, folder):
    place = tmp_path / folder / "mine.txt"
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    assert toy.main(["--out", str(tmp_path), "--images", "30"]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert tree(tmp_path) == {f"{folder}/mine.txt": hashlib.sha256(b"mine").hexdigest()}


def test_two_at_once_and_a_full_disk(tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunLock(tmp_path / LOCK_FILE, f"the folder {tmp_path}", "choose another --out"):
        assert toy.main(["--out", str(tmp_path), "--images", "30"]) == 2
    assert f"error: the folder {tmp_path} is in use by process " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        assert toy.main(["--out", str(tmp_path), "--images", "30"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert f"error: cannot write the toy world to {tmp_path} (File too large)" in said
    assert toy.main(["--out", str(tmp_path), "--images", "30"]) == 0


def test_a_second_run_replaces_the_first(tmp_path):
    sets = ["refer_seg", "reason_seg"]
    toy.write_world(tmp_path, 12, 0, sets)
    index = tmp_path / "refer_seg" / "refcoco" / ".read_index"
    index.mkdir()
    (index / "old.sqlite").write_text("")
    own = tmp_path / "reason_seg" / "ReasonSeg" / "mine" / "0.jpg"
    own.parent.mkdir()
    own.write_text("mine")
    toy.write_world(tmp_path, 6, 0, sets)
    again = toy.write_world(tmp_path / "again", 6, 0, sets)
    files = tree(tmp_path)
    kept = {f"again/{name}": digest for name, digest in tree(again).items()}
    kept["reason_seg/ReasonSeg/mine/0.jpg"] = hashlib.sha256(b"mine").hexdigest()
    assert files == {**tree(again), **kept}


def test_fewer_sets_leave_nothing_of_an_older_world(tmp_path):
    toy.write_world(tmp_path, 6, 0)
    assert toy.main(["--out", str(tmp_path), "--images", "6", "--sets", "vqa||reason_seg"]) == 0
    found = {str(Path(name).parts[0]) for name in tree(tmp_path)}
    assert found == {"coco", "llava_dataset", "reason_seg"}


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="out"):
        toy.write_world(tmp_path / "out", 6, 0)
