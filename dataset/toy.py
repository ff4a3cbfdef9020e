"""Write a toy world in ReasonSeg's layout: `python -m dataset.toy --out DIR --images N --seed S`.

    DIR/reason_seg/ReasonSeg/{train,val,test}/NAME.{jpg,json}    80 / 10 / 10 per cent

It is a stand-in that can be drawn anywhere, not a benchmark: flat shapes on a textured ground and
a closed set of sentences. What it keeps of the real set: files and keys, polygons of the visible
part, phrases and full sentences, questions that need reasoning ("the object that can roll"), and
false premises with a denial or a correction as answer.

* JSON: `shapes`, `text`, `is_sentence`, `false_premise_QA`, and the extra key `kind` (that of the
  first sentence: direct, colour, shape, size, position or reasoning; evenly spread).
* train: three sentences of one thing and three false premises a picture.
* val, test: one sentence and one false premise a picture, *matched*: every sentence is asked as
  often where it is true as where it is false, so wording alone tells nothing about presence.
* Everything is a function of the seed, to the byte (with the same versions of the libraries).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from dataset.toy_questions import KINDS, Question, absent, answerable, ask, deny
from dataset.toy_scene import Scene, sample_scene
from utils.errors import InputError, cli

SPLITS = ("train", "val", "test")
MIN_IMAGES = 6
_MIN_EVAL = 6
_SENTENCES = 3
_JPEG_QUALITY = 95
_MARK = "toy_world.json"
_ATTEMPTS = 50


def split_sizes(images: int) -> dict[str, int]:
    """How many pictures each split gets."""
    part = max(images // 10, min(_MIN_EVAL, images // 3))
    return {"train": images - 2 * part, "val": part, "test": part}


def write_world(out: Path, images: int, seed: int) -> Path:
    """Write the world and return its ReasonSeg folder.

    Args:
        out: becomes the `--dataset_dir` of training; a toy world already there is replaced.
        images: number of pictures over all splits, at least `MIN_IMAGES`.
        seed: at least 0.

    Raises:
        InputError: too few images, a negative seed, or a folder that holds something else.
    """
    if images < MIN_IMAGES:
        raise InputError(f"--images {images} is too few; give at least {MIN_IMAGES}")
    if seed < 0:
        raise InputError(f"--seed {seed} is negative; give 0 or more")
    root = Path(out) / "reason_seg" / "ReasonSeg"
    _make_room(root)
    with tqdm(total=images, desc="toy world", unit="picture") as bar:
        for number, (split, count) in enumerate(split_sizes(images).items()):
            folder = root / split
            folder.mkdir()
            if split == "train":
                for index in range(count):
                    _write_train_sample(folder, index, np.random.default_rng([seed, 0, index]))
                    bar.update()
            else:
                _write_matched_split(folder, count, [seed, number], bar)
    return root


def _make_room(root: Path) -> None:
    """Remove an older toy world; refuse to touch anything else."""
    if root.exists() and any(root.iterdir()):
        if not (root / _MARK).is_file():
            raise InputError(f"{root} holds files that are not a toy world; choose another --out")
        for split in SPLITS:
            shutil.rmtree(root / split, ignore_errors=True)
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / _MARK).write_text(json.dumps({"what": "toy world, see dataset/toy.py"}) + "\n")
    except OSError as error:
        raise InputError(
            f"cannot write to {root}: {error.strerror}; choose another --out"
        ) from error


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
    """Draw pictures with one true question each, then hand every question on as a false premise."""
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
        raise InputError(f"no matched false premises for {count} pictures; give more --images")
    for index, (scene, question) in enumerate(drawn):
        premise = _false_premise(drawn[giver[index]][1], scene, rng)
        _write(folder, index, scene, _target(scene, question), question, [question.text], [premise])
        bar.update()


def match_false_premises(
    scenes: Sequence[Scene], questions: Sequence[Question], rng: np.random.Generator
) -> list[int] | None:
    """For each picture, the number of the question that is false there; each question once.

    A perfect matching by augmenting paths; None if there is none.
    """
    count = len(scenes)
    allowed = [
        [int(p) for p in rng.permutation(count) if q.query.count(scenes[p].things) == 0]
        for q in questions
    ]
    giver: list[int | None] = [None] * count

    def place(question: int, seen: set[int]) -> bool:
        for picture in allowed[question]:
            if picture not in seen:
                seen.add(picture)
                holder = giver[picture]
                if holder is None or place(holder, seen):
                    giver[picture] = question
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
    Image.fromarray(scene.image).save(folder / f"{name}.jpg", quality=_JPEG_QUALITY, subsampling=0)
    (folder / f"{name}.json").write_text(json.dumps(annotation) + "\n", encoding="utf-8")


@cli
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dataset.toy", description="Write a toy world in ReasonSeg's layout."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the data set")
    parser.add_argument("--images", type=int, default=2500, help="pictures over all splits")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    print(write_world(given.out, given.images, given.seed))


if __name__ == "__main__":
    raise SystemExit(main())
