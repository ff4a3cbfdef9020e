"""Every training and evaluation set, read by its loader from a toy world in the real layout.

The masks are compared with those of the scenes that the images were painted from.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from dataset.evaluation import evaluation_set
from dataset.toy.scene import COLOURS, SHAPES
from dataset.toy.world import write_world
from dataset.training import training_set
from tests.dataset.toy.truth import QUERY_OF, SEED, STREAMS, scenes, side_of, union
from utils.cli.options import TrainOptions

IMAGES = 60
POOLS = {
    "/ade20k/": "ade20k",
    "/coco/": "coco",
    "/mapillary/": "mapillary",
    "/pascal_part/": "pascal",
    "/mscoco/": "refer",
    "saiapr": "clef",
}
NOUNS = {
    "ball": "circle",
    "sports ball": "circle",
    "box": "square",
    "book": "square",
    "tent": "triangle",
    "flower": "star",
}
GROUND = ("wall", "ground")
SEMANTIC = ("ade20k", "cocostuff", "mapillary", "paco_lvis", "pascal_part")
OTHER_CHOICES = {"part_masks": "union", "premise_draw": "class", "class_names": "spaces"}
"""What a training may choose in place of what the original does (docs/faithful.md)."""
SPLITS = {
    "refclef": ("val", "testA", "testB"),
    "refcoco": ("val", "testA", "testB"),
    "refcoco+": ("val", "testA", "testB"),
    "refcocog": ("val", "test"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("all"), IMAGES, SEED)


@pytest.fixture(scope="module")
def scene_of():
    """The scene behind an image: the one of its pool that looks like it."""
    pools = {pool: scenes(pool, 40) for pool in STREAMS}

    def find(path: str, image: np.ndarray):
        pool = next(pool for part, pool in POOLS.items() if part in path)
        alike = [scene for scene in pools[pool] if scene.image.shape == image.shape]
        found = min(alike, key=lambda s: np.abs(s.image.astype(int) - image).mean())
        assert np.abs(found.image.astype(int) - image).mean() < 5
        return found

    return find


def phrase_of(question: str) -> str:
    return re.fullmatch(r"What is (.*) in this image\? Please output .*", question)[1]


def meant_by(phrase: str, scene) -> np.ndarray:
    """bool[H, W]: what a class, a part or a sentence of the toy world means in a scene."""
    size = scene.image.shape[:2]
    things = list(zip(scene.things, scene.masks, strict=True))
    if phrase in GROUND:
        return ~union(list(scene.masks), size).astype(bool)
    query = QUERY_OF.get(phrase) or QUERY_OF.get(phrase.removesuffix("s"))  # plurals: all of them
    if query is not None:
        return union([m for t, m in things if query.matches(t)], size).astype(bool)
    if phrase in NOUNS:
        return union([m for t, m in things if t.shape == NOUNS[phrase]], size).astype(bool)
    return union(pieces_of(phrase, scene), size).astype(bool)


def pieces_of(phrase: str, scene) -> list[np.ndarray]:
    """uint8[H, W] of each thing, or part of a thing, that a name in PACO or PASCAL-Part means."""
    part = re.fullmatch(r"the (\w+) of the (.*)", phrase)
    side, whole = (part[1], part[2]) if part else (phrase.split()[-1], phrase.rpartition(" ")[0])
    if side in SHAPES or side in COLOURS:
        side, whole = "", phrase
    named = [
        (t, m) for t, m in zip(scene.things, scene.masks, strict=True) if whole in (t.name, t.shape)
    ]
    masks = [side_of(t, m, side) if side else m for t, m in named]
    return [m for m in masks if m.sum() >= 20]


def draws_of(world: Path, count: int, **flags):
    """Draws with fixed templates, so that questions can be read back."""
    options = TrainOptions(dataset_dir=str(world), templates="simple", seed=5, **flags)
    source = training_set(options)
    return [source.sample(index) for index in range(count)]


def check_sample(sample, scene, may_be_empty: bool) -> tuple[int, int]:
    """Compare every mask; returns how many expressions are there, and how many are not."""
    masks = iter(sample.masks)
    for question, conversation, exists in zip(
        sample.questions, sample.conversations, sample.exists, strict=True
    ):
        truth = meant_by(phrase_of(question), scene)
        assert ("[SEG]" in conversation) == exists
        if not exists:
            assert not truth.any()
            continue
        mask = next(masks)
        assert np.array_equal(mask > 0, truth) or (may_be_empty and not mask.any()), question
    assert next(masks, None) is None
    return sum(sample.exists), len(sample.exists) - sum(sample.exists)


@pytest.mark.parametrize("source", SEMANTIC)
def test_classes_and_parts(world, scene_of, source):
    counts = np.zeros(2, int)
    drawn = draws_of(world, 80, dataset="sem_seg", sem_seg_data=source, **OTHER_CHOICES)
    for sample in drawn:
        counts += check_sample(sample, scene_of(sample.image_path, sample.image), False)
    assert counts[0] > 100 and counts[1] > 5


@pytest.mark.parametrize("source", ["paco_lvis", "pascal_part"])
def test_parts_as_in_the_original(world, scene_of, source):
    """One annotation each, under the name in the file; a sample asks for absent ones or not."""
    lone = underscores = absent = 0
    for sample in draws_of(world, 80, dataset="sem_seg", sem_seg_data=source):
        scene = scene_of(sample.image_path, sample.image)
        phrases = [phrase_of(question) for question in sample.questions]
        underscores += sum("_" in phrase for phrase in phrases)
        # PASCAL-Part's few toy classes run out: what is left is asked as it is.
        assert len(set(sample.exists)) == 1 or source == "pascal_part"
        absent += not sample.exists[0]
        there = [phrase for phrase, exists in zip(phrases, sample.exists, strict=True) if exists]
        for phrase, mask in zip(there, sample.masks, strict=True):
            pieces = pieces_of(phrase.replace("_", " "), scene)
            assert any(np.array_equal(mask, piece) for piece in pieces), phrase
            lone += len(pieces) > 1
    assert absent > 3
    assert (underscores > 100) == (source == "paco_lvis")
    assert (lone > 5) == (source == "pascal_part")


@pytest.mark.parametrize(
    ("family", "flag", "source", "denied"),
    [
        ("refer_seg", "refer_seg_data", "refclef||refcoco||refcoco+||refcocog", False),
        ("neg_refer_seg", "neg_refer_seg_data", "R-refcocog||R-refcoco||R-refcoco+", True),
        ("correct_refer_seg", "correct_refer_seg_data", "fprefcocog||fprefcoco||fprefcoco+", True),
    ],
)
def test_referring_sets(world, scene_of, family, flag, source, denied):
    counts, corrected = np.zeros(2, int), 0
    for sample in draws_of(world, 120, dataset=family, **{flag: source}):
        counts += check_sample(sample, scene_of(sample.image_path, sample.image), True)
        corrected += sum("but there is" in text for text in sample.conversations)
    assert counts[0] > 60 and (counts[1] > 10) == denied
    assert (corrected > 5) == (family == "correct_refer_seg")


def test_the_whole_mixture(world):
    samples = draws_of(world, 60)
    assert {sample.kind for sample in samples} >= {"class", "expression", "absent", "vqa"}
    for sample in samples:
        segs = sum(text.count("[SEG]") for text in sample.conversations)
        assert sample.masks.shape == (segs, *sample.image.shape[:2])
        assert set(np.unique(sample.masks)) <= {0, 1}
    again = draws_of(world, 60)
    assert [s.conversations for s in again] == [s.conversations for s in samples]


REFERRING = ["refclef", *(p + n for p in ("", "R-", "fp") for n in SPLITS if n != "refclef")]


@pytest.mark.parametrize("name", REFERRING)
def test_evaluation_of_every_split(world, scene_of, name):
    base = name.removeprefix("R-").removeprefix("fp")
    absent = present = empty = 0
    for split in SPLITS[base]:
        items = evaluation_set(str(world), name, split, false_premises=True)
        kept = evaluation_set(str(world), name, split)
        assert len(items) >= len(kept) > 0
        for item in items:
            scene = scene_of(item.image_path, item.image)
            for question in item.questions:
                truth = meant_by(phrase_of(question.text), scene)
                assert question.exists == bool(truth.any())
                empty += question.exists and not question.truth.any()
                if question.exists and question.truth.any():
                    assert np.array_equal(question.truth > 0, truth), question.text
                present += question.exists
                absent += not question.exists
        asked = [question.exists for item in kept for question in item.questions]
        assert all(asked) and len(asked) <= present
    assert present > 0 and (absent > 0) == (name != base) and empty <= present / 4


def test_reason_seg_and_its_parts(world):
    whole = evaluation_set(str(world), "ReasonSeg", "overall")
    parts = [evaluation_set(str(world), "ReasonSeg", part) for part in ("short", "long")]
    assert (
        len(whole) == len(evaluation_set(str(world), "ReasonSeg", "test")) == sum(map(len, parts))
    )
    assert all(item.questions[0].truth.any() for item in whole)
    with_premises = evaluation_set(str(world), "ReasonSeg", "val", false_premises=True)
    assert {question.kind == "absent" for item in with_premises for question in item.questions} == {
        True,
        False,
    }
