"""Masks as COCO run-length codes: plain data {"size": [H, W], "counts": text}."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from utils.protocol.constants import IGNORE_LABEL

_WIDEST = 7
"""Characters that a number below 2^33 takes."""
_MOST_PIXELS = 1 << 31


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """bool[H, W] -> COCO run-length code {"size": [H, W], "counts": text}."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode("ascii")}


def run_lengths(counts: str) -> np.ndarray:
    """Lengths of the runs, background first, that a COCO text of counts stands for: int64[n].

    Five bits of a number stand in each character, the lowest first; from the fourth run on, the
    number is the difference to the run before the last.

    Raises:
        ValueError: no text of counts.
    """
    digits = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not digits.size:
        return digits
    if digits.min() < 0 or digits.max() > 63:
        raise ValueError(f"{counts[:40]!r} holds what cannot stand in a run-length code")
    ends = np.flatnonzero((digits & 32) == 0)
    if not ends.size or ends[-1] != digits.size - 1:
        raise ValueError("the run-length code ends inside a number")
    starts = np.append(0, ends[:-1] + 1)
    width = ends - starts + 1
    if width.max() > _WIDEST:
        raise ValueError("the run-length code holds a number above all sizes of images")
    place = np.arange(digits.size) - np.repeat(starts, width)
    values = np.add.reduceat((digits & 31) << (5 * place), starts)
    values -= ((digits[ends] & 16) >> 4) << (5 * width)
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values


def _intact(code: dict[str, Any]) -> tuple[int, int, np.ndarray]:
    """Height, width, and the runs that fill the mask: int64[n]."""
    try:
        height, width = (int(side) for side in code["size"])
        counts = code["counts"]
        if isinstance(counts, str):
            lengths = run_lengths(counts)
        else:
            lengths = np.array([int(n) for n in counts], np.int64)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no run-length code ({error!r})") from error
    filled = int(lengths.sum())
    if lengths.min(initial=0) < 0 or filled != height * width or min(height, width) < 0:
        raise ValueError(f"the runs cover {filled} pixels of a mask of {height} x {width}")
    return height, width, lengths


def decode_mask(code: dict[str, Any]) -> np.ndarray:
    """COCO run-length code -> bool[H, W].

    The counts may be compressed text or a list of numbers.

    Raises:
        ValueError: the code is damaged: its runs do not fill the mask.
    """
    height, width, lengths = _intact(code)
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape((height, width), order="F")


def intact_code(code: dict[str, Any]) -> dict[str, Any]:
    """The same run-length code, its counts as text, fit for pycocotools, which checks nothing.

    Raises:
        ValueError: the code is damaged (see `decode_mask`), or empty, or too large for it.
    """
    height, width, lengths = _intact(code)
    if not 0 < height * width < _MOST_PIXELS:
        raise ValueError(f"a mask of {height} x {width} pixels")
    size, counts = [height, width], code["counts"]
    if not isinstance(counts, str):
        plain = {"size": size, "counts": lengths.tolist()}
        counts = coco_mask.frPyObjects(plain, height, width)["counts"].decode("ascii")
    return {"size": size, "counts": counts}


def encode_truth(truth: np.ndarray) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Codes of a true mask uint8[H, W] (0/1/255).

    Returns:
        Code of the object, and code of the pixels that do not count, None if all do.
    """
    left_out = truth == IGNORE_LABEL
    return encode_mask(truth == 1), encode_mask(left_out) if left_out.any() else None


def decode_truth(code: dict[str, Any], left_out: dict[str, Any] | None) -> np.ndarray:
    """What `encode_truth` made -> uint8[H, W] (0/1/255)."""
    truth = decode_mask(code).astype(np.uint8)
    if left_out is not None:
        truth[decode_mask(left_out)] = IGNORE_LABEL
    return truth
