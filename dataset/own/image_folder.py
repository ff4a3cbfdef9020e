"""A folder of images with questions, for looking at a model rather than measuring it.

Either `questions.jsonl` says what is asked, a line of JSON a question:

    image     path of the image, relative to the folder
    question  as it is asked, without a template
    words     what is compared with CLIP's patches; may be left out: the question
    mask      path of the true mask, an image of the same size that is 0 outside the object; may be
              left out: the truth is not known
    kind      group in reports; may be left out

or each image `NAME.jpg` (.png, ...) has a file `NAME.txt` beside it, with a question a line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataset.json_files import is_sayable
from dataset.own.formats import IMAGES
from utils.errors import InputError
from utils.protocol.batch import EvalItem, EvalQuestion
from utils.protocol.constants import IGNORE_LABEL
from utils.protocol.image_files import read_image

TABLE = "questions.jsonl"
HOW = (
    f'expected {TABLE} with lines such as {{"image": "a.jpg", "question": "Where is the cup?"}}, '
    "or a file NAME.txt with a question on each line beside NAME.jpg"
)
_KEYS = ("image", "question", "words", "mask", "kind")


@dataclass(frozen=True)
class _Asked:
    """A line of the table; `where` is its place for messages."""

    where: str
    image: str
    question: str
    words: str = ""
    mask: str = ""
    kind: str = ""


class ImageFolder(Sequence):
    """The images of a folder with their questions, as evaluation items, decoded when asked for.

    Without a mask, the truth is 255 everywhere: no pixel counts.

    Args:
        folder: see the head of this file.

    Raises:
        InputError: no questions there, or a damaged table; for an item: its files are broken.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        table = self.folder / TABLE
        asked = _read_table(table) if table.is_file() else _read_texts(self.folder)
        if not asked:
            raise InputError(f"no questions in {folder}: {HOW}")
        grouped: dict[str, list[_Asked]] = {}
        for one in asked:
            grouped.setdefault(one.image, []).append(one)
        self.groups = list(grouped.values())

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> EvalItem:  # type: ignore[override]
        group = self.groups[index]
        path = self.folder / group[0].image
        image = read_image(path)
        questions = [
            EvalQuestion(
                one.question,
                self._truth(one, image.shape[:2]),
                exists=True,
                kind=one.kind,
                phrase=one.words,
            )
            for one in group
        ]
        for question in questions:
            question.exists = bool((question.truth != 0).any())
        return EvalItem(str(path), image, questions)

    def _truth(self, one: _Asked, size: tuple[int, int]) -> np.ndarray:
        """uint8[H, W]: 1 object, 0 background; 255 everywhere if it is not known."""
        if not one.mask:
            return np.full(size, IGNORE_LABEL, np.uint8)
        path = self.folder / one.mask
        try:
            with Image.open(path) as opened:
                mask = np.asarray(opened.convert("L"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise InputError(
                f"{one.where}: cannot read the mask {path} ({error}): give a PNG that is 0 outside "
                "the object"
            ) from error
        if mask.shape != size:
            raise InputError(
                f"{one.where}: the mask {path} has (height, width) {mask.shape}, its image "
                f"{size}; they have to be equal"
            )
        return (mask > 0).astype(np.uint8)


def _read_table(path: Path) -> list[_Asked]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}): {HOW}") from error
    return [
        _entry(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _entry(line: str, where: str) -> _Asked:
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON ({error}): {HOW}") from error
    if not isinstance(entry, dict) or not all(isinstance(text, str) for text in entry.values()):
        raise InputError(f"{where} is no JSON object of texts: {HOW}")
    if unknown := sorted(set(entry) - set(_KEYS)):
        raise InputError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(_KEYS)}")
    if not entry.get("image"):
        raise InputError(f"{where} names no image: {HOW}")
    return _Asked(where, **{**entry, "question": _sayable(entry.get("question"), where)})


def _read_texts(folder: Path) -> list[_Asked]:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in IMAGES)
    except OSError as error:
        raise InputError(f"no folder of images at {folder} ({error}): {HOW}") from error
    asked = []
    for name in names:
        path = (folder / name).with_suffix(".txt")
        if not path.is_file():
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the questions {path} ({error}): {HOW}") from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{path}, line {number}"
                asked.append(_Asked(where, name, _sayable(line.strip(), where)))
    return asked


def _sayable(text: Any, where: str) -> str:
    if not is_sayable(text):
        raise InputError(
            f"{where}: {text!r} is no question: it has to be valid Unicode text without special "
            f"tokens such as <image>; {HOW}"
        )
    return text
