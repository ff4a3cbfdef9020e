"""Reading JSON files of annotations, with one wording of what can be wrong with them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dataset.json_stream import JsonLists
from utils.errors import InputError
from utils.protocol.constants import ADDED_TOKENS, IMAGE_TOKEN

JSON_ENDS = (b"}", b"]")
"""Last characters of a JSON object or list."""


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
            raise _no_json(path, error, expected) from error
    raise ValueError("no encoding was given")


def read_lists(
    path: Path, names: Sequence[str], expected: str, how_to_get: str
) -> Iterator[tuple[str, int, Any]]:
    """The elements of lists in a big JSON file, one by one: see `JsonLists`.

    Args:
        path, expected, how_to_get: see `read_json`.
        names: keys of the lists, all of which have to be there; "" if the document is a list.

    Yields:
        (key of the list, position in it, element), in the order of the file.

    Raises:
        InputError: missing or damaged file, or a list is not there; the message names the file.
    """
    lists, counts = JsonLists(path), Counter[str]()
    try:
        for key, element in lists:
            if key in names:
                yield key, counts[key], element
                counts[key] += 1
    except OSError as error:
        raise InputError(f"no annotations at {path} ({error}); {how_to_get}") from error
    except (ValueError, RecursionError) as error:
        raise _no_json(path, error, expected) from error
    for name in names:
        if name not in lists.found:
            raise damaged(path, f"it holds no list{f' `{name}`' if name else ''}", expected)


def ends_in_the_middle(path: str | Path, ends: Sequence[bytes] = JSON_ENDS) -> bool:
    """Whether the last character of a file is none that its kind of file ends with."""
    with Path(path).open("rb") as raw:
        raw.seek(max(0, raw.seek(0, 2) - 4096))
        return raw.read().rstrip()[-1:] not in ends


def _no_json(path: str | Path, error: Exception, expected: str) -> InputError:
    cut = ", it ends in the middle" if ends_in_the_middle(path) else ""
    return damaged(path, f"no valid JSON: {error}{cut}", expected)


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
