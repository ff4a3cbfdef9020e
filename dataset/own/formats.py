"""The three forms in which a split of one's own data can lie on disk (docs/own_data.md).

`open_split` finds out which one it is; what it returns gives images with their questions.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dataset.annotation_index import AnnotationIndex
from dataset.faults import FaultCounter
from dataset.json_files import read_json
from dataset.masks import decode_segmentation
from dataset.own.coco import coco_records
from dataset.own.rules import (
    HOW,
    asked,
    inside,
    looks_like_sentence,
    plain_name,
)
from dataset.reason_seg import ReasonSegAnnotation, load_annotation, parse_annotation
from utils.errors import InputError
from utils.protocol.image_files import Read, read_image

IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_INDEX = "own-1"
_GROUP = "images"


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Args:
        text: phrase or sentence.
        is_sentence: which of the two.
        kind: group in reports.
        mask: draws uint8[H, W]: 1 object, 0 background, 255 does not count; raises InputError.
        answer: to a false premise, "" if the data give none.
    """

    text: str
    is_sentence: bool
    kind: str
    mask: Callable[[], np.ndarray]
    answer: str = ""


@dataclass(frozen=True)
class Image:
    """An image and what the data ask about it.

    Args:
        path: of the file.
        image: uint8[H, W, 3], RGB.
        present: questions about what is there.
        absent: false premises.
        synonyms: `present` are ways to ask for one object; an evaluation uses the first.
    """

    path: Path
    image: np.ndarray
    present: list[Question]
    absent: list[Question]
    synonyms: bool


class Split(Protocol):
    """A split in one of the forms; picklable and cheap to fork."""

    def __len__(self) -> int: ...

    def load(self, position: int, read: Read = read_image) -> Image:
        """An image with its questions; `read` decodes its file.

        Raises:
            InputError: broken image or annotation; the message names it.
        """
        ...


def open_split(folder: Path, split: str, faults: FaultCounter | None = None) -> Split:
    """The split of a data set, in whichever form it lies there; `SPLIT.json` comes first.

    Args:
        folder: of the data set.
        split: such as "train".
        faults: takes what is wrong with entries, see `FaultCounter`.

    Raises:
        InputError: there is no such split, or it is damaged or empty.
    """
    plain_name(split, "split")
    faults = faults or FaultCounter()
    table = folder / f"{split}.json"
    if table.is_file():
        build = partial(_records, table, faults)
        store = AnnotationIndex.open([table], _INDEX, build, faults.scratch)
        return TableSplit(folder, split, table, store)
    if (folder / split).is_dir():
        return FolderSplit(folder / split, faults)
    there = ", ".join(split_names(folder)) or "none"
    raise InputError(
        f"no split {split!r} in {folder} (there: {there}): expected {table.name}, or a folder "
        f"{split}/ of images with a JSON file each; {HOW}"
    )


def split_names(folder: Path) -> list[str]:
    """Names of the splits that lie in the folder of a data set."""
    tables = {path.stem for path in folder.glob("*.json")}
    folders = {path.parent.name for path in folder.glob("*/*.json")}
    return sorted(name for name in tables | folders if not name.startswith("."))


class FolderSplit:
    """`SPLIT/` with images and one JSON each, in ReasonSeg's form.

    Args:
        folder: the split's.
        faults: takes images without JSON, JSON without image, two images of one name.

    Raises:
        InputError: no images.
    """

    def __init__(self, folder: Path, faults: FaultCounter):
        self.folder = folder
        try:
            files = sorted(path.name for path in folder.iterdir() if path.is_file())
        except OSError as error:
            raise InputError(f"cannot read {folder} ({error}): check its permissions") from error
        images = [name for name in files if Path(name).suffix.lower() in IMAGES]
        stems = Counter(Path(name).stem for name in images)
        tables = {Path(name).stem for name in files if name.endswith(".json")}
        if not images:
            raise InputError(f"no images ({', '.join(IMAGES)}) in {folder}; {HOW}")
        for name in images:
            if (stem := Path(name).stem) not in tables:
                faults.record(f"{folder / name} has no annotation {stem}.json beside it; {HOW}")
        for stem in (stem for stem, count in stems.items() if count > 1):
            faults.record(f"{folder}: several images are called {stem}; rename them")
        for stem in sorted(tables - stems.keys()):
            faults.record(f"{folder / stem}.json has no image beside it; {HOW}")
        faults.close()
        self.names = np.array([name for name in images if Path(name).stem in tables])

    def __len__(self) -> int:
        return len(self.names)

    def load(self, position: int, read: Read = read_image) -> Image:
        path = self.folder / str(self.names[position])
        image = read(path)
        table = path.with_suffix(".json")
        return _as_image(path, image, load_annotation(table, image.shape[:2]), str(table))


def _as_image(path: Path, image: np.ndarray, annotation: ReasonSegAnnotation, where: str) -> Image:
    """ReasonSeg's form: one mask, several ways to ask for it."""

    def mask() -> np.ndarray:
        return annotation.mask

    present = [
        Question(asked(text, where), annotation.is_sentence, annotation.kind, mask)
        for text in annotation.texts
    ]
    absent = [
        Question(asked(p.question, where), p.is_sentence, "", mask, p.answer)
        for p in annotation.false_premise
    ]
    return Image(path, image, present, absent, synonyms=True)


class TableSplit:
    """`SPLIT.json`: a list of entries in ReasonSeg's form, or COCO with sentences.

    Args:
        folder: of the data set.
        split: its name.
        table: the JSON file.
        store: its records (`_records`).
    """

    def __init__(self, folder: Path, split: str, table: Path, store: AnnotationIndex):
        self.folder, self.split, self.table, self.store = folder, split, table, store
        if not len(self):
            raise InputError(f"{table} asks nothing about any image; {HOW}")

    def __len__(self) -> int:
        return self.store.groups().get(_GROUP, 0)

    def load(self, position: int, read: Read = read_image) -> Image:
        record = self.store.get(_GROUP, position)
        where = record["where"]
        path = self._find(record["image"], where)
        image = read(path)
        size = image.shape[:2]
        if "entry" in record:
            return _as_image(path, image, parse_annotation(record["entry"], size, where), where)
        if record["size"] not in (None, list(size)):
            raise InputError(
                f"{where}: {path} has (height, width) {size}, the file says "
                f"{tuple(record['size'])}; correct width and height, or the image"
            )
        parts = record["segmentations"]
        present = [
            Question(
                ask["text"],
                ask["is_sentence"],
                ask["kind"],
                partial(_united, [parts[i] for i in ask["objects"]], size, where),
            )
            for ask in record["asks"]
        ]
        nothing = partial(np.zeros, size, np.uint8)
        absent = [Question(t, looks_like_sentence(t), "", nothing) for t in record["absent"]]
        return Image(path, image, present, absent, synonyms=False)

    def _find(self, given: str, where: str) -> Path:
        path = inside(given, where)
        for parent in ("images", ".", self.split):
            # os.path, unlike pathlib, says no to names that are too long.
            if os.path.isfile(self.folder / parent / path):
                return self.folder / parent / path
        raise InputError(
            f"{where}: no image {given} in {self.folder / 'images'}, nor in {self.folder} or its "
            f"{self.split}/; correct the path or copy the image there"
        )


def _united(segmentations: Sequence, size: tuple[int, int], where: str) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for segmentation in segmentations:
        try:
            mask |= decode_segmentation(segmentation, size)
        except ValueError as error:
            raise InputError(
                f"{where}: a segmentation cannot be used ({error}); give polygons or run lengths "
                f"as COCO does; {HOW}"
            ) from error
    return mask


def _records(table: Path, faults: FaultCounter) -> Iterator[tuple[str, dict]]:
    """What a draw needs, image by image; what is wrong goes into `faults`."""
    content = read_json(table, "one of the forms in docs/own_data.md", HOW, ("utf-8", "cp1252"))
    if isinstance(content, list):
        for number, entry in enumerate(content):
            with faults.noting():
                yield _GROUP, _entry(entry, f"{table}, entry {number}")
    elif isinstance(content, dict) and "images" in content:
        for record in coco_records(content, str(table), faults):
            yield _GROUP, record
    else:
        raise InputError(
            f"{table}: expected a list of entries with image, shapes and text, or COCO with images "
            f"and annotations; {HOW}"
        )
    faults.close()


def _entry(entry: Any, where: str) -> dict:
    if not isinstance(entry, dict) or "image" not in entry:
        raise InputError(f"{where}: expected an object with image, shapes and text; {HOW}")
    path = inside(entry["image"], where)
    return {"where": f"{where} ({path})", "image": str(path), "entry": entry}
