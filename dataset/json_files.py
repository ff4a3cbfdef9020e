"""Reading JSON files of annotations, with one wording of what can be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.protocol.constants import ADDED_TOKENS, IMAGE_TOKEN


def read_json(
    path: str | Path, expected: str, how_to_get: str, encodings: Sequence[str] = ("utf-8",)
) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        expected: what it holds, for the message: "ReasonSeg's JSON with shapes, ...".
        how_to_get: where the file comes from.
        encodings: tried in this order.

    Raises:
        InputError: missing or damaged file; the message names it.
    """
    try:
        raw = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"no annotations at {path} ({error}); {how_to_get}") from error
    for number, encoding in enumerate(encodings, start=1):
        try:
            return json.loads(raw.decode(encoding))
        except UnicodeDecodeError as error:
            if number == len(encodings):
                raise damaged(path, str(error), expected) from error
        except (ValueError, RecursionError) as error:
            raise damaged(path, str(error), expected) from error
    raise ValueError("no encoding was given")


def damaged(path: str | Path, reason: str, expected: str) -> InputError:
    """The error that an annotation file is not what it should be."""
    return InputError(
        f"the annotation {path} is damaged ({reason}): expected {expected}; "
        "copy it again from its source"
    )


def is_text(value: object) -> bool:
    """Whether something is a string that says anything and can be written as UTF-8."""
    if not isinstance(value, str):
        return False
    try:
        return bool(value.encode("utf-8").strip())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def is_sayable(value: object) -> bool:
    """Whether something is a text that can stand in a prompt, without its special tokens."""
    taken = (*ADDED_TOKENS, IMAGE_TOKEN)
    return is_text(value) and not any(token in str(value) for token in taken)
