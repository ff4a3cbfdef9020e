"""ReasonSeg's part of the toy world.

    {train,val,test}/NAME.{jpg,json}    80 / 10 / 10 per cent of the images

* JSON: `shapes`, `text`, `is_sentence`, `false_premise_QA`, and the extra key `kind` (that of the
  first sentence: direct, colour, shape, size, position or reasoning; evenly spread).
* train: three sentences of one thing and three false premises an image.
* val, test: one sentence and one false premise an image, *matched*: every sentence is asked as
  often where it is true as where it is false, so wording alone tells nothing about presence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dataset.toy.files import save_image, save_json, world_rng
from dataset.toy.questions import KINDS, Question, absent, answerable, ask, deny
from dataset.toy.scene import Scene, sample_scene
from utils.errors import InputError

SPLITS = ("train", "val", "test")
_MIN_EVAL = 6
_SENTENCES = 3
_ATTEMPTS = 50


def split_sizes(images: int) -> dict[str, int]:
    """How many images each split gets."""
    part = max(images // 10, min(_MIN_EVAL, images // 3))
    return {"train": images - 2 * part, "val": part, "test": part}


def write_reason_seg(root: Path, images: int, seed: int, bar: tqdm) -> None:
    """Write all splits.

    Args:
        root: folder of the splits.
        images: number of images over all splits.

    Raises:
        InputError: too few images for matched questions.
    """
    for number, (split, count) in enumerate(split_sizes(images).items()):
        if split == "train":
            for index in range(count):
                _write_train_sample(root / split, index, world_rng(seed, 0, index))
                bar.update()
        else:
            _write_matched_split(root / split, count, [seed, number], bar)


def _write_train_sample(folder: Path, index: int, rng: np.random.Generator) -> None:
    kind, is_sentence = KINDS[index % len(KINDS)], bool(rng.random() < 0.5)
    scene, first = _scene_with_question(rng, kind, is_sentence)
    target = _target(scene, first)
    others = [
        query
        for other in KINDS
        for query in answerable(scene.things, other)
        if query.matches(scene.things[target]) and query != first.query
    ]
    chosen = rng.permutation(len(others))[: _SENTENCES - 1]
    texts = [first.text] + [ask(others[i], rng, is_sentence).text for i in chosen]
    premises = []
    for other in rng.permutation(KINDS)[:_SENTENCES]:
        queries = absent(scene.things, str(other))
        if queries:
            query = queries[int(rng.integers(len(queries)))]
            premises.append(ask(query, rng, bool(rng.random() < 0.5)))
    _write(
        folder,
        index,
        scene,
        target,
        first,
        texts,
        [_false_premise(p, scene, rng) for p in premises],
    )


def _scene_with_question(
    rng: np.random.Generator, kind: str, is_sentence: bool
) -> tuple[Scene, Question]:
    while True:
        scene = sample_scene(rng)
        queries = answerable(scene.things, kind)
        if queries:
            return scene, ask(queries[int(rng.integers(len(queries)))], rng, is_sentence)


def _target(scene: Scene, question: Question) -> int:
    return next(i for i, thing in enumerate(scene.things) if question.query.matches(thing))


def _false_premise(question: Question, scene: Scene, rng: np.random.Generator) -> list:
    """ReasonSeg's entry: question, whether it is a full sentence, answer."""
    answer = deny(question.query, scene.things, correct=bool(rng.random() < 0.7))
    return [question.text, question.is_sentence, answer]


def _write_matched_split(folder: Path, count: int, key: Sequence[int], bar: tqdm) -> None:
    """Draw images with one true question each, then hand every question on as a false premise."""
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([*key, attempt])
        drawn = [
            _scene_with_question(rng, KINDS[index % len(KINDS)], bool(rng.random() < 0.5))
            for index in range(count)
        ]
        giver = match_false_premises([s for s, _ in drawn], [q for _, q in drawn], rng)
        if giver is not None:
            break
    else:
        raise InputError(f"no matched false premises for {count} images; give more --images")
    for index, (scene, question) in enumerate(drawn):
        premise = _false_premise(drawn[giver[index]][1], scene, rng)
        _write(folder, index, scene, _target(scene, question), question, [question.text], [premise])
        bar.update()


def match_false_premises(
    scenes: Sequence[Scene], questions: Sequence[Question], rng: np.random.Generator
) -> list[int] | None:
    """For each image, the number of the question that is false there; each question once.

    A perfect matching by augmenting paths; None if there is none.
    """
    count = len(scenes)
    allowed = [
        [int(p) for p in rng.permutation(count) if q.query.count(scenes[p].things) == 0]
        for q in questions
    ]
    giver: list[int | None] = [None] * count

    def place(question: int, seen: set[int]) -> bool:
        for image in allowed[question]:
            if image not in seen:
                seen.add(image)
                holder = giver[image]
                if holder is None or place(holder, seen):
                    giver[image] = question
                    return True
        return False

    if not all(place(question, set()) for question in range(count)):
        return None
    return [g for g in giver if g is not None]


def polygons(mask: np.ndarray) -> list[list[list[int]]]:
    """Outlines of uint8[H, W] as lists of [x, y]; filled, outline included, they give it back."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0].tolist() for contour in contours]


def _write(
    folder: Path,
    index: int,
    scene: Scene,
    target: int,
    first: Question,
    texts: list[str],
    premises: list[list],
) -> None:
    annotation = {
        "shapes": [
            {"label": "target", "shape_type": "polygon", "points": points}
            for points in polygons(scene.masks[target])
        ],
        "text": texts,
        "is_sentence": first.is_sentence,
        "false_premise_QA": premises,
        "kind": first.query.kind,
    }
    name = f"toy_{index:06d}"
    save_image(scene.image, folder / f"{name}.jpg")
    save_json(annotation, folder / f"{name}.json")
