"""Masks as COCO run-length codes: plain data {"size": [H, W], "counts": text}."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from utils.protocol.constants import IGNORE_LABEL


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """bool[H, W] -> COCO run-length code {"size": [H, W], "counts": text}."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode("ascii")}


def run_lengths(counts: str) -> list[int]:
    """Lengths of the runs, background first, that a COCO text of counts stands for.

    Five bits of a number stand in each character, the lowest first; from the fourth run on, the
    number is the difference to the run before the last.

    Raises:
        ValueError: no text of counts.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} cannot stand in a run-length code")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if len(lengths) > 2:
            value += lengths[-2]
        lengths.append(value)
        value = shift = 0
    if shift:
        raise ValueError("the run-length code ends inside a number")
    return lengths


def decode_mask(code: dict[str, Any]) -> np.ndarray:
    """COCO run-length code -> bool[H, W].

    The counts may be compressed text or a list of numbers.

    Raises:
        ValueError: the code is damaged: its runs do not fill the mask.
    """
    try:
        height, width = (int(side) for side in code["size"])
        counts = code["counts"]
        lengths = run_lengths(counts) if isinstance(counts, str) else [int(n) for n in counts]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no run-length code ({error!r})") from error
    if min(lengths, default=0) < 0 or sum(lengths) != height * width or min(height, width) < 0:
        raise ValueError(f"the runs cover {sum(lengths)} pixels of a mask of {height} x {width}")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape((height, width), order="F")


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
