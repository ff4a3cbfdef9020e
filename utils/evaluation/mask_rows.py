"""Questions and answers as JSON lines: the form in which any model's masks can be scored.

A line of truth, and a line of predictions:

    {"id": "17", "image": "dog.jpg", "question": "the left dog", "size": [H, W], "masks": [RLE],
     "ignored": RLE, "kind": "short", "expression": 0}
    {"id": "17", "masks": [RLE, RLE]}

`docs/evaluation.md` explains each key. RLE is COCO's {"size": [H, W], "counts": text or list}.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.evaluation.mask_counts import Code, Predicted, Truth, overlaps
from utils.protocol.rle import intact_code

Names = tuple[tuple[str, ...], ...]
"""What may call a question, the best first: ("id", "17"), ("pair", image, question), ..."""
FORM = 'expected {"id": ..., "masks": [RLE, ...]} as docs/evaluation.md describes it'


@dataclass(frozen=True)
class PredictedRow:
    """An answer before its question is known.

    Args:
        names: of the question.
        predicted: the masks.
        where: file and row, for messages.
        question: as asked, where it is told; has to be that of the truth.
    """

    names: Names
    predicted: Predicted
    where: str
    question: str = ""


def bad_row(where: str, problem: object, form: str = FORM) -> InputError:
    """The error that a row is not what it should be."""
    return InputError(f"{where}: {problem}; {form}; correct the row, or write the file again")


def plain_name(value: Any, key: str) -> str:
    """An id or a text as text.

    Raises:
        ValueError: neither text nor whole number, or nothing in it.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"{key!r} is {_short(value)}, no text and no whole number")
    return plain_text(str(value))


def plain_text(value: str) -> str:
    """A text that can be shown.

    Raises:
        ValueError: it holds half of a surrogate pair.
    """
    value.encode("utf-8")
    return value


def checked_code(value: Any, key: str) -> Code:
    """A run-length code that is intact.

    Raises:
        ValueError: it is not.
    """
    try:
        return intact_code(value)
    except ValueError as error:
        raise ValueError(f"{key!r} holds a damaged run-length code ({error})") from error


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, object) of each line that is not blank.

    Raises:
        InputError: the file cannot be read, or a line is no JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", _object(f"{path}, line {number}", line)
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check the path") from error


def _object(where: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad_row(where, f"no JSON ({error})") from error
    if not isinstance(row, dict):
        raise bad_row(where, f"found {_short(row)}, no JSON object")
    return row


def prediction_row(where: str, row: dict[str, Any]) -> PredictedRow:
    """A line of predictions.

    Raises:
        InputError: the row is malformed.
    """
    try:
        question = _optional(row, "question", str, "")
        if row.get("id") is not None:
            names: Names = (("id", plain_name(row["id"], "id")),)
        elif "image" in row and question:
            names = (("pair", plain_name(row["image"], "image"), question),)
        else:
            raise ValueError("it names no question: give 'id', or 'image' and 'question'")
        predicted = Predicted(
            masks=tuple(_codes(row, "masks")),
            present=_optional(row, "present", bool, None),
            answer=_optional(row, "answer", str, ""),
        )
    except ValueError as error:
        raise bad_row(where, error) from error
    return PredictedRow(names, predicted, where, question)


def truth_row(where: str, row: dict[str, Any]) -> Truth:
    """A line of truth; the expression is -1 where the row does not tell it.

    Raises:
        InputError: the row is malformed.
    """
    try:
        return _truth(row)
    except ValueError as error:
        form = 'expected {"image": ..., "question": ..., "size": [H, W], "masks": [RLE, ...]}'
        raise bad_row(where, error, f"{form} as docs/evaluation.md describes it") from error


def _truth(row: dict[str, Any]) -> Truth:
    question = _optional(row, "question", str, "")
    image = plain_name(row["image"], "image") if "image" in row else ""
    if row.get("id") is None and not (image and question):
        raise ValueError("it names no question: give 'id', or 'image' and 'question'")
    name = json.dumps([image, question], ensure_ascii=False)
    name = plain_name(row["id"], "id") if row.get("id") is not None else name
    objects = _codes(row, "masks")
    ignored = checked_code(row["ignored"], "ignored") if row.get("ignored") is not None else None
    codes = [*objects, *([ignored] if ignored else [])]
    size = _size(row, codes)
    if ignored and objects and overlaps([ignored], objects)[2].any():
        raise ValueError(
            "pixels of 'masks' stand in 'ignored' as well: a pixel is one or the other"
        )
    expression = _optional(row, "expression", int, -1)
    if isinstance(expression, bool):
        raise ValueError(f"'expression' is {expression}, no number")
    return Truth(
        id=name,
        image=image or name,
        question=question,
        size=size,
        objects=tuple(objects),
        ignored=ignored,
        exists=_optional(row, "exists", bool, bool(objects)),
        kind=_optional(row, "kind", str, ""),
        expression=expression,
        united=_optional(row, "united", bool, False),
        names={key: plain_name(row[key], key) for key in ("ann_id", "image_id") if key in row},
    )


def _optional(row: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    value = row.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise ValueError(f"{key!r} is {_short(value)}, no {kind.__name__}")
    return plain_text(value) if isinstance(value, str) else value


def _codes(row: dict[str, Any], key: str) -> list[Code]:
    if not isinstance(row.get(key), list):
        raise ValueError(f"{key!r} is {_short(row.get(key))}, no list of run-length codes")
    codes = [checked_code(code, key) for code in row[key]]
    if len({tuple(code["size"]) for code in codes}) > 1:
        raise ValueError(f"the masks have different sizes ({[code['size'] for code in codes]})")
    return codes


def _size(row: dict[str, Any], codes: Sequence[Code]) -> tuple[int, int]:
    size: Any = row.get("size", codes[0]["size"] if codes else None)
    whole = isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)
    if not whole or not 0 < size[0] * size[1] < 1 << 31 or min(size) < 1:
        raise ValueError(f"'size' is {_short(size)}, no [height, width] of the image")
    if any(code["size"] != size for code in codes):
        raise ValueError(f"a mask has the size {codes[0]['size']}, and the image {size}")
    return size[0], size[1]


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def number_expressions(truths: Sequence[Truth]) -> list[Truth]:
    """Tell which sentence about an object each question is, where the truth does not say it.

    Questions about the same image with the same true mask are about the same object.
    """
    seen: dict[tuple[str, str], int] = {}
    numbered = []
    for truth in truths:
        number = truth.expression
        if number < 0:
            code = json.dumps([one["counts"] for one in truth.objects])
            number = seen.get((truth.image, code), -1) + 1 if truth.exists else 0
            seen[truth.image, code] = number
        numbered.append(truth if number == truth.expression else replace(truth, expression=number))
    return numbered


def read_truths(path: Path) -> list[Truth]:
    """Truths of a JSON-lines file, or of all such files in a folder.

    Raises:
        InputError: no such file, or a row is malformed.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    truths = [truth_row(*row) for file in files for row in json_rows(file)]
    if not truths:
        raise InputError(f"{path} holds no truth: expected JSON lines (docs/evaluation.md)")
    if doubled := [name for name, count in Counter(t.id for t in truths).items() if count > 1]:
        raise InputError(
            f"{path}: {len(doubled)} questions stand there twice: {', '.join(doubled)}; give each "
            "an id of its own"
        )
    return number_expressions(truths)


def truth_line(truth: Truth) -> str:
    """A truth as a line of JSON, which `truth_row` reads."""
    row = {
        "id": truth.id,
        "image": truth.image,
        "question": truth.question,
        "size": list(truth.size),
        "masks": list(truth.objects),
        "ignored": truth.ignored,
        "exists": truth.exists,
        "kind": truth.kind,
        "expression": truth.expression,
        "united": truth.united,
        **truth.names,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"
