"""Masks from COCO's `segmentation`, decoded by pycocotools.

pycocotools hands what it is given to C code that trusts it: a damaged string can end the
interpreter. Everything is checked here first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

_MOST_CHARACTERS = 7
"""A number of a compressed string has at most so many characters of 5 bits each."""


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Draw a segmentation.

    Args:
        segmentation: a list of polygons [x, y, x, y, ...] (united), a run-length dict
            {"size": [H, W], "counts": text, bytes or a list of numbers}, a list of such dicts
            (united), or nothing at all ([], {}, None). Polygons of one or two corners enclose
            nothing.
        size: (H, W) of the image.

    Returns:
        uint8[H, W] of 0 and 1.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    height, width = size
    if segmentation is None or segmentation in ([], {}):
        return np.zeros(size, dtype=np.uint8)
    parts = [segmentation] if isinstance(segmentation, dict) else segmentation
    if not isinstance(parts, list):
        raise ValueError(f"a segmentation is a list or a dict, not {type(parts).__name__}")
    runs: list[dict] = []
    for part in parts:
        if isinstance(part, dict):
            runs.append(_checked_runs(part, size))
        else:
            corners = _checked_polygon(part, size)
            if len(corners) >= 6:
                runs += coco.frPyObjects([corners], height, width)
    if not runs:
        return np.zeros(size, dtype=np.uint8)
    return np.ascontiguousarray(coco.decode(coco.merge(runs)))


def _checked_polygon(part: Any, size: tuple[int, int]) -> list[float]:
    if not isinstance(part, list):
        raise ValueError(f"a polygon is a list of numbers, not {type(part).__name__}")
    if len(part) % 2:
        raise ValueError(f"a polygon has {len(part)} numbers; x and y come in pairs")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in part):
        raise ValueError("a polygon holds something else than numbers")
    # Far corners take memory in proportion to their distance.
    far = max(size)
    if not all(-far <= value <= 2 * far for value in part):
        raise ValueError(f"a polygon is not finite, or far outside of {size[1]} x {size[0]} pixels")
    return [float(value) for value in part]


def _checked_runs(part: dict, size: tuple[int, int]) -> dict:
    height, width = size
    given = part.get("size")
    if not isinstance(given, list | tuple) or list(given) != [height, width]:
        raise ValueError(f"run lengths for the size {given}, in an image of [{height}, {width}]")
    counts = part.get("counts")
    if isinstance(counts, list):
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in counts)
        _check_counts(counts if whole else [-1], size)
        return coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "surrogatepass")
    if not isinstance(counts, bytes):
        raise ValueError(f"counts are text or a list, not {type(counts).__name__}")
    _check_counts(unpack_counts(counts), size)
    return {"size": [height, width], "counts": counts}


def _check_counts(counts: Sequence[int], size: tuple[int, int]) -> None:
    if any(count < 0 for count in counts):
        raise ValueError("a run length is negative or no whole number")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(
            f"run lengths sum to {sum(counts)}, but the image has {size[0] * size[1]} pixels"
        )


def unpack_counts(text: bytes) -> list[int]:
    """The run lengths in COCO's compressed form.

    Each number is written in characters of six bits above "0": five bits of the number, the lowest
    first, and one that says that more follow; the highest bit of the last is the sign. From the
    fourth number on, what is written is the difference to the number two before.

    Raises:
        ValueError: a character is out of range, or the text ends inside a number.
    """
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0:
        return []
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError("the compressed run lengths hold a character that never occurs in them")
    last = (codes & 32) == 0
    if not last[-1]:
        raise ValueError("the compressed run lengths end inside a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_CHARACTERS:
        raise ValueError("a number of the compressed run lengths is too long")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    numbers -= ((codes[ends] & 16) != 0) * (1 << (5 * lengths))
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers.tolist()
