"""Which prediction answers which question. What is missing, doubled or unknown is an error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath

from utils.errors import InputErrors
from utils.evaluation.mask_counts import Predicted, Truth
from utils.evaluation.mask_rows import Names, PredictedRow
from utils.evaluation.protocol_scores import Run
from utils.evaluation.protocols import NOT_SAID

COCO_NAME = re.compile(r"(?:^|_)(\d{12})$")
"""The end of an image's name in COCO, which is its number."""


@dataclass
class Predictions:
    """Predictions as a file or folder holds them.

    Args:
        name: for tables and messages.
        rows: the answers.
        truths: the truth, where it lies beside the answers.
        seg, text, counted, own, notes: see `utils.evaluation.protocol_scores.Run`.
    """

    name: str
    rows: list[PredictedRow]
    truths: list[Truth] | None = None
    seg: str = NOT_SAID
    text: str = NOT_SAID
    counted: tuple[str, ...] | None = None
    own: bool = False
    notes: list[str] = field(default_factory=list)


def names_of(truth: Truth) -> Names:
    """Everything that predictions may call a question."""
    image = PureWindowsPath(truth.image)  # splits at / and at \
    names = [
        ("id", truth.id),
        ("pair", truth.image, truth.question),
        ("pair", image.name, truth.question),
        ("stem", image.stem),
    ]
    number = COCO_NAME.search(image.stem)
    numbers = {"image_id": str(int(number[1]))} if number else {}
    names += [(key, name) for key, name in {**numbers, **truth.names}.items()]
    return tuple(dict.fromkeys(names))


def align(predictions: Predictions, truths: Sequence[Truth]) -> Run:
    """Give every question its prediction.

    Raises:
        InputErrors: questions are missing, answered twice, unknown, or named in a way that
            several share, or masks have another size than the image. All are listed.
    """
    called: dict[tuple[str, ...], list[int]] = {}
    for index, truth in enumerate(truths):
        for name in names_of(truth):
            called.setdefault(name, []).append(index)
    answers: dict[int, Predicted] = {}
    wrong: dict[str, list[str]] = {}
    for row in predictions.rows:
        hits = [called[name] for name in _wider(row.names) if name in called]
        alone = [hit[0] for hit in hits if len(hit) == 1]
        told = " ".join(row.names[0][1:])
        if not alone:
            problem = "several questions are called so" if hits else "no question is called so"
            wrong.setdefault(problem, []).append(f"{told} ({row.where})")
            continue
        index = alone[0]
        truth = truths[index]
        if row.question and truth.question and row.question != truth.question:
            wrong.setdefault("the truth has another question", []).append(f"{told} ({row.where})")
        elif index in answers:
            wrong.setdefault("answered twice", []).append(f"{truth.id} ({row.where})")
        elif other := [c["size"] for c in row.predicted.masks if c["size"] != list(truth.size)]:
            size = f"{truth.id} ({row.where}: {other[0]}, image {list(truth.size)})"
            wrong.setdefault("masks of another size than the image", []).append(size)
        answers.setdefault(index, row.predicted)
    if len(truths) - len(answers):
        missing = [truth.id for index, truth in enumerate(truths) if index not in answers]
        wrong["not answered"] = missing
    if wrong:
        raise InputErrors(
            [_line(predictions.name, what, names, truths) for what, names in wrong.items()]
        )
    return Run(
        predictions.name,
        [(truth, answers[index]) for index, truth in enumerate(truths)],
        seg=predictions.seg,
        text=predictions.text,
        counted=predictions.counted,
        own=predictions.own,
        notes=predictions.notes,
    )


def _wider(names: Names) -> list[tuple[str, ...]]:
    """With the file's name alone too, since folders differ between machines."""
    found = list(names)
    found += [("pair", PureWindowsPath(n[1]).name, n[2]) for n in names if n[0] == "pair"]
    return found


REMEDIES = {
    "no question is called so": "use the ids of the truth, such as {id!r}, or its image and "
    "question, or give the truth that they belong to",
    "several questions are called so": "name them by id, such as {id!r}",
    "the truth has another question": "give the truth that these answers belong to",
    "answered twice": "keep one answer to each question",
    "masks of another size than the image": "resize them to the image, nearest neighbour",
    "not answered": "write a row for each, with no masks where nothing was found",
}


def _line(name: str, what: str, questions: Sequence[str], truths: Sequence[Truth]) -> str:
    remedy = REMEDIES[what].format(id=truths[0].id if truths else "")
    return f"{name}: {what}, {len(questions)}: {', '.join(questions)}; {remedy}"
