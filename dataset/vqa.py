"""Training draws from conversations about images: LLaVA-Instruct.

On disk: `llava_dataset/NAME.json`, the images in `coco/train2017`.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dataset.annotation_index import AnnotationIndex
from dataset.catalog import SETS
from dataset.faults import FaultCounter
from dataset.json_files import damaged, is_text, read_lists
from dataset.sampling import SamplingOptions
from utils.errors import InputError
from utils.protocol.batch import Sample
from utils.protocol.constants import ADDED_TOKENS, IMAGE_TOKEN
from utils.protocol.conversation import build_prompt, user_turn
from utils.protocol.image_files import read_image

KIND_VQA = "vqa"
"""Kind, in reports, of conversations without a mask."""

_ROLES = ("human", "gpt")
_IMAGES = "images"
_FORM = "a list of {id, image, conversations[{from: human or gpt, value}]}"
_HOW_TO_GET = SETS["llava_instruct_150k"].how_to_get
_TOKENS = re.compile("|".join(map(re.escape, (*ADDED_TOKENS, "<s>", "</s>", "<unk>"))))


class VqaTrain:
    """Training draws of whole conversations; a draw is a function of (seed, index) alone.

    A sample has one conversation with all its turns, and no mask. Entries without an image are
    left out.

    Args:
        dataset_dir: the data folder.
        spec: names of files in `llava_dataset/` without ".json", joined by "||".
        settings: how samples are drawn; there are no templates around conversations.
        faults: takes what is wrong with entries, see `FaultCounter`.

    Raises:
        InputError: missing or damaged files.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        spec: str,
        settings: SamplingOptions,
        faults: FaultCounter | None = None,
    ):
        self.settings = settings
        self.images = Path(dataset_dir) / "coco" / "train2017"
        names = spec.split("||")
        if not all(names):
            raise InputError(
                f"--vqa_data {spec!r}: expected names of files in llava_dataset/ joined by '||', "
                "for example llava_instruct_150k"
            )
        folder = Path(dataset_dir) / "llava_dataset"
        self.files = [folder / f"{name}.json" for name in names]
        self.stores = [_open(file, faults or FaultCounter()) for file in self.files]

    def sample(self, index: int) -> Sample:
        """The sample of a global index.

        Raises:
            InputError: its image is broken or its conversation cannot be used; the message names
                the file and the entry.
        """
        rng = self.settings.rng("vqa", index)
        number = int(rng.integers(len(self.stores)))
        store = self.stores[number]
        entry = store.get(_IMAGES, int(rng.integers(store.groups()[_IMAGES])))
        turns = self.turns(number, entry)
        path = str(self.images / entry["image"])
        if not os.path.isfile(path):
            raise InputError(
                f"no image at {path}, but {self.files[number]} names it in entry "
                f"{entry['id']!r}: {_HOW_TO_GET}"
            )
        image = read_image(path)
        question, answer = turns[0]
        turns = [(user_turn(question), answer), *turns[1:]]
        prompt = build_prompt(turns, self.settings.conv_type, self.settings.use_im_start_end)
        return Sample(
            image_path=path,
            image=image,
            conversations=[prompt],
            masks=np.zeros((0, *image.shape[:2]), dtype=np.uint8),
            exists=[False],
            questions=[question],
            kind=KIND_VQA,
        )

    def entries(self, number: int) -> Iterator[dict]:
        """The entries of a file that have an image: {id, image, conversations}."""
        store = self.stores[number]
        return (store.get(_IMAGES, n) for n in range(store.groups()[_IMAGES]))

    def turns(self, number: int, entry: dict) -> list[tuple[str, str | None]]:
        """The turns of an entry of file `number`; see `question_answer_turns`.

        Raises:
            InputError: the conversation cannot be used; the message names the file and the entry.
        """
        try:
            return question_answer_turns(entry["conversations"])
        except ValueError as error:
            raise damaged(self.files[number], f"entry {entry['id']!r}: {error}", _FORM) from error


def question_answer_turns(conversation: Any) -> list[tuple[str, str | None]]:
    """The turns of an entry as pairs of question and answer.

    Answers before the first question and a last question without answer are left out.

    Args:
        conversation: [{from: human or gpt, value: text}, ...].

    Raises:
        ValueError: another form, roles that do not take turns, or no answered question.
    """
    if not isinstance(conversation, list):
        raise ValueError("conversations is no list")
    said: list[tuple[str, str]] = []
    for turn in conversation:
        if not isinstance(turn, dict) or turn.get("from") not in _ROLES:
            raise ValueError(f"a turn is not from one of {', '.join(_ROLES)}")
        if not is_text(turn.get("value")):
            raise ValueError("a turn has no text")
        if said or turn["from"] == _ROLES[0]:
            said.append((turn["from"], plain(turn["value"])))
    if any(role != _ROLES[n % 2] for n, (role, _) in enumerate(said)):
        raise ValueError("human and gpt do not take turns")
    if len(said) < 2:
        raise ValueError("no question has an answer")
    texts = [text for _, text in said[: len(said) // 2 * 2]]
    if not all(texts[1::2]):
        raise ValueError("an answer holds nothing but the image")
    return list(zip(texts[::2], texts[1::2], strict=True))


def plain(text: str) -> str:
    """Text without `<image>` and the white space around, with special tokens as mere text.

    `[SEG]` written by a person has no mask, `</s>` ends no answer: they become `[ SEG ]`, `< /s >`.
    """
    while IMAGE_TOKEN in text:
        text = text.replace(IMAGE_TOKEN, "")
    return _TOKENS.sub(lambda token: f"{token[0][0]} {token[0][1:-1]} {token[0][-1]}", text.strip())


def _open(file: Path, faults: FaultCounter) -> AnnotationIndex:
    if not file.is_file():
        raise InputError(f"no conversations at {file}; {_HOW_TO_GET}")
    build = functools.partial(_records, file, faults)
    store = AnnotationIndex.open([file], KIND_VQA, build, faults.scratch)
    if not store.groups().get(_IMAGES):
        raise damaged(file, "no entry has an image", _FORM)
    return store


def _records(file: Path, faults: FaultCounter) -> Iterator[tuple[str, dict]]:
    for _, number, entry in read_lists(file, ("",), _FORM, _HOW_TO_GET):
        if not isinstance(entry, dict):
            faults.record(damaged(file, f"entry number {number} is no object", _FORM))
        elif entry.get("image") and not is_text(entry["image"]):
            reason = f"the image of entry number {number} is no file name"
            faults.record(damaged(file, reason, _FORM))
        elif entry.get("image"):
            known = {"image": entry["image"], "conversations": entry.get("conversations")}
            yield _IMAGES, {"id": entry.get("id", number), **known}
    faults.close()
