"""Masks as COCO run-length codes: plain data {"size": [H, W], "counts": text}."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from utils.protocol.constants import IGNORE_LABEL

_MOST_CHARACTERS = 7
"""A number of a compressed string has at most so many characters of 5 bits each."""


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """bool[H, W] -> COCO run-length code {"size": [H, W], "counts": text}."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode("ascii")}


def run_lengths(counts: str | bytes) -> list[int]:
    """Lengths of the runs, background first, that COCO's compressed counts stand for.

    Each number is written in characters of six bits above "0": five bits of the number, the lowest
    first, and one that says that more follow; the highest bit of the last is the sign. From the
    fourth number on, what is written is the difference to the number two before.

    Raises:
        ValueError: a character is out of range, or the text ends inside a number.
    """
    text = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
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


def decode_mask(code: dict[str, Any]) -> np.ndarray:
    """COCO run-length code -> bool[H, W].

    The counts may be compressed text or a list of numbers.

    Raises:
        ValueError: the code is damaged: its runs do not fill the mask.
    """
    height, width, lengths = _runs(code)
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape((height, width), order="F")


def intact_code(code: dict[str, Any]) -> dict[str, Any]:
    """The same run-length code, its counts as text, fit for pycocotools, which checks nothing.

    Raises:
        ValueError: the code is damaged (see `decode_mask`), or has no pixels, or 2^31 and more.
    """
    height, width, lengths = _runs(code)
    if not 0 < height * width < 1 << 31:
        raise ValueError(f"a mask of {height} x {width} pixels")
    size, counts = [height, width], code["counts"]
    if not isinstance(counts, str):
        plain = {"size": size, "counts": lengths}
        counts = coco_mask.frPyObjects(plain, height, width)["counts"].decode("ascii")
    return {"size": size, "counts": counts}


def _runs(code: dict[str, Any]) -> tuple[int, int, list[int]]:
    """Height, width, and the lengths of the runs, which fill the mask."""
    try:
        height, width = (int(side) for side in code["size"])
        counts = code["counts"]
        lengths = run_lengths(counts) if isinstance(counts, str) else [int(n) for n in counts]
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no run-length code ({error!r})") from error
    if min(lengths, default=0) < 0 or sum(lengths) != height * width or min(height, width) < 0:
        raise ValueError(f"the runs cover {sum(lengths)} pixels of a mask of {height} x {width}")
    return height, width, lengths


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
